//go:build linux || darwin || freebsd || netbsd || openbsd

package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// portTaken says whether a bind failed because another program has the port.
func portTaken(err error) bool { return errors.Is(err, unix.EADDRINUSE) }

// A sender sends packets without ever waiting, which net.UDPConn cannot: it waits
// for room when the socket's send queue is full. That is so while the link is
// congested, and for the 3 s for which Linux looks for a phone that was
// unplugged; and the goroutine that would wait serves all calls of the tunnel.
//
// It is safe for concurrent use.
type sender struct {
	conn *net.UDPConn
	raw  syscall.RawConn

	mu     sync.Mutex // guards what follows, which attempt works with
	packet []byte
	v4     unix.SockaddrInet4
	v6     unix.SockaddrInet6
	to     unix.Sockaddr
	err    error

	attempt func(fd uintptr) bool // made once, since a closure per packet is an allocation
}

func (s *sender) init(conn *net.UDPConn) {
	s.conn = conn
	raw, err := conn.SyscallConn()
	if err != nil {
		return // conn is not open; send finds the same
	}
	s.raw = raw
	s.attempt = func(fd uintptr) bool {
		for {
			s.err = unix.Sendto(int(fd), s.packet, unix.MSG_DONTWAIT, s.to)
			if s.err != unix.EINTR {
				return true
			}
		}
	}
}

// send sends packet to the address to. The error is ErrQueueFull when there is
// no room for it.
func (s *sender) send(packet []byte, to netip.AddrPort) error {
	if s.raw == nil || to.Addr().Zone() != "" {
		// The names of zones (link-local addresses) are for package net to
		// resolve.
		_, err := s.conn.WriteToUDPAddrPort(packet, to)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if to.Addr().Is4() {
		s.v4.Port, s.v4.Addr = int(to.Port()), to.Addr().As4()
		s.to = &s.v4
	} else {
		s.v6.Port, s.v6.Addr = int(to.Port()), to.Addr().As16()
		s.to = &s.v6
	}
	s.packet = packet
	err := s.raw.Write(s.attempt)
	s.packet = nil
	if err != nil {
		return err
	}
	if errors.Is(s.err, unix.EAGAIN) || errors.Is(s.err, unix.ENOBUFS) {
		return ErrQueueFull
	}
	return s.err
}
