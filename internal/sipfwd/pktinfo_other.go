//go:build !linux

package sipfwd

import (
	"net"
	"net/netip"
)

// controlSize is that of what the system says of one datagram: nothing that is
// understood here. What a phone uses is guessed from the route to it.
const controlSize = 0

func tellLocal(*net.UDPConn) error { return nil }

func takesIPv4(*net.UDPConn) bool { return false }

func localOf([]byte) netip.Addr { return netip.Addr{} }

func fromLocal(netip.Addr) []byte { return nil }
