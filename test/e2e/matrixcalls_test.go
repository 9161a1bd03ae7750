//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// A scene is a scenario, and what the test does while it is played.
type scene struct {
	scenario string
	play     func(*dialogue)
	second   bool // the user who is called has two phones
	overTCP  bool // the caller's phone
}

// second is the role of the second phone of a user.
const second peers.Role = "second"

// TestMatrix: every scene in every direction.
func TestMatrix(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, false)
	m.addBranch()
	matrixOfCalls(t, m)
}

// TestMatrixWithIPv6: the same with IPv6 in the office, beside a PBX and phones there that have IPv4.
func TestMatrixWithIPv6(t *testing.T) {
	t.Parallel()
	matrixOfCalls(t, newMatrix(t, true))
}

func matrixOfCalls(t *testing.T, m *matrix) {
	t.Helper()
	before := m.baseline()
	t.Run("calls", func(t *testing.T) {
		t.Run("ringing/in", func(t *testing.T) {
			t.Parallel()
			m.start(t, scene{scenario: "ringing"}, inward).ringing()
		})
		for _, s := range scenes {
			for _, w := range []way{outward, inward, internal, between} {
				if w == between && m.branch == nil {
					continue
				}
				t.Run(s.name()+"/"+string(w), func(t *testing.T) {
					t.Parallel()
					s.play(m.start(t, s, w))
				})
			}
		}
	})
	m.empty(t, before)
}

// TestLossyLAN: a fifth of the SIP in the office is lost, which each edge makes good by itself.
func TestLossyLAN(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	bob := start(t, tun.Phone("bob"), answering(phone("bob", "udp", officeProxy)))
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	before := len(tun.inside.SIP())
	lose(tun.Office, 5060)
	for _, pair := range [][2]*peers.Baresip{{alice, carol}, {carol, alice}, {alice, bob}} {
		c := dial(t, pair[0], pair[1]).established().talk(listening)
		pair[0].Hangup()
		c.closed()
	}
	// Each phone's INVITE reaches the PBX once, with and without credentials, and so does that of the PBX the phone's port.
	seen := map[string]int{}
	for _, m := range tun.inside.SIP()[before:] {
		if m.Method == "INVITE" {
			seen[m.Header("Call-ID")+m.Header("CSeq")+m.Src.String()]++
		}
	}
	for which, n := range seen {
		if n != 1 {
			t.Errorf("%d INVITEs %s between tunneld and the PBX", n, which)
		}
	}
	// A phone takes a call for ended when it has sent its BYE, however often that has to be repeated.
	lab.Eventually(t, 2*soon, "no call is left", func() bool {
		daemon, proxy := tun.statuses()
		return len(daemon.Calls)+len(proxy.Calls) == 0
	})
}

// lose has one packet of five lost on the host's way from and to a port of UDP.
func lose(h *lab.Host, port uint16) {
	h.NFT(fmt.Sprintf("table netdev lossy {\nchain in {\ntype filter hook ingress device %[1]s priority 0\n"+
		"udp dport %[2]d numgen random mod 5 == 0 drop\n}\nchain out {\ntype filter hook egress device %[1]s priority 0\n"+
		"udp sport %[2]d numgen random mod 5 == 0 drop\n}\n}\n", h.Link, port))
}

func (s scene) name() string {
	if s.overTCP {
		return s.scenario + " over TCP"
	}
	return s.scenario
}

var scenes = []scene{
	{scenario: "hold", play: (*dialogue).hold},
	{scenario: "update", play: (*dialogue).update},
	{scenario: "delayed", play: (*dialogue).delayed},
	{scenario: "prack", play: (*dialogue).prack},
	{scenario: "prackanswer", play: (*dialogue).prackAnswer},
	{scenario: "tags", play: (*dialogue).tags},
	{scenario: "reliabletags", play: (*dialogue).reliableTags},
	{scenario: "twofinals", play: (*dialogue).twoFinals},
	{scenario: "fork", play: (*dialogue).fork, second: true},
	{scenario: "bothanswer", play: (*dialogue).bothAnswer, second: true},
	{scenario: "timer", play: (*dialogue).timer},
	{scenario: "early", play: (*dialogue).early},
	{scenario: "moved", play: (*dialogue).ends},
	{scenario: "cancel", play: (*dialogue).cancel},
	{scenario: "cancelearly", play: (*dialogue).cancelEarly},
	{scenario: "cancelcrossed", play: (*dialogue).cancelCrossed},
	{scenario: "glare", play: (*dialogue).glare},
	{scenario: "dtmf", play: (*dialogue).dtmf},
	{scenario: "fax", play: (*dialogue).fax},
	{scenario: "faxfirst", play: (*dialogue).faxFirst},
	{scenario: "faxrefused", play: (*dialogue).faxRefused},
	{scenario: "video", play: (*dialogue).video},
	{scenario: "sdes", play: (*dialogue).sdes},
	{scenario: "dtls", play: (*dialogue).dtls},
	{scenario: "streams", play: (*dialogue).streams},
	{scenario: "repeats", play: (*dialogue).repeats},
	// SIPp over TCP takes a 200 that is repeated on a busy machine for that to another INVITE: no more than one of them.
	{scenario: "update", play: (*dialogue).update, overTCP: true},
	{scenario: "prack", play: (*dialogue).prack, overTCP: true},
	{scenario: "early", play: (*dialogue).early, overTCP: true},
	{scenario: "cancelcrossed", play: (*dialogue).cancelCrossed, overTCP: true},
}

