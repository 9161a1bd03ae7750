package demo

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// forwarder is the line between tunnelproxy and tunneld: it counts what crosses, and can be cut.
type forwarder struct {
	listener net.Listener
	target   netip.AddrPort
	up, down atomic.Uint64 // bytes toward tunneld, and from it

	mu    sync.Mutex
	cutUp bool
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newForwarder(addr netip.Addr, target netip.AddrPort) (*forwarder, error) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return nil, err
	}
	f := &forwarder{listener: ln, target: target, conns: make(map[net.Conn]struct{})}
	f.wg.Go(f.accept)
	return f, nil
}

func (f *forwarder) addr() string { return f.listener.Addr().String() }

// bytes returns what crossed so far, both ways together.
func (f *forwarder) bytes() uint64 { return f.up.Load() + f.down.Load() }

func (f *forwarder) accept() {
	for {
		conn, err := f.listener.Accept()
		if err != nil {
			return
		}
		if f.add(conn) {
			f.wg.Go(func() { f.carry(conn) })
		}
	}
}

// add takes a connection in, or closes it when the line is cut.
func (f *forwarder) add(conn net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cutUp {
		conn.Close()
		return false
	}
	f.conns[conn] = struct{}{}
	return true
}

func (f *forwarder) remove(conn net.Conn) {
	conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, conn)
}

func (f *forwarder) carry(near net.Conn) {
	defer f.remove(near)
	far, err := net.Dial("tcp", f.target.String())
	if err != nil || !f.add(far) {
		return
	}
	defer f.remove(far)
	var wg sync.WaitGroup
	pipe := func(to, from net.Conn, count *atomic.Uint64) {
		// One direction that has ended, ends the other.
		defer to.Close()
		defer from.Close()
		_, _ = io.Copy(to, io.TeeReader(from, counter{count}))
	}
	wg.Go(func() { pipe(far, near, &f.up) })
	wg.Go(func() { pipe(near, far, &f.down) })
	wg.Wait()
}

// counter counts what is written to it.
type counter struct{ bytes *atomic.Uint64 }

func (c counter) Write(b []byte) (int, error) {
	c.bytes.Add(uint64(len(b)))
	return len(b), nil
}

// cut ends all connections and lets no other through.
func (f *forwarder) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutUp = true
	for conn := range f.conns {
		conn.Close()
	}
}

// Close cuts the line for good and waits for what it was doing.
func (f *forwarder) Close() error {
	f.cut()
	err := f.listener.Close()
	f.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
