package mux

import (
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	// mediaSlots bounds the packets that wait for the connection: 100 ms of
	// 200 calls.
	mediaSlots = 1024
	// mediaMaxAge is when a waiting packet is late and therefore lost.
	mediaMaxAge = 100 * time.Millisecond
	// mediaBatch is how many bytes of media go to the connection at once.
	mediaBatch = 8 << 10
)

// mediaQueue holds the media packets of a session that wait for its
// connection. It never blocks whoever fills it: when it is full the oldest
// packet makes room, and what has become too old is never sent. Safe for
// concurrent use.
type mediaQueue struct {
	wake chan struct{} // capacity 1: there is something to write

	full, late, down, long *counter.Counter

	mu    sync.Mutex
	up    bool // a connection takes packets
	slots []mediaSlot
	first int // index of the oldest packet
	count int
}

// mediaSlot is one packet. Its buffer is used again for later ones.
type mediaSlot struct {
	channel uint32
	rtcp    bool
	since   time.Time
	packet  []byte
}

func newMediaQueue(c *counter.Set) mediaQueue {
	return mediaQueue{
		wake: make(chan struct{}, 1),
		full: c.Counter("media.dropped.queue_full"),
		late: c.Counter("media.dropped.late"),
		down: c.Counter("media.dropped.tunnel_down"),
		long: c.Counter("media.dropped.bad_length"),
	}
}

// start makes the queue take packets, stop makes it drop them. Either empties
// it.
func (q *mediaQueue) start() { q.set(true) }
func (q *mediaQueue) stop()  { q.set(false) }

func (q *mediaQueue) set(up bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.up = up
	q.down.Add(uint64(q.count))
	q.count = 0
}

// push copies a packet into the queue.
func (q *mediaQueue) push(channel uint32, rtcp bool, packet []byte) {
	if len(packet) == 0 || len(packet) > wire.MaxMedia {
		q.long.Inc()
		return
	}
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.up {
		q.down.Inc()
		return
	}
	switch {
	case q.count < len(q.slots):
	case len(q.slots) < mediaSlots:
		q.grow()
	default:
		q.full.Inc()
		q.drop()
	}
	slot := &q.slots[(q.first+q.count)%len(q.slots)]
	slot.channel, slot.rtcp, slot.since = channel, rtcp, now
	slot.packet = append(slot.packet[:0], packet...)
	if q.count++; q.count == 1 {
		q.poke()
	}
}

// poke wakes the writer.
func (q *mediaQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// grow doubles the ring, so that an idle session keeps a small one.
func (q *mediaQueue) grow() {
	slots := make([]mediaSlot, max(16, 2*len(q.slots)))
	for i := range q.count {
		slots[i] = q.slots[(q.first+i)%len(q.slots)]
	}
	q.slots, q.first = slots, 0
}

func (q *mediaQueue) drop() {
	q.first = (q.first + 1) % len(q.slots)
	q.count--
}

// take gives the oldest packets to add, mediaBatch bytes or a little more, and
// reports how many there were. add is called with the queue locked and must not
// keep the packet.
func (q *mediaQueue) take(add func(channel uint32, rtcp bool, packet []byte)) (n int) {
	oldest := time.Now().Add(-mediaMaxAge)
	q.mu.Lock()
	defer q.mu.Unlock()
	for bytes := 0; q.count > 0 && bytes < mediaBatch; q.drop() {
		slot := &q.slots[q.first]
		if slot.since.Before(oldest) {
			q.late.Inc()
			continue
		}
		add(slot.channel, slot.rtcp, slot.packet)
		bytes += len(slot.packet)
		n++
	}
	return n
}
