package mux

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// Why a client is not connected. Each text says what to do next.
var (
	ErrKeyChanged  = errors.New("the server's key is not the one this client knows: if the server was set up anew, join again with a new link; if not, somebody is posing as it")
	ErrVersion     = errors.New("the server does not speak " + wire.ALPN + ": bring both ends to the same release, or check the address")
	ErrNotTunneld  = errors.New("the server is not a tunneld: check the address and the port")
	ErrUnreachable = errors.New("the server cannot be reached: check its address, the network, and that tunneld runs there")
	ErrDown        = errors.New("the tunnel is down: it is being connected again, try later")
	ErrSessionLost = fmt.Errorf("the tunnel's session is over: open it again (%w)", net.ErrClosed)
	ErrClosed      = fmt.Errorf("the tunnel client was closed: make a new one (%w)", net.ErrClosed)
	ErrTooLong     = errors.New("longer than the tunnel carries")
)

// Why a connection or a session ended.
var (
	ErrFenced   = errors.New("a newer connection took the session over")
	ErrGrace    = errors.New("no connection came back within the session's grace")
	ErrSilence  = errors.New("nothing was heard from the other end")
	ErrOverflow = errors.New("the other end acknowledged no signalling for too long")
	ErrProtocol = errors.New("the other end broke the protocol")
	ErrShutdown = errors.New("the server was closed")
)

// ByeError says that the other end ended the session, or refused to start one.
type ByeError struct {
	Code       wire.Code
	RetryAfter time.Duration // 0: none asked for
	Text       string
}

func (e *ByeError) Error() string {
	if e.Text == "" {
		return "the other end closed the session: " + e.Code.String()
	}
	return fmt.Sprintf("the other end closed the session: %v (%s)", e.Code, e.Text)
}

// FailedError says why the server did not open a phone or a relay.
type FailedError struct {
	Code wire.Code
	Text string
}

func (e *FailedError) Error() string {
	if e.Text == "" {
		return "the server refused: " + e.Code.String()
	}
	return fmt.Sprintf("the server refused: %v (%s)", e.Code, e.Text)
}
