package mux

import (
	"runtime"
	"testing"
)

// TestMemoryOfARelay bounds what a relay needs at both ends together: it is some
// hundred bytes, and neither a goroutine nor a stream of its own.
func TestMemoryOfARelay(t *testing.T) {
	const relays, limit = 500, 2 << 10
	ts := newTestServer(t, nil)
	s := ts.client(nil).connected(false)
	open := func(from, to uint32) {
		for channel := from; channel <= to; channel++ {
			if err := s.OpenRelay(channel); err != nil {
				t.Fatal(err)
			}
			until(t, func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.relays[channel]
			})
		}
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	open(1, 1)
	before, goroutines := heap(), runtime.NumGoroutine()
	open(2, relays+1)
	each := (int(heap()) - int(before)) / relays
	t.Logf("%d bytes a relay", each)
	if each > limit {
		t.Errorf("a relay needs %d bytes, more than %d", each, limit)
	}
	if now := runtime.NumGoroutine(); now > goroutines+relays/10 {
		t.Errorf("%d goroutines, %d before %d relays", now, goroutines, relays)
	}
}
