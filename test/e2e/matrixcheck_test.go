//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// proxyHeaders are those that every proxy on the way writes. All others have to arrive as they were sent, in their order.
var proxyHeaders = []string{"via", "max-forwards", "record-route", "route", "content-length"}

// transparent fails the test unless everything that one party has sent to the other has arrived once, and nothing else has:
// start lines, headers and bodies are the same byte for byte but for what a proxy has to write (proxyHeaders), the addresses of
// media, and the Contact of a phone in the office. The addresses of media are those of relays, and stay the same ones.
func (d *dialogue) transparent(from, to *party) {
	d.t.Helper()
	var lost, strange []string
	// The captures may be behind.
	lab.Within(soon, func() bool {
		lost, strange = d.compare(from, to)
		return len(lost)+len(strange) == 0
	})
	for _, text := range lost {
		d.t.Errorf("did not arrive at the %s as the %s has sent it:\n%s", to.Role, from.Role, text)
	}
	for _, text := range strange {
		d.t.Errorf("arrived at the %s, but the %s has not sent it:\n%s", to.Role, from.Role, text)
	}
	_, received := to.messages()
	to.relaysNamed(received)
}

// compare returns what was lost on the way between the parties, and what came from nowhere.
func (d *dialogue) compare(from, to *party) (lost, strange []string) {
	sent, _ := from.messages()
	_, received := to.messages()
	for _, m := range endToEnd(received) {
		strange = append(strange, d.carried(m))
	}
	for _, m := range endToEnd(sent) {
		if at := slices.Index(strange, d.carried(m)); at >= 0 {
			strange = slices.Delete(strange, at, at+1)
		} else {
			lost = append(lost, d.carried(m))
		}
	}
	return lost, strange
}

// endToEnd leaves out the messages that every hop sends for itself.
func endToEnd(messages []*pcap.Message) []*pcap.Message {
	var kept []*pcap.Message
	for _, m := range messages {
		hop := m.Status == 100 || m.CSeqMethod() == "CANCEL" || m.Method == "ACK" && m.Header("x-oDd") == ""
		if !hop {
			kept = append(kept, m)
		}
	}
	return kept
}

// ownContact is what is written anew of a Contact of the office's phones.
var ownContact = regexp.MustCompile(`@([0-9.]+|\[[0-9a-f:]+\]):\d+(;transport=\w+)?>`)

// carried is what of the message has to arrive.
func (d *dialogue) carried(m *pcap.Message) string {
	head, body, _ := strings.Cut(string(m.Payload), "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	if m.Method != "" {
		lines[0] = m.Method
	}
	lines = slices.DeleteFunc(lines, func(line string) bool {
		name, _, _ := strings.Cut(line, ":")
		return slices.Contains(proxyHeaders, strings.ToLower(strings.TrimSpace(name)))
	})
	for i, line := range lines {
		if name, _, _ := strings.Cut(line, ":"); strings.EqualFold(name, "contact") && m.Status/100 != 3 {
			lines[i] = ownContact.ReplaceAllString(line, "@>")
		}
	}
	if strings.EqualFold(m.Header("Content-Type"), "application/sdp") {
		if body = carriedSDP(body); d.ipv6 {
			body = origin.ReplaceAllString(body, "")
		}
	}
	return strings.Join(lines, "\n") + "\n\n" + body
}

// origin is what of an o= line is written anew on the way between different IP families.
var origin = regexp.MustCompile(`(?m) IP[46] [0-9a-f.:]+$`)

// carriedSDP is the description without addresses and ports of media. Those that say something else stay: hold as 0.0.0.0, and
// the port 0 of what is refused.
func carriedSDP(body string) string {
	lines := strings.Split(body, "\r\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "c=") && !strings.HasSuffix(line, " 0.0.0.0"):
			lines[i] = "c="
		case strings.HasPrefix(line, "m="):
			if f := strings.SplitN(line, " ", 3); f[1] != "0" {
				lines[i] = f[0] + " * " + f[2]
			}
		case strings.HasPrefix(line, "a=rtcp:"):
			lines[i] = "a=rtcp:"
		}
	}
	return strings.Join(lines, "\n")
}

// A described m-line: where the media is to go, not valid where that is nowhere or on hold.
type described struct{ rtp netip.AddrPort }

// media are the m-lines of the message's SDP.
func mediaOf(m *pcap.Message) (lines []described) {
	var session netip.Addr
	for line := range strings.SplitSeq(string(m.Body), "\r\n") {
		switch {
		case strings.HasPrefix(line, "c=IN IP"):
			addr, _ := netip.ParseAddr(line[len("c=IN IP4 "):])
			if len(lines) == 0 {
				session = addr
			} else {
				lines[len(lines)-1].rtp = netip.AddrPortFrom(addr, lines[len(lines)-1].rtp.Port())
			}
		case strings.HasPrefix(line, "m="):
			port, _ := strconv.Atoi(strings.Fields(line)[1])
			lines = append(lines, described{netip.AddrPortFrom(session, uint16(port))})
		}
	}
	return lines
}

