//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// A tunnel that was cut is built anew without a hand on any phone: within redialled where the ends notice the cut, within
// noticed more where they have to find out that nothing comes any longer.
const (
	redialled = 20 * time.Second
	noticed   = 40 * time.Second
)

// TestCut: the connection goes, in each of the ways in which connections go. The PBX's view afterwards: the phones are where
// they were, calls work in both directions, and no phone has registered again.
func TestCut(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cut   func(*testing.T, *tunnel)
		limit time.Duration
	}{
		"socket killed at tunneld": {func(t *testing.T, tun *tunnel) { kill(t, tun.PBX, "sport = 5090") }, redialled},
		"socket killed at tunnelproxy": {
			func(t *testing.T, tun *tunnel) { kill(t, tun.Office, "dport = 5090") }, redialled},
		"router resets": {func(t *testing.T, tun *tunnel) {
			connections := tun.connections()
			tun.NAT.NFT(`table ip cut {
				chain forward {
					type filter hook forward priority filter
					tcp dport 5090 ct state established reject with tcp reset
				}
			}`)
			lab.Eventually(t, redialled, "another connection is tried", func() bool { return tun.connections() > connections })
			tun.NAT.NFT("delete table ip cut")
		}, redialled},
		// What is under way dies without a word; new connections pass.
		"router forgets": {func(_ *testing.T, tun *tunnel) {
			tun.NAT.NFT(`table ip cut {
				chain forward {
					type filter hook forward priority filter
					tcp dport 5090 tcp flags & (syn|ack) == syn ct mark set 1
					tcp dport 5090 ct mark != 1 drop
					tcp sport 5090 ct mark != 1 drop
				}
			}`)
		}, noticed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tun := newTunnel(t, nil)
			alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
			bob := start(t, tun.Phone("bob"), answering(phone("bob", "tcp", officeProxy)))
			carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
			before, connections := len(tun.inside.SIP()), tun.connections()

			began := time.Now()
			test.cut(t, tun)
			lab.Eventually(t, test.limit, "tunnelproxy connects again", func() bool { return tun.connections() > connections })
			tun.waitUp()
			t.Logf("the tunnel was up again after %v", time.Since(began).Round(time.Millisecond))

			// The PBX calls first: nothing of the phones' own doing may have helped.
			for _, pair := range [][2]*peers.Baresip{{carol, alice}, {carol, bob}, {alice, carol}, {bob, carol}} {
				c := dial(t, pair[0], pair[1]).established().talk(time.Second)
				pair[0].Hangup()
				c.closed()
			}
			for _, m := range tun.inside.SIP()[before:] {
				if m.Method == "REGISTER" {
					t.Errorf("registered again after the cut: %s", m.Header("Contact"))
				}
			}
		})
	}
}

// TestCutInCall: a call may end with the connection, but then it ends for both sides, and neither is left talking to nobody.
func TestCutInCall(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	c := dial(t, alice, carol).established().talk(time.Second)
	kill(t, tun.PBX, "sport = 5090")
	tun.waitUp()
	alice.Hangup()
	c.closed()
	c = dial(t, carol, alice).established().talk(time.Second)
	carol.Hangup()
	c.closed()
}

// kill destroys the TCP sockets of the host that the filter of ss(8) names.
func kill(t *testing.T, host *lab.Host, filter string) {
	t.Helper()
	lab.Require(t, "ss")
	if out, err := host.Run("ss", "-K", "-t", "state", "established", filter); err != nil {
		t.Fatalf("ss -K: %v: %s", err, out)
	}
}

// connections counts the connections that the office has tried so far, by their SYNs beside tunneld.
func (tun *tunnel) connections() int {
	ports := map[uint16]bool{}
	for _, p := range tun.wan[1].Packets() {
		if p.Protocol == pcap.TCP && p.SYN && p.Src.Addr() == lab.NATAddr && p.Dst == tunnelPort {
			ports[p.Src.Port()] = true
		}
	}
	return len(ports)
}
