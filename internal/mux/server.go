package mux

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/counter"
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
	Counters    *counter.Set
	Logger      *zap.Logger // nil: none
}

// Server accepts clients and keeps their sessions. Its methods are safe for
// concurrent use.
type Server struct{}

// NewServer makes a server. It does nothing before Serve.
func NewServer(c ServerConfig) *Server { return &Server{} }

// Serve accepts connections on ln until Close, and returns nil then, or the
// error that ended it. It closes ln.
func (s *Server) Serve(ln net.Listener) error { return errors.ErrUnsupported }

// Close says Bye to all clients, ends their sessions and waits for everything
// that the server started.
func (s *Server) Close() error { return nil }

// CloseCredential ends all sessions of a credential at once and without grace,
// and the connections that are just authenticating with it.
func (s *Server) CloseCredential(name string, reason error) {}

// Sessions returns a description of every session, in the order of their start.
func (s *Server) Sessions() []SessionInfo { return nil }

// Session is a client's session on the server. It outlives its connections.
// Its methods are safe for concurrent use and never block for long.
type Session struct{}

// ID returns the session's name for logs. It is no secret.
func (s *Session) ID() string { return "" }

// Credential returns the name that the client proved to know the password of.
func (s *Session) Credential() string { return "" }

// RemoteAddr returns the client's address on the connection that carries the
// session, or that carried it last.
func (s *Session) RemoteAddr() net.Addr { return nil }

// Attached reports whether a connection carries the session.
func (s *Session) Attached() bool { return false }

// SendSIP sends a SIP message toward a phone. It reaches the client exactly
// once and in order, after the next connection if need be. The message is
// copied. An error means that the session is over.
func (s *Session) SendSIP(phone uint32, msg []byte) error { return nil }

// SendMedia sends a packet of a relay toward the client. It never blocks: what
// cannot go now is dropped, the oldest first, and counted.
func (s *Session) SendMedia(channel uint32, rtcp bool, packet []byte) {}

// SavePhoneState hands the client what the handler wants to get back in
// OpenPhone if the phone has to be opened in another session. Each call
// replaces what earlier ones said. The state is copied.
func (s *Session) SavePhoneState(phone uint32, state []byte) {}

// Close ends the session without grace. It does not wait: Closed is called
// later.
func (s *Session) Close(reason error) {}
