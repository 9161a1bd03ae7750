package mux

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// bystander connects a client and returns a function that checks that it is
// served as well as ever.
func bystander(t *testing.T, ts *testServer) func() {
	t.Helper()
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	up.OpenPhone(1, "bystander", nil)
	expect(t, c.events, "phone 1 127.0.0.1:6001")
	return func() {
		t.Helper()
		start := time.Now()
		for range 10 {
			up.SendSIP(1, []byte("up"))
			expect(t, down.sip, "up")
			down.s.SendSIP(1, []byte("down"))
			expect(t, c.sip, "down")
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("a bystander had to wait %v for ten exchanges", took)
		}
		if !down.s.Attached() {
			t.Error("a bystander was cut off")
		}
	}
}

// TestHostileBeforeLogin sends what the internet sends to an open port.
func TestHostileBeforeLogin(t *testing.T) {
	ts := newTestServer(t, nil)
	check := bystander(t, ts)
	for name, bytes := range map[string][]byte{
		"nothing":       nil,
		"http":          []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"sip":           []byte("REGISTER sip:x SIP/2.0\r\n\r\n"),
		"zeros":         make([]byte, 64<<10),
		"endless hello": append([]byte{22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff}, make([]byte, 64<<10)...),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", ts.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(bytes)
			// An alert may come back; then the end.
			conn.SetReadDeadline(time.Now().Add(setupTimeout + 10*time.Second))
			if n, err := io.Copy(io.Discard, conn); n > 100 || isTimeout(err) {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	check()
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// TestHostileAuthentication sends bytes in the place of authentication frames.
func TestHostileAuthentication(t *testing.T) {
	ts := newTestServer(t, nil)
	check := bystander(t, ts)
	for name, bytes := range map[string][]byte{
		"zeros":     make([]byte, 20<<10),
		"oversized": append([]byte{0xff, 0xff, 1}, make([]byte, 20<<10)...),
		"yamux":     {0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", ts.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			secure := tls.Client(conn, clientTLS(ts.pin))
			if err := clientHandshake(t.Context(), secure); err != nil {
				t.Fatal(err)
			}
			secure.Write(bytes)
			secure.SetReadDeadline(time.Now().Add(setupTimeout + 10*time.Second))
			if _, err := io.Copy(io.Discard, secure); isTimeout(err) {
				t.Error(err)
			}
		})
	}
	check()
}

// TestManyPending opens more connections than may wait for authentication. The
// bystander's is none of them.
func TestManyPending(t *testing.T) {
	ts := newTestServer(t, func(c *ServerConfig) { c.Limits.Pending = 4 })
	check := bystander(t, ts)
	var conns []net.Conn
	for range 20 {
		conn, err := net.Dial("tcp", ts.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	check()
	until(t, func() bool { return ts.counters.Snapshot()["auth.dropped.too_many_pending"] > 0 })
	for _, conn := range conns {
		conn.Close()
	}
	ts.client(nil).connected(false)
}

// TestHostileStreams breaks the protocol after login in every way that ends
// the connection.
func TestHostileStreams(t *testing.T) {
	ts := newTestServer(t, nil)
	check := bystander(t, ts)
	frame := func(t wire.Type, body ...byte) []byte {
		return append([]byte{byte(t), 0, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	for _, test := range []struct {
		name string
		do   func(*rawClient)
	}{
		{"another stream before control", func(r *rawClient) { r.open(byte(wire.StreamSignalling)) }},
		{"no Attach", func(r *rawClient) { r.open(append([]byte{1}, wire.Bye{}.Append(nil)...)...) }},
		{"broken Attach", func(r *rawClient) { r.open(append([]byte{1}, frame(wire.TypeAttach, 1, 2, 3)...)...) }},
		{"oversized Attach", func(r *rawClient) { r.open(1, 1, 0xff, 0xff, 0xff) }},
		{"silence instead of Attach", func(r *rawClient) { r.open(1, 1) }},
		{"no signalling stream", func(r *rawClient) { r.attach(wire.Attach{Epoch: 1}) }},
		{"signalling of an unknown type", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling().Write(frame(0x7f))
		}},
		{"a server's frame", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling().Write(wire.PhoneState{Phone: 1}.Append(nil))
		}},
		{"oversized signalling", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling().Write([]byte{byte(wire.TypeSIP), 1, 0, 4})
		}},
		{"ack of what was never sent", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling().Write(wire.Ack{Received: 1}.Append(nil))
		}},
		{"broken Bye", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.control.Write(frame(wire.TypeBye, 0))
		}},
		{"oversized media", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling()
			r.open(3, 0x7f, 0xff)
		}},
		{"the end of the media stream", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling()
			r.open(3).Close()
		}},
		{"useless streams without end", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling()
			for !r.ys.IsClosed() { // those beyond the backlog are not counted
				stream, err := r.ys.OpenStream()
				if err != nil {
					return
				}
				stream.Write([]byte{9})
			}
		}},
		{"streams without a type", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling()
			for !r.ys.IsClosed() {
				if _, err := r.ys.OpenStream(); err != nil {
					return
				}
			}
		}},
		{"pings without end", func(r *rawClient) {
			r.attach(wire.Attach{Epoch: 1})
			r.signalling()
			for range 2 * pingBurst {
				if _, err := r.ys.Ping(); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := ts.raw(t)
			test.do(r)
			r.gone()
		})
	}
	t.Cleanup(check)
}

