//go:build e2e

package e2e

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// The tests of this file are about the rig: phones beside the PBX, no tunnel. They show that the peers can do what the other
// tests ask of them through the tunnel, and that the measurements see it.

const deskPBX = "172.20.0.1"

func TestPeersDirectCall(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: users})
	wire := l.PBX.Capture("desk0", "")
	alice := start(t, l.Desk("alice"), answering(phone("alice", "udp", deskPBX)))
	bob := start(t, l.Desk("bob"), answering(phone("bob", "tcp", deskPBX)))

	dial(t, alice, bob).established().talk(2 * time.Second)
	alice.Hangup()
	bob.Wait(soon, 0, "CALL_CLOSED")

	c := dial(t, bob, alice).established().talk(time.Second)
	alice.Hangup()
	c.closed()

	packets := wire.Stop()
	if streams := pcap.Streams(packets); len(streams) != 4 {
		t.Errorf("%d RTP streams on the wire in two calls, want 4: the capture does not see what it should", len(streams))
	}
	// What inspects the WAN in the other tests finds each of the two things where they are.
	isMedia := func(p *pcap.Packet) bool { return p.LooksLikeRTP() }
	if found := inClear(slices.DeleteFunc(slices.Clone(packets), isMedia)); found == "" {
		t.Error("no signalling in clear found in a capture that is full of it")
	}
	if found := inClear(slices.DeleteFunc(packets, func(p *pcap.Packet) bool { return !isMedia(p) })); !strings.Contains(found, "voice") {
		t.Errorf("no voice in clear found in a capture that is full of it, but %q", found)
	}
}

func TestPeersDirectCancel(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: users})
	alice := start(t, l.Desk("alice"), phone("alice", "udp", deskPBX))
	bob := start(t, l.Desk("bob"), phone("bob", "udp", deskPBX))
	wire := bob.Host.Capture("eth0", "")
	c := dial(t, alice, bob)
	alice.Wait(soon, c.marks[0], "CALL_RINGING")
	alice.Hangup()
	c.closed()
	wire.WaitSIP(soon, "CANCEL reaches bob", request("CANCEL"))
	wire.WaitSIP(soon, "bob says 487", response(487, "INVITE"))
}

func TestPeersDirectTrunk(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	trunk := l.Desk("trunk")
	peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: users, Trunk: netip.AddrPortFrom(trunk.Addr, 5070)})
	alice := start(t, l.Desk("alice"), phone("alice", "udp", deskPBX))

	early := peers.StartSIPp(t, trunk, peers.SIPpConfig{Scenario: "uas_early", Port: 5070, Tone: 800, Args: []string{"-m", "1"}})
	earlyMedia(t, alice, early, 800)

	echo := peers.StartSIPp(t, trunk, peers.SIPpConfig{Scenario: "uas_echo", Port: 5070, Args: []string{"-m", "1", "-rtp_echo"}})
	mark, own := alice.Mark(), listener{alice, len(alice.Heard()), tones["alice"]}
	alice.Dial("sip:901@" + domain)
	alice.Wait(soon, mark, "CALL_ESTABLISHED")
	hear(t, 2*time.Second, own)
	alice.Hangup()
	if code := echo.Exit(soon); code != 0 {
		t.Errorf("SIPp ended with %d", code)
	}
}

// earlyMedia calls a trunk that says the tone before it answers, and fails the test where the phone has not heard it by then.
func earlyMedia(t *testing.T, caller *peers.Baresip, trunk *lab.Process, tone float64) {
	t.Helper()
	mark, early := caller.Mark(), listener{caller, len(caller.Heard()), tone}
	caller.Dial("sip:900@" + domain)
	caller.Wait(soon, mark, "CALL_PROGRESS")
	hear(t, 2*time.Second, early)
	for _, event := range caller.Events()[mark:] {
		if event.Type == "CALL_ESTABLISHED" {
			t.Error("the call was answered before two seconds of early media were heard")
		}
	}
	caller.Wait(soon, mark, "CALL_ESTABLISHED")
	hear(t, time.Second, listener{caller, len(caller.Heard()) - 1, tone})
	caller.Hangup()
	if code := trunk.Exit(soon); code != 0 {
		t.Errorf("SIPp ended with %d", code)
	}
}

func TestPeersDirectTenCalls(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	trunk := l.Desk("trunk")
	peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: tenUsers(), Trunk: netip.AddrPortFrom(trunk.Addr, 5070)})
	tenCalls(t, trunk, l.Desk, deskPBX)
	tenCallsOfOneHost(t, trunk, l.Desk("sipp"), deskPBX, "u1")
}