// relaysNamed fails the test unless all SDP among the messages names relays, and for an m-line always the same.
func (p *party) relaysNamed(received []*pcap.Message) {
	p.d.t.Helper()
	var first []described
	for _, m := range received {
		if m.Method == "INVITE" && !strings.Contains(m.Header("To"), ";tag=") {
			first = nil // a new call
		}
		for i, line := range mediaOf(m) {
			if line.rtp.Port() == 0 || line.rtp.Addr().IsUnspecified() {
				continue
			}
			if line.rtp.Addr() != p.relays {
				p.d.t.Errorf("the %s is told to send media to %v, which is no relay: %s", p.Role, line.rtp, m.StartLine)
			}
			for len(first) <= i {
				first = append(first, described{})
			}
			if !first[i].rtp.IsValid() {
				first[i] = line
			}
			if first[i] != line {
				p.d.t.Errorf("the media port of the %s moves from %v to %v: %s", p.Role, first[i].rtp, line.rtp, m.StartLine)
			}
		}
	}
}

// relay is where the party was told last to send the media of that m-line for the other one, but for 0.0.0.0: where they come
// from on hold.
func (p *party) relay(line int, other *party) (at netip.AddrPort) {
	p.d.t.Helper()
	// The capture may be behind.
	if !lab.Within(soon, func() bool {
		_, received := p.messages()
		for _, m := range slices.Backward(received) {
			if !ofRole(m, other.Role) {
				continue
			}
			if media := mediaOf(m); len(media) > line && !media[line].rtp.Addr().IsUnspecified() {
				at = media[line].rtp
				return true
			}
		}
		return false
	}) {
		p.d.t.Fatalf("the %s has no SDP with %d m-lines%s", p.Role, line+1, p.d.trace())
	}
	return at
}

// ofRole tells whether one of the message's tags is of that role.
func ofRole(m *pcap.Message, role peers.Role) bool {
	return strings.HasSuffix(m.Header("From"), "-"+string(role)) || strings.HasSuffix(m.Header("To"), "-"+string(role))
}

// A packet of media, and what it is of.
type packet struct {
	component int // 0: of the port in m=, 1: of the one above
	payload   []byte
}

// speech is some packets of RTP of that payload type, and a sender report.
func speech(payloadType byte) []packet {
	var packets []packet
	ssrc := random(4)
	for i := range byte(5) {
		packets = append(packets, packet{0, slices.Concat([]byte{0x80, payloadType, 0, i, 0, 0, 0, i * 160}, ssrc, random(160))})
	}
	return append(packets, packet{1, slices.Concat([]byte{0x80, 200, 0, 6}, ssrc, random(20))})
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// talk has both parties send packets to each other on an m-line, and fails the test unless they arrive as they are, from where
// the receiver sends its own.
func (d *dialogue) talk(line int, packets ...packet) {
	d.t.Helper()
	if len(packets) == 0 {
		packets = speech(0)
	}
	d.talkWith(d.callee, line, packets...)
}

// talkWith is talk with one of several callees.
func (d *dialogue) talkWith(callee *party, line int, packets ...packet) {
	d.t.Helper()
	d.oneWay(d.caller, callee, line, packets)
	d.oneWay(callee, d.caller, line, packets)
}

func (d *dialogue) oneWay(from, to *party, line int, packets []packet) {
	d.t.Helper()
	if d.overTCP {
		return // the player does not wait for it
	}
	if lost := d.pass(from, to, line, packets, soon/4); lost != "" {
		d.t.Errorf("from %s to %s, m-line %d: %s%s", from.Role, to.Role, line, lost, d.trace())
	}
}

// muted fails the test when something of what one party sends reaches the other.
func (d *dialogue) muted(from, to *party, line int) {
	d.t.Helper()
	if d.overTCP {
		return
	}
	if lost := d.pass(from, to, line, speech(0)[:1], settle); lost == "" {
		d.t.Errorf("from %s to %s, m-line %d: media passes", from.Role, to.Role, line)
	}
}

// pass sends the packets and says what has gone wrong with them; empty if nothing has.
func (d *dialogue) pass(from, to *party, line int, packets []packet, limit time.Duration) string {
	d.t.Helper()
	target, source := from.relay(line, to), to.relay(line, from)
	for i, p := range packets {
		out, in := from.media[2*from.at(line)+p.component], to.media[2*to.at(line)+p.component]
		at := netip.AddrPortFrom(target.Addr(), target.Port()+uint16(p.component))
		want := netip.AddrPortFrom(source.Addr(), source.Port()+uint16(p.component))
		arrived, what := false, ""
		for deadline := time.Now().Add(limit); !arrived && what == "" && time.Now().Before(deadline); {
			if _, err := out.WriteTo(p.payload, net.UDPAddrFromAddrPort(at)); err != nil {
				return err.Error()
			}
			// A busy machine may be late, and what is late is dropped.
			arrived, what = d.arrives(in, p.payload, want, min(limit, time.Second))
		}
		if what == "" && !arrived {
			what = "does not arrive"
		}
		if what != "" {
			return fmt.Sprintf("packet %d to %v %s", i, at, what)
		}
		d.passed[string(p.payload)] = true
	}
	return ""
}

// arrives waits for the payload from an address, past what has arrived before, and says what is wrong with another one.
func (d *dialogue) arrives(in net.PacketConn, payload []byte, from netip.AddrPort, limit time.Duration) (ok bool, wrong string) {
	buffer := make([]byte, 2048)
	_ = in.SetReadDeadline(time.Now().Add(limit))
	for {
		n, addr, err := in.ReadFrom(buffer)
		switch got := buffer[:max(n, 0)]; {
		case err != nil:
			return false, ""
		case bytes.Equal(got, payload) && addr.String() != from.String():
			return false, fmt.Sprintf("comes from %v, want %v", addr, from)
		case bytes.Equal(got, payload):
			return true, ""
		case !d.passed[string(got)]:
			return false, fmt.Sprintf("comes as %x, want %x", got, payload)
		}
	}
}
