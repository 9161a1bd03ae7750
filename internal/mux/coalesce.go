package mux

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"
)

const (
	// coalesceLimit is how many bytes wait for the flusher at most. It bounds
	// what SIP can find in front of it.
	coalesceLimit = 32 << 10
	// flushTimeout is how long one write to the connection may take.
	flushTimeout = 5 * time.Second
	// closeTimeout is how long Close tries to get the rest out.
	closeTimeout = 500 * time.Millisecond
)

// The layout of a yamux frame's header, which yamux hands to the connection
// apart from the body.
const (
	yamuxHeaderLen = 12

	yamuxData         = 0
	yamuxWindowUpdate = 1
	yamuxPing         = 2

	yamuxSYN = 1
)

// coalescer is a net.Conn for a yamux session whose writes go into a bounded
// buffer that one goroutine empties. yamux writes header and body of a frame
// apart, and on TLS each write is a record and a system call of its own; here
// everything written meanwhile makes one record.
//
// Write blocks while the buffer is full. The first error of the connection is
// what every later Write returns. Close waits for the goroutine.
type coalescer struct {
	net.Conn
	failed func(error) // told why reading or writing ended
	guard  frameGuard  // of the reading side, owned by the reader

	mu      sync.Mutex
	changed sync.Cond // on mu: any of the fields below
	buf     []byte    // waits for the flusher
	partial bool      // buf ends within a frame, whose rest follows at once
	closing bool
	err     error

	done chan struct{} // the flusher has ended
}

func newCoalescer(conn net.Conn, failed func(error)) *coalescer {
	c := &coalescer{Conn: conn, failed: failed, done: make(chan struct{})}
	c.changed.L = &c.mu
	go c.flush()
	return c
}

// Write appends b to what the flusher writes next.
func (c *coalescer) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.buf) >= coalesceLimit && c.err == nil && !c.closing {
		c.changed.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closing:
		return 0, net.ErrClosed
	}
	c.buf = append(c.buf, b...)
	// After the header of a frame with a body comes its body, whatever that
	// looks like.
	c.partial = !c.partial && len(b) == yamuxHeaderLen && b[1] == yamuxData && binary.BigEndian.Uint32(b[8:]) > 0
	if !c.partial {
		c.changed.Broadcast()
	}
	return len(b), nil
}

// flush writes what Write has left, until an error or Close.
func (c *coalescer) flush() {
	defer close(c.done)
	var out []byte
	for {
		c.mu.Lock()
		for (len(c.buf) == 0 || c.partial) && !c.closing {
			c.changed.Wait()
		}
		if len(c.buf) == 0 {
			c.mu.Unlock()
			return
		}
		out, c.buf = c.buf, out[:0]
		if !c.closing {
			c.Conn.SetWriteDeadline(time.Now().Add(flushTimeout))
		}
		c.changed.Broadcast()
		c.mu.Unlock()

		if _, err := c.Conn.Write(out); err != nil {
			c.failed(err)
			c.mu.Lock()
			c.err = err
			c.buf = nil
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
	}
}

// Read reads from the connection and checks what passes.
func (c *coalescer) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		if flood := c.guard.pass(b[:n], time.Now); flood != nil {
			n, err = 0, flood
		}
	}
	if err != nil {
		c.failed(err)
	}
	return n, err
}

// Close writes what is left, for closeTimeout at most, and closes.
func (c *coalescer) Close() error {
	c.mu.Lock()
	if !c.closing {
		c.closing = true
		c.Conn.SetWriteDeadline(time.Now().Add(closeTimeout))
		c.changed.Broadcast()
	}
	c.mu.Unlock()
	<-c.done
	return c.Conn.Close()
}

// Why a connection ends whose peer keeps yamux busy with frames that no honest peer
// sends so many of.
var (
	errManyPings   = errors.New("too many pings")
	errManyStreams = errors.New("too many new streams")
)

const (
	pingBurst    = 64
	pingRefill   = 100 * time.Millisecond // one comes back
	streamBurst  = 64
	streamRefill = time.Second // likewise
)

// frameGuard follows the frames of a yamux connection as they are read and
// bounds those that make yamux work or keep memory by themselves: each ping is
// answered by a goroutine of its own, each new stream is a struct. The zero
// value is ready; not safe for concurrent use.
type frameGuard struct {
	header [yamuxHeaderLen]byte
	have   int    // bytes of the header that are there
	body   uint32 // bytes of the current frame's body still to come

	pings, streams bucket
}

// bucket counts what is spent, minus what came back.
type bucket struct {
	spent    int
	refilled time.Time
}

// spend reports false when more than burst are spent. One comes back every so
// often.
func (b *bucket) spend(now time.Time, burst int, every time.Duration) bool {
	if back := now.Sub(b.refilled) / every; back > 0 {
		b.spent = max(0, b.spent-int(min(back, time.Duration(burst))))
		b.refilled = now
	}
	b.spent++
	return b.spent <= burst
}

// pass looks at bytes that were read.
func (g *frameGuard) pass(b []byte, now func() time.Time) error {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(uint64(g.body), uint64(len(b)))
			g.body -= uint32(n)
			b = b[n:]
			continue
		}
		n := copy(g.header[g.have:], b)
		g.have += n
		b = b[n:]
		if g.have < yamuxHeaderLen {
			return nil
		}
		g.have = 0
		if g.header[1] == yamuxData {
			g.body = binary.BigEndian.Uint32(g.header[8:])
		}
		if g.header[3]&yamuxSYN != 0 {
			if err := g.spend(now()); err != nil {
				return err
			}
		}
	}
	return nil
}

// spend counts the frame in g.header, a ping or one that opens a stream.
func (g *frameGuard) spend(now time.Time) error {
	switch ping := g.header[1] == yamuxPing; {
	case ping && !g.pings.spend(now, pingBurst, pingRefill):
		return errManyPings
	case !ping && !g.streams.spend(now, streamBurst, streamRefill):
		return errManyStreams
	}
	return nil
}
