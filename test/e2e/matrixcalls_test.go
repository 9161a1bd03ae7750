//go:build e2e

package e2e

import (
	"slices"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// A scene is a scenario, and what the test does while it is played.
type scene struct {
	scenario string
	play     func(*dialogue)
}

// TestMatrix: every scene in every direction.
func TestMatrix(t *testing.T) {
	t.Parallel()
	matrixOfCalls(t, newMatrix(t, false))
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
		for _, s := range scenes {
			for _, w := range []way{outward, inward, internal} {
				t.Run(s.scenario+"/"+string(w), func(t *testing.T) {
					t.Parallel()
					s.play(m.play(t, s.scenario, w, "udp"))
				})
			}
		}
	})
	m.empty(t, before)
}

var scenes = []scene{
	{"hold", (*dialogue).hold},
	{"update", (*dialogue).update},
	{"delayed", (*dialogue).delayed},
	{"prack", (*dialogue).prack},
	{"prackanswer", (*dialogue).prackAnswer},
	{"tags", (*dialogue).tags},
	{"reliabletags", (*dialogue).reliableTags},
	{"twofinals", (*dialogue).twoFinals},
	{"timer", (*dialogue).timer},
	{"early", (*dialogue).early},
	{"moved", (*dialogue).ends},
	{"cancel", (*dialogue).cancel},
	{"cancelearly", (*dialogue).cancelEarly},
	{"cancelcrossed", (*dialogue).cancelCrossed},
	{"glare", (*dialogue).glare},
	{"dtmf", (*dialogue).dtmf},
	{"fax", (*dialogue).fax},
	{"faxfirst", (*dialogue).faxFirst},
	{"faxrefused", (*dialogue).faxRefused},
	{"video", (*dialogue).video},
	{"sdes", (*dialogue).sdes},
	{"dtls", (*dialogue).dtls},
	{"streams", (*dialogue).streams},
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
