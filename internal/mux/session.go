package mux

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// Session is a client's session on the server. It outlives its connections.
// Its methods are safe for concurrent use and never block for long.
//
// One goroutine, supervise, ends the session; whatever a connection does for
// it happens in that connection's goroutines, which supervise waits for.
type Session struct {
	endpoint
	server     *Server
	id         wire.SessionID
	secret     [32]byte
	credential string
	software   string
	since      time.Time
	handler    SessionHandler
	log        *zap.Logger

	grace   *time.Timer   // runs while no link carries the session
	closing chan struct{} // closed by Close

	mu       sync.Mutex
	reason   error // why closing is closed
	code     wire.Code
	epoch    uint64
	link     *link     // nil while detached
	changed  time.Time // when link last became nil or not nil
	attaches uint64
	remote   net.Addr
	in, out  uint64 // bytes of earlier connections
	phones   map[uint32]string
	keys     map[string]struct{}
	relays   map[uint32]struct{}
	// Ids are used once and in order, so the last ones say which are used up.
	lastPhone, lastRelay uint32
}

// ID returns the session's name for logs. It is no secret.
func (s *Session) ID() string { return hex.EncodeToString(s.id[:4]) }

// Credential returns the name that the client proved to know the password of.
func (s *Session) Credential() string { return s.credential }

// RemoteAddr returns the client's address on the connection that carries the
// session, or that carried it last.
func (s *Session) RemoteAddr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remote
}

// Attached reports whether a connection carries the session.
func (s *Session) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// SendSIP sends a SIP message toward a phone. It reaches the client exactly
// once and in order, after the next connection if need be. The message is
// copied. An error means that the session is over or the message too long.
func (s *Session) SendSIP(phone uint32, msg []byte) error {
	return s.checkSent(s.sendSIP(phone, msg))
}

// SendMedia sends a packet of a relay toward the client. It never blocks: what
// cannot go now is dropped, the oldest first, and counted. The packet is
// copied.
func (s *Session) SendMedia(channel uint32, rtcp bool, packet []byte) {
	s.sendMedia(channel, rtcp, packet)
}

// SavePhoneState hands the client what the handler wants to get back in
// OpenPhone if the phone has to be opened in another session. Each call
// replaces what earlier ones said. The state, of at most 8 KiB, is copied.
func (s *Session) SavePhoneState(phone uint32, state []byte) {
	if len(state) > wire.MaxState {
		s.counters.Counter("tunnel.dropped.state_too_long").Inc()
		return
	}
	s.send(wire.PhoneState{Phone: phone, State: state}.Append(nil))
}

// Close ends the session without grace. It does not wait: the handler's Closed
// comes later.
func (s *Session) Close(reason error) { s.close(wire.CodeAdmin, reason) }

// Over reports whether this end has ended the session, or is about to: Closed
// follows, whatever becomes of its connection.
func (s *Session) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason != nil
}

func (s *Session) close(code wire.Code, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == nil {
		s.code, s.reason = code, reason
		close(s.closing)
	}
}

// send queues a counted frame.
func (s *Session) send(frame []byte) { s.checkSent(s.endpoint.out.add(frame)) }

func (s *Session) checkSent(err error) error {
	if errors.Is(err, ErrOverflow) {
		s.close(wire.CodeOverflow, err)
	}
	return err
}

// supervise waits for the session's end and sees to it.
func (s *Session) supervise() {
	for over := false; !over; {
		select {
		case <-s.closing:
			over = true
		case <-s.grace.C:
			s.mu.Lock()
			expired := s.link == nil && time.Since(s.changed) >= s.server.config.Grace
			s.mu.Unlock()
			if expired {
				s.close(wire.CodeNone, ErrGrace)
			}
		}
	}
	s.mu.Lock()
	link, code, reason := s.link, s.code, s.reason
	s.mu.Unlock()
	if link != nil {
		link.bye(wire.Bye{Code: code, RetryAfter: retryAfter(code)}, reason)
		<-link.released
	}
	s.grace.Stop()
	s.endpoint.out.close(ErrSessionLost)
	if s.path != nil {
		s.path.close()
	}
	s.handler.Closed(reason)
	s.server.forget(s)
	s.log.Debug("session closed", zap.Error(reason))
}

