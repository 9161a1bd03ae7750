package tunnel

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	// phoneBacklog is how many SIP messages wait for a phone to read them.
	phoneBacklog = 256
	// waitingMessages and waitingBytes bound what a phone can write while there
	// is no session, or the phone is not open in a new one yet.
	waitingMessages = 32
	waitingBytes    = 32 << 10
	// maxOpening is how many phones are being opened at once. Together with
	// the limits above it keeps what they send far below the signalling that
	// may be unacknowledged in a session, which is 1,024 frames and 1 MiB.
	maxOpening = 16
)

// Phone is the SIP socket of one phone beside the PBX, a net.PacketConn. Each
// packet is one SIP message. What is written goes to the PBX, whatever the
// address says, exactly once and in order; while the tunnel is down it is kept
// for the session's grace. A reader that falls behind by 256 messages loses
// further ones. All methods are safe for concurrent use.
type Phone struct {
	client *Client
	id     uint32
	key    string
	ready  chan struct{} // closed at the first answer
	in     inbox

	// Under the client's mu:
	addr      *net.UDPAddr // nil before the first answer
	state     []byte       // what the server wants to have back in another session
	requested bool         // in this session
	answered  bool         // in this session
	waiting   [][]byte     // written before it was requested
	bytes     int          // of waiting
}

var _ net.PacketConn = (*Phone)(nil)

// Phone opens a place beside the PBX for one phone, waiting for the tunnel if
// need be. The key, of 1 to 255 bytes, names the phone for ever: the same key
// gets the same port again, now and after restarts of either end, wherever
// possible. A key can be open once in a Client.
//
// The key "trunk:NAME" opens a trunk, for a PBX rather than a phone: what the PBX
// sends to its port comes whomever it is for, and needs no registration.
func (c *Client) Phone(ctx context.Context, key string) (*Phone, error) {
	return c.RestorePhone(ctx, key, nil)
}

// RestorePhone is Phone for a program that was restarted: state is what State of
// the phone with this key said last, and tells the server of the registrations
// that the PBX still has, so that its calls reach the phone before it registers
// again. A state that is too long to be one is ignored.
func (c *Client) RestorePhone(ctx context.Context, key string, state []byte) (*Phone, error) {
	if key == "" || len(key) > 255 {
		return nil, errors.New("a phone's key has 1 to 255 bytes")
	}
	p, err := c.addPhone(key, state)
	if err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		changed, down := c.changed, c.err
		c.mu.Unlock()
		err := p.in.closedWith()
		if errors.Is(down, ErrKeyChanged) {
			err = down // nobody will ever answer
		}
		if err != nil {
			c.closePhone(p)
			return nil, err
		}
		select {
		case <-p.ready:
			if err := p.in.closedWith(); err != nil {
				return nil, err
			}
			return p, nil
		case <-changed:
		case <-ctx.Done():
			c.closePhone(p)
			return nil, errors.Join(ctx.Err(), down)
		}
	}
}

// addPhone makes a phone and asks for its place as soon as possible.
func (c *Client) addPhone(key string, state []byte) (*Phone, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, ErrClosed
	case c.keys[key] != nil:
		return nil, ErrPhoneOpen
	}
	c.lastPhone++
	p := &Phone{client: c, id: c.lastPhone, key: key, ready: make(chan struct{})}
	if len(state) <= wire.MaxState {
		p.state = slices.Clone(state)
	}
	p.in.init(phoneBacklog)
	c.phones[p.id], c.keys[key] = p, p
	c.openPhones()
	return p, nil
}

// openPhones asks for the places of the phones that have none in this session,
// in the order of their ids as the protocol wants it. c.mu is held.
func (c *Client) openPhones() {
	if c.session == nil || c.opening >= maxOpening {
		return
	}
	var todo []*Phone
	for _, p := range c.phones {
		if !p.requested {
			todo = append(todo, p)
		}
	}
	slices.SortFunc(todo, func(a, b *Phone) int { return cmp.Compare(a.id, b.id) })
	for _, p := range todo[:min(len(todo), maxOpening-c.opening)] {
		if c.session.OpenPhone(p.id, p.key, p.state) != nil {
			return // the session is over, which Lost will say
		}
		p.requested = true
		c.opening++
		for _, msg := range p.waiting {
			c.session.SendSIP(p.id, msg)
		}
		p.waiting, p.bytes = nil, 0
	}
}

