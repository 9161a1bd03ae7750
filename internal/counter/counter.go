// Package counter counts what happens: every drop, refusal and fallback of the
// tunnel has a counter whose name says where and why, "area.event.reason", as
// in "media.dropped.unknown_source".
//
// A component looks its counters up once, when it is made, and keeps them;
// counting is then one atomic addition. Names are chosen by this program and
// never taken from a peer: the limit on their number is a guard against a
// mistake, not a defence.
package counter

import (
	"sync"
	"sync/atomic"
)

const (
	// MaxNames is how many names one Set holds.
	MaxNames = 1024

	// Overflow is the name under which a Set that is full counts everything
	// that is counted under further names. It is one of the MaxNames.
	Overflow = "counter.overflow.names"
)

// A Counter is a number that only grows. The zero value counts from zero and is
// ready for use. All methods are safe for concurrent use. A Counter must not be
// copied after its first use.
type Counter struct {
	n atomic.Uint64
}

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value returns the count.
func (c *Counter) Value() uint64 { return c.n.Load() }

// A Set holds counters by name. The zero value is empty and ready for use. All
// methods are safe for concurrent use and work on a nil *Set as well, whose
// counters count for whoever asked for them and show up nowhere. A Set must not
// be copied after its first use.
type Set struct {
	mu     sync.RWMutex
	byName map[string]*Counter
}

// Counter returns the counter called name and makes it if there is none: the
// same name gives the same counter. A full Set gives the counter called
// Overflow for every name that it does not know.
func (s *Set) Counter(name string) *Counter {
	if s == nil {
		return new(Counter)
	}
	s.mu.RLock()
	c := s.byName[name]
	s.mu.RUnlock()
	if c != nil {
		return c
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName == nil {
		s.byName = map[string]*Counter{}
	}
	if c = s.byName[name]; c != nil {
		return c
	}
	if len(s.byName) >= MaxNames-1 && name != Overflow {
		// One place is kept for Overflow, so that a full Set says that it is full.
		name = Overflow
		if c = s.byName[name]; c != nil {
			return c
		}
	}
	c = new(Counter)
	s.byName[name] = c
	return c
}

// Snapshot returns the value of every counter by name, those at zero too. The
// values are read one after the other, not at one instant. The map belongs to
// the caller and is empty, not nil, when there are no counters.
func (s *Set) Snapshot() map[string]uint64 {
	if s == nil {
		return map[string]uint64{}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	values := make(map[string]uint64, len(s.byName))
	for name, c := range s.byName {
		values[name] = c.Value()
	}
	return values
}
