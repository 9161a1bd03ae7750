package redundancy

const (
	// MaxHold is the longest time for which a packet waits for one before it.
	MaxHold = 60 * millisecond

	// protectedFor is how long a protected datagram lets copies be expected.
	protectedFor = 200 * millisecond
	// Without copies packets wait only on a path that reorders datagrams, a little
	// longer than it did of late.
	forget  = 10 * second
	leastly = 2 * millisecond
)

// A Patience knows how long missing packets are worth waiting for, in all streams
// of a session. The zero value waits for none and is ready for use.
type Patience struct {
	protected int64 // until when copies are expected
	reordered int64 // what the path's reordering asks for
	since     int64 // when that was last changed
}

// Protected says that a datagram came whose packets come again.
func (p *Patience) Protected(now int64) { p.protected = now + protectedFor }

// Filled says that a missing packet came while those behind it waited so long.
func (p *Patience) Filled(now, waited int64) {
	if now >= p.protected && waited >= p.reordered/2 {
		p.reordered, p.since = min(MaxHold, max(p.reordered, waited+waited/4)), now
	}
}

// Late says that a packet came so much later than it was waited for.
func (p *Patience) Late(now, by int64) {
	if by <= 0 || by > MaxHold {
		return // no patience would have helped
	}
	p.reordered = min(MaxHold, max(p.reordered+by+by/4, leastly))
	p.since = now
}

// Hold returns for how long a packet waits, 0 for not at all.
func (p *Patience) Hold(now int64) int64 {
	if now < p.protected {
		return MaxHold
	}
	if p.reordered > 0 && now-p.since > forget {
		p.reordered, p.since = p.reordered/2, now
		if p.reordered < leastly {
			p.reordered = 0
		}
	}
	return p.reordered
}
