//go:build linux

package lab

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// The addresses of the second network of the office, and those of IPv6, in the drawing.
var (
	VLANProxyAddr = netip.MustParseAddr("192.168.79.10")
	VLANPrefix    = netip.MustParsePrefix("192.168.79.0/24")

	ProxyAddr6    = netip.MustParseAddr("fd00:77::10")
	PBXAddr6      = netip.MustParseAddr("2001:db8:203::10")
	PBXDeskAddr6  = netip.MustParseAddr("fd00:c0::1")
	OfficePrefix6 = netip.MustParsePrefix("fd00:77::/64")
	DeskPrefix6   = netip.MustParsePrefix("fd00:c0::/64")
)

// A VLAN is the second network of the office. Office is in both and forwards nothing between them.
type VLAN struct {
	lab    *Lab
	lan    *Host
	phones int // hosts added so far
}

// VLAN adds the second network of the office, to tunnelproxy's host too, which may be in use. There is one at most in a Lab.
func (l *Lab) VLAN() *VLAN {
	l.t.Helper()
	v := &VLAN{lab: l, lan: l.host("vlan", netip.Addr{}, "br0")}
	ip(l.t, "", "link add lan1 netns "+l.Office.netns+" type veth peer name office netns "+v.lan.netns)
	ip(l.t, v.lan.netns, `
		link add br0 type bridge
		link set br0 up
		link set office master br0 up`)
	l.Office.sysctl("net/ipv4/ip_forward", "0")
	ip(l.t, l.Office.netns, `
		addr add 192.168.79.10/24 dev lan1
		link set lan1 up`)
	return v
}

// Phone adds a host to the second network of the office. It has no router.
func (v *VLAN) Phone(name string) *Host {
	v.lab.t.Helper()
	addr := offset(VLANPrefix, 101+v.phones)
	v.phones++
	h := v.lab.host(name, addr, "eth0")
	v.lab.plug(h, v.lan, "br0", "p")
	ip(v.lab.t, h.netns, fmt.Sprintf(`
		addr add %v/24 dev eth0
		link set eth0 up`, addr))
	h.waitRunning()
	return h
}

// plug connects a host's eth0 to a bridge in another namespace.
func (l *Lab) plug(h, where *Host, bridge, prefix string) {
	l.t.Helper()
	last := h.Addr.AsSlice()
	link := fmt.Sprintf("%s%d", prefix, last[len(last)-1])
	ip(l.t, "", "link add eth0 netns "+h.netns+" type veth peer name "+link+" netns "+where.netns)
	ip(l.t, where.netns, "link set "+link+" master "+bridge+" up")
}

// UseIPv6 gives the office, the PBX and the way between them addresses of IPv6 beside those of IPv4. Nothing is translated.
func (l *Lab) UseIPv6() {
	l.t.Helper()
	for _, h := range []*Host{l.Office, l.NAT, l.WAN, l.PBX} {
		h.enableIPv6()
	}
	ip(l.t, l.Office.netns, `
		addr add fd00:77::10/64 dev lan0 nodad
		route add default via fd00:77::1`)
	ip(l.t, l.NAT.netns, `
		addr add fd00:77::1/64 dev lan0 nodad
		addr add 2001:db8:98::2/64 dev wan0 nodad
		route add default via 2001:db8:98::1`)
	ip(l.t, l.WAN.netns, `
		addr add 2001:db8:98::1/64 dev nat0 nodad
		addr add 2001:db8:203::1/64 dev pbx0 nodad
		route add fd00:77::/64 via 2001:db8:98::2`)
	ip(l.t, l.PBX.netns, `
		addr add 2001:db8:203::10/64 dev wan0 nodad
		addr add fd00:c0::1/64 dev desk0 nodad
		route add default via 2001:db8:203::1`)
	for _, router := range []*Host{l.NAT, l.WAN, l.PBX} {
		router.sysctl("net/ipv6/conf/all/forwarding", "1")
	}
	l.ipv6 = true
}

// HasIPv6 tells whether UseIPv6 has been called.
func (l *Lab) HasIPv6() bool { return l.ipv6 }

func (h *Host) enableIPv6() {
	h.lab.t.Helper()
	for _, name := range []string{"default", "all"} {
		h.sysctl("net/ipv6/conf/"+name+"/accept_dad", "0")
		h.sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "0")
	}
}

// Phone6 adds a host to the office LAN that has IPv6 and no IPv4.
func (l *Lab) Phone6(name string) *Host {
	l.t.Helper()
	h := l.host(name, offset(OfficePrefix6, 0x101+l.phones), "eth0")
	l.phones++
	h.enableIPv6() // before its link is there: no waiting for duplicates of its addresses
	l.plug(h, l.lan, "br0", "s")
	h.connect6(OfficePrefix6)
	return h
}

// Desk6 adds a host beside the PBX that has IPv6 and no IPv4.
func (l *Lab) Desk6(name string) *Host {
	l.t.Helper()
	h := l.host(name, offset(DeskPrefix6, 0x101+l.desks), "eth0")
	l.desks++
	h.enableIPv6()
	l.plug(h, l.PBX, "desk0", "s")
	h.connect6(DeskPrefix6)
	return h
}

// connect6 gives a phone its address and the router of its network, which has the first address.
func (h *Host) connect6(network netip.Prefix) {
	h.lab.t.Helper()
	ip(h.lab.t, h.netns, fmt.Sprintf(`
		addr add %v/%d dev eth0 nodad
		link set eth0 up`, h.Addr, network.Bits()))
	h.waitRunning()
	ip(h.lab.t, h.netns, "route add default via "+network.Addr().Next().String())
}

// LinkLocal returns the address of the host on its Link that needs no router, with its zone: a number, as package net keeps the
// names of one namespace for another.
func (h *Host) LinkLocal() netip.Addr {
	h.lab.t.Helper()
	var found netip.Addr
	err := h.Do(func() error {
		link, err := net.InterfaceByName(h.Link)
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
				found = prefix.Addr().WithZone(strconv.Itoa(link.Index))
			}
		}
		return err
	})
	if err != nil || !found.IsValid() {
		h.lab.t.Fatalf("lab: %s has no link-local address on %s: %v", h.Name, h.Link, err)
	}
	return found
}
