package mux

import (
	"context"
	"net"
	"syscall"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// Listen opens the listener that Serve takes: its connections send small segments,
// marked as signalling.
func Listen(address string) (net.Listener, error) {
	config := net.ListenConfig{Control: prepare}
	return config.Listen(context.Background(), "tcp", address)
}

// dialer makes connections of the same kind.
func dialer() *net.Dialer { return &net.Dialer{Control: prepare} }

func prepare(network, address string, raw syscall.RawConn) error {
	if err := dscp.Signalling.Control(network, address, raw); err != nil {
		return err
	}
	return limitSegments(raw)
}
