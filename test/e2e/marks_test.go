//go:build e2e

package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// TestMarks reads the DSCP of what both programs send off the wire, on all three sides.
func TestMarks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name              string
		six               bool
		flags             []string
		media, signalling uint8
	}{
		{"IPv4", false, nil, 46, 24},
		{"IPv4, other marks", false, []string{"--media-dscp", "AF41", "--signalling-dscp", "0"}, 34, 0},
		{"IPv6, other marks", true, []string{"--media-dscp", "44", "--signalling-dscp", "cs5"}, 44, 40},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := lab.New(t)
			office, desk, outbound, pbx := l.Phone, l.Desk, officeProxy, deskPBX
			daemon := test.flags
			if test.six {
				l.UseIPv6()
				office, desk, outbound, pbx = l.Phone6, l.Desk6, bracketed(lab.ProxyAddr6), bracketed(lab.PBXDeskAddr6)
				daemon = append([]string{"--pbx", "[::1]:5060", "--public-address", bracketed(lab.PBXAddr6)}, daemon...)
			}
			tun := prepareTunnel(t, l)
			peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: users})
			tun.inside = tun.PBX.Capture("lo", insideFilter)
			tun.watchWAN()
			tun.startDaemon(daemon...)
			tun.join()
			tun.startProxy(test.flags...)
			tun.waitUp()
			tun.datagrams(true)
			tun.marks(t, office, desk, outbound, pbx, test.media, test.signalling)
		})
	}
}

// marks has a phone over UDP and one over TCP be called, and looks at what they, the PBX and the WAN get.
func (tun *tunnel) marks(t *testing.T, office, desk func(string) *lab.Host, outbound, pbx string, media, signalling uint8) {
	hosts := []*lab.Host{office("alice"), office("dave"), desk("carol")}
	began := time.Now()
	isPhone := func(addr netip.Addr) bool {
		return slices.ContainsFunc(hosts, func(h *lab.Host) bool { return h.Addr == addr })
	}
	var links []*lab.Capture
	for _, h := range hosts {
		links = append(links, h.Capture("eth0", ""))
	}
	carol := start(t, hosts[2], answering(phone("carol", "udp", pbx)))
	for i, p := range []struct{ user, transport string }{{"alice", "udp"}, {"dave", "tcp"}} {
		caller := start(t, hosts[i], answering(phone(p.user, p.transport, outbound)))
		c := dial(t, caller, carol).established().talk(time.Second)
		caller.Hangup()
		c.closed()
	}
	from := func(port uint16) func(*pcap.Packet) bool {
		return func(p *pcap.Packet) bool { return p.Src.Port() == port && !isPhone(p.Src.Addr()) }
	}
	// What the command that joins has sent before is not that of a service.
	to := func(port uint16) func(*pcap.Packet) bool {
		return func(p *pcap.Packet) bool { return p.Dst.Port() == port && p.Time.After(began) }
	}
	ours := func(host *lab.Host) func(*pcap.Packet) bool {
		return func(p *pcap.Packet) bool { return p.LooksLikeRTP() && p.Dst.Addr() == host.Addr }
	}
	phonePort := func(p *pcap.Packet) bool { return p.Src.Port() >= 6000 && p.Src.Port() < 7000 }
	for _, side := range []struct {
		what     string
		link     *lab.Capture
		protocol pcap.Protocol
		of       func(*pcap.Packet) bool
		want     uint8
	}{
		{"media to a phone", links[0], pcap.UDP, ours(hosts[0]), media},
		{"SIP to a phone on UDP", links[0], pcap.UDP, from(5060), signalling},
		{"SIP to a phone on TCP", links[1], pcap.TCP, from(5060), signalling},
		{"media to a phone beside the PBX", links[2], pcap.UDP, ours(hosts[2]), media},
		{"SIP to the PBX", tun.inside, pcap.UDP, phonePort, signalling},
		{"datagrams up", tun.wan[0], pcap.UDP, to(tunnelPort.Port()), media},
		{"datagrams down", tun.wan[1], pcap.UDP, from(tunnelPort.Port()), media},
		{"connection up", tun.wan[0], pcap.TCP, to(tunnelPort.Port()), signalling},
		{"connection down", tun.wan[1], pcap.TCP, from(tunnelPort.Port()), signalling},
	} {
		seen := map[uint8]int{}
		for _, p := range side.link.Packets() {
			if p.Protocol == side.protocol && len(p.Payload) > 0 && side.of(p) {
				seen[p.DSCP]++
			}
		}
		if len(seen) != 1 || seen[side.want] == 0 {
			t.Errorf("%s: packets by DSCP %v, want %d", side.what, seen, side.want)
		}
	}
}
