//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// toPhone has the server send a request outside of any dialog to the user of the phone.
func (s *scripted) toPhone(phone *peers.Script, method, lines string) *pcap.Message {
	return s.server.Send(fmt.Sprintf(`%[1]s sip:%[2]s@pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: "Server, \"the\" one" <sip:9server@pbx.example>;tag={id}
To: <sip:%[2]s@pbx.example>
Call-ID: {id}
CSeq: 8 %[1]s
Contact: <sip:9server@172.20.0.101:5070>
%[3]s`, method, phone.User, lines))
}

// toServer has a phone send one to the server.
func (s *scripted) toServer(phone *peers.Script, method, lines string) *pcap.Message {
	to := "9server"
	if method == "PUBLISH" {
		to = phone.User // what is published about
	}
	return phone.Authorized(soon, fmt.Sprintf(`%[1]s sip:9server@pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: "Phone" <sip:{user}@pbx.example>;tag=%[2]s
To: <sip:%[4]s@pbx.example>
Call-ID: %[2]s
CSeq: {cseq} %[1]s
X-Folded: one,
  two
Contact: <sip:{user}@{at};transport={transport}>
%[3]s`, method, rand.Text(), lines, to))
}

// outside: requests of methods that are known and not, with all kinds of bodies, to the server and to the phone.
func (s *scripted) outside(t *testing.T, phone *peers.Script) {
	for _, request := range []struct{ method, lines string }{
		{"MESSAGE", "Content-Type: text/plain\nContent-Length: {length}\n\nHello \xff\xfe \xc3\xa4, no end of line"},
		{"PUBLISH", "Event: presence\nSIP-If-Match: abc;0\nExpires: 60\n" + events[2].told},
		{"PUBLISH", `Event: vq-rtcpxr
Content-Type: application/vq-rtcpxr
Content-Length: {length}

VQSessionReport: CallTerm
CallID: 6dg37f1890463
LocalID: <sip:alice@192.168.77.10>
LocalAddr: IP=192.168.77.101 PORT=11780 SSRC=a1b2c3d4
RemoteAddr: IP=192.168.77.10 PORT=40010 SSRC=d4c3b2a1
LocalMetrics:
Timestamps: START=2026-01-02T10:00:00Z STOP=2026-01-02T10:00:30Z
`},
		{"INFO", "Content-Type: application/dtmf-relay\nContent-Length: {length}\n\nSignal= 5\nDuration= 160\n"},
		{"FOO", "Subject:\nContent-Type: application/octet-stream\nContent-Length: {length}\n\n\x00\x01INVITE sip:x SIP/2.0\n\n"},
		{"foo", "c: text/html;charset=\"odd\\\"\"\nContent-Length: {length}\n\n<b>"},
	} {
		sent := s.toServer(phone, request.method, request.lines)
		arrived := arrives(t, s.server, sent)
		untouched(t, sent, arrived.Message, "contact")
		answered := s.server.Answer(arrived, "202 Accepted, not \"OK\"", "server", "SIP-ETag: abc;1\n"+request.lines)
		untouched(t, answered, phone.Final(soon, sent).Message)

		sent = s.toPhone(phone, request.method, request.lines)
		arrived = arrives(t, phone, sent)
		untouched(t, sent, arrived.Message)
		answered = phone.Answer(arrived, "489 Bad Event", "phone", "Allow-Events: talk,hold\n"+request.lines)
		untouched(t, answered, s.server.Final(soon, sent).Message)
	}
}

// qualify: the PBX asks whether the phone is there, and it is the phone that answers.
func (s *scripted) qualify(t *testing.T, phone *peers.Script) {
	sent := s.toPhone(phone, "OPTIONS", "Accept: application/sdp\nContent-Length: 0\n\n")
	arrived := arrives(t, phone, sent)
	untouched(t, sent, arrived.Message)
	answered := phone.Answer(arrived, "200 OK", "phone", "Allow: INVITE,ACK,BYE\nSupported: replaces\nUser-Agent: phone\n")
	untouched(t, answered, s.server.Final(soon, sent).Message)
}

// keepalive: what phones send to their outbound proxy to keep a way open is answered there.
func (s *scripted) keepalive(t *testing.T, phone *peers.Script) {
	before := len(s.inside.SIP())
	pongs := phone.Pongs()
	phone.SendRaw([]byte("\r\n\r\n"))
	lab.Eventually(t, soon, "the keepalive of RFC 5626 is answered", func() bool { return phone.Pongs() > pongs })
	sent := phone.Send(`OPTIONS sip:192.168.77.10 SIP/2.0
Via: {via}
Max-Forwards: 70
From: <sip:{user}@pbx.example>;tag=keepalive
To: <sip:192.168.77.10>
Call-ID: {id}
CSeq: 1 OPTIONS
Content-Length: 0

`)
	if answer := phone.Final(soon, sent); answer.Status != 200 {
		t.Errorf("OPTIONS to the proxy are answered %s", answer.StartLine)
	}
	for _, m := range s.inside.SIP()[before:] {
		if m.Header("Call-ID") == sent.Header("Call-ID") {
			t.Error("the PBX was asked what the proxy was asked")
		}
	}
}

