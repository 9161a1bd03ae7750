//go:build linux

package lab

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses knows how long the machine has stood still, as far as those can who sleep: other work, or the host of a virtual machine,
// keeps a processor from whoever should run there. What takes longer than a test allows while the machine itself was calm is the
// fault of what is tested. It is safe for concurrent use.
type Pauses struct {
	mu   sync.Mutex
	seen []pause // those worth remembering
}

type pause struct {
	end  time.Time
	took time.Duration
}

const (
	pauseStep = 5 * time.Millisecond // between looks
	minPause  = 2 * time.Millisecond
)

// WatchPauses has a thread on each processor look at the clock until the test is over.
func WatchPauses(t testing.TB) *Pauses {
	t.Helper()
	p := &Pauses{}
	var stop atomic.Bool
	var threads sync.WaitGroup
	t.Cleanup(func() {
		stop.Store(true)
		threads.Wait()
	})
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatalf("lab: %v", err)
	}
	for cpu := range 8 * len(all) * 8 {
		if all.IsSet(cpu) {
			threads.Go(func() { p.watch(cpu, &stop) })
		}
	}
	return p
}

// watch stays on one processor. Its thread dies with it, as it stays locked.
func (p *Pauses) watch(cpu int, stop *atomic.Bool) {
	runtime.LockOSThread()
	var own unix.CPUSet
	own.Set(cpu)
	_ = unix.SchedSetaffinity(0, &own) // else it sees those of any processor
	step := unix.NsecToTimespec(int64(pauseStep))
	for !stop.Load() {
		before := time.Now()
		_ = unix.Nanosleep(&step, nil)
		now := time.Now()
		if late := now.Sub(before) - pauseStep; late > minPause {
			p.mu.Lock()
			p.seen = append(p.seen, pause{now, late})
			p.mu.Unlock()
		}
	}
}

// Longest returns the longest pause that ended after since.
func (p *Pauses) Longest(since time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.seen {
		if one.end.After(since) {
			longest = max(longest, one.took)
		}
	}
	return longest
}
