package audio

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// pairAttempts bounds the search for two neighbouring ports that are both free.
const pairAttempts = 100

// OpenPair binds an even UDP port for RTP and the odd one above it for RTCP (RFC 3550 section 11)
// at addr, with the numbers chosen by the system.
func OpenPair(addr netip.Addr) (rtp, rtcp *net.UDPConn, err error) {
	for range pairAttempts {
		var first, second *net.UDPConn
		first, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		if err != nil {
			return nil, nil, fmt.Errorf("open an RTP port at %s: %w", addr, err)
		}
		port := LocalAddrPort(first).Port()
		second, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port^1)))
		if err != nil {
			err = errors.Join(err, first.Close())
			continue
		}
		if port%2 == 0 {
			return first, second, nil
		}
		return second, first, nil
	}
	return nil, nil, fmt.Errorf("no free pair of RTP ports at %s: %w", addr, err)
}

// LocalAddrPort returns the local address of a UDP socket, IPv4 addresses in their own form.
func LocalAddrPort(conn *net.UDPConn) netip.AddrPort {
	return unmap(conn.LocalAddr().(*net.UDPAddr).AddrPort())
}

// unmap turns an IPv4-mapped IPv6 address into the IPv4 address that it is, so that addresses
// compare equal.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
