package mux

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// DefaultGrace is how long a session outlives its connection.
const DefaultGrace = 90 * time.Second

// ServerConfig is what a Server needs. Certificate, Store, Throttle and
// Handler are required.
type ServerConfig struct {
	Certificate tls.Certificate
	Store       *auth.Store
	Throttle    *auth.Throttle
	Handler     Handler
	Grace       time.Duration  // how long a session outlives its connection; 0: DefaultGrace
	Domain      string         // of the PBX, told to clients
	PBX         netip.AddrPort // told to clients
	Software    string         // told to clients
	Limits      Limits
	Pacing      Pacing // of the datagrams of media
	Counters    *counter.Set
	Logger      *zap.Logger // nil: none
}

// Server accepts clients and keeps their sessions. Its methods are safe for
// concurrent use.
type Server struct {
	config ServerConfig
	tls    *tls.Config
	log    *zap.Logger

	tasks   sync.WaitGroup // connections and sessions
	closing chan struct{}

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	pending   map[net.Conn]struct{} // not attached to a session yet
	sessions  map[wire.SessionID]*Session
	warned    map[string]time.Time // by credential, see warn

	datagrams *udp.Conn // nil: none; set before the first session
	paths     pathTable
	toFlush   flushList
}

// NewServer makes a server. It does nothing before Serve.
func NewServer(c ServerConfig) *Server {
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	c.Limits = c.Limits.withDefaults()
	return &Server{
		config: c, tls: serverTLS(c.Certificate), log: c.Logger,
		closing:   make(chan struct{}),
		listeners: make(map[net.Listener]struct{}),
		pending:   make(map[net.Conn]struct{}),
		sessions:  make(map[wire.SessionID]*Session),
		warned:    make(map[string]time.Time),
	}
}

// Serve accepts connections on ln until Close, and returns nil then, or the
// error that ended it. It closes ln.
func (s *Server) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, ln)
		s.mu.Unlock()
	}()
	pause := time.Duration(0)
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = 0
			s.admit(conn)
			continue
		}
		select {
		case <-s.closing:
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors or memory, or a connection that ended in the
		// queue: all pass.
		s.counter("tunnel.failed.accept").Inc()
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.log.Warn("accepting a connection failed", zap.Error(err), zap.Duration("retry", pause))
		select {
		case <-time.After(pause):
		case <-s.closing:
			return nil
		}
	}
}

func (s *Server) counter(name string) *counter.Counter { return s.config.Counters.Counter(name) }

// admit starts the connection's goroutine if there is room for it.
func (s *Server) admit(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.pending) >= s.config.Limits.Pending {
		s.counter("auth.dropped.too_many_pending").Inc()
		conn.Close()
		return
	}
	s.pending[conn] = struct{}{}
	s.tasks.Go(func() {
		defer conn.Close()
		s.serve(conn)
		s.settled(conn)
	})
}

// settled takes a connection out of those that are not attached yet.
func (s *Server) settled(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, conn)
}

