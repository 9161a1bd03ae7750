//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// newTunnel6 starts the chain with addresses of IPv6 beside those of IPv4, and flags for tunneld.
func newTunnel6(t *testing.T, flags ...string) *tunnel {
	t.Helper()
	return newTunnel6With(t, peers.PBXConfig{Domain: domain, Users: users}, flags...)
}

// newTunnel6With is newTunnel6 with another PBX.
func newTunnel6With(t *testing.T, pbx peers.PBXConfig, flags ...string) *tunnel {
	t.Helper()
	l := lab.New(t)
	l.UseIPv6()
	tun := prepareTunnel(t, l)
	peers.StartKamailio(t, l, pbx)
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon(flags...)
	tun.join()
	tun.startProxy()
	tun.waitUp()
	return tun
}

// bracketed is an address as the host of a SIP URI.
func bracketed(addr netip.Addr) string { return "[" + addr.String() + "]" }

// seesOnly fails the test when a phone has exchanged anything with another address than that, or was told of one of the
// office's others.
func seesOnly(t *testing.T, who string, wire *lab.Capture, phone, proxy netip.Addr, others ...netip.Addr) {
	t.Helper()
	packets := wire.Stop()
	rtp := 0
	for _, p := range packets {
		if p.Protocol != pcap.UDP && p.Protocol != pcap.TCP {
			continue
		}
		if p.LooksLikeRTP() {
			rtp++
		}
		src, dst := p.Src.Addr(), p.Dst.Addr()
		if src != phone && src != proxy || dst != phone && dst != proxy {
			t.Errorf("%s: %v", who, p)
		}
		if src == proxy {
			for _, other := range others {
				if regexp.MustCompile(regexp.QuoteMeta(other.String()) + `\b`).Match(p.Payload) {
					t.Errorf("%s is told of %v:\n%s", who, other, p.Payload)
				}
			}
		}
	}
	if rtp < 100 {
		t.Errorf("%s: %d RTP packets on its link", who, rtp)
	}
}

// TestPhonesInTwoNetworks: phones of two networks of one office without a route between them call each other and a phone
// beside the PBX. The second network comes while tunnelproxy runs. Each phone sees the address of its own network alone.
func TestPhonesInTwoNetworks(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	vlan := tun.VLAN()
	first, second := tun.Phone("alice"), vlan.Phone("bob")
	wires := []*lab.Capture{first.Capture("eth0", ""), second.Capture("eth0", "")}
	alice := start(t, first, answering(phone("alice", "udp", officeProxy)))
	bob := start(t, second, answering(phone("bob", "udp", lab.VLANProxyAddr.String())))
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	for _, pair := range [][2]*peers.Baresip{{alice, bob}, {bob, alice}, {bob, carol}, {carol, bob}, {alice, carol}} {
		t.Run(pair[0].User+" calls "+pair[1].User, func(t *testing.T) {
			c := dial(t, pair[0], pair[1]).established().talk(2 * time.Second)
			pair[0].Hangup()
			c.closed()
		})
	}
	seesOnly(t, "alice", wires[0], first.Addr, lab.ProxyAddr, lab.VLANProxyAddr)
	seesOnly(t, "bob", wires[1], second.Addr, lab.VLANProxyAddr, lab.ProxyAddr)
}

// TestPhonesWithIPv6: phones of the office that have IPv6 and no IPv4, over UDP and TCP, behind a PBX and a tunnel that use
// IPv4. They call one another, a phone of the office that has IPv4 and no IPv6, and one beside the PBX.
func TestPhonesWithIPv6(t *testing.T) {
	t.Parallel()
	tun := newTunnel6(t)
	six := tun.Phone6("alice")
	wire := six.Capture("eth0", "")
	proxy6 := bracketed(lab.ProxyAddr6)
	phones := map[string]*peers.Baresip{
		"alice": start(t, six, answering(phone("alice", "udp", proxy6))),
		"dave":  start(t, tun.Phone6("dave"), answering(phone("dave", "tcp", proxy6))),
		"bob":   start(t, tun.Phone("bob"), answering(phone("bob", "udp", officeProxy))),
		"carol": start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX))),
	}
	for _, pair := range [][2]string{
		{"alice", "carol"}, {"carol", "alice"}, {"dave", "carol"}, {"carol", "dave"}, // over the PBX
		{"alice", "bob"}, {"bob", "alice"}, {"alice", "dave"}, {"bob", "dave"}, // in the office
	} {
		t.Run(pair[0]+" calls "+pair[1], func(t *testing.T) {
			c := dial(t, phones[pair[0]], phones[pair[1]]).established().talk(time.Second)
			phones[pair[1]].Hangup()
			c.closed()
		})
	}
	seesOnly(t, "alice", wire, six.Addr, lab.ProxyAddr6, lab.ProxyAddr)
	if _, proxy := tun.statuses(); proxy.RelayTotals.PacketsDirect == 0 {
		t.Error("no media of the calls inside of the office stayed there")
	}
}

