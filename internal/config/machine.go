package config

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
)

// RouteSource is the address of this machine that packets to dst leave from. Nothing is sent.
func RouteSource(dst netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// DefaultSource is the source address of the default route, IPv4 before IPv6. The error is that of IPv4.
func DefaultSource() (netip.Addr, error) {
	addr, err := DefaultSourceOf(4)
	if err == nil {
		return addr, nil
	}
	if addr, err6 := DefaultSourceOf(6); err6 == nil {
		return addr, nil
	}
	return netip.Addr{}, err
}

// DefaultSourceOf is the source address of the default route of one IP family, 4 or 6.
func DefaultSourceOf(family int) (netip.Addr, error) {
	// Documentation addresses (RFC 5737, RFC 3849): nobody has a more specific route to them.
	if family == 6 {
		return RouteSource(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}))
	}
	return RouteSource(netip.AddrFrom4([4]byte{192, 0, 2, 1}))
}

// LANCandidate is an address that phones might reach this machine by.
type LANCandidate struct {
	Interface string
	Address   netip.Addr
}

// LANCandidates lists the addresses of the interfaces that are up and have a carrier, in the system's order: no loopback,
// no link-local addresses, no point-to-point interfaces (VPNs, modems).
func LANCandidates() ([]LANCandidate, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var found []LANCandidate
	for _, i := range interfaces {
		if i.Flags&net.FlagRunning == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addresses {
			prefix, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, _ := netip.AddrFromSlice(prefix.IP)
			if addr = addr.Unmap(); addr.IsGlobalUnicast() {
				found = append(found, LANCandidate{Interface: i.Name, Address: addr})
			}
		}
	}
	return found, nil
}

// IsLocal reports whether addr is one of this machine's.
func IsLocal(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.IsLoopback() {
		return true
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		prefix, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		local, _ := netip.AddrFromSlice(prefix.IP)
		return local.Unmap() == addr
	})
}

// IsPublic reports whether addr can be reached from the internet: not private, not carrier-grade NAT (RFC 6598), not
// link-local, loopback or documentation.
func IsPublic(addr netip.Addr) bool {
	addr = addr.Unmap()
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	notPublic := []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2}), 24),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100}), 24),
		netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113}), 24),
		netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8}), 32),
	}
	return !slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ListenError turns the error of a listening socket into one that says what to do. flag names the setting, where is the
// address and port with the transport, as "0.0.0.0:5090/tcp".
func ListenError(err error, flag, where string) error {
	remedy := ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return Errorf(ExitTaken, "stop that program (ss -lnptu names it) or choose another port with "+flag, "%s is taken by another program", where)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return Errorf(ExitTaken, "choose one of this machine's addresses (ip address lists them) with "+flag, "%s is not an address of this machine", where)
	case errors.Is(err, syscall.EACCES):
		remedy = "ports below 1024 need CAP_NET_BIND_SERVICE; choose another with " + flag
	}
	return &Error{Code: ExitTaken, Problem: "cannot listen on " + where, Err: err, Remedy: remedy}
}
