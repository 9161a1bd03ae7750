package mux

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// ClientHandler is told what happens to a Client. All calls are made one after
// the other, but Media, which is called from several goroutines and along with
// any other call. No call may block for long. Byte slices are valid only
// during the call.
type ClientHandler interface {
	// Attached is called when a connection carries the session s, a new one
	// unless resumed, before its first frame is handled.
	Attached(s *ClientSession, resumed bool)
	// Detached is called when the session has lost its connection.
	Detached(s *ClientSession, err error)
	// Lost is the last call for a session.
	Lost(s *ClientSession, err error)
	// Failed is called after an attempt to connect that led to nothing, with
	// the time of the next one, which is zero when there will be none.
	Failed(err error, retry time.Time)
	// Pinned is called when a server was taken without a pin known before.
	Pinned(pin string)

	PhoneOpened(phone uint32, addr netip.AddrPort)
	PhoneFailed(phone uint32, err error)
	PhoneState(phone uint32, state []byte)
	RelayOpened(channel uint32, addr netip.AddrPort)
	RelayFailed(channel uint32, err error)
	SIP(phone uint32, msg []byte)
	Media(channel uint32, rtcp bool, packet []byte)
}

// ClientConfig is what a Client needs. All fields but Pin, Software, Dial and
// Counters are required.
type ClientConfig struct {
	Server   string // host:port
	Name     string
	Password *auth.Password
	Pin      string // "": take the first server that knows the password
	Software string
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Handler  ClientHandler
	Pacing   Pacing // of the datagrams of media
	// NoDatagrams has all media go over the connection.
	NoDatagrams bool
	// Media marks the datagrams, Signalling the connection, unless Dial makes it.
	Media, Signalling dscp.Class
	Counters          *counter.Set

	backoff backoff // zero: the defaults; for tests
}

// backoff says how long to wait between attempts. Each wait is chosen at
// random between half of what is said here and all of it, so that the offices
// of a server that comes back do not come back all at once.
type backoff struct {
	first, max         time.Duration // doubles from first to max
	refused, refusedTo time.Duration // the same after a refusal that time may heal
}

var defaultBackoff = backoff{
	first: 500 * time.Millisecond, max: 30 * time.Second,
	refused: 30 * time.Second, refusedTo: 5 * time.Minute,
}

const (
	// attemptTimeout bounds one attempt to connect, slow key derivation on a
	// small machine included.
	attemptTimeout = 20 * time.Second
	// stableAfter is how long a connection has to live for the next one to be
	// tried as if there had been no trouble.
	stableAfter = 30 * time.Second
)

// Client keeps a session with one server, over one connection after the other,
// until Close. Its methods are safe for concurrent use.
type Client struct {
	config ClientConfig
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}             // run has ended
	path   atomic.Pointer[mediaPath] // the present session's; nil: none

	mu      sync.Mutex
	pin     string
	link    *link // nil while there is no connection
	in, out uint64
}

// NewClient makes a client and starts to connect. One goroutine of its own
// connects, runs the connection and makes the handler's calls outside of it.
func NewClient(c ClientConfig) *Client {
	if c.Dial == nil {
		c.Dial = dialer(c.Signalling).DialContext
	}
	if c.backoff == (backoff{}) {
		c.backoff = defaultBackoff
	}
	client := &Client{config: c, pin: c.Pin, done: make(chan struct{})}
	client.ctx, client.cancel = context.WithCancel(context.Background())
	go client.run()
	return client
}

// Pin returns the pin of the server, "" when it is not known yet.
func (c *Client) Pin() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pin
}

// Traffic returns the bytes of all connections so far, the round trip time of
// the present one (0: not known) and the server's address on it.
func (c *Client) Traffic() (in, out uint64, rtt time.Duration, remote net.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in, out = c.in, c.out
	if l := c.link; l != nil {
		in += l.conn.in.Load()
		out += l.conn.out.Load()
		rtt = time.Duration(l.rtt.Load())
		remote = l.conn.RemoteAddr()
	}
	return in, out, rtt, remote
}

// FlushMedia sends the media that waits for others, with Pacing.Manual.
func (c *Client) FlushMedia() {
	if p := c.path.Load(); p != nil {
		p.flush()
	}
}

// Close says Bye, ends the session and waits for everything that the client
// started. It must not be called from the handler.
func (c *Client) Close() error {
	c.mu.Lock()
	c.cancel()
	l := c.link
	c.mu.Unlock()
	if l != nil {
		l.bye(wire.Bye{Code: wire.CodeShutdown}, ErrClosed)
	}
	<-c.done
	return nil
}

// run connects until Close.
func (c *Client) run() {
	defer close(c.done)
	var s *ClientSession // nil: none that could be resumed
	var tries tries
	tries.backoff = c.config.backoff
	for c.ctx.Err() == nil {
		conn, err := c.connect(s)
		wait := time.Duration(0)
		if err == nil {
			s, err = c.carry(s, conn)
			wait = tries.after(err, conn.started)
		} else if c.ctx.Err() == nil {
			wait = tries.failed(err)
			var retry time.Time
			if wait >= 0 {
				retry = time.Now().Add(wait)
			}
			c.config.Handler.Failed(err, retry)
		}
		s = c.pause(s, wait)
	}
	c.lose(s, ErrClosed)
}