// TestPBXWithIPv6: Kamailio is reached over IPv6, the tunnel goes over IPv6, with a join link that says so, and phones of both
// families in the office call a phone beside the PBX that has IPv6 alone.
func TestPBXWithIPv6(t *testing.T) {
	t.Parallel()
	tun := newTunnel6(t, "--pbx", "[::1]:5060", "--public-address", bracketed(lab.PBXAddr6))
	phones := map[string]*peers.Baresip{
		"alice": start(t, tun.Phone6("alice"), answering(phone("alice", "udp", bracketed(lab.ProxyAddr6)))),
		"bob":   start(t, tun.Phone("bob"), answering(phone("bob", "udp", officeProxy))),
		"carol": start(t, tun.Desk6("carol"), answering(phone("carol", "udp", bracketed(lab.PBXDeskAddr6)))),
	}
	for _, pair := range [][2]string{{"alice", "carol"}, {"carol", "alice"}, {"bob", "carol"}, {"carol", "bob"}, {"alice", "bob"}} {
		t.Run(pair[0]+" calls "+pair[1], func(t *testing.T) {
			c := dial(t, phones[pair[0]], phones[pair[1]]).established().talk(time.Second)
			phones[pair[0]].Hangup()
			c.closed()
		})
	}
	for _, link := range tun.wan {
		for _, p := range link.Packets() {
			if p.Src == tunnelPort || p.Dst == tunnelPort {
				t.Fatalf("the tunnel goes over IPv4: %v", p)
			}
		}
	}
}

// TestLinkLocalPhone: a phone that has nothing but a link-local address calls a phone beside the PBX, with media both ways. No
// zone is in what it is told.
func TestLinkLocalPhone(t *testing.T) {
	t.Parallel()
	tun := newTunnel6With(t, peers.PBXConfig{Domain: domain, Users: users, Open: true})
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	host := tun.Phone6("alice")
	here := host.LinkLocal()
	there := tun.Office.LinkLocal().WithZone(here.Zone())
	sip := listen(t, host, netip.AddrPortFrom(here, 5060))
	rtp := listen(t, host, netip.AddrPortFrom(here, 7000))
	send := func(message string) {
		t.Helper()
		if _, err := sip.WriteTo([]byte(message), net.UDPAddrFromAddrPort(netip.AddrPortFrom(there, 5060))); err != nil {
			t.Fatal(err)
		}
	}
	told := here.WithZone("").String()
	sdp := fmt.Sprintf("v=0\r\no=- 1 1 IN IP6 %[1]s\r\ns=-\r\nc=IN IP6 %[1]s\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n", told)
	send(fmt.Sprintf("INVITE sip:carol@%[1]s SIP/2.0\r\nVia: SIP/2.0/UDP [%[2]s]:5060;branch=z9hG4bK-1\r\nMax-Forwards: 70\r\n"+
		"From: <sip:alice@%[1]s>;tag=1\r\nTo: <sip:carol@%[1]s>\r\nCall-ID: 1@[%[2]s]\r\nCSeq: 1 INVITE\r\nContact: <sip:alice@[%[2]s]:5060>\r\n"+
		"Content-Type: application/sdp\r\nContent-Length: %[3]d\r\n\r\n%[4]s", domain, told, len(sdp), sdp))
	ok := final(t, sip)
	media := regexp.MustCompile(`c=IN IP6 (\S+)\r\n(?s:.*)m=audio (\d+) `).FindStringSubmatch(string(ok.Payload))
	if ok.Status != 200 || media == nil || media[1] != there.WithZone("").String() || strings.Contains(string(ok.Payload), "%") {
		t.Fatalf("the phone is told:\n%s", ok.Payload)
	}
	send(ackOf(ok, bracketed(here.WithZone(""))+":5060"))
	carol.Wait(soon, 0, "CALL_ESTABLISHED")

	port, _ := strconv.Atoi(media[2])
	buffer := make([]byte, 2000)
	lab.Eventually(t, soon, "RTP comes for RTP", func() bool {
		_, _ = rtp.WriteTo(append([]byte{0x80, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4}, make([]byte, 160)...),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(there, uint16(port))))
		_ = rtp.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, _, err := rtp.ReadFrom(buffer)
		return err == nil && n == 172
	})
	if heard := carol.Heard(); len(heard) == 0 {
		t.Error("carol has heard nothing")
	}
}

func listen(t *testing.T, host *lab.Host, at netip.AddrPort) net.PacketConn {
	t.Helper()
	conn, err := host.ListenUDP(at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// final waits for the next final response.
func final(t *testing.T, sip net.PacketConn) *pcap.Message {
	t.Helper()
	_ = sip.SetReadDeadline(time.Now().Add(soon))
	for {
		buffer := make([]byte, 65535)
		n, _, err := sip.ReadFrom(buffer)
		if err != nil {
			t.Fatalf("the phone waits in vain: %v", err)
		}
		if m, ok := (&pcap.Packet{Protocol: pcap.UDP, Payload: buffer[:n]}).SIP(); ok && m.Status >= 200 {
			return m
		}
	}
}

// ackOf is the ACK of a 2xx, from a phone that is at that address and port.
func ackOf(ok *pcap.Message, at string) string {
	var routes string // RFC 3261 section 12.1.2: in reverse order
	for _, route := range regexp.MustCompile(`(?m)^Record-Route: ([^\r]+)\r$`).FindAllStringSubmatch(string(ok.Payload), -1) {
		routes = "Route: " + route[1] + "\r\n" + routes
	}
	target := strings.Trim(regexp.MustCompile(`<[^>]+>`).FindString(ok.Header("Contact")), "<>")
	return fmt.Sprintf("ACK %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-ack\r\n%sMax-Forwards: 70\r\nFrom: %s\r\nTo: %s\r\n"+
		"Call-ID: %s\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n", target, at, routes, ok.Header("From"), ok.Header("To"), ok.Header("Call-ID"))
}
