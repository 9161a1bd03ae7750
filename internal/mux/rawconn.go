package mux

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

const (
	// preAuthBytes is how much a peer may send before it is authenticated. The
	// client of this package needs about 2 KiB, most of it for the post-quantum
	// key share in the ClientHello.
	preAuthBytes = 4 << 10
	// keepAliveIdle and the system's count and interval notice a peer that is
	// gone while nothing is sent.
	keepAliveIdle = 15 * time.Second
	// userTimeout is how long sent bytes may stay unacknowledged.
	userTimeout = 10 * time.Second
	// notSentLowat bounds what the kernel holds back unsent: media that waits
	// there is late, and SIP waits behind it.
	notSentLowat = 16 << 10
)

var (
	errPreAuth = errors.New("too many bytes before authentication")
	errHungUp  = errors.New("the other end closed the connection")
)

// rawConn is the TCP connection below TLS. It counts bytes, knows when it
// heard from the peer, and until unlimit refuses to read more than
// preAuthBytes.
type rawConn struct {
	net.Conn
	in, out   atomic.Uint64
	heard     atomic.Int64 // nanoseconds since start
	start     time.Time
	unlimited atomic.Bool
	cause     atomic.Pointer[error] // of its end; see failed
}

func newRawConn(conn net.Conn) *rawConn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetNoDelay(true)
		tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveIdle / 3, Count: 3})
		setSockopts(tcp)
	}
	return &rawConn{Conn: conn, start: time.Now()}
}

func (c *rawConn) Read(b []byte) (int, error) {
	if !c.unlimited.Load() {
		left := preAuthBytes - int(c.in.Load())
		if left <= 0 {
			return 0, errPreAuth
		}
		b = b[:min(len(b), left)]
	}
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.in.Add(uint64(n))
		c.heard.Store(int64(time.Since(c.start)))
	}
	return n, err
}

func (c *rawConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(uint64(n))
	return n, err
}

// failed notes why the connection is of no use any more, for the log. The first
// reason counts: what follows are its consequences.
func (c *rawConn) failed(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errHungUp
	}
	c.cause.CompareAndSwap(nil, &err)
}

// explain returns the noted reason, or err if there is none.
func (c *rawConn) explain(err error) error {
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// unlimit ends the limit on what may be read: the peer is authenticated.
func (c *rawConn) unlimit() { c.unlimited.Store(true) }

// silence returns for how long nothing has come from the peer.
func (c *rawConn) silence() time.Duration {
	return time.Since(c.start) - time.Duration(c.heard.Load())
}
