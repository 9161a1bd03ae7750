package tunnel

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/mux"
)

// What keeps a Client from being connected, or ends what belongs to it, for
// errors.Is. Each text says what to do next.
var (
	// ErrRefused: wrong name or password, or a revoked credential.
	ErrRefused = auth.ErrRefused
	// ErrServerProof: the server does not know the password, and so is not the
	// server that the credential is for.
	ErrServerProof = auth.ErrServerProof
	// ErrKeyChanged: the server's key is not the pinned one. The Client makes
	// no further attempt.
	ErrKeyChanged = mux.ErrKeyChanged
	// ErrVersion: the server speaks another version of the protocol.
	ErrVersion = mux.ErrVersion
	// ErrNotTunneld: something else answers there.
	ErrNotTunneld = mux.ErrNotTunneld
	// ErrUnreachable: nothing answers there, or not in time.
	ErrUnreachable = mux.ErrUnreachable
	// ErrDown: the tunnel is not connected just now.
	ErrDown = mux.ErrDown
	// ErrSessionLost: the session that a socket belonged to is over. It wraps
	// net.ErrClosed.
	ErrSessionLost = mux.ErrSessionLost
	// ErrClosed: Close was called. It wraps net.ErrClosed.
	ErrClosed = mux.ErrClosed
	// ErrTooLong: a SIP message beyond 65,535 bytes.
	ErrTooLong = mux.ErrTooLong
	// ErrPhoneOpen: the key is open already.
	ErrPhoneOpen = errors.New("a phone with this key is open: close it first, or use another key")
	// ErrBacklog: the phone has written more than is kept while the tunnel is
	// down.
	ErrBacklog = errors.New("too many messages wait for the tunnel: let the phone try again later")
)

// ThrottledError says that the server takes no attempt from here for a while,
// because too many have failed.
type ThrottledError struct {
	RetryAfter time.Duration
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many failed attempts from here: the server takes the next one in %v; check the password meanwhile", e.RetryAfter)
}

// publicError replaces the types of internal packages.
func publicError(err error) error {
	if e := (*auth.ThrottledError)(nil); errors.As(err, &e) {
		return &ThrottledError{RetryAfter: e.RetryAfter}
	}
	return err
}

// opError makes err look like that of a socket.
func opError(op string, local net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "siptunnel", Addr: local, Err: err}
}