// retryAfter is what a client is told to wait, in seconds, after the end of a
// session.
func retryAfter(code wire.Code) uint16 {
	switch code {
	case wire.CodeShutdown:
		return 1
	case wire.CodeAdmin, wire.CodeOverflow, wire.CodeProtocol:
		return 10
	}
	return 0
}

var errOver = errors.New("the session is over")

// attach makes l carry the session, fencing the connection that did, and
// returns nil when l has ended, or an error without having touched it.
func (s *Session) attach(l *link, m wire.Attach) error {
	defer close(l.released)
	if err := s.take(l, m); err != nil {
		return err
	}
	s.handler.Attached()
	err := s.greet(l, m)
	if err != nil {
		l.fail(err)
	}
	err = l.run(&s.endpoint, s)

	s.mu.Lock()
	s.link, s.changed = nil, time.Now()
	s.in += l.conn.in.Load()
	s.out += l.conn.out.Load()
	s.grace.Reset(s.server.config.Grace)
	s.mu.Unlock()
	s.handler.Detached(err)
	s.log.Debug("session detached", zap.Error(err))
	s.tellEnd(err)
	if bye := (*ByeError)(nil); errors.As(err, &bye) || errors.Is(err, ErrProtocol) {
		s.close(wire.CodeProtocol, err)
	}
	return nil
}

// tellEnd says what to do about a client whose connection was ended for err, if that
// is anything that it has done.
func (s *Session) tellEnd(err error) {
	switch {
	case errors.Is(err, errManyStreams), errors.Is(err, errManyPings):
		reason := "tunnel.closed.too_many_pings"
		if errors.Is(err, errManyStreams) {
			reason = "tunnel.closed.too_many_streams"
		}
		s.counters.Counter(reason).Inc()
		s.server.warn(s, "client disconnected, it floods the connection; update it, or revoke the credential if it is stolen", err)
	case errors.Is(err, ErrProtocol):
		s.server.warn(s, "client disconnected, it broke the protocol; update it, or revoke the credential if it is stolen", err)
	}
}

// take makes l the session's link. While an older one is being stopped a newer
// one may come by, and then has the right of way.
func (s *Session) take(l *link, m wire.Attach) error {
	s.mu.Lock()
	if m.Epoch <= s.epoch {
		s.mu.Unlock()
		return errStale
	}
	s.epoch = m.Epoch
	old := s.link
	s.mu.Unlock()
	if old != nil {
		old.fail(ErrFenced)
		<-old.released
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.reason != nil:
		return errOver
	case m.Epoch != s.epoch:
		return errStale
	}
	if err := s.endpoint.out.rewind(m.Received); err != nil {
		return err
	}
	s.link, s.changed, s.remote = l, time.Now(), l.conn.RemoteAddr()
	s.attaches++
	s.grace.Stop()
	return nil
}

// greet answers the Attach.
func (s *Session) greet(l *link, m wire.Attach) error {
	c := &s.server.config
	s.mu.Lock()
	resumed := s.attaches > 1
	s.mu.Unlock()
	l.control.SetWriteDeadline(time.Now().Add(setupTimeout))
	_, err := l.control.Write(wire.Attached{
		Session: s.id, Secret: s.secret, Epoch: m.Epoch, Resumed: resumed,
		Grace: clamp16(int(c.Grace / time.Second)), Received: s.received.Load(),
		MaxPhones: clamp16(c.Limits.Phones), MaxRelays: clamp16(c.Limits.Relays),
		PBX: c.PBX, Domain: c.Domain, Software: c.Software,
	}.Append(nil))
	l.control.SetWriteDeadline(time.Time{})
	return err
}

