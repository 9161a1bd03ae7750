package admin

import (
	"slices"
	"sync"
	"time"
)

// endedKept is how many ended relays a ledger remembers: enough to look at the call that somebody just complained about.
const endedKept = 64

// Ledger keeps the figures of relays: those that run, the latest that ended, and the sum of all. The zero value is ready;
// it is safe for concurrent use.
type Ledger struct {
	mu     sync.Mutex
	next   uint64
	active map[uint64]func() Relay
	ended  []Relay
	totals RelayTotals
}

// Open enters a relay, whose present figures read gives at any time, also from other goroutines. The function that it
// returns closes the entry with the figures of that moment; further calls do nothing.
func (l *Ledger) Open(read func() Relay) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active == nil {
		l.active = map[uint64]func() Relay{}
	}
	id := l.next
	l.next++
	l.active[id] = read
	return func() { l.end(id) }
}

func (l *Ledger) end(id uint64) {
	l.mu.Lock()
	read := l.active[id]
	l.mu.Unlock()
	if read == nil {
		return
	}
	last := read()
	last.Ended = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active[id] == nil {
		return // somebody else was faster
	}
	delete(l.active, id)
	l.totals.Add(last)
	if last.PacketsIn+last.PacketsOut+last.Dropped > 0 { // Relays that are allocated ahead and never used say nothing.
		if len(l.ended) == endedKept {
			l.ended = slices.Delete(l.ended, 0, 1)
		}
		l.ended = append(l.ended, last)
	}
}

// Snapshot gives the relays that run, in the order in which they were opened, the latest that ended, and the sums.
func (l *Ledger) Snapshot() (active, ended []Relay, totals RelayTotals) {
	l.mu.Lock()
	ids := make([]uint64, 0, len(l.active))
	for id := range l.active {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	reads := make([]func() Relay, len(ids))
	for i, id := range ids {
		reads[i] = l.active[id]
	}
	ended, totals = slices.Clone(l.ended), l.totals
	l.mu.Unlock()

	active = make([]Relay, 0, len(reads))
	for _, read := range reads {
		relay := read()
		totals.Add(relay)
		active = append(active, relay)
	}
	if ended == nil {
		ended = []Relay{}
	}
	return active, ended, totals
}