// hold: held and resumed in all ways, the media come back to the same ports. Who holds may send, as music does.
func (d *dialogue) hold() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.callee.request("ACK", 2)
	d.oneWay(d.caller, d.callee, 0, speech(0))
	d.caller.Step()
	d.callee.request("ACK", 3)
	d.talk(0)

	d.callee.Step()
	d.caller.request("ACK", 101)
	d.callee.Step()
	d.caller.request("ACK", 102)
	d.talk(0)

	d.caller.Step()
	d.callee.request("ACK", 6)
	d.muted(d.callee, d.caller, 0)
	d.oneWay(d.caller, d.callee, 0, speech(0))
	d.caller.Step()
	d.callee.request("ACK", 7)
	d.talk(0)
	d.callee.Step()
	d.ends()
}

func (d *dialogue) update() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.caller.response(200, 2, "UPDATE")
	d.oneWay(d.caller, d.callee, 0, speech(0))
	d.caller.Step()
	d.caller.response(200, 3, "UPDATE")
	d.talk(0)
	d.callee.Step()
	d.callee.response(200, 101, "UPDATE")
	d.callee.Step()
	d.callee.response(200, 102, "UPDATE")
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) delayed() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.callee.Step()
	d.caller.request("ACK", 101)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) prack() {
	d.caller.response(200, 2, "PRACK")
	d.talk(0)
	d.callee.Step()
	d.caller.response(200, 3, "PRACK")
	d.talk(0)
	d.callee.Step()
	d.callee.response(200, 101, "UPDATE")
	d.talk(0)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) prackAnswer() {
	d.caller.response(200, 2, "PRACK")
	d.talk(0)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// tags: the media follow the branch that spoke last, and then the one that answers.
func (d *dialogue) tags() {
	d.caller.response(183, 1, "INVITE")
	d.talk(0)
	d.callee.Step()
	d.caller.sees("the second 183", func(m *pcap.Message) bool { return m.Status == 183 && slices.Contains(m.SDP('a'), "label:b") })
	d.callee.moved[0] = 1
	d.talk(0)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.callee.moved[0] = 0
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// reliableTags: the same where the 200 does not say again where the media go.
func (d *dialogue) reliableTags() {
	d.caller.response(200, 2, "PRACK")
	d.talk(0)
	d.callee.Step()
	d.caller.response(200, 3, "PRACK")
	d.callee.moved[0] = 1
	d.talk(0)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.callee.moved[0] = 0
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// twoFinals: the end of one of two calls is not the end of the other.
func (d *dialogue) twoFinals() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.callee.Step()
	d.callee.sees("ACK of the second 200", func(m *pcap.Message) bool { return m.Method == "ACK" && m.Header("Subject") != "" })
	d.caller.Step()
	d.caller.response(200, 2, "BYE")
	d.talk(0)
	d.caller.Step()
	d.callee.Step()
	d.ends()
}

// fork: the caller hears the phone that spoke last, then the one that has answered.
func (d *dialogue) fork() {
	answers := d.parties[1]
	d.caller.response(183, 1, "INVITE")
	d.talk(0)
	answers.Step()
	d.caller.sees("the other 183", func(m *pcap.Message) bool {
		return m.Status == 183 && strings.Contains(m.Header("To"), string(second))
	})
	d.talkWith(answers, 0)
	answers.Step()
	answers.request("ACK", 1)
	d.talkWith(answers, 0)
	d.caller.Step()
	d.endsMerged()
}

// bothAnswer: both calls stand until they are ended, each for itself.
func (d *dialogue) bothAnswer() {
	answers := d.parties[1]
	d.caller.response(180, 1, "INVITE")
	answers.Step()
	d.caller.sees("the other 180", func(m *pcap.Message) bool {
		return m.Status == 180 && strings.Contains(m.Header("To"), string(second))
	})
	answers.Step()
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.caller.response(200, 2, "BYE")
	d.talkWith(answers, 0)
	answers.Step()
	d.endsMerged()
}

func (d *dialogue) timer() {
	d.callee.request("ACK", 2)
	d.talk(0)
	d.caller.Step()
	d.caller.response(200, 4, "UPDATE")
	d.callee.Step()
	d.callee.response(200, 101, "UPDATE")
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) early() {
	d.caller.response(183, 1, "INVITE")
	d.talk(0)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.talk(0)
	d.callee.Step()
	d.ends()
}

func (d *dialogue) cancel() {
	d.caller.response(180, 1, "INVITE")
	d.caller.Step()
	d.ends()
}

// cancelEarly: the PBX answers the caller, and cancels when it can.
func (d *dialogue) cancelEarly() {
	d.callee.request("INVITE", 1)
	d.caller.Step()
	d.caller.response(487, 1, "INVITE")
	d.callee.Step()
	d.endsUncompared()
}

func (d *dialogue) cancelCrossed() {
	d.caller.response(180, 1, "INVITE")
	d.caller.Step()
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// glare: offers that were refused move nothing.
func (d *dialogue) glare() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.caller.sees("ACK to the 491", func(m *pcap.Message) bool { return m.Method == "ACK" && m.Header("CSeq") == "2 ACK" })
	d.talk(0)
	d.caller.Step()
	d.callee.request("ACK", 3)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// dtmf: the events of RFC 4733, three times the end of each, pass as they are.
func (d *dialogue) dtmf() {
	d.callee.request("ACK", 1)
	d.talk(0, dtmfEvents()...)
	d.caller.Step()
	d.caller.response(200, 2, "INFO")
	d.callee.Step()
	d.callee.response(200, 101, "INFO")
	d.caller.Step()
	d.ends()
}

func dtmfEvents() []packet {
	var packets []packet
	ssrc := random(4)
	for i := range byte(8) {
		marker, end := byte(0), byte(0)
		if i == 0 {
			marker = 0x80
		}
		if i >= 5 {
			end = 0x80
		}
		packets = append(packets, packet{0, slices.Concat([]byte{0x80, marker | 101, 0, i, 0, 0, 1, 0}, ssrc, []byte{11, end | 10, i, 0xa0})})
	}
	return packets
}

func (d *dialogue) fax() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.callee.Step()
	d.caller.request("ACK", 101)
	d.talk(0, udptl()...)
	d.caller.Step()
	d.callee.request("ACK", 3)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// udptl is packets of T.38 that no RTP could be: a sequence number, the primary, redundancy.
func udptl() []packet {
	return []packet{{0, []byte{0, 0, 1, 2, 0, 0}}, {0, []byte{0, 1, 3, 0xc0, 0, 0x80, 0, 1, 1, 2}}, {0, append([]byte{0x0f, 0xff}, random(1350)...)}, {0, []byte{1}}}
}

func (d *dialogue) faxFirst() {
	d.callee.request("ACK", 1)
	d.talk(1, udptl()...)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) faxRefused() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.callee.Step()
	d.caller.request("ACK", 101)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) video() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.talk(1, append(speech(96), packet{0, slices.Concat([]byte{0x90, 0xe0, 0xff, 0xff}, random(1300))})...)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) sdes() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

// dtls: what is no RTP passes on the same port: a ClientHello, STUN, RTCP.
func (d *dialogue) dtls() {
	d.callee.request("ACK", 1)
	d.talk(0, packet{0, append([]byte{22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200, 1}, random(199)...)},
		packet{0, append([]byte{0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42}, random(20)...)},
		packet{0, append([]byte{63}, random(20)...)}, packet{0, append([]byte{0x80, 200, 0, 6}, random(24)...)})
	d.talk(0, speech(0)[:5]...)
	d.caller.Step()
	d.ends()
}

// repeats: what is repeated goes no further than to tunnelproxy, which says 100 before the phone would repeat anything.
func (d *dialogue) repeats() {
	sent := d.caller.request("INVITE", 1)
	trying := d.caller.response(100, 1, "INVITE")
	if late := trying.Time.Sub(sent.Time); late > 450*time.Millisecond {
		d.t.Errorf("100 comes after %v, a phone repeats its INVITE after 500 ms", late)
	}
	d.callee.request("INVITE", 1)
	d.caller.Step()
	lab.Eventually(d.t, soon, "the repeated INVITE is answered", func() bool { return d.caller.count(isResponse(100, 1, "INVITE")) > 1 })
	time.Sleep(settle)
	d.callee.Step()
	d.callee.request("ACK", 1)
	d.caller.Step()
	d.ends()
}

// ringing: a call is answered that has rung for long.
func (d *dialogue) ringing() {
	lab.Eventually(d.t, 2*soon, "the call is answered", func() bool { return d.caller.count(isResponse(200, 1, "INVITE")) > 0 })
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.ends()
}

func (d *dialogue) streams() {
	d.callee.request("ACK", 1)
	d.talk(0)
	d.caller.Step()
	d.callee.request("ACK", 2)
	d.talk(0)
	d.caller.Step()
	d.callee.request("ACK", 3)
	d.talk(0, speech(9)...)
	d.callee.Step()
	d.caller.request("ACK", 101)
	d.talk(0)
	d.talk(1, speech(34)...)
	d.caller.Step()
	d.callee.request("ACK", 4)
	d.talk(0)
	d.caller.Step()
	d.ends()
}