// pause waits, for ever if wait is negative, and sees to the end of a session
// that is detached for too long. It returns the session that is left.
func (c *Client) pause(s *ClientSession, wait time.Duration) *ClientSession {
	var again, grace <-chan time.Time
	var over <-chan struct{}
	if wait >= 0 {
		again = time.After(wait)
	}
	if s != nil {
		grace, over = time.After(time.Until(s.until)), s.over
	}
	for {
		select {
		case <-c.ctx.Done():
			return s
		case <-again:
			return s
		case <-grace:
			c.lose(s, ErrGrace)
			s, grace, over = nil, nil, nil
		case <-over:
			c.lose(s, ErrOverflow)
			s, grace, over = nil, nil, nil
		}
	}
}

// lose ends a session, if there is one.
func (c *Client) lose(s *ClientSession, err error) {
	if s != nil {
		s.endpoint.out.close(ErrSessionLost)
		s.closePath()
		c.config.Handler.Lost(s, err)
	}
}

// carry runs a connection to its end, with the session s or a new one, and
// returns the session if it can be resumed, and why the connection ended.
func (c *Client) carry(s *ClientSession, conn *connection) (*ClientSession, error) {
	resumed := s != nil && conn.attached.Resumed && conn.attached.Session == s.id
	if resumed {
		if err := s.endpoint.out.rewind(conn.attached.Received); err != nil {
			c.lose(s, err)
			conn.ys.Close()
			return nil, err
		}
	} else {
		c.lose(s, errForgotten)
		s = newClientSession(c, conn.attached)
	}
	l := newLink(conn.raw, conn.ys, conn.control, true)
	if s.path != nil {
		l.secret, l.pathID = conn.secret, s.newPathID()
	}
	s.attach(l)
	c.mu.Lock()
	c.link = l
	closed := c.ctx.Err() != nil
	c.mu.Unlock()
	c.config.Handler.Attached(s, resumed)
	select {
	case <-s.over: // while the connection was made
		l.bye(wire.Bye{Code: wire.CodeOverflow}, ErrOverflow)
	default:
	}
	if closed {
		l.bye(wire.Bye{Code: wire.CodeShutdown}, ErrClosed)
	}
	err := l.run(&s.endpoint, s)
	s.detach()
	c.mu.Lock()
	c.link = nil
	c.in += l.conn.in.Load()
	c.out += l.conn.out.Load()
	c.mu.Unlock()
	c.config.Handler.Detached(s, err)
	if bye := (*ByeError)(nil); errors.As(err, &bye) || errors.Is(err, ErrProtocol) || errors.Is(err, ErrOverflow) {
		c.lose(s, err)
		return nil, err
	}
	return s, err
}

// errForgotten is why a session is lost to a server that was started anew.
var errForgotten = errors.New("the server does not know the session any more")

// tries keeps how often connecting did not work.
type tries struct {
	backoff
	count, refusals int
}

// failed returns how long to wait after a failed attempt, negative for ever.
func (t *tries) failed(err error) time.Duration {
	var throttled *auth.ThrottledError
	var bye *ByeError
	t.count++
	switch {
	case errors.Is(err, ErrKeyChanged):
		return -1
	case errors.As(err, &throttled):
		return throttled.RetryAfter + jitter(t.first)
	case errors.As(err, &bye) && bye.RetryAfter > 0:
		return bye.RetryAfter + jitter(bye.RetryAfter)
	case Definite(err):
		t.refusals++
		return jitter(double(t.refused, t.refusals, t.refusedTo))
	}
	return jitter(double(t.first, t.count, t.max))
}

// after returns how long to wait after a connection that worked and ended.
func (t *tries) after(err error, started time.Time) time.Duration {
	t.refusals = 0
	if time.Since(started) > stableAfter {
		t.count = 0
	}
	if bye := (*ByeError)(nil); errors.As(err, &bye) && bye.RetryAfter > 0 {
		return bye.RetryAfter + jitter(bye.RetryAfter)
	}
	t.count++
	return jitter(double(t.first, t.count, t.max))
}

// double returns first doubled count-1 times, at most limit.
func double(first time.Duration, count int, limit time.Duration) time.Duration {
	for ; count > 1 && first < limit; count-- {
		first *= 2
	}
	return min(first, limit)
}

// jitter returns something between half of d and d.
func jitter(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// Definite reports whether an attempt that failed with err is bound to fail
// again unless somebody changes something.
func Definite(err error) bool {
	for _, definite := range []error{auth.ErrRefused, auth.ErrServerProof, ErrKeyChanged, ErrVersion, ErrNotTunneld} {
		if errors.Is(err, definite) {
			return true
		}
	}
	return false
}