// relays returns how many relays are open in all sessions.
func (ts *testServer) relays() (n int) {
	for _, info := range ts.Sessions() {
		n += info.Relays
	}
	return n
}

// TestTolerated does what is odd but no reason to end a connection.
func TestTolerated(t *testing.T) {
	ts := newTestServer(t, nil)
	r := ts.raw(t)
	r.attach(wire.Attach{Epoch: 1, Software: strings.Repeat("x", 255)})
	down := ts.session()
	signalling := r.signalling()
	signalling.Write(wire.OpenRelay{Channel: 9}.Append(nil))
	until(t, func() bool { return ts.relays() == 1 }) // it is the one
	r.control.Write([]byte{0x7f, 0, 0, 1, 0})         // a control frame of the future
	r.open(9)                                         // a stream of the future
	r.open(2)                                         // a second signalling stream
	r.open(3, 0, 1, 0, 0, 0, 1, 'x')                  // media of nobody: the handler knows
	expect(t, down.media, "1 false x")
	r.open(3)                                                              // a second media stream
	signalling.Write(wire.ClosePhone{}.Append(nil))                        // nobody's place
	signalling.Write(wire.CloseRelay{}.Append(nil))                        // nobody's relay
	signalling.Write(wire.Ack{}.Append(nil))                               // no news
	signalling.Write(wire.SIP{Phone: 1, Message: []byte("x")}.Append(nil)) // nobody's message
	open := wire.OpenPhone{Phone: 1, Key: "k"}.Append(nil)
	for i := range open { // byte by byte
		signalling.Write(open[i : i+1])
	}
	expect(t, down.events, "attached")
	expect(t, down.events, `open 1 k ""`)
	for name, want := range map[string]uint64{
		"tunnel.ignored.control_frame":            1,
		"tunnel.stream_refused.unknown_type":      1,
		"tunnel.stream_refused.second_signalling": 1,
		"tunnel.stream_refused.second_media":      1,
		"sip.dropped.unknown_phone":               1,
	} {
		until(t, func() bool { return ts.counters.Snapshot()[name] == want })
	}
}

// TestStalledPeer fills the connection of a client that does not read any
// more. Everybody else is served, and so is the handler that fills it.
func TestStalledPeer(t *testing.T) {
	ts := newTestServer(t, nil)
	check := bystander(t, ts)
	r := ts.raw(t)
	r.attach(wire.Attach{Epoch: 1})
	down := ts.session()
	signalling := r.signalling()
	signalling.Write(wire.OpenRelay{Channel: 1}.Append(nil))
	until(t, func() bool { return ts.relays() == 1 })
	media := r.open(3)
	// Nothing is read from the media stream: its window closes, then nothing
	// moves. The rest of this client's connection works on.
	packet := make([]byte, 1200)
	start := time.Now()
	for range 5000 {
		down.s.SendMedia(1, false, packet)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("SendMedia of a stalled stream: %v for 5,000 packets", took)
	}
	until(t, func() bool {
		down.s.SendMedia(1, false, packet)
		return ts.counters.Snapshot()["media.dropped.queue_full"] > 0
	})
	down.s.SendSIP(1, []byte("still here"))
	for {
		kind, body, _, err := wire.ReadFrame(signalling, make([]byte, 4096), wire.MaxBody)
		if err != nil {
			t.Fatal(err)
		}
		if kind == wire.TypeSIP {
			if !bytes.HasSuffix(body, []byte("still here")) {
				t.Errorf("%q", body)
			}
			break
		}
	}
	check()
	media.Close()
}

// TestFrameGuard feeds frames byte by byte and counts what passes.
func TestFrameGuard(t *testing.T) {
	header := func(kind, flags byte, length uint32) []byte {
		b := []byte{0, kind, 0, flags, 0, 0, 0, 1, 0, 0, 0, 0}
		binary.BigEndian.PutUint32(b[8:], length)
		return b
	}
	now := time.Unix(1e9, 0)
	clock := func() time.Time { return now }
	var g frameGuard
	// A body that looks like pings is a body.
	body := bytes.Repeat(header(yamuxPing, yamuxSYN, 0), 1000)
	stream := append(header(yamuxData, 0, uint32(len(body))), body...)
	for i := range stream {
		if err := g.pass(stream[i:i+1], clock); err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	ping := header(yamuxPing, yamuxSYN, 7)
	for i := range pingBurst {
		if err := g.pass(ping, clock); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
	}
	if err := g.pass(ping, clock); err == nil {
		t.Error("one ping too many passed")
	}
	now = now.Add(10 * pingRefill)
	if err := g.pass(ping, clock); err != nil {
		t.Errorf("a second later: %v", err)
	}
	// Window updates with a length have no body; answers do not count.
	for range 10 * streamBurst {
		if err := g.pass(append(header(yamuxWindowUpdate, 0, 1000), header(yamuxPing, 2, 1000)...), clock); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	for range streamBurst + 1 {
		err = g.pass(header(yamuxWindowUpdate, yamuxSYN, 0), clock)
	}
	if err == nil {
		t.Error("too many streams passed")
	}
	now = now.Add(streamRefill)
	for i := range 2 * streamBurst { // now and then
		now = now.Add(streamRefill)
		if err := g.pass(header(yamuxWindowUpdate, yamuxSYN, 0), clock); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
}

func TestThrottledClientIsTold(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(func(c *ClientConfig) { c.Password = auth.NewPassword([]byte("wrong horse battery")) })
	until(t, func() bool { return strings.Contains(c.failure(), "too many failed attempts") })
}
