package relay

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// portTaken says whether a bind failed because another program has the port.
func portTaken(err error) bool { return errors.Is(err, unix.EADDRINUSE) }

// errWouldBlock says that a socket has nothing to be read.
var errWouldBlock error = unix.EAGAIN

// A socket is a bound UDP socket that never waits. It is a bare descriptor: the
// runtime's own poller would be woken for every packet beside ours, and a
// net.UDPConn waits for room when the send queue is full. That is so while the
// link is congested, and for the 3 s for which Linux looks for a phone that was
// unplugged; and who would wait serves all calls of the tunnel.
//
// It is not safe for concurrent use.
type socket struct {
	fd     int            // -1: closed
	to     netip.AddrPort // that name holds
	name   [unix.SizeofSockaddrInet6]byte
	length uint8 // of name
	is4    bool
}

// An intake is what receive takes: a packet and whom it is from. It is not the
// caller's own, which would move to the heap.
type intake struct {
	packet [MaxPacket + 1]byte // one byte more than a packet may have shows the ones that have more
	name   [unix.SizeofSockaddrInet6]byte
	length uint32 // of name
}

func (s *socket) open(addr netip.AddrPort, class dscp.Class) error {
	s.fd = -1
	family, network := unix.AF_INET6, "udp6"
	if addr.Addr().Is4() {
		family, network = unix.AF_INET, "udp4"
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	if err := bind(fd, addr); err != nil {
		_ = unix.Close(fd)
		return err
	}
	class.Mark(uintptr(fd), network)
	// A system that refuses these sizes has sizes of its own, which will do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	s.fd, s.is4 = fd, addr.Addr().Is4()
	return nil
}

func bind(fd int, addr netip.AddrPort) error {
	if addr.Addr().Is4() {
		return unix.Bind(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()})
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
		return err
	}
	zone, err := zoneIndex(addr.Addr().Zone())
	if err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16(), ZoneId: zone})
}

// close may be called again.
func (s *socket) close() error {
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd = -1
	return unix.Close(fd)
}

// receive takes the next packet, or returns errWouldBlock. It allocates nothing
// but for sources with a zone.
func (s *socket) receive(in *intake) (n int, src netip.AddrPort, err error) {
	if s.fd < 0 {
		return 0, src, net.ErrClosed
	}
	for {
		in.length = uint32(len(in.name))
		// It does not wait, so that the runtime need not be told of it.
		r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&in.packet[0])), uintptr(len(in.packet)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&in.name[0])), uintptr(unsafe.Pointer(&in.length)))
		switch errno {
		case 0:
			return int(r), sourceOf(&in.name), nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, src, errWouldBlock
		}
		return 0, src, errno
	}
}

// sourceOf reads a struct sockaddr_in or sockaddr_in6.
func sourceOf(name *[unix.SizeofSockaddrInet6]byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(name[2:])
	if binary.NativeEndian.Uint16(name[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(name[4:8])), port)
	}
	addr := netip.AddrFrom16([16]byte(name[8:24])).Unmap()
	if zone := binary.NativeEndian.Uint32(name[24:]); zone != 0 {
		addr = addr.WithZone(zoneName(zone))
	}
	return netip.AddrPortFrom(addr, port)
}

// send sends packet to the address to. The error is ErrQueueFull when there is
// no room for it.
func (s *socket) send(packet []byte, to netip.AddrPort) error {
	if s.fd < 0 {
		return net.ErrClosed
	}
	if to != s.to {
		if err := s.setName(to); err != nil {
			return err
		}
	}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&packet[0])), uintptr(len(packet)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&s.name[0])), uintptr(s.length))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.ENOBUFS:
			return ErrQueueFull
		}
		return errno
	}
}

// setName makes name the struct sockaddr_in or sockaddr_in6 of to.
func (s *socket) setName(to netip.AddrPort) error {
	if to.Addr().Is4() != s.is4 {
		return unix.EAFNOSUPPORT
	}
	zone, err := zoneIndex(to.Addr().Zone())
	if err != nil {
		return err
	}
	s.to, s.name = to, [unix.SizeofSockaddrInet6]byte{}
	binary.BigEndian.PutUint16(s.name[2:], to.Port())
	if to.Addr().Is4() {
		binary.NativeEndian.PutUint16(s.name[:], unix.AF_INET)
		ip := to.Addr().As4()
		copy(s.name[4:], ip[:])
		s.length = unix.SizeofSockaddrInet4
		return nil
	}
	binary.NativeEndian.PutUint16(s.name[:], unix.AF_INET6)
	ip := to.Addr().As16()
	copy(s.name[8:], ip[:])
	binary.NativeEndian.PutUint32(s.name[24:], zone)
	s.length = unix.SizeofSockaddrInet6
	return nil
}

// zoneIndex returns the index of the interface that a link-local address is of.
func zoneIndex(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(ifi.Index), nil
}

func zoneName(index uint32) string {
	if ifi, err := net.InterfaceByIndex(int(index)); err == nil {
		return ifi.Name
	}
	return strconv.FormatUint(uint64(index), 10)
}
