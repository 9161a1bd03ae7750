package fidelity

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var seed = flag.Uint64("seed", 1, "of the random segments of TestStream")

// stream is a phone on TCP that decides where its segments end.
type stream struct {
	*exchange
	kernel *sockets
}

// segments sends the parts one after the other, each when the one before has
// been read.
func (s stream) segments(parts ...[]byte) {
	s.t.Helper()
	for _, p := range parts {
		s.ph.send(s.t, p)
		s.read()
	}
}

// read waits until tunnelproxy has read what was sent.
func (s stream) read() {
	s.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		n, err := s.kernel.unread(s.ph.path.proxy, s.ph.path.phone)
		if err != nil {
			s.t.Fatal("the connection at tunnelproxy: ", err)
		}
		if n == 0 {
			return
		}
	}
	s.t.Fatal("tunnelproxy does not read")
}

// requests are those of testdata that a phone sends first, in one connection.
func (s stream) requests(all []template) [][]byte {
	var out [][]byte
	for _, tp := range all {
		if !tp.up || tp.isResponse() || tp.inDialog() || tp.firstMethod() == "REGISTER" || tp.firstMethod() == "CANCEL" {
			continue
		}
		s.v = s.newCall(s.ph)
		in := tp.expand(s.t, s.vars(true), nil)
		if m, err := cut(in); err == nil && m.index("content-length") >= 0 {
			out = append(out, in)
		}
	}
	return out
}

// come checks that requests which were sent have come out, in order.
func (s stream) come(requests [][]byte) {
	s.t.Helper()
	outs := make([][]byte, len(requests))
	for i, in := range requests {
		outs[i] = s.cameUp(in)
	}
	for i, in := range requests {
		s.v, s.contact = s.newCall(s.ph), ""
		s.noteContact(in)
		s.finishUp(in, outs[i])
	}
	s.fence()
}

// TestStream sends messages over TCP in segments that end anywhere.
func TestStream(t *testing.T) {
	r := newRig(t)
	answers, replies := templates(t, "styles/pbx.txtar"), templates(t, "styles/phones.txtar")
	all := templates(t, "*.txtar")
	open := func(t *testing.T) stream {
		x := &exchange{rig: r, t: t, ph: r.newPhone(t, "TCP"), answers: answers, replies: replies}
		s := stream{x, newSockets(t)}
		s.register(contacts[0])
		return s
	}
	r.expect(t, "TCP/stream/every-boundary", func(t *testing.T) {
		s := open(t)
		tp := message("MESSAGE sip:600@{{domain}} SIP/2.0", "Via: SIP/2.0/TCP {{addr}};branch={{branch}}", "Max-Forwards: 70",
			"From: sip:101@{{domain}};tag={{tag}}", "To: sip:600@{{domain}}", "Call-ID: {{call}}", "CSeq: 1 MESSAGE", "X-Folded: a", " b",
			"Content-Type: text/plain", "l: {{length}}", "", "", "INVITE x SIP/2.0", "l: 9", "", "")
		for at := 1; ; at++ {
			s.v = s.newCall(s.ph)
			in := tp.expand(t, s.vars(true), nil)
			if at >= len(in) {
				break
			}
			s.segments(in[:at], in[at:])
			out := s.cameUp(in)
			s.answer(s.respond(false, out, "200 OK", ""), out)
		}
		s.fence()
	})
	r.expect(t, "TCP/stream/bytes", func(t *testing.T) {
		s := open(t)
		requests := s.requests(all)
		for _, in := range requests {
			if len(in) > 900 {
				continue
			}
			for i := range in {
				s.segments(in[i : i+1])
			}
			s.come([][]byte{in})
		}
	})
	r.expect(t, "TCP/stream/random", func(t *testing.T) {
		t.Logf("-seed %d", *seed)
		random := rand.New(rand.NewPCG(*seed, 0))
		for range 5 {
			s := open(t)
			requests := s.requests(all)
			random.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
			var b []byte
			pings := 0
			for _, in := range requests {
				if random.IntN(3) == 0 {
					b = append(b, "\r\n\r\n"...) // RFC 5626 section 3.5.1
					pings++
				}
				b = append(b, in...)
			}
			for len(b) > 0 {
				n := min(1+random.IntN(1+random.IntN(1500)), len(b))
				s.segments(b[:n])
				b = b[n:]
			}
			s.come(requests)
			s.ph.inbox.mu.Lock()
			if s.ph.inbox.pong != pings {
				t.Errorf("%d keepalives were answered %d times", pings, s.ph.inbox.pong)
			}
			s.ph.inbox.mu.Unlock()
		}
	})
	r.report(t)
}
