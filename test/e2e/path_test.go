//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// A pathCall is a call between a phone of the office and one beside the PBX, whose RTP is captured where each of them is:
// what comes out of the tunnel is compared with what went in, packet by packet.
type pathCall struct {
	*call
	tun   *tunnel
	hosts [2]*lab.Host // caller's and callee's
	links [2]*lab.Capture
}

func newPathCall(t *testing.T, tun *tunnel) *pathCall {
	t.Helper()
	c := &pathCall{tun: tun, hosts: [2]*lab.Host{tun.Phone("alice"), tun.Desk("carol")}}
	for i, h := range c.hosts {
		c.links[i] = h.Capture(h.Link, "udp")
	}
	alice := start(t, c.hosts[0], answering(phone("alice", "udp", officeProxy)))
	carol := start(t, c.hosts[1], answering(phone("carol", "udp", deskPBX)))
	c.call = dial(t, alice, carol).established().talk(500 * time.Millisecond)
	return c
}

// An account is what became of the packets of one direction.
type account struct {
	sent, missing, repeated, disordered int
	longest                             time.Duration // between two that came
}

func (a account) String() string {
	return fmt.Sprintf("%d sent, %d missing, %d repeated, %d out of order, longest silence %v", a.sent, a.missing, a.repeated,
		a.disordered, a.longest.Round(time.Millisecond))
}

// rtpAt returns the RTP that the host at addr has sent, or that has come to it, since.
func rtpAt(packets []*pcap.Packet, addr netip.Addr, sent bool, since time.Time) (found []*pcap.Packet) {
	for _, p := range packets {
		at := p.Dst
		if sent {
			at = p.Src
		}
		if p.LooksLikeRTP() && at.Addr() == addr && p.Time.After(since) {
			found = append(found, p)
		}
	}
	return found
}

// accounts compares what the two phones have sent since with what the other one got. What was under way at the ends does not
// count as missing.
func (c *pathCall) accounts(since time.Time) (accounts [2]account) {
	c.t.Helper()
	for i := range accounts {
		sent := rtpAt(c.links[i].Packets(), c.hosts[i].Addr, true, since)
		came := rtpAt(c.links[1-i].Packets(), c.hosts[1-i].Addr, false, since.Add(-time.Second))
		a := account{}
		at := map[uint16]int{} // places of the packets that came, by sequence number
		highest := uint16(0)
		for n, p := range came {
			sequence := binary.BigEndian.Uint16(p.Payload[2:])
			if _, again := at[sequence]; again {
				a.repeated++
			}
			at[sequence] = n
			if n > 0 {
				if int16(sequence-highest) < 0 {
					a.disordered++
				}
				if p.Time.After(since) {
					a.longest = max(a.longest, p.Time.Sub(came[n-1].Time))
				}
			}
			if n == 0 || int16(sequence-highest) > 0 {
				highest = sequence
			}
		}
		end := time.Now().Add(-300 * time.Millisecond)
		for _, p := range sent {
			if p.Time.After(end) {
				break
			}
			a.sent++
			if _, ok := at[binary.BigEndian.Uint16(p.Payload[2:])]; !ok {
				a.missing++
			}
		}
		if a.sent == 0 || len(came) == 0 {
			c.t.Fatalf("direction %d: %d packets sent, %d came", i, len(sent), len(came))
		}
		accounts[i] = a
		c.t.Logf("from %s: %v", c.hosts[i].Name, a)
	}
	return accounts
}

// datagrams waits until both programs say that media goes as datagrams, or does not.
func (tun *tunnel) datagrams(want bool) {
	tun.t.Helper()
	lab.Eventually(tun.t, noticed, fmt.Sprintf("media on UDP: %v", want), func() bool {
		daemon, proxy := tun.statuses()
		return len(daemon.Sessions) == 1 && daemon.Sessions[0].Path.Datagrams == want && proxy.Tunnel.Path.Datagrams == want
	})
}

// wanPackets counts the packets of a transport on the link beside tunneld, with so many bytes or more.
func (tun *tunnel) wanPackets(protocol pcap.Protocol, least int, since time.Time) (n int) {
	for _, p := range tun.wan[1].Packets() {
		if p.Protocol == protocol && len(p.Payload) >= least && p.Time.After(since) {
			n++
		}
	}
	return n
}

const blockUDP = `table ip block {
	chain forward {
		type filter hook forward priority filter
		udp dport 5090 drop
		udp sport 5090 drop
	}
}`

