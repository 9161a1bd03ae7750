package sipfwd

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// controlSize has room for what the kernel says of one datagram.
const controlSize = 128

// tellLocal has the kernel say of every datagram on conn which address it was sent
// to: ip(7), ipv6(7).
func tellLocal(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var err4, err6 error
	if err := raw.Control(func(fd uintptr) {
		err4 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		err6 = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}); err != nil {
		return err
	}
	if err4 != nil && err6 != nil { // one of them is of the other family
		return errors.Join(err4, err6)
	}
	return nil
}

// takesIPv4 says whether conn, a socket of IPv6, is one of IPv4 too.
func takesIPv4(conn *net.UDPConn) bool {
	only := 1
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { only, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY) })
	}
	return only == 0
}

// localOf reads from control messages which address of this machine a datagram was
// sent to: for one to a broadcast address, the machine's own in that network.
// It is invalid when they do not say.
func localOf(oob []byte) netip.Addr {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			// in_pktinfo: int ipi_ifindex; in_addr ipi_spec_dst, ipi_addr. The first is not there for what had come before
			// tellLocal.
			if a := netip.AddrFrom4([4]byte(data[4:8])); !a.IsUnspecified() {
				return a
			}
			return netip.AddrFrom4([4]byte(data[8:12]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			a := netip.AddrFrom16([16]byte(data[:16])).Unmap() // in6_pktinfo: in6_addr ipi6_addr; int ipi6_ifindex
			if a.Is6() && a.IsLinkLocalUnicast() {
				if link, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(data[16:20]))); err == nil {
					a = a.WithZone(link.Name)
				}
			}
			return a
		}
		oob = rest
	}
	return netip.Addr{}
}

// fromLocal is the control message that has a datagram leave from at.
func fromLocal(at netip.Addr) []byte {
	if at.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: at.As4()})
	}
	info := &unix.Inet6Pktinfo{Addr: at.As16()}
	if at.Zone() != "" {
		if link, err := net.InterfaceByName(at.Zone()); err == nil {
			info.Ifindex = uint32(link.Index)
		}
	}
	return unix.PktInfo6(info)
}
