package sipfwd

import (
	"fmt"
	"runtime"
	"testing"
)

// liveHeap is how many bytes of the heap are in use, by two collections: what has a
// finalizer takes two.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemoryOfACall bounds what a call that was answered needs in both halves
// together, while its transactions are remembered still. The media ports of the test
// are part of it.
func TestMemoryOfACall(t *testing.T) {
	if raceDetector {
		t.Skip("everything is larger with the race detector")
	}
	const calls, perPhone, limit = 200, 20, 5 << 8
	r := newRig(t)
	phones := make([]*agent, calls/perPhone)
	for i := range phones {
		phones[i] = newAgent(t, "127.0.0.1:0")
	}
	for i, p := range phones { // what a phone needs is there before
		r.setUp(p, fmt.Sprintf("first-%d", i))
	}
	before, goroutines := liveHeap(), runtime.NumGoroutine()
	for i := range calls {
		r.setUp(phones[i/perPhone], fmt.Sprintf("call-%d", i))
	}
	each := (int(liveHeap()) - int(before)) / calls
	t.Logf("%d bytes a call", each)
	if each > limit {
		t.Errorf("a call needs %d bytes, more than %d", each, limit)
	}
	if now := runtime.NumGoroutine(); now > goroutines+calls/10 {
		t.Errorf("%d goroutines, %d before %d calls", now, goroutines, calls)
	}
}
