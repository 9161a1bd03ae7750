package mux

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// ClientSession is a session as its client has it. Its methods are safe for
// concurrent use, never block for long, and queue what has to wait for a
// connection. Their errors mean that the session is over.
type ClientSession struct {
	endpoint
	client   *Client
	id       wire.SessionID
	secret   [32]byte
	epoch    uint64
	attached wire.Attached

	// until is when the session ends unless it is resumed. Owned by the
	// client's goroutine.
	until time.Time

	paths      pathTable // of the media path
	pathReader sync.WaitGroup
	pathID     uint32 // offered last; owned by the client's goroutine

	overflow sync.Once
	over     chan struct{} // closed when the server did not acknowledge enough

	mu     sync.Mutex
	link   *link
	relays map[uint32]bool // those asked for; true: opened
}

func newClientSession(c *Client, m wire.Attached) *ClientSession {
	s := &ClientSession{
		endpoint: newEndpoint(c.config.Counters), client: c,
		id: m.Session, secret: m.Secret, epoch: m.Epoch, attached: m,
		relays: make(map[uint32]bool), over: make(chan struct{}),
	}
	s.openPath()
	return s
}

// ID returns the session's name for logs, the same as on the server.
func (s *ClientSession) ID() string { return hex.EncodeToString(s.id[:4]) }

// Domain returns the SIP domain of the PBX.
func (s *ClientSession) Domain() string { return s.attached.Domain }

// PBX returns the address of the PBX.
func (s *ClientSession) PBX() netip.AddrPort { return s.attached.PBX }

// Software returns the name and version of the server's program.
func (s *ClientSession) Software() string { return s.attached.Software }

// OpenPhone asks for a phone's place. Ids must be larger than all before in
// the session. The answer is PhoneOpened or PhoneFailed.
func (s *ClientSession) OpenPhone(phone uint32, key string, state []byte) error {
	if len(key) > wire.MaxKey || key == "" {
		return fmt.Errorf("a phone's key has 1 to %d bytes", wire.MaxKey)
	}
	return s.send(wire.OpenPhone{Phone: phone, Key: key, State: state}.Append(nil))
}

// ClosePhone gives a phone's place up, after what was sent before.
func (s *ClientSession) ClosePhone(phone uint32) error {
	return s.send(wire.ClosePhone{Phone: phone}.Append(nil))
}

// OpenRelay asks for a relay. Channels must be larger than all before in the
// session. The answer is RelayOpened or RelayFailed.
func (s *ClientSession) OpenRelay(channel uint32) error {
	s.mu.Lock()
	s.relays[channel] = false
	s.mu.Unlock()
	return s.send(wire.OpenRelay{Channel: channel}.Append(nil))
}

// CloseRelay gives a relay back, after what was sent before.
func (s *ClientSession) CloseRelay(channel uint32) error {
	s.mu.Lock()
	opened := s.relays[channel]
	delete(s.relays, channel)
	s.mu.Unlock()
	if opened && s.path != nil {
		s.path.closeChannel(channel)
	}
	return s.send(wire.CloseRelay{Channel: channel}.Append(nil))
}

// SendSIP sends a phone's SIP message to the PBX: exactly once, in order, over
// the next connection if need be. The message is copied.
func (s *ClientSession) SendSIP(phone uint32, msg []byte) error {
	return s.checkSent(s.sendSIP(phone, msg))
}

// SendMedia sends a packet to a relay. It never blocks: what cannot go now is
// dropped, the oldest first, and counted. The packet is copied.
func (s *ClientSession) SendMedia(channel uint32, rtcp bool, packet []byte) {
	s.sendMedia(channel, rtcp, packet)
}

func (s *ClientSession) send(frame []byte) error {
	return s.checkSent(s.endpoint.out.add(frame))
}

// checkSent ends the session when the server has not acknowledged enough.
func (s *ClientSession) checkSent(err error) error {
	if err != ErrOverflow {
		return err
	}
	s.endpoint.out.close(ErrSessionLost)
	s.mu.Lock()
	link := s.link
	s.mu.Unlock()
	s.overflow.Do(func() { close(s.over) })
	if link != nil {
		link.fail(err)
	}
	return err
}

// attach makes l the session's link.
func (s *ClientSession) attach(l *link) {
	l.end = &s.endpoint
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
}

// detach starts the session's grace.
func (s *ClientSession) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = nil
	s.until = time.Now().Add(time.Duration(s.attached.Grace) * time.Second)
}

// bye is called when the server has ended the session; the link's end says so.
func (s *ClientSession) bye(*ByeError) {}

func (s *ClientSession) hasRelay(channel uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relays[channel]
}

func (s *ClientSession) packet(channel uint32, rtcp bool, packet []byte) {
	s.client.config.Handler.Media(channel, rtcp, packet)
}

// signal handles one frame from the server.
func (s *ClientSession) signal(t wire.Type, body []byte) error {
	h := s.client.config.Handler
	switch t {
	case wire.TypeSIP:
		m, err := wire.ParseSIP(body)
		if err == nil {
			h.SIP(m.Phone, m.Message)
		}
		return err
	case wire.TypePhoneState:
		m, err := wire.ParsePhoneState(body)
		if err == nil {
			h.PhoneState(m.Phone, m.State)
		}
		return err
	case wire.TypePhoneOpened:
		m, err := wire.ParsePhoneOpened(body)
		if err == nil {
			h.PhoneOpened(m.Phone, m.Addr)
		}
		return err
	case wire.TypePhoneFailed:
		m, err := wire.ParsePhoneFailed(body)
		if err == nil {
			h.PhoneFailed(m.Phone, &FailedError{Code: m.Code, Text: m.Text})
		}
		return err
	case wire.TypeRelayOpened:
		m, err := wire.ParseRelayOpened(body)
		if err == nil {
			s.relayOpened(m.Channel)
			h.RelayOpened(m.Channel, m.Addr)
		}
		return err
	case wire.TypeRelayFailed:
		m, err := wire.ParseRelayFailed(body)
		if err == nil {
			s.relayFailed(m.Channel)
			h.RelayFailed(m.Channel, &FailedError{Code: m.Code, Text: m.Text})
		}
		return err
	}
	return fmt.Errorf("%v from a server", t)
}

func (s *ClientSession) relayFailed(channel uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.relays, channel)
}

// relayOpened has the media path know a new relay, unless that was closed before the
// answer came.
func (s *ClientSession) relayOpened(channel uint32) {
	s.mu.Lock()
	opened, asked := s.relays[channel]
	if opened || !asked {
		s.mu.Unlock()
		return
	}
	s.relays[channel] = true
	s.mu.Unlock()
	if s.path == nil {
		return
	}
	s.path.openChannel(channel) // not with mu locked: who receives media has the path's lock, and may wait for who waits for mu
	if !s.hasRelay(channel) {
		s.path.closeChannel(channel)
	}
}
