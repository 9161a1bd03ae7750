package tunnel

import (
	"os"
	"sync"
	"time"
)

// inbox is the receiving half of a net.PacketConn: a bounded ring of packets
// whose buffers are used again. Whoever fills it never waits: when it is full
// the oldest packet makes room, or the new one is left out. Safe for
// concurrent use. The zero value is not ready: see init.
type inbox struct {
	mu      sync.Mutex
	changed sync.Cond
	slots   [][]byte
	limit   int // of slots
	first   int
	count   int

	err     error       // closed with it
	expired bool        // the read deadline has passed
	timer   *time.Timer // of the read deadline
}

func (q *inbox) init(limit int) {
	q.changed.L = &q.mu
	q.limit = limit
}

// put copies a packet into the inbox. It reports whether nothing was dropped.
func (q *inbox) put(packet []byte, dropOldest bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return true // nobody is there to miss it
	}
	kept := true
	switch {
	case q.count < len(q.slots):
	case len(q.slots) < q.limit:
		slots := make([][]byte, min(q.limit, max(4, 2*len(q.slots))))
		for i := range q.count {
			slots[i] = q.slots[(q.first+i)%len(q.slots)]
		}
		q.slots, q.first = slots, 0
	case dropOldest:
		kept = false
		q.first = (q.first + 1) % len(q.slots)
		q.count--
	default:
		return false
	}
	slot := &q.slots[(q.first+q.count)%len(q.slots)]
	*slot = append((*slot)[:0], packet...)
	q.count++
	q.changed.Signal()
	return kept
}

// read copies the oldest packet to b, cutting what does not fit, as UDP does.
// It waits for one until the read deadline or close. What had come before
// close can still be read.
func (q *inbox) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.await(); err != nil {
		return 0, err
	}
	n := copy(b, q.slots[q.first])
	q.next()
	return n, nil
}

// take waits likewise and returns the oldest packet itself.
func (q *inbox) take() ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.await(); err != nil {
		return nil, err
	}
	packet := q.slots[q.first]
	q.slots[q.first] = nil
	q.next()
	return packet, nil
}

// await waits for a packet. mu is held.
func (q *inbox) await() error {
	for q.count == 0 || q.expired {
		switch {
		case q.err != nil:
			return q.err
		case q.expired:
			return os.ErrDeadlineExceeded
		}
		q.changed.Wait()
	}
	return nil
}

// next drops the oldest packet. mu is held.
func (q *inbox) next() {
	q.first = (q.first + 1) % len(q.slots)
	q.count--
}

// setDeadline sets the read deadline, none if t is zero.
func (q *inbox) setDeadline(t time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return q.err
	}
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	wait := time.Until(t)
	q.expired = !t.IsZero() && wait <= 0
	if q.expired {
		q.changed.Broadcast()
	} else if !t.IsZero() {
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.timer == timer {
				q.expired = true
				q.changed.Broadcast()
			}
		})
		q.timer = timer
	}
	return nil
}

// close ends all reading with err. It reports whether it was open.
func (q *inbox) close(err error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return false
	}
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
	q.err = err
	q.changed.Broadcast()
	return true
}

// closedWith returns the error that the inbox was closed with.
func (q *inbox) closedWith() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