// TestMediaPath is one long call. Nothing that happens to the network may end it, and the holes that it has are bounded.
func TestMediaPath(t *testing.T) {
	t.Parallel()
	lab.Require(t, "conntrack")
	tun := newTunnel(t, nil)
	tun.datagrams(true)
	c := newPathCall(t, tun)
	pauses := lab.WatchPauses(t)
	// Silence is between two packets, which are 20 ms apart, and is heard at the end of four programs: where the machine paused
	// each may have been late by that, and a path that was lost been left so much later.
	check := func(what string, since time.Time, missing int, longest time.Duration) {
		t.Helper()
		accounts := c.accounts(since)
		pause := 4 * pauses.Longest(since)
		t.Logf("%s; the machine paused for %v", what, pause/4)
		longest += pause
		if missing > 0 {
			missing += int(pause / frame)
		}
		for _, a := range accounts {
			if a.missing > missing || a.repeated > 0 || a.disordered > 0 || a.longest > longest {
				t.Errorf("%s: %v; want at most %d missing, %v of silence, none repeated, none out of order", what, a, missing, longest)
			}
		}
	}

	began := time.Now()
	time.Sleep(2 * time.Second)
	check("undisturbed", began, 0, 80*time.Millisecond)
	if udp, tcp := tun.wanPackets(pcap.UDP, 150, began), tun.wanPackets(pcap.TCP, 150, began); udp < 100 || tcp > udp/10 {
		t.Errorf("%d packets on UDP and %d on TCP while media should go on UDP", udp, tcp)
	}

	began = time.Now()
	kill(t, tun.PBX, "sport = 5090")
	time.Sleep(2 * time.Second)
	check("the TCP connection is cut", began, 0, 80*time.Millisecond)
	tun.waitUp()
	time.Sleep(time.Second)

	began = time.Now()
	tun.NAT.NFT(blockUDP)
	tun.datagrams(false)
	time.Sleep(2 * time.Second)
	check("UDP is blocked", began, 12, 240*time.Millisecond)
	if tcp := tun.wanPackets(pcap.TCP, 150, time.Now().Add(-time.Second)); tcp < 20 {
		t.Errorf("%d packets on TCP in the last second while UDP is blocked", tcp)
	}

	began = time.Now()
	tun.NAT.NFT("delete table ip block")
	tun.datagrams(true)
	time.Sleep(2 * time.Second)
	check("UDP works again", began, 0, 140*time.Millisecond)

	began = time.Now()
	tun.NAT.NFT(`
		delete table ip nat
		table ip nat {
			chain postrouting {
				type nat hook postrouting priority srcnat
				oifname "wan0" meta l4proto { tcp, udp } masquerade to :20000-20999
			}
		}
		table ip quiet {
			chain output {
				type filter hook output priority filter
				icmp type destination-unreachable drop
			}
		}`)
	if out, err := tun.NAT.Run("conntrack", "-F"); err != nil {
		t.Fatalf("conntrack -F: %v: %s", err, out)
	}
	time.Sleep(3 * time.Second)
	check("the router has another mapping", began, 8, 140*time.Millisecond)
	tun.waitUp()
	tun.datagrams(true)

	c.talk(time.Second)
	c.caller.Hangup()
	c.closed()
}

// TestMediaPathBlocked: where UDP never works a call does not notice.
func TestMediaPathBlocked(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	l.NAT.NFT(blockUDP)
	tun := newTunnelBefore(t, l, peers.PBXConfig{Domain: domain, Users: users})
	c := newPathCall(t, tun)
	began := time.Now()
	time.Sleep(2 * time.Second)
	for _, a := range c.accounts(began) {
		if a.missing > 0 || a.repeated > 0 || a.disordered > 0 {
			t.Errorf("%v", a)
		}
	}
	if daemon, _ := tun.statuses(); len(daemon.Sessions) != 1 || daemon.Sessions[0].Path.Datagrams {
		t.Errorf("%+v", daemon.Sessions)
	}
	c.caller.Hangup()
	c.closed()
}

// TestMediaPathNarrow: a link of 1,280 bytes in the middle that tells nobody of it.
func TestMediaPathNarrow(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	for _, args := range [][]string{{"ip", "link", "set", "pbx0", "mtu", "1280"}} {
		if out, err := l.WAN.Run(args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	if out, err := l.PBX.Run("ip", "link", "set", "wan0", "mtu", "1280"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.WAN.NFT(`table inet mute {
		chain output {
			type filter hook output priority filter
			icmp type destination-unreachable drop
			icmpv6 type packet-too-big drop
		}
	}`)
	tun := newTunnelBefore(t, l, peers.PBXConfig{Domain: domain, Users: users})
	tun.datagrams(true)
	c := newPathCall(t, tun)
	began := time.Now()
	time.Sleep(2 * time.Second)
	for _, a := range c.accounts(began) {
		if a.missing > 0 || a.repeated > 0 || a.disordered > 0 {
			t.Errorf("%v", a)
		}
	}
	c.caller.Hangup()
	c.closed()
}