// answered notes the answer for a phone and reports whether one is awaited:
// the phone may have been closed meanwhile. c.mu is held.
func (c *Client) answered(p *Phone) bool {
	if p == nil || !p.requested || p.answered {
		return false
	}
	p.answered = true
	c.opening--
	return true
}

// dropPhone forgets a phone and ends its reading with err. c.mu is held.
func (c *Client) dropPhone(p *Phone, err error) bool {
	if c.phones[p.id] != p {
		return false
	}
	delete(c.phones, p.id)
	delete(c.keys, p.key)
	p.in.close(err)
	return true
}

// closePhone drops a phone and gives its place up.
func (c *Client) closePhone(p *Phone) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dropPhone(p, net.ErrClosed) {
		return net.ErrClosed
	}
	if c.session != nil && p.requested {
		if c.answered(p) {
			defer c.openPhones()
		}
		c.session.ClosePhone(p.id)
	}
	return nil
}

// Key returns the key that the phone was opened with.
func (p *Phone) Key() string { return p.key }

// State returns what the server has given for RestorePhone, empty if nothing yet.
// It changes when the phone registers.
func (p *Phone) State() []byte {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return slices.Clone(p.state)
}

// LocalAddr returns the phone's address beside the PBX, a *net.UDPAddr. It may
// change with a new session, which the event PhoneMoved tells.
func (p *Phone) LocalAddr() net.Addr {
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return p.addr
}

// ReadFrom reads one SIP message, cut if b is too small; 65,535 bytes are
// enough for all. The address is the PBX's.
func (p *Phone) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := p.in.read(b)
	if err != nil {
		return 0, nil, opError("read", p.LocalAddr(), err)
	}
	p.client.mu.Lock()
	defer p.client.mu.Unlock()
	return n, p.client.pbx, nil
}

// Receive waits for one SIP message and hands it to f, whose it is from then on.
// It does what ReadFrom does without a buffer of the caller's.
func (p *Phone) Receive(f func(msg []byte)) error {
	msg, err := p.in.take()
	if err != nil {
		return opError("read", p.LocalAddr(), err)
	}
	f(msg)
	return nil
}

// WriteTo sends one SIP message to the PBX. The address does not matter. It
// never blocks for long.
func (p *Phone) WriteTo(b []byte, _ net.Addr) (int, error) {
	if err := p.write(b); err != nil {
		return 0, opError("write", p.LocalAddr(), err)
	}
	return len(b), nil
}

func (p *Phone) write(b []byte) error {
	c := p.client
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phones[p.id] != p:
		return net.ErrClosed
	case p.requested && c.session != nil:
		return c.session.SendSIP(p.id, b)
	case len(b) == 0 || len(b) > 65535:
		return ErrTooLong
	case len(p.waiting) >= waitingMessages || p.bytes+len(b) > waitingBytes:
		c.counters.Counter("sip.dropped.tunnel_down").Inc()
		return ErrBacklog
	}
	p.waiting = append(p.waiting, slices.Clone(b))
	p.bytes += len(b)
	return nil
}

// Close gives the phone's place up, after what was written has been sent.
func (p *Phone) Close() error { return p.client.closePhone(p) }

// SetDeadline sets the read deadline. Writing needs none.
func (p *Phone) SetDeadline(t time.Time) error { return p.in.setDeadline(t) }

// SetReadDeadline sets the deadline of present and future reading.
func (p *Phone) SetReadDeadline(t time.Time) error { return p.in.setDeadline(t) }

// SetWriteDeadline does nothing: writing does not wait.
func (p *Phone) SetWriteDeadline(time.Time) error { return p.in.closedWith() }
