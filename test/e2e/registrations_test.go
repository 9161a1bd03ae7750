//go:build e2e

package e2e

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// die ends a phone as a loss of power does: it says nothing.
func die(p *lab.Process) {
	p.Signal(syscall.SIGKILL)
	lab.Within(soon, func() bool { return !p.Running() })
}

// TestAnotherPhoneOnTheOldAddress: the phone that has the address of another one by now does not ring for it.
func TestAnotherPhoneOnTheOldAddress(t *testing.T) {
	t.Parallel()
	for name, noInstance := range map[string]bool{"with instances": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tun := newTunnel(t, nil)
			hostA, hostB := tun.Phone("alice"), tun.Phone("bob")
			carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
			settings := func(user string) peers.PhoneConfig {
				c := answering(phone(user, "udp", officeProxy))
				c.NoInstance = noInstance
				return c
			}
			alice := start(t, hostA, settings("alice"))
			die(alice.Process)

			old := hostA.Addr
			hostA.Renumber(netip.MustParseAddr("192.168.77.150"))
			hostB.Renumber(old)
			bob := start(t, hostB, settings("bob"))
			mark, rang := carol.Mark(), bob.Mark()
			carol.Dial("sip:alice@" + domain)
			if closed := carol.Wait(soon, mark, "CALL_CLOSED", "CALL_ESTABLISHED"); !strings.Contains(closed.Param, "480") {
				t.Errorf("the call for the phone that is off: %s %q, want 480\n%s", closed.Type, closed.Param, tun.inside.Trace())
			}
			for _, event := range bob.Events()[rang:] {
				if event.Type == "CALL_INCOMING" {
					t.Error("the phone at its old address rang")
				}
			}
			c := dial(t, carol, bob).established()
			carol.Hangup()
			c.closed()

			alice = start(t, hostA, settings("alice"))
			rang = bob.Mark()
			for _, callee := range []*peers.Baresip{alice, bob} {
				c := dial(t, carol, callee).established()
				carol.Hangup()
				c.closed()
			}
			for _, event := range bob.Events()[rang:] {
				if event.Type == "CALL_INCOMING" && !strings.Contains(event.PeerURI, "carol") {
					t.Errorf("bob was rung by %s", event.PeerURI)
				}
			}
		})
	}
}

// TestPhonesShareAnExtension: phones of one user in one office, in another one, and beside the PBX ring together, each at an
// address of its own; those that are not taken stop.
func TestPhonesShareAnExtension(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	other := tun.startBranch()
	bare := phone("alice", "udp", officeProxy)
	bare.NoInstance = true
	phones := []*peers.Baresip{
		start(t, tun.Phone("alice1"), phone("alice", "udp", officeProxy)),
		start(t, tun.Phone("alice2"), bare),
		start(t, tun.Phone("alice3"), phone("alice", "tcp", officeProxy)),
		start(t, other.Phone("alice4"), phone("alice", "udp", branchProxy)),
		start(t, tun.Desk("alice5"), phone("alice", "udp", deskPBX)),
	}
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	for _, taker := range []int{1, 3} {
		before := len(tun.inside.SIP())
		marks := make([]int, len(phones))
		for i, p := range phones {
			marks[i] = p.Mark()
		}
		mark := carol.Mark()
		carol.Dial("sip:alice@" + domain)
		for i, p := range phones {
			p.Wait(soon, marks[i], "CALL_INCOMING")
		}
		phones[taker].Answer()
		carol.Wait(soon, mark, "CALL_ESTABLISHED")
		for i, p := range phones {
			if i != taker {
				p.Wait(soon, marks[i], "CALL_CLOSED")
			}
		}
		c := &call{t: t, caller: carol, callee: phones[taker], marks: [2]int{mark, marks[taker]}, heard: [2]int{len(carol.Heard()) - 1, len(phones[taker].Heard()) - 1}}
		c.heard[0], c.heard[1] = max(c.heard[0], 0), max(c.heard[1], 0)
		c.talk(time.Second)
		carol.Hangup()
		c.closed()
		ports := map[netip.AddrPort]bool{}
		for _, m := range tun.inside.SIP()[before:] {
			if m.Method == "INVITE" {
				ports[m.Dst] = true
			}
		}
		if len(ports) != 4 {
			t.Errorf("Kamailio has rung the phones behind the tunnel at %v, want one address for each", ports)
		}
	}
}

// TestPhoneRebooted: a phone that comes back with nothing but its settings, and its instance if it has one, is rung once.
func TestPhoneRebooted(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	for user, c := range map[string]struct {
		transport  string
		noInstance bool
		moves      bool
	}{"alice": {"udp", false, true}, "bob": {"tcp", false, true}, "dave": {"udp", true, false}} {
		config := answering(phone(user, c.transport, officeProxy))
		config.NoInstance = c.noInstance
		host := tun.Phone(user)
		die(start(t, host, config).Process)
		if c.moves {
			host.Renumber(host.Addr.Next().Next().Next().Next().Next())
		}
		again := start(t, host, config)
		lan := host.Capture("eth0", "")
		call := dial(t, carol, again).established().talk(time.Second)
		carol.Hangup()
		call.closed()
		branches := map[string]bool{}
		for _, m := range lan.SIP() {
			if m.Method == "INVITE" {
				branches[m.Header("Via")] = true
			}
		}
		if len(branches) != 1 {
			t.Errorf("%s was rung %d times\n%s%s", user, len(branches), tun.inside.Trace(), lan.Trace())
		}
	}
}
