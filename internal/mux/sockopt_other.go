//go:build !linux

package mux

import (
	"net"
	"syscall"
)

// setSockopts does nothing here: a dead peer is noticed by silence.
func setSockopts(*net.TCPConn) {}

// limitSegments does nothing here.
func limitSegments(syscall.RawConn) error { return nil }
