package mux

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/wire"
)

var (
	errStale    = errors.New("a newer connection of the session is there already")
	errSessions = errors.New("too many sessions")
	errRevoked  = errors.New("the credential is gone")
)

// join reads the Attach of an authenticated connection and lets it carry its
// session to the end.
func (s *Server) join(raw *rawConn, secure *tls.Conn, ys *yamux.Session, credential string) error {
	control, m, err := readAttach(ys)
	if err != nil {
		return err
	}
	session, err := s.find(secure, m, credential)
	if err == nil && session != nil {
		s.settled(raw.Conn)
		if err = session.attach(s.newLink(raw, secure, ys, control), m); err == nil {
			return nil
		}
	}
	if err == nil || errors.Is(err, errOver) || errors.Is(err, errCount) {
		m = wire.Attach{Epoch: m.Epoch, Software: m.Software}
		if session, err = s.create(credential, m); err == nil {
			s.settled(raw.Conn)
			err = session.attach(s.newLink(raw, secure, ys, control), m)
		}
	}
	if err != nil {
		control.SetWriteDeadline(time.Now().Add(byeTimeout))
		control.Write(wire.Refused{Code: refusalCode(err), RetryAfter: 30}.Append(nil))
	}
	return err
}

// newLink makes the link of an authenticated connection.
func (s *Server) newLink(raw *rawConn, secure *tls.Conn, ys *yamux.Session, control *yamux.Stream) *link {
	l := newLink(raw, ys, control, false)
	// TLS 1.3 exports in any case; without a secret media goes over the connection.
	l.secret, _ = mediaSecret(secure)
	return l
}

func refusalCode(err error) wire.Code {
	switch {
	case errors.Is(err, errStale):
		return wire.CodeStale
	case errors.Is(err, errSessions):
		return wire.CodeLimit
	case errors.Is(err, errRevoked):
		return wire.CodeRevoked
	case errors.Is(err, ErrShutdown):
		return wire.CodeShutdown
	}
	return wire.CodeUnavailable
}

// find returns the session that the client is entitled to resume, nil for none.
func (s *Server) find(secure *tls.Conn, m wire.Attach, credential string) (*Session, error) {
	if m.Session == (wire.SessionID{}) {
		return nil, nil
	}
	s.mu.Lock()
	session := s.sessions[m.Session]
	s.mu.Unlock()
	if session == nil || session.credential != credential {
		s.counter("tunnel.resume_failed.unknown_session").Inc()
		return nil, nil
	}
	want, err := resumeProof(secure, session.secret, m.Epoch)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(want[:], m.Proof[:]) {
		s.counter("tunnel.resume_failed.wrong_proof").Inc()
		return nil, nil
	}
	return session, nil
}

// create makes a new session. Its goroutine runs when it returns.
func (s *Server) create(credential string, m wire.Attach) (*Session, error) {
	session := &Session{
		endpoint: newEndpoint(s.config.Counters), server: s,
		credential: credential, software: m.Software, since: time.Now(), changed: time.Now(),
		grace:   time.NewTimer(s.config.Grace),
		closing: make(chan struct{}),
		phones:  make(map[uint32]string), keys: make(map[string]struct{}), relays: make(map[uint32]struct{}),
	}
	if s.datagrams != nil {
		session.path = newMediaPath(s.datagrams, false, s.pathConfig(session))
	}
	rand.Read(session.id[:])
	rand.Read(session.secret[:])
	session.log = s.log.With(zap.String("session", session.ID()), zap.String("credential", credential))
	if err := s.register(session); err != nil {
		return nil, err
	}
	handler, err := s.config.Handler.NewSession(session)
	if err != nil {
		s.forget(session)
		return nil, err
	}
	session.handler = handler
	session.log.Debug("session opened", zap.String("software", session.software))
	s.tasks.Go(session.supervise)
	return session, nil
}

// register makes the session known, if there is room and its credential is
// still good: it may have been revoked since the client was authenticated.
func (s *Server) register(session *Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrShutdown
	}
	if !s.config.Store.Has(session.credential) {
		return errRevoked
	}
	own := 0
	var idle *Session // detached for longest
	for _, other := range s.sessions {
		if other.credential != session.credential {
			continue
		}
		own++
		if other.idleSince(idle) {
			idle = other
		}
	}
	if own >= s.config.Limits.SessionsPerCredential || len(s.sessions) >= s.config.Limits.Sessions {
		// A client that cannot resume leaves sessions behind. They must not
		// keep it out until their grace is over.
		if idle == nil {
			return errSessions
		}
		delete(s.sessions, idle.id)
		idle.close(wire.CodeLimit, errSessions)
	}
	s.sessions[session.id] = session
	return nil
}

// forget takes a session out.
func (s *Server) forget(session *Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, session.id)
}

// readAttach accepts the control stream, which must be the client's first, and
// reads its first frame.
func readAttach(ys *yamux.Session) (*yamux.Stream, wire.Attach, error) {
	// Closing the session is the only way to stop waiting for a stream.
	late := time.AfterFunc(setupTimeout, func() { ys.Close() })
	defer late.Stop()
	control, err := ys.AcceptStream()
	if err != nil {
		return nil, wire.Attach{}, err
	}
	var kind [1]byte
	if _, err := io.ReadFull(control, kind[:]); err != nil {
		return nil, wire.Attach{}, err
	}
	if wire.StreamType(kind[0]) != wire.StreamControl {
		return nil, wire.Attach{}, fmt.Errorf("%w: the first stream is not control", ErrProtocol)
	}
	t, body, _, err := wire.ReadFrame(control, make([]byte, wire.MaxControl), wire.MaxControl)
	if err != nil {
		return nil, wire.Attach{}, err
	}
	if t != wire.TypeAttach {
		return nil, wire.Attach{}, fmt.Errorf("%w: %v before Attach", ErrProtocol, t)
	}
	m, err := wire.ParseAttach(body)
	return control, m, err
}
