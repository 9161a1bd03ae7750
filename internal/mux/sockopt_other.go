//go:build !linux

package mux

import "net"

// setSockopts does nothing here: a dead peer is noticed by silence.
func setSockopts(*net.TCPConn) {}