// filler is a body of the size, each stretch of it unlike every other.
func filler(size int) string {
	var b strings.Builder
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "%07d\n", i)
	}
	// A line end becomes two bytes on its way.
	return b.String()[:size*8/9]
}

// large: messages of all sizes, up to what fits into a datagram, which is how tunneld speaks to this PBX. The PBX itself turns to
// TCP, at the phone's port, above 20,000 bytes.
func (s *scripted) large(t *testing.T, phone *peers.Script) {
	for _, size := range []int{1400, 1600, 9000, 30000, 65000} {
		if phone.Transport == "UDP" {
			size = min(size, 64000)
		}
		down := s.ofSize(t, phone, size)
		if size > 20000 {
			s.turned.WaitSIP(soon, "the PBX turns to TCP", func(m *pcap.Message) bool {
				return m.Method == "MESSAGE" && m.Header("Call-ID") == down.Header("Call-ID")
			})
		}
	}
}

// ofSize sends a message of about so many bytes both ways, with answers of the same size, and returns the one to the phone.
func (s *scripted) ofSize(t *testing.T, phone *peers.Script, size int) (down *pcap.Message) {
	t.Helper()
	lines := "Content-Type: text/plain\nContent-Length: {length}\n\n" + filler(size-1000)
	up := s.toServer(phone, "MESSAGE", lines)
	arrived := arrives(t, s.server, up)
	untouched(t, up, arrived.Message, "contact")
	answered := s.server.Answer(arrived, "200 OK", "server", lines)
	untouched(t, answered, phone.Final(soon, up).Message)

	down = s.toPhone(phone, "MESSAGE", lines)
	arrived = arrives(t, phone, down)
	untouched(t, down, arrived.Message)
	answered = phone.Answer(arrived, "200 OK", "phone", lines)
	untouched(t, answered, s.server.Final(soon, down).Message)
	return down
}

// lossy: the network toward a peer over UDP loses every second MESSAGE. What comes from a phone over TCP, and what comes from the
// PBX, is repeated there until it is answered.
func (s *scripted) lossy(t *testing.T) {
	for _, test := range []struct {
		name  string
		phone *peers.Script
		host  *lab.Host
		match string
		send  func(*peers.Script) (*pcap.Message, *peers.Script)
	}{
		{"to the PBX", s.phones["TCP"], s.PBX, "iif lo udp dport 5060", func(phone *peers.Script) (*pcap.Message, *peers.Script) {
			return s.toServer(phone, "MESSAGE", "Content-Length: 0\n\n"), s.server
		}},
		{"to a phone", s.phones["UDP"], s.phones["UDP"].Host, "udp sport 5060", func(phone *peers.Script) (*pcap.Message, *peers.Script) {
			return s.toPhone(phone, "MESSAGE", "Content-Length: 0\n\n"), phone
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s.server.In(t)
			test.phone.In(t)
			wire := s.inside
			if test.host != s.PBX {
				wire = test.host.Capture("eth0", "udp port 5060")
			}
			test.host.NFT("table ip lossy {\n chain input {\n type filter hook input priority 0\n " + test.match +
				" @th,64,56 0x4d455353414745 numgen inc mod 2 == 0 drop\n }\n}")
			defer test.host.NFT("delete table ip lossy")
			sent, to := test.send(test.phone)
			arrived := arrives(t, to, sent)
			to.Answer(arrived, "200 OK", "x", "")
			if to == s.server {
				test.phone.Final(soon, sent)
			} else {
				s.server.Final(soon, sent)
			}
			var copies []string
			for _, m := range wire.SIP() {
				if m.Method == "MESSAGE" && m.Header("Call-ID") == sent.Header("Call-ID") {
					copies = append(copies, string(m.Payload))
				}
			}
			if len(copies) < 2 || copies[0] != copies[1] {
				t.Errorf("sent over the lossy network: %q, want the first twice", copies)
			}
		})
	}
}

// wholeSize: before a PBX over TCP a message may have all of the 64 KiB that there are, with what is added on its way.
func (s *scripted) wholeSize(t *testing.T) {
	s.changeDaemon("--pbx-transport", "tcp")
	for _, transport := range []string{"TCP", "TLS"} {
		phone := s.phones[transport]
		phone.In(t)
		s.server.In(t)
		phone.Register(domain, "")
		s.ofSize(t, phone, 65400)
	}
}

// sha256: challenges and credentials of another algorithm than MD5 pass as they are, for scripts and for a phone that knows it.
func (s *scripted) sha256(t *testing.T) {
	s.kamailio.Stop()
	s.config.Algorithm = "SHA-256"
	peers.StartKamailio(t, s.Lab, s.config)
	s.changeDaemon()
	p := peers.StartLinphone(t, s.Phone("linphone"), phone("carol", "udp", officeProxy), "")
	s.each(t, func(t *testing.T, phone *peers.Script) {
		phone.Register(domain, "")
		if phone.Algorithm() != "SHA-256" {
			t.Errorf("the challenge asks for %q", phone.Algorithm())
		}
		sent := s.toServer(phone, "MESSAGE", "Content-Length: 0\n\n")
		s.server.Answer(arrives(t, s.server, sent), "200 OK", "server", "")
		phone.Final(soon, sent)
	})
	p.Wait(soon, 0, linphoneRegistered)
}

