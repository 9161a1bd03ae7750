package counter_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/siptunnel/siptunnel/internal/counter"
)

func TestSetCountsByName(t *testing.T) {
	var s counter.Set
	s.Counter("sip.dropped.unparsable").Inc()
	s.Counter("sip.dropped.unparsable").Add(2)
	s.Counter("media.dropped.unknown_source")

	got := s.Snapshot()
	want := map[string]uint64{"sip.dropped.unparsable": 3, "media.dropped.unknown_source": 0}
	if len(got) != len(want) {
		t.Fatalf("Snapshot() = %v, want %v", got, want)
	}
	for name, n := range want {
		if v, ok := got[name]; !ok || v != n {
			t.Errorf("Snapshot()[%q] = %d, %t, want %d", name, v, ok, n)
		}
	}
}

func TestSnapshotBelongsToCaller(t *testing.T) {
	var s counter.Set
	c := s.Counter("a.b.c")
	c.Inc()
	s.Snapshot()["a.b.c"] = 99
	if got := s.Snapshot()["a.b.c"]; got != 1 {
		t.Errorf("value = %d after writing to an earlier snapshot, want 1", got)
	}
}

func TestNilSet(t *testing.T) {
	var s *counter.Set
	c := s.Counter("a.b.c")
	c.Inc()
	if got := c.Value(); got != 1 {
		t.Errorf("Value() = %d, want 1", got)
	}
	if got := s.Counter("a.b.c").Value(); got != 0 {
		t.Errorf("a nil Set remembered a counter: %d", got)
	}
	if got := s.Snapshot(); got == nil || len(got) != 0 {
		t.Errorf("Snapshot() = %v, want an empty map", got)
	}
}

func TestSetIsBounded(t *testing.T) {
	var s counter.Set
	for i := range 2 * counter.MaxNames {
		s.Counter(fmt.Sprintf("test.name.%d", i)).Inc()
	}
	got := s.Snapshot()
	if len(got) != counter.MaxNames {
		t.Errorf("%d names, want %d", len(got), counter.MaxNames)
	}
	if want := uint64(counter.MaxNames + 1); got[counter.Overflow] != want {
		t.Errorf("%s = %d, want %d", counter.Overflow, got[counter.Overflow], want)
	}
	if got["test.name.0"] != 1 {
		t.Errorf("test.name.0 = %d after the overflow, want 1", got["test.name.0"])
	}
	var sum uint64
	for _, n := range got {
		sum += n
	}
	if sum != 2*counter.MaxNames {
		t.Errorf("sum = %d, want %d: an event was lost", sum, 2*counter.MaxNames)
	}
}

func TestSetConcurrently(t *testing.T) {
	const workers, rounds = 8, 1000
	var s counter.Set
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range rounds {
				s.Counter(fmt.Sprintf("test.name.%d", i%10)).Inc()
				if i%100 == 0 {
					s.Snapshot()
				}
			}
		})
	}
	wg.Wait()
	for name, n := range s.Snapshot() {
		if n != workers*rounds/10 {
			t.Errorf("%s = %d, want %d", name, n, workers*rounds/10)
		}
	}
}

func TestCountingDoesNotAllocate(t *testing.T) {
	var s counter.Set
	s.Counter("a.b.c")
	if n := testing.AllocsPerRun(100, func() { s.Counter("a.b.c").Inc() }); n != 0 {
		t.Errorf("%v allocations per count, want 0", n)
	}
}

func BenchmarkCounter(b *testing.B) {
	var s counter.Set
	c := s.Counter("a.b.c")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Inc()
		}
	})
}
