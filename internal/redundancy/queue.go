package redundancy

const (
	// MinDistance is how many datagrams the first copy is behind its packet at least: a
	// burst of two lost datagrams takes only one of them.
	MinDistance = 2
	// minAge and maxAge bound when a copy is sent: late enough to be outside of
	// bursts that last, and early enough to be of use.
	minAge = 10 * millisecond
	maxAge = 60 * millisecond

	// MaxQueued and MaxQueuedBytes bound what waits to be sent again: 60 ms of 1,000
	// streams of G.711.
	MaxQueued      = 4096
	MaxQueuedBytes = 1 << 20
)

// A Queue holds the packets that are to be sent again, oldest first. O tells the
// caller whose a packet is. The zero value is empty and ready for use; it takes
// memory when it is first filled, and keeps what the most packets in it took.
type Queue[O any] struct {
	entries []entry[O] // a ring
	first   int
	count   int
	bytes   []byte // a ring of the packets, each in one piece
	head    int    // where the next packet goes
	tail    int    // where the oldest packet is
	dropped uint64
}

type entry[O any] struct {
	owner    O
	number   uint64
	since    int64
	datagram uint64
	at, n    int
	copies   int
	distance uint64 // datagrams to the next copy
	early    bool   // a copy went before its time
}

// Copy is a packet that is to be sent again.
type Copy[O any] struct {
	Owner  O
	Number uint64
	Packet []byte // valid until the next call
}

// Len returns how many packets wait, Dropped how many had to go before their time
// because the queue was full.
func (q *Queue[O]) Len() int        { return q.count }
func (q *Queue[O]) Dropped() uint64 { return q.dropped }

// Push copies a packet into the queue that was just put into the datagram with
// this index, to be sent so many times more.
func (q *Queue[O]) Push(now int64, owner O, number, datagram uint64, copies int, packet []byte) {
	for q.count >= MaxQueued {
		q.drop()
	}
	q.push(entry[O]{owner: owner, number: number, since: now, datagram: datagram, copies: copies, distance: MinDistance}, packet)
}

func (q *Queue[O]) push(e entry[O], packet []byte) {
	e.at, e.n = q.room(len(packet)), len(packet)
	if q.count == len(q.entries) {
		q.grow()
	}
	copy(q.bytes[e.at:], packet)
	q.entries[(q.first+q.count)%len(q.entries)] = e
	q.count++
	q.head = e.at + e.n
}

func (q *Queue[O]) drop() {
	q.dropped++
	q.Pop()
}

// grow doubles the ring of entries.
func (q *Queue[O]) grow() {
	entries := make([]entry[O], max(64, 2*len(q.entries)))
	for i := range q.count {
		entries[i] = q.entries[(q.first+i)%len(q.entries)]
	}
	q.entries, q.first = entries, 0
}

// room returns where n bytes fit, after growing the ring or dropping the oldest
// packets.
func (q *Queue[O]) room(n int) int {
	for {
		if q.count == 0 {
			q.head, q.tail = 0, 0
		}
		switch {
		case q.count == 0 && n <= len(q.bytes):
			return 0
		case q.head > q.tail && n <= len(q.bytes)-q.head:
			return q.head
		case q.head > q.tail && n <= q.tail:
			return 0
		case q.head <= q.tail && q.count > 0 && n <= q.tail-q.head:
			return q.head
		case len(q.bytes) < MaxQueuedBytes:
			q.growBytes(n)
		default:
			q.drop()
		}
	}
}

// growBytes doubles the ring of bytes and puts the packets to its start.
func (q *Queue[O]) growBytes(n int) {
	size := max(16<<10, 2*len(q.bytes))
	for size < len(q.bytes)+n {
		size *= 2
	}
	bytes := make([]byte, size)
	at := 0
	for i := range q.count {
		e := &q.entries[(q.first+i)%len(q.entries)]
		copy(bytes[at:], q.bytes[e.at:e.at+e.n])
		e.at = at
		at += e.n
	}
	q.bytes, q.tail, q.head = bytes, 0, at
}

// Due returns the oldest packet if its copy may go into the datagram with this
// index now, or if it must. It stays in the queue until Sent.
func (q *Queue[O]) Due(now int64, datagram uint64) (Copy[O], bool) {
	if q.count == 0 {
		return Copy[O]{}, false
	}
	e := &q.entries[q.first]
	age := now - e.since
	if age < maxAge && (age < minAge || datagram < e.datagram+e.distance) {
		return Copy[O]{}, false
	}
	return Copy[O]{e.owner, e.number, q.bytes[e.at : e.at+e.n]}, true
}

// Sent says that the packet that Due returned has gone into the datagram with this
// index. One that is to be sent again waits anew. So does, once, one whose copy was
// due before there was a datagram in between: lone packets are cheap.
func (q *Queue[O]) Sent(now int64, datagram uint64) {
	e := q.entries[q.first]
	packet := q.bytes[e.at : e.at+e.n]
	q.Pop()
	e.copies--
	if datagram < e.datagram+e.distance && !e.early {
		e.early = true
		e.copies++
	}
	if e.copies > 0 {
		e.distance = 1 // what is lost with the packet and its copy is no burst of two
		e.since, e.datagram = now, datagram
		q.push(e, packet)
	}
}

// Pop takes the oldest packet out.
func (q *Queue[O]) Pop() {
	var none entry[O]
	q.entries[q.first] = none
	q.first = (q.first + 1) % len(q.entries)
	if q.count--; q.count > 0 {
		q.tail = q.entries[q.first].at
	}
}

// Clear drops all packets.
func (q *Queue[O]) Clear() {
	for q.count > 0 {
		q.Pop()
	}
}

// Deadline returns when a datagram must be sent for the oldest packet's copy, if
// none goes before.
func (q *Queue[O]) Deadline() (at int64, ok bool) {
	if q.count == 0 {
		return 0, false
	}
	return q.entries[q.first].since + maxAge, true
}
