package tunnel

import (
	"fmt"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/mux"
)

// What keeps a Client from being connected, for errors.Is. Each text says what
// to do next.
var (
	// ErrRefused: wrong name or password, or a revoked credential.
	ErrRefused = auth.ErrRefused
	// ErrServerProof: the server does not know the password, and so is not the
	// server that the credential is for.
	ErrServerProof = auth.ErrServerProof
	// ErrKeyChanged: the server's key is not the pinned one.
	ErrKeyChanged = mux.ErrKeyChanged
	// ErrVersion: the server speaks another version of the protocol.
	ErrVersion = mux.ErrVersion
	// ErrNotTunneld: something else answers there.
	ErrNotTunneld = mux.ErrNotTunneld
	// ErrDown: the tunnel is not connected just now.
	ErrDown = mux.ErrDown
	// ErrSessionLost: the session that a socket belonged to is over. It wraps
	// net.ErrClosed.
	ErrSessionLost = mux.ErrSessionLost
	// ErrClosed: Close was called. It wraps net.ErrClosed.
	ErrClosed = mux.ErrClosed
)

// ErrThrottled says that the server takes no attempt from here for a while.
type ErrThrottled struct {
	RetryAfter time.Duration
}

func (e *ErrThrottled) Error() string {
	return fmt.Sprintf("too many attempts with a wrong password from here: the server asks to wait %v", e.RetryAfter)
}
