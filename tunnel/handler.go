package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/mux"
)

// handler takes the calls of the mux for a Client, whose own methods they are
// not meant to be.
type handler struct{ c *Client }

func (h handler) Attached(s *mux.ClientSession, resumed bool) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up, c.since, c.err, c.retry = true, time.Now(), nil, time.Time{}
	c.made++
	c.session, c.server, c.domain = s, s.Software(), s.Domain()
	c.pbx = net.UDPAddrFromAddrPort(s.PBX())
	c.pbxHost = &net.UDPAddr{IP: c.pbx.IP}
	c.openPhones()
	c.notify()
	c.events.add(Connected{Resumed: resumed, Server: c.config.Server, Session: s.ID()})
}

func (h handler) Detached(_ *mux.ClientSession, err error) {
	h.down(err, time.Time{})
	h.c.events.add(Disconnected{Err: publicError(err)})
}

func (h handler) Failed(err error, retry time.Time) {
	h.down(err, retry)
	if throttled := (*ThrottledError)(nil); mux.Definite(err) || errors.As(publicError(err), &throttled) {
		h.c.events.add(Refused{Err: publicError(err)})
	}
}

// down notes why the tunnel is not up.
func (h handler) down(err error, retry time.Time) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.up {
		c.up, c.since = false, time.Now()
	}
	c.err, c.retry = publicError(err), retry
	c.notify()
}

func (h handler) Lost(_ *mux.ClientSession, err error) {
	c := h.c
	c.mu.Lock()
	c.session = nil
	c.opening = 0
	for _, p := range c.phones {
		p.requested, p.answered, p.waiting, p.bytes = false, false, nil, 0
	}
	c.notify()
	c.mu.Unlock()
	c.closeMedia(ErrSessionLost)
	c.events.add(SessionLost{Err: publicError(err)})
}

func (h handler) Pinned(pin string) { h.c.events.add(KeyPinned{Pin: pin}) }

func (h handler) PhoneOpened(id uint32, addr netip.AddrPort) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.phones[id]
	if !c.answered(p) {
		return
	}
	before := p.addr
	p.addr = net.UDPAddrFromAddrPort(addr)
	if before == nil {
		close(p.ready)
	} else if before.AddrPort() != addr {
		c.events.add(PhoneMoved{Phone: p})
	}
	c.openPhones()
}

func (h handler) PhoneFailed(id uint32, err error) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.phones[id]
	if !c.answered(p) {
		return
	}
	c.dropPhone(p, err)
	if p.addr == nil {
		close(p.ready)
	} else {
		c.events.add(PhoneLost{Phone: p, Err: err})
	}
	c.openPhones()
}

func (h handler) PhoneState(id uint32, state []byte) {
	c := h.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.phones[id]; p != nil {
		p.state = append(p.state[:0], state...)
	}
}

func (h handler) SIP(id uint32, msg []byte) {
	c := h.c
	c.mu.Lock()
	p := c.phones[id]
	c.mu.Unlock()
	if p != nil && !p.in.put(msg, false) {
		// The phone does not read. UDP would lose it as well, and its
		// transactions send it again.
		c.counters.Counter("sip.dropped.phone_backlog").Inc()
	}
}

func (h handler) RelayOpened(channel uint32, addr netip.AddrPort) {
	if m := h.c.findMedia(channel); m != nil {
		m.opened(addr)
	}
}

func (h handler) RelayFailed(channel uint32, err error) {
	if m := h.c.findMedia(channel); m != nil {
		m.failed(err)
	}
}

func (h handler) Media(channel uint32, rtcp bool, packet []byte) {
	m := h.c.findMedia(channel)
	if m == nil {
		h.c.counters.Counter("media.dropped.unknown_relay").Inc()
		return
	}
	if deliver := m.deliver.Load(); deliver != nil {
		(*deliver)(rtcp, packet)
		return
	}
	conn := &m.rtp
	if rtcp {
		conn = &m.rtcp
	}
	if !conn.inbox().put(packet, true) {
		h.c.counters.Counter("media.dropped.reader_slow").Inc()
	}
}
