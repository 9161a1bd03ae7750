package redundancy

const (
	// holds is how many packets of a stream wait for one that is missing: 60 ms of
	// 500 packets a second.
	holds = 32
	// resync is how far behind a number in the newest datagram may be before it is
	// taken for one that is far ahead: no copy is that old.
	resync = 1 << 9

	// FirstNumber is what the first number of a stream is a multiple of: a stream that
	// is first heard of startReach numbers behind one or less has begun there.
	FirstNumber = 1 << 8
	startReach  = 8

	// MaxHeld and MaxHeldBytes bound what waits in all streams of a session.
	MaxHeld      = 4096
	MaxHeldBytes = 1 << 20
)

// Verdict says what is to be done with a packet that came.
type Verdict uint8

const (
	Deliver Verdict = iota // it is the next one; then what Next returns
	Held                   // one before it is missing
	Full                   // the same, but there is no room: GiveUp, deliver what Next returns, Take it again
	Again                  // it came before: drop it
	Late                   // it was given up: drop it
)

// An Order puts the packets of one stream in order again, by their numbers in the
// stream, and takes duplicates out. The zero value begins with the first packet
// that comes, whatever its number. It needs a Pool that may be that of many.
type Order struct {
	any    bool
	n      uint8        // how many are held
	held   *[holds]held // a ring, by number; nil until needed
	next   uint64       // number of the packet that is to be delivered next
	came   uint64       // bit i: packet next-1-i was delivered
	since  int64        // when the first of them came
	passed int64        // when a missing packet was last given up
	late   int64        // how long after that one of them came
}

type held struct {
	packet []byte // nil: none
	at     int64
}

// Take judges the packet with these low bits of its number and keeps a copy of one
// that is Held. newest says that no datagram that was sent later has come, wait
// whether a missing packet is worth waiting for.
func (o *Order) Take(now int64, number16 uint16, packet []byte, newest, wait bool, pool *Pool) Verdict {
	if !o.any {
		o.any, o.next = true, uint64(number16)+1<<16
		if first := o.next &^ (FirstNumber - 1); o.next-first < startReach {
			o.next = first
		}
	}
	ahead := int64(int16(number16 - uint16(o.next)))
	if newest && ahead < -resync {
		ahead += 1 << 16
	}
	switch {
	case !newest && ahead >= resync:
		return Again // from before the numbers came round
	case ahead < 0:
		bit := uint64(1) << min(-ahead-1, 63)
		if ahead < -64 || o.came&bit != 0 {
			return Again
		}
		o.came |= bit
		o.late = now - o.passed
		return Late
	case ahead == 0:
		o.advance()
		return Deliver
	case o.n > 0 && ahead < holds || o.n == 0 && wait && ahead < holds:
		if o.hold(now, o.next+uint64(ahead), packet, pool) {
			return Held
		}
	}
	if o.n > 0 {
		return Full
	}
	o.skip(now, o.next+uint64(ahead))
	o.advance()
	return Deliver
}

// advance notes that the next packet is delivered.
func (o *Order) advance() {
	o.came = o.came<<1 | 1
	o.next++
}

// skip gives up what is missing before number.
func (o *Order) skip(now int64, number uint64) {
	o.came <<= min(number-o.next, 64)
	o.next, o.passed = number, now
}

// hold keeps a copy of the packet, unless it is there already. It reports whether
// there was room.
func (o *Order) hold(now int64, number uint64, packet []byte, pool *Pool) bool {
	if o.held == nil {
		o.held = new([holds]held)
	}
	h := &o.held[number%holds]
	if h.packet != nil {
		return true
	}
	if h.packet = pool.get(packet); h.packet == nil {
		return false
	}
	h.at = now
	if o.n == 0 {
		o.since = now
	}
	o.n++
	return true
}

// Next takes the next packet out if it is held. The caller delivers it and gives
// it to pool.Release.
func (o *Order) Next() (packet []byte, ok bool) {
	if o.n == 0 {
		return nil, false
	}
	h := &o.held[o.next%holds]
	if h.packet == nil {
		o.refresh()
		return nil, false
	}
	packet = h.packet
	*h = held{}
	o.n--
	o.advance()
	return packet, true
}

// refresh notes when the first of those came that are still held.
func (o *Order) refresh() {
	first := true
	for i := range o.held {
		if h := &o.held[i]; h.packet != nil && (first || h.at < o.since) {
			o.since, first = h.at, false
		}
	}
}

// Waiting reports whether packets are held, and when the first of them came.
func (o *Order) Waiting() (since int64, ok bool) { return o.since, o.n > 0 }

// Lateness returns how long after a packet had been given up the latest Late one
// came. That is what it should have been waited for in addition.
func (o *Order) Lateness() int64 { return o.late }

// GiveUp gives up what is missing before the first packet that is held, which the
// caller then gets from Next.
func (o *Order) GiveUp(now int64) {
	if o.n == 0 {
		return
	}
	number := o.next
	for o.held[number%holds].packet == nil {
		number++
	}
	o.skip(now, number)
}

// Clear drops what is held.
func (o *Order) Clear(pool *Pool) {
	if o.n == 0 {
		return
	}
	for i := range o.held {
		if packet := o.held[i].packet; packet != nil {
			pool.Release(packet)
			o.held[i] = held{}
		}
	}
	o.n = 0
}

// A Pool has the memory of the packets that are held in all streams of a session.
// The zero value is empty and ready for use.
type Pool struct {
	free    [][]byte
	packets int
	bytes   int
}

// Held returns how many packets are held.
func (p *Pool) Held() int { return p.packets }

const (
	commonSize = 256 // room for audio
	maxFree    = 1024
)

// get returns a copy of the packet, nil if too much is held.
func (p *Pool) get(packet []byte) []byte {
	if p.packets >= MaxHeld || p.bytes+len(packet) > MaxHeldBytes {
		return nil
	}
	p.packets++
	p.bytes += len(packet)
	if n := len(p.free); n > 0 && len(packet) <= commonSize {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return append(b, packet...)
	}
	return append(make([]byte, 0, max(commonSize, len(packet))), packet...)
}

// Release takes a packet back that Next returned.
func (p *Pool) Release(packet []byte) {
	p.packets--
	p.bytes -= len(packet)
	if cap(packet) == commonSize && len(p.free) < maxFree {
		p.free = append(p.free, packet[:0])
	}
}
