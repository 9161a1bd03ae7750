//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package relay

import (
	"net"
	"net/netip"
)

// portTaken says whether a bind may have failed because another program has the
// port. The systems differ in how they say it, so every failure counts as such.
func portTaken(error) bool { return true }

// A sender sends packets. It is safe for concurrent use.
type sender struct {
	conn *net.UDPConn
}

func (s *sender) init(conn *net.UDPConn) { s.conn = conn }

func (s *sender) send(packet []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(packet, to)
	return err
}
