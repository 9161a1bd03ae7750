package mux

import (
	"errors"
	"sync"
)

const (
	// outboxFrames and outboxBytes bound the signalling that the peer has not
	// acknowledged yet. More is an error: then the peer is gone for too long
	// or does not read, and leaving out a message is no way out.
	outboxFrames = 1024
	outboxBytes  = 1 << 20
	// writeBatch is how many bytes of signalling make one write.
	writeBatch = 16 << 10
)

var errCount = errors.New("the other end acknowledges signalling that it cannot have received")

// outbox keeps the counted frames of one direction of a session until the peer
// has acknowledged them. The zero value is not ready: see newOutbox. Safe for
// concurrent use.
type outbox struct {
	wake chan struct{} // capacity 1: there is something to write

	mu     sync.Mutex
	frames [][]byte // frames[0] has the number acked+1
	acked  uint64   // frames that the peer has acknowledged
	next   int      // index in frames of the first one not yet given to this connection
	bytes  int
	closed error
}

func newOutbox() outbox { return outbox{wake: make(chan struct{}, 1)} }

// poke wakes the writer.
func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// add appends a frame, which the outbox owns from now on. ErrOverflow means
// that the session has to end.
func (o *outbox) add(frame []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return o.closed
	}
	if len(o.frames) >= outboxFrames || o.bytes+len(frame) > outboxBytes {
		return ErrOverflow
	}
	o.frames = append(o.frames, frame)
	o.bytes += len(frame)
	o.poke()
	return nil
}

// ack forgets the frames up to the peer's count.
func (o *outbox) ack(received uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.forget(received, o.acked+uint64(o.next))
}

// rewind prepares the outbox for a new connection, over which everything after
// the peer's count is to be sent again.
func (o *outbox) rewind(received uint64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.forget(received, o.acked+uint64(len(o.frames))); err != nil {
		return err
	}
	o.next = 0
	o.poke()
	return nil
}

func (o *outbox) forget(received, limit uint64) error {
	if received < o.acked || received > limit {
		return errCount
	}
	n := int(received - o.acked)
	for _, frame := range o.frames[:n] {
		o.bytes -= len(frame)
	}
	clear(o.frames[:n])
	if o.frames = o.frames[n:]; len(o.frames) == 0 {
		o.frames = nil
	}
	o.acked = received
	o.next = max(0, o.next-n)
	return nil
}

// take appends the next frames to dst, whole ones, until it has writeBatch
// bytes, and marks them as given to this connection.
func (o *outbox) take(dst []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.next < len(o.frames) && len(dst) < writeBatch {
		dst = append(dst, o.frames[o.next]...)
		o.next++
	}
	return dst
}

// close refuses further frames with err and forgets all.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = err
		o.frames, o.next, o.bytes = nil, 0, 0
	}
}