// idleSince reports whether the session is detached, and has been for longer
// than the other, which may be nil.
func (s *Session) idleSince(other *Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil || s.attaches == 0 || s.reason != nil {
		return false
	}
	if other == nil {
		return true
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	return s.changed.Before(other.changed)
}

func clamp16(n int) uint16 { return uint16(min(n, math.MaxUint16)) }

// bye is called when the client has ended the session.
func (s *Session) bye(e *ByeError) { s.close(e.Code, e) }

func (s *Session) packet(channel uint32, rtcp bool, packet []byte) {
	s.handler.Media(channel, rtcp, packet)
}

// control opens the media path. That is asked once on a connection, since the
// connection is what the keys are from.
func (s *Session) control(l *link, t wire.Type, body []byte) (known bool, err error) {
	if t != wire.TypeOpenPath || s.path == nil || l.secret == nil {
		return false, nil
	}
	m, err := wire.ParseOpenPath(body)
	if err != nil {
		return true, err
	}
	own, err := s.server.paths.reserve()
	if err != nil {
		return true, err
	}
	err = s.path.rekey(l.secret, seal.Suite(m.Suite), m.Connection, own, udp.Route{})
	clear(l.secret)
	l.secret = nil
	if err != nil {
		s.server.paths.forget(own)
		return true, err
	}
	port := s.server.datagrams.LocalAddr().Port()
	if tcp, ok := l.conn.LocalAddr().(*net.TCPAddr); ok && tcp.Port == int(port) {
		port = 0 // the usual one, whatever a router has made of it
	}
	_, err = l.control.Write(wire.PathOpened{Connection: own, Port: port}.Append(nil))
	return true, err
}

// signal handles one frame from the client.
func (s *Session) signal(t wire.Type, body []byte) error {
	switch t {
	case wire.TypeSIP:
		m, err := wire.ParseSIP(body)
		if err != nil {
			return err
		}
		s.mu.Lock()
		_, ok := s.phones[m.Phone]
		s.mu.Unlock()
		if !ok {
			s.counters.Counter("sip.dropped.unknown_phone").Inc()
			return nil
		}
		s.handler.SIP(m.Phone, m.Message)
		return nil
	case wire.TypeOpenPhone:
		return s.openPhone(body)
	case wire.TypeClosePhone:
		return s.closePhone(body)
	case wire.TypeOpenRelay:
		return s.openRelay(body)
	case wire.TypeCloseRelay:
		return s.closeRelay(body)
	}
	return fmt.Errorf("%v from a client", t)
}

func (s *Session) openPhone(body []byte) error {
	m, err := wire.ParseOpenPhone(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, taken := s.keys[m.Key]
	refused := s.checkID(&s.lastPhone, m.Phone, len(s.phones), s.server.config.Limits.Phones)
	if refused == nil && taken {
		refused = &FailedError{Code: wire.CodeDuplicate}
	}
	s.mu.Unlock()
	if refused != nil {
		s.counters.Counter("tunnel.refused.phone").Inc()
		s.send(wire.PhoneFailed{Phone: m.Phone, Code: refused.Code, Text: refused.Text}.Append(nil))
		return nil
	}
	addr, err := s.handler.OpenPhone(m.Phone, m.Key, m.State)
	if err != nil {
		s.log.Debug("phone not opened", zap.String("key", m.Key), zap.Error(err))
		s.counters.Counter("tunnel.failed.phone").Inc()
		failed := failedError(err)
		s.send(wire.PhoneFailed{Phone: m.Phone, Code: failed.Code, Text: failed.Text}.Append(nil))
		return nil
	}
	s.mu.Lock()
	s.phones[m.Phone] = m.Key
	s.keys[m.Key] = struct{}{}
	s.mu.Unlock()
	s.send(wire.PhoneOpened{Phone: m.Phone, Addr: addr}.Append(nil))
	return nil
}

// checkID accepts an id that is larger than all before, while there is room.
func (s *Session) checkID(last *uint32, id uint32, have, limit int) *FailedError {
	if id <= *last {
		return &FailedError{Code: wire.CodeDuplicate, Text: "ids must grow"}
	}
	*last = id
	if have >= limit {
		return &FailedError{Code: wire.CodeLimit, Text: fmt.Sprintf("at most %d in a session", limit)}
	}
	return nil
}

// failedError is what a client is told about an error of the handler: the
// handler's own choice of words, or none.
func failedError(err error) *FailedError {
	if e := (*FailedError)(nil); errors.As(err, &e) {
		return e
	}
	return &FailedError{Code: wire.CodeUnavailable, Text: "see the server's log"}
}

func (s *Session) closePhone(body []byte) error {
	m, err := wire.ParseClosePhone(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	key, ok := s.phones[m.Phone]
	delete(s.phones, m.Phone)
	delete(s.keys, key)
	s.mu.Unlock()
	if ok {
		s.handler.ClosePhone(m.Phone)
	}
	return nil
}

func (s *Session) openRelay(body []byte) error {
	m, err := wire.ParseOpenRelay(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	refused := s.checkID(&s.lastRelay, m.Channel, len(s.relays), s.server.config.Limits.Relays)
	s.mu.Unlock()
	if refused != nil {
		s.counters.Counter("tunnel.refused.relay").Inc()
		s.send(wire.RelayFailed{Channel: m.Channel, Code: refused.Code, Text: refused.Text}.Append(nil))
		return nil
	}
	addr, err := s.handler.OpenRelay(m.Channel)
	if err != nil {
		s.log.Debug("relay not opened", zap.Error(err))
		s.counters.Counter("tunnel.failed.relay").Inc()
		failed := failedError(err)
		s.send(wire.RelayFailed{Channel: m.Channel, Code: failed.Code, Text: failed.Text}.Append(nil))
		return nil
	}
	s.mu.Lock()
	s.relays[m.Channel] = struct{}{}
	s.mu.Unlock()
	if s.path != nil {
		s.path.openChannel(m.Channel)
	}
	s.send(wire.RelayOpened{Channel: m.Channel, Addr: addr}.Append(nil))
	return nil
}

func (s *Session) closeRelay(body []byte) error {
	m, err := wire.ParseCloseRelay(body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	_, ok := s.relays[m.Channel]
	delete(s.relays, m.Channel)
	s.mu.Unlock()
	if ok {
		if s.path != nil {
			s.path.closeChannel(m.Channel)
		}
		s.handler.CloseRelay(m.Channel)
	}
	return nil
}

// MediaRTT is the round trip through the tunnel of media, 0 when it is not known.
func (s *Session) MediaRTT() time.Duration {
	s.mu.Lock()
	path, l := s.path, s.link
	s.mu.Unlock()
	if path != nil {
		if info := path.info(); info.Datagrams {
			return info.RTT
		}
	}
	if l != nil {
		return time.Duration(l.rtt.Load())
	}
	return 0
}

// info describes the session.
func (s *Session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := SessionInfo{
		ID: s.ID(), Credential: s.credential, Software: s.software, Since: s.since,
		Attached: s.link != nil, Changed: s.changed, Resumes: max(s.attaches, 1) - 1,
		BytesIn: s.in, BytesOut: s.out, Phones: len(s.phones), Relays: len(s.relays),
	}
	if s.remote != nil {
		i.Remote = s.remote.String()
	}
	if s.path != nil {
		i.Path = s.path.info()
		i.BytesIn += i.Path.BytesIn
		i.BytesOut += i.Path.BytesOut
	}
	if s.link != nil {
		i.RTT = time.Duration(s.link.rtt.Load())
		i.BytesIn += s.link.conn.in.Load()
		i.BytesOut += s.link.conn.out.Load()
	}
	return i
}
