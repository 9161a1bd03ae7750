//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// TestCall: calls in every direction, between phones over UDP and TCP, ended by either side. Both sides hear the other's tone
// and nothing else.
func TestCall(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	phones := map[string]*peers.Baresip{
		"alice": start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy))),
		"bob":   start(t, tun.Phone("bob"), answering(phone("bob", "tcp", officeProxy))),
		"carol": start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX))),
	}
	for _, test := range []struct{ caller, callee, ends string }{
		{"alice", "carol", "alice"}, // out of the office
		{"alice", "carol", "carol"},
		{"carol", "alice", "carol"}, // into it
		{"carol", "alice", "alice"},
		{"bob", "carol", "bob"}, // the same over TCP
		{"bob", "carol", "carol"},
		{"carol", "bob", "carol"},
		{"carol", "bob", "bob"},
		{"alice", "bob", "alice"}, // both in the office
		{"bob", "alice", "alice"},
	} {
		t.Run(fmt.Sprintf("%s calls %s, %s hangs up", test.caller, test.callee, test.ends), func(t *testing.T) {
			c := dial(t, phones[test.caller], phones[test.callee]).established().talk(time.Second)
			bye := len(tun.inside.SIP())
			phones[test.ends].Hangup()
			c.closed()
			lab.Eventually(t, soon, "the BYE is answered on the way to the PBX and back", func() bool {
				return slices.ContainsFunc(tun.inside.SIP()[bye:], response(200, "BYE"))
			})
		})
	}
}

// TestEarlyMedia: a phone hears what the far side says before it answers.
func TestEarlyMedia(t *testing.T) {
	t.Parallel()
	var trunk *lab.Host
	tun := newTunnel(t, func(l *lab.Lab) netip.AddrPort {
		trunk = l.Desk("trunk")
		return netip.AddrPortFrom(trunk.Addr, 5070)
	})
	for user, transport := range map[string]string{"alice": "udp", "bob": "tcp"} {
		caller := start(t, tun.Phone(user), phone(user, transport, officeProxy))
		early := peers.StartSIPp(t, trunk, peers.SIPpConfig{Scenario: "uas_early", Port: 5070, Tone: 800, Args: []string{"-m", "1"}})
		earlyMedia(t, caller, early, 800)
	}
}

// TestCancel: a caller that gives up before the answer, in either direction.
func TestCancel(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	bob := start(t, tun.Phone("bob"), phone("bob", "tcp", officeProxy))
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	for _, pair := range [][2]*peers.Baresip{{alice, carol}, {carol, alice}, {bob, carol}, {carol, bob}, {alice, bob}} {
		caller, callee := pair[0], pair[1]
		t.Run(caller.User+" calls "+callee.User, func(t *testing.T) {
			far, near := callee.Host.Capture("eth0", ""), caller.Host.Capture("eth0", "")
			c := dial(t, caller, callee)
			caller.Wait(soon, c.marks[0], "CALL_RINGING")
			caller.Hangup()
			callee.Wait(soon, c.marks[1], "CALL_CLOSED")
			far.WaitSIP(soon, "CANCEL reaches the callee", request("CANCEL"))
			near.WaitSIP(soon, "the caller's CANCEL is answered", response(200, "CANCEL"))
			near.WaitSIP(soon, "the caller's INVITE ends with 487", response(487, "INVITE"))
			far.WaitSIP(soon, "the callee's 487 is acknowledged", request("ACK"))
		})
	}
}

// TestDecline: a callee that refuses, in either direction.
func TestDecline(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	for _, pair := range [][2]*peers.Baresip{{alice, carol}, {carol, alice}} {
		caller, callee := pair[0], pair[1]
		t.Run(caller.User+" calls "+callee.User, func(t *testing.T) {
			c := dial(t, caller, callee)
			callee.Hangup()
			// baresip refuses with 486.
			if closed := caller.Wait(soon, c.marks[0], "CALL_CLOSED"); !strings.Contains(closed.Param, "486") {
				t.Errorf("the caller is told %q, want 486", closed.Param)
			}
		})
	}
}

// TestWrongNumber: the PBX's refusal reaches the phone as it is.
func TestWrongNumber(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	for number, status := range map[string]string{"nobody": "404", "dave": "480"} {
		mark := alice.Mark()
		alice.Dial("sip:" + number + "@" + domain)
		if closed := alice.Wait(soon, mark, "CALL_CLOSED"); !strings.Contains(closed.Param, status) {
			t.Errorf("a call to %s ended with %q, want %s", number, closed.Param, status)
		}
	}
}

// TestWrongUserPassword: the PBX's word on a phone's password is the PBX's, and the tunnel does not soften it.
func TestWrongUserPassword(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	config := phone("alice", "udp", officeProxy)
	config.Password = "not-alice"
	alice := peers.StartBaresip(t, tun.Phone("alice"), config)
	if failed := alice.Wait(soon, 0, "REGISTER_FAIL"); !strings.Contains(failed.Param, "401") {
		t.Errorf("the registration failed with %q, want 401", failed.Param)
	}
	for _, m := range tun.inside.SIP() {
		if m.Status == 200 && m.CSeqMethod() == "REGISTER" {
			t.Errorf("the PBX took a wrong password: %s", m.StartLine)
		}
	}
}

// TestTenCalls: ten phones call at once and each hears its own voice back, none of another's.
func TestTenCalls(t *testing.T) {
	t.Parallel()
	var trunk *lab.Host
	tun := newTunnelWith(t, tenUsers(), func(l *lab.Lab) netip.AddrPort {
		trunk = l.Desk("trunk")
		return netip.AddrPortFrom(trunk.Addr, 5070)
	})
	tenCalls(t, trunk, tun.Phone, officeProxy)
}

// TestTenCallsOfOneHost: SIPp is the phone here, with ten calls at once from one address and port.
func TestTenCallsOfOneHost(t *testing.T) {
	t.Parallel()
	var trunk *lab.Host
	tun := newTunnelWith(t, tenUsers(), func(l *lab.Lab) netip.AddrPort {
		trunk = l.Desk("trunk")
		return netip.AddrPortFrom(trunk.Addr, 5070)
	})
	for _, transport := range []string{"u1", "t1"} {
		t.Run(transport, func(t *testing.T) {
			tenCallsOfOneHost(t, trunk, tun.Phone("sipp-"+transport), officeProxy, transport)
		})
	}
}
