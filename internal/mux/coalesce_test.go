package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// recorder is a net.Conn that notes each Write.
type recorder struct {
	net.Conn
	writes chan []byte
	gate   chan struct{} // nil: open
	fail   error
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.gate != nil {
		<-r.gate
	}
	if r.fail != nil {
		return 0, r.fail
	}
	r.writes <- bytes.Clone(b)
	return len(b), nil
}
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) Close() error                     { return nil }

func dataHeader(n byte) []byte { return []byte{0, yamuxData, 0, 0, 0, 0, 0, 1, 0, 0, 0, n} }

// TestCoalescerKeepsFramesWhole writes headers and bodies apart, the way yamux
// does, and expects neither a header without its body on the wire nor a frame
// that stays behind.
func TestCoalescerKeepsFramesWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{writes: make(chan []byte, 1<<16)}
		c := newCoalescer(r, func(error) {})
		c.Write(dataHeader(12))
		synctest.Wait()
		if n := len(r.writes); n != 0 {
			t.Fatalf("%d writes of a header alone", n)
		}
		// A body that looks like a header itself.
		c.Write(dataHeader(1))
		synctest.Wait()
		if n := len(r.writes); n != 1 {
			t.Fatalf("%d writes of a whole frame", n)
		}
		if got := <-r.writes; !bytes.Equal(got, append(dataHeader(12), dataHeader(1)...)) {
			t.Errorf("wrote % x", got)
		}
		// A frame without a body goes at once.
		c.Write([]byte{0, yamuxPing, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7})
		synctest.Wait()
		if n := len(r.writes); n != 1 {
			t.Fatalf("%d writes of a ping", n)
		}
		c.Close()
	})
}

func TestCoalescerGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{writes: make(chan []byte, 1<<16), gate: make(chan struct{})}
		c := newCoalescer(r, func(error) {})
		ping := []byte{0, yamuxPing, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7}
		c.Write(ping)
		synctest.Wait() // the flusher is busy with it
		written := 0
		full := make(chan struct{})
		go func() {
			for range 2 * coalesceLimit / len(ping) {
				c.Write(ping)
				written++
			}
			close(full)
		}()
		synctest.Wait()
		if n := written * len(ping); n < coalesceLimit || n > coalesceLimit+len(ping) {
			t.Errorf("%d bytes wait, limit is %d", n, coalesceLimit)
		}
		r.gate <- struct{}{}
		r.gate <- struct{}{}
		<-r.writes
		if got := <-r.writes; len(got) < coalesceLimit {
			t.Errorf("%d bytes in one write", len(got))
		}
		close(r.gate)
		<-full
		c.Close()
	})
}

func TestCoalescerErrorIsSticky(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("broken wire")
		var told error
		c := newCoalescer(&recorder{fail: failure}, func(err error) { told = err })
		c.Write([]byte("x"))
		synctest.Wait()
		for range 2 {
			if _, err := c.Write([]byte("x")); err != failure {
				t.Errorf("Write: %v", err)
			}
		}
		c.Close()
		if told != failure {
			t.Errorf("told %v", told)
		}
	})
}

// TestCoalescerCloseWritesTheRest closes with bytes waiting, and again with a
// peer that does not read.
func TestCoalescerCloseWritesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newCoalescer(near, func(error) {})
		c.Write([]byte("the rest"))
		go c.Close()
		if got, err := io.ReadAll(far); string(got) != "the rest" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		near, _ = net.Pipe()
		c = newCoalescer(near, func(error) {})
		c.Write([]byte("the rest"))
		synctest.Wait()
		start := time.Now()
		c.Close()
		if took := time.Since(start); took > closeTimeout {
			t.Errorf("Close took %v", took)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("Write after Close")
		}
	})
}
