//go:build linux

package lab

import (
	"fmt"
	"net/netip"
)

// The addresses of the second office in the drawing.
var (
	BranchProxyAddr = netip.MustParseAddr("192.168.78.10")
	BranchNATAddr   = netip.MustParseAddr("192.0.2.2")
	BranchPrefix    = netip.MustParsePrefix("192.168.78.0/24")
)

// BranchWANLink is the interface of WAN toward the second office.
const BranchWANLink = "nat1"

// A Branch is the second office: a LAN of its own behind a NAT of its own.
type Branch struct {
	Office, NAT *Host // Office is for tunnelproxy

	lab    *Lab
	lan    *Host
	phones int // hosts added so far
}

// Branch adds the second office. There is one at most in a Lab.
func (l *Lab) Branch() *Branch {
	l.t.Helper()
	b := &Branch{lab: l}
	b.Office = l.host("office2", BranchProxyAddr, "lan0")
	b.NAT = l.host("nat2", BranchNATAddr, "wan0")
	b.lan = l.host("lan2", netip.Addr{}, "br0")
	ip(l.t, "", `
		link add lan0 netns `+b.Office.netns+` type veth peer name office netns `+b.lan.netns+`
		link add lan0 netns `+b.NAT.netns+` type veth peer name nat netns `+b.lan.netns+`
		link add wan0 netns `+b.NAT.netns+` type veth peer name `+BranchWANLink+` netns `+l.WAN.netns)
	ip(l.t, b.lan.netns, `
		link add br0 type bridge
		link set br0 up
		link set office master br0 up
		link set nat master br0 up`)
	ip(l.t, b.Office.netns, `
		addr add 192.168.78.10/24 dev lan0
		link set lan0 up
		route add default via 192.168.78.1`)
	ip(l.t, b.NAT.netns, `
		addr add 192.168.78.1/24 dev lan0
		addr add 192.0.2.2/24 dev wan0
		link set lan0 up
		link set wan0 up
		route add default via 192.0.2.1`)
	ip(l.t, l.WAN.netns, `
		addr add 192.0.2.1/24 dev `+BranchWANLink+`
		link set `+BranchWANLink+` up`)
	b.NAT.sysctl("net/ipv4/ip_forward", "1")
	b.NAT.masquerade()
	b.Office.waitRunning()
	b.NAT.waitRunning()
	return b
}

// Phone adds a host to the LAN of the second office.
func (b *Branch) Phone(name string) *Host {
	b.lab.t.Helper()
	addr := offset(BranchPrefix, 101+b.phones)
	b.phones++
	h := b.lab.host(name, addr, "eth0")
	link := fmt.Sprintf("p%d", addr.As4()[3])
	ip(b.lab.t, "", "link add eth0 netns "+h.netns+" type veth peer name "+link+" netns "+b.lan.netns)
	ip(b.lab.t, b.lan.netns, "link set "+link+" master br0 up")
	h.connect(BranchPrefix)
	h.waitRunning()
	return h
}
