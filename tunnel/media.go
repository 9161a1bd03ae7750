package tunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/mux"
)

// mediaBacklog is how many packets wait in a media socket to be read: 1.28 s
// of speech. Then the oldest is dropped.
const mediaBacklog = 64

// Media is a pair of sockets for one stream of media beside the PBX. All
// methods are safe for concurrent use.
//
// Writing never blocks: what the connection cannot take now is dropped, the
// oldest first. Reading gives what has come from the PBX; who does not read
// loses the oldest.
type Media struct {
	client    *Client
	session   *mux.ClientSession
	channel   uint32
	from      *net.UDPAddr // the PBX, without a port
	rtp, rtcp mediaConn
	deliver   atomic.Pointer[func(rtcp bool, packet []byte)]

	mu    sync.Mutex
	ready chan struct{} // closed by the answer; nil: it has come
	err   error         // closed with it
}

// mediaConn is one of the two sockets.
type mediaConn struct {
	media *Media
	addr  net.UDPAddr           // set before ready is closed
	in    atomic.Pointer[inbox] // nil: there was no need for one
}

var _ net.PacketConn = (*mediaConn)(nil)

// Media allocates a pair of sockets for RTP and RTCP beside the PBX, waiting
// for the tunnel if need be.
func (c *Client) Media(ctx context.Context) (*Media, error) {
	for {
		if err := c.awaitUp(ctx, func(err error) bool { return errors.Is(err, ErrKeyChanged) }); err != nil {
			return nil, err
		}
		m, changed, err := c.addMedia()
		if err == nil {
			err = m.await(ctx)
		}
		if err == nil {
			return m, nil
		}
		if !errors.Is(err, ErrSessionLost) {
			return nil, err
		}
		// Once more, in the next session.
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// addMedia asks for a pair of sockets. The Go channel is closed at the next
// change after that.
func (c *Client) addMedia() (_ *Media, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, nil, ErrClosed
	case c.session == nil:
		return nil, c.changed, ErrSessionLost
	}
	c.mediaMu.Lock()
	defer c.mediaMu.Unlock()
	c.lastChannel++
	m := &Media{client: c, session: c.session, channel: c.lastChannel, from: c.pbxHost, ready: make(chan struct{})}
	m.rtp.media, m.rtcp.media = m, m
	if err := c.session.OpenRelay(m.channel); err != nil {
		return nil, c.changed, err
	}
	c.media[m.channel] = m
	return m, c.changed, nil
}

// await waits for the server's answer.
func (m *Media) await(ctx context.Context) error {
	m.mu.Lock()
	ready := m.ready
	m.mu.Unlock()
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			m.Close()
			return ctx.Err()
		}
	}
	return m.closedWith()
}

func (c *Client) findMedia(channel uint32) *Media {
	c.mediaMu.RLock()
	defer c.mediaMu.RUnlock()
	return c.media[channel]
}

// closeMedia ends all media with err.
func (c *Client) closeMedia(err error) {
	c.mediaMu.Lock()
	all := c.media
	c.media = make(map[uint32]*Media)
	c.mediaMu.Unlock()
	for _, m := range all {
		m.end(err)
	}
}

func (m *Media) opened(addr netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready == nil {
		return
	}
	m.rtp.addr = *net.UDPAddrFromAddrPort(addr)
	m.rtcp.addr = m.rtp.addr
	m.rtcp.addr.Port++
	m.answered()
}

// answered lets await return. mu is held.
func (m *Media) answered() {
	if m.ready != nil {
		close(m.ready)
		m.ready = nil
	}
}

func (m *Media) failed(err error) {
	m.forget()
	m.end(err)
}

// end makes both sockets fail with err.
func (m *Media) end(err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return false
	}
	m.err = err
	for _, conn := range []*mediaConn{&m.rtp, &m.rtcp} {
		if in := conn.in.Load(); in != nil {
			in.close(err)
		}
	}
	m.answered()
	return true
}

// closedWith returns the error that the sockets were closed with.
func (m *Media) closedWith() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *Media) forget() {
	m.client.mediaMu.Lock()
	defer m.client.mediaMu.Unlock()
	if m.client.media[m.channel] == m {
		delete(m.client.media, m.channel)
	}
}

// RTP returns the RTP socket. Its LocalAddr belongs into the SDP that goes to
// the PBX. Where packets go is for the PBX's SDP to say: the address given to
// WriteTo does not matter, and that of ReadFrom is the PBX's without a port, the
// same for all packets, not to be changed. Closing it closes both.
func (m *Media) RTP() net.PacketConn { return &m.rtp }

// RTCP returns the RTCP socket, one port above that of RTP.
func (m *Media) RTCP() net.PacketConn { return &m.rtcp }

// Deliver has f called with every packet that comes from the PBX from now on, in
// place of it being kept for ReadFrom: for who passes packets on and has no
// goroutine to spare for each socket. The packet is valid during the call only.
// f must not block: all media of the tunnel waits for it. It may write, but must call
// neither Close nor Client.Status, which wait for it. It may be called, and be running,
// for a moment after Close.
func (m *Media) Deliver(f func(rtcp bool, packet []byte)) { m.deliver.Store(&f) }

// Close gives the sockets back.
func (m *Media) Close() error {
	m.forget()
	if !m.end(net.ErrClosed) {
		return net.ErrClosed
	}
	m.session.CloseRelay(m.channel)
	return nil
}

// inbox is where packets wait for ReadFrom. It is made when something is done with it:
// who has them delivered, as gateways with many calls do, needs none.
func (c *mediaConn) inbox() *inbox {
	if in := c.in.Load(); in != nil {
		return in
	}
	c.media.mu.Lock()
	defer c.media.mu.Unlock()
	in := c.in.Load()
	if in == nil {
		in = new(inbox)
		in.init(mediaBacklog)
		if c.media.err != nil {
			in.close(c.media.err)
		}
		c.in.Store(in)
	}
	return in
}

// LocalAddr returns the address beside the PBX, a *net.UDPAddr.
func (c *mediaConn) LocalAddr() net.Addr { return &c.addr }

func (c *mediaConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.inbox().read(b)
	if err != nil {
		return 0, nil, opError("read", &c.addr, err)
	}
	return n, c.media.from, nil
}

func (c *mediaConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	if err := c.media.closedWith(); err != nil {
		return 0, opError("write", &c.addr, err)
	}
	c.media.session.SendMedia(c.media.channel, c == &c.media.rtcp, b)
	return len(b), nil
}

func (c *mediaConn) Close() error                  { return c.media.Close() }
func (c *mediaConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *mediaConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() && c.in.Load() == nil {
		return c.media.closedWith() // there is none
	}
	return c.inbox().setDeadline(t)
}

func (c *mediaConn) SetWriteDeadline(_ time.Time) error { return c.media.closedWith() }