const offer = `Contact: <sip:{user}@{at};transport={transport}>
Content-Type: application/sdp
Content-Length: {length}

v=0
o=- 1 1 IN IP4 192.168.77.101
s=-
c=IN IP4 192.168.77.101
t=0 0
m=audio 7078 RTP/AVP 0
`

const answerSDP = `Contact: <sip:9server@172.20.0.101:5070>
Content-Type: application/sdp
Content-Length: {length}

v=0
o=- 1 1 IN IP4 172.20.0.101
s=-
c=IN IP4 172.20.0.101
t=0 0
m=audio 7078 RTP/AVP 0
`

// call sets up a call from the phone to the server, and returns both sides of it.
func (s *scripted) call(t *testing.T, phone *peers.Script) (caller, callee *side) {
	t.Helper()
	sent := s.toServer(phone, "INVITE", strings.Replace(offer, "Contact: <sip:{user}@{at};transport={transport}>\n", "", 1))
	invite := arrives(t, s.server, sent)
	untouched(t, sent, invite.Message, "contact")
	answered := s.server.Answer(invite, "200 OK", "server", answerSDP)
	answer := phone.Final(soon, sent)
	untouched(t, answered, answer.Message)
	caller, callee = calling(phone, sent, answer.Message), called(s.server, invite.Message, "server")
	number, _, _ := strings.Cut(sent.Header("CSeq"), " ")
	ack := phone.Send("ACK " + caller.uri + " SIP/2.0\nVia: {via}\n" + caller.routes + "Max-Forwards: 70\nFrom: " + caller.from +
		"\nTo: " + caller.to + "\nCall-ID: " + caller.callID + "\nCSeq: " + number + " ACK\nContent-Length: 0\n\n")
	untouched(t, ack, arrives(t, s.server, ack).Message)
	return caller, callee
}

// inCall: requests in the dialog of a call, both ways.
func (s *scripted) inCall(t *testing.T, phone *peers.Script) {
	caller, callee := s.call(t, phone)
	for _, request := range []struct{ method, lines string }{
		{"INFO", "Info-Package: dtmf\nContent-Type: application/dtmf-relay\nContent-Length: {length}\n\nSignal=5\nDuration=160\n"},
		{"MESSAGE", "Content-Type: text/plain\nContent-Length: {length}\n\nin the call"},
		{"FOO", "X-Unknown: <y>;x=1,,\nContent-Length: {length}\n\nbar"},
		{"OPTIONS", "Content-Length: 0\n\n"},
	} {
		caller.through(t, s.server, request.method, request.lines)
		callee.through(t, phone, request.method, request.lines)
	}
	caller.through(t, s.server, "BYE", "Reason: Q.850;cause=16;text=\"Terminated\"\nContent-Length: 0\n\n")
}

// turnsToTCP: a phone on UDP opens a connection for one request that is too large, and stays the same phone.
func (s *scripted) turnsToTCP(t *testing.T) {
	user := "carol"
	phone := peers.StartScript(t, s.Phone(user), peers.ScriptConfig{User: user, Password: users[user], To: officeSIP})
	phone.Register(domain, "")
	port := s.inside.WaitSIP(soon, "carol registers", func(m *pcap.Message) bool {
		return m.Method == "REGISTER" && strings.Contains(m.Header("To"), user)
	}).Src
	small := s.toServer(phone, "MESSAGE", "Content-Type: text/plain\nContent-Length: {length}\n\nsmall")
	s.server.Answer(arrives(t, s.server, small), "200 OK", "server", "")
	phone.Final(soon, small)

	phone.Turn()
	lines := "Content-Type: text/plain\nContent-Length: {length}\n\n" + filler(9000)
	sent := s.toServer(phone, "MESSAGE", lines)
	arrived := arrives(t, s.server, sent)
	untouched(t, sent, arrived.Message, "contact")
	if want := fmt.Sprintf("<sip:%s@%v>", user, port); !strings.HasPrefix(arrived.Header("Contact"), want) {
		t.Errorf("the large request has the Contact %s, want the phone's %s", arrived.Header("Contact"), want)
	}
	s.server.Answer(arrived, "200 OK", "server", "")
	phone.Final(soon, sent)

	// What the PBX sends finds it where it has registered.
	sent = s.toPhone(phone, "MESSAGE", "Content-Length: 0\n\n")
	arrived = arrives(t, phone, sent)
	if arrived.Over() != "UDP" {
		t.Errorf("a request of the PBX comes over %s", arrived.Over())
	}
	phone.Answer(arrived, "200 OK", "phone", "")
	s.server.Final(soon, sent)
}
