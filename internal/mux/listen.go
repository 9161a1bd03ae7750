package mux

import (
	"context"
	"net"
	"syscall"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// Listen opens the listener that Serve takes: its connections send small segments,
// marked with class.
func Listen(address string, class dscp.Class) (net.Listener, error) {
	config := net.ListenConfig{Control: prepare(class)}
	ln, err := config.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return class.Listener(ln), nil
}

// dialer makes connections of the same kind.
func dialer(class dscp.Class) *net.Dialer { return &net.Dialer{Control: prepare(class)} }

func prepare(class dscp.Class) func(network, address string, raw syscall.RawConn) error {
	return func(network, address string, raw syscall.RawConn) error {
		if err := class.Control(network, address, raw); err != nil {
			return err
		}
		return limitSegments(raw)
	}
}