// remoteAddr returns the source that is to be throttled.
func remoteAddr(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// warn logs what a client has done, once a minute for each credential at most: it may do
// so all the time. The counters tell how often.
func (s *Server) warn(session *Session, text string, err error) {
	s.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(s.warned, func(_ string, at time.Time) bool { return now.Sub(at) >= time.Minute })
	_, told := s.warned[session.credential]
	if !told {
		s.warned[session.credential] = now
	}
	s.mu.Unlock()
	if !told {
		session.log.Warn(text, zap.Error(err))
	}
}

// serve takes a connection from its first byte to its last.
func (s *Server) serve(conn net.Conn) {
	raw := newRawConn(conn)
	secure := tls.Server(raw, s.tls)
	log := s.log.With(zap.Stringer("remote", conn.RemoteAddr()))

	// One deadline for everything before the end of authentication.
	conn.SetDeadline(time.Now().Add(setupTimeout))
	credential, err := s.authenticate(secure, remoteAddr(conn))
	if err != nil {
		s.logRefused(log, err)
		return
	}
	conn.SetDeadline(time.Time{})
	raw.unlimit()

	ys, err := startYamux(raw, secure, false)
	if err != nil {
		log.Error("yamux does not start", zap.Error(err))
		return
	}
	defer ys.Close()
	if err := s.join(raw, secure, ys, credential); err != nil {
		s.counter("tunnel.refused.attach").Inc()
		log.Warn("connection refused", zap.String("credential", credential), zap.Error(err))
	}
}

// authenticate finds out who is there.
func (s *Server) authenticate(conn *tls.Conn, source netip.Addr) (credential string, err error) {
	release, err := s.config.Throttle.Begin(source)
	if throttled := (*auth.ThrottledError)(nil); errors.As(err, &throttled) {
		// Telling costs a TLS handshake, and saves an honest office from
		// guessing what is wrong.
		if conn.Handshake() == nil {
			auth.RefuseThrottled(conn, throttled)
		}
		return "", err
	}
	if err != nil {
		return "", err
	}
	success := false
	defer func() { release(success) }()
	if err := conn.Handshake(); err != nil {
		return "", fmt.Errorf("TLS: %w", err)
	}
	if conn.ConnectionState().NegotiatedProtocol != wire.ALPN {
		return "", fmt.Errorf("TLS: no ALPN %s", wire.ALPN)
	}
	b, err := binding(conn)
	if err != nil {
		return "", err
	}
	credential, err = s.config.Store.Verify(conn, b)
	success = err == nil
	return credential, err
}

// logRefused counts why a connection did not get in. Only attempts with a
// credential are worth a line: the internet scans every port.
func (s *Server) logRefused(log *zap.Logger, err error) {
	var refused *auth.RefusedError
	var throttled *auth.ThrottledError
	switch {
	case errors.As(err, &refused):
		s.counter("auth.refused." + string(refused.Reason)).Inc()
		log.Warn("authentication refused", zap.String("credential", refused.Name), zap.String("reason", string(refused.Reason)))
	case errors.As(err, &throttled):
		s.counter("auth.refused.throttled").Inc()
		log.Debug("throttled", zap.Error(err))
	case errors.Is(err, auth.ErrTooManyStartups):
		s.counter("auth.dropped.too_many_startups").Inc()
	default:
		s.counter("auth.dropped.handshake").Inc()
		log.Debug("connection dropped before authentication", zap.Error(err))
	}
}

// CloseCredential ends all sessions of a credential at once and without grace.
// A connection that is just authenticating with it does not get a session,
// provided that the Store has forgotten the credential before.
func (s *Server) CloseCredential(name string, reason error) {
	for _, session := range s.list() {
		if session.credential == name {
			session.close(wire.CodeRevoked, reason)
		}
	}
}

// Sessions returns a description of every session, in the order of their start.
func (s *Server) Sessions() []SessionInfo {
	list := s.list()
	infos := make([]SessionInfo, len(list))
	for i, session := range list {
		infos[i] = session.info()
	}
	return infos
}

// list returns the sessions in the order of their start.
func (s *Server) list() []*Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Session, 0, len(s.sessions))
	for _, session := range s.sessions {
		list = append(list, session)
	}
	slices.SortFunc(list, func(a, b *Session) int {
		return cmp.Or(a.since.Compare(b.since), bytes.Compare(a.id[:], b.id[:]))
	})
	return list
}

// Close says Bye to all clients, ends their sessions and waits for everything
// that the server started.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	for conn := range s.pending {
		conn.Close()
	}
	s.mu.Unlock()
	for _, session := range s.list() {
		session.close(wire.CodeShutdown, ErrShutdown)
	}
	if s.datagrams != nil {
		_ = s.datagrams.Close()
	}
	s.tasks.Wait()
	return nil
}
