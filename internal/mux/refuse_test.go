package mux

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// failure waits for the client's first failed attempt.
func (h *testClient) failure() string {
	h.t.Helper()
	for {
		if e := receive(h.t, h.events, "a failure"); strings.HasPrefix(e, "failed") {
			return e
		}
	}
}

func TestRefusals(t *testing.T) {
	ts := newTestServer(t, nil)
	plain := listen(t, func(conn net.Conn) { io.WriteString(conn, "SSH-2.0-OpenSSH_10.0\r\n"); io.Copy(io.Discard, conn) })
	web := listen(t, func(conn net.Conn) {
		c := serverTLS(ts.config.Certificate)
		c.NextProtos = nil
		tls.Server(conn, c).Handshake()
		io.Copy(io.Discard, conn)
	})
	newer := listen(t, func(conn net.Conn) {
		c := serverTLS(ts.config.Certificate)
		c.NextProtos = []string{"siptunnel/2"}
		tls.Server(conn, c).Handshake()
	})
	hangUp := listen(t, func(net.Conn) {})
	impostor := newTestServer(t, func(c *ServerConfig) { // another key and another password
		var err error
		if c.Store, err = auth.OpenStore(filepath.Join(t.TempDir(), "credentials")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Store.Add("office", ""); err != nil {
			t.Fatal(err)
		}
	})

	for _, test := range []struct {
		name   string
		change func(*ClientConfig)
		want   error
		again  bool
	}{
		{"wrong password", func(c *ClientConfig) { c.Password = auth.NewPassword([]byte("wrong horse battery")) }, auth.ErrRefused, true},
		{"wrong name", func(c *ClientConfig) { c.Name = "nobody" }, auth.ErrRefused, true},
		{"changed key", func(c *ClientConfig) { c.Server = impostor.addr }, ErrKeyChanged, false},
		{"impostor, no pin", func(c *ClientConfig) { c.Server, c.Pin = impostor.addr, "" }, auth.ErrRefused, true},
		{"no TLS", func(c *ClientConfig) { c.Server = plain }, ErrNotTunneld, true},
		{"no ALPN", func(c *ClientConfig) { c.Server = web }, ErrNotTunneld, true},
		{"other version", func(c *ClientConfig) { c.Server = newer }, ErrVersion, true},
		{"hang up", func(c *ClientConfig) { c.Server = hangUp }, ErrUnreachable, true},
		{"nobody", func(c *ClientConfig) { c.Server = closedPort(t) }, ErrUnreachable, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := ts.client(test.change)
			defer c.Close()
			e := c.failure()
			if want := test.want.Error(); !strings.Contains(e, want) {
				t.Errorf("got  %s\nwant %s", e, want)
			}
			if again := strings.HasPrefix(e, "failed, again true"); again != test.again {
				t.Errorf("tries again: %t", again)
			}
		})
	}
	if n := ts.counters.Snapshot()["auth.refused.wrong_password"]; n == 0 {
		t.Error("wrong passwords were not counted")
	}
}

// listen serves connections one by one on a loopback port until the test ends.
func listen(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			serve(conn)
			conn.Close()
		}
	}()
	return ln.Addr().String()
}

func closedPort(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestPinnedAfterSuccess(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(func(c *ClientConfig) { c.Pin = "" })
	for {
		e := receive(t, c.events, "the pin")
		if strings.HasPrefix(e, "attached") {
			t.Fatal("attached before the pin was told")
		}
		if e == "pinned "+ts.pin {
			break
		}
	}
	c.connected(false)
	if c.Pin() != ts.pin {
		t.Errorf("Pin: %q", c.Pin())
	}
}

func TestRevocation(t *testing.T) {
	ts := newTestServer(t, nil)
	ts.store.OnRevoke = func(name string) { ts.CloseCredential(name, errors.New("revoked")) }
	c := ts.client(nil)
	c.connected(false)
	down := ts.session()
	start := time.Now()
	if err := ts.store.Revoke("office"); err != nil {
		t.Fatal(err)
	}
	for {
		if e := receive(t, c.events, "the end"); strings.HasPrefix(e, "lost: ") {
			if !strings.Contains(e, wire.CodeRevoked.String()) {
				t.Errorf("event %q", e)
			}
			break
		}
	}
	for receive(t, down.events, "the end") != "closed: revoked" {
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
	if e := c.failure(); !strings.Contains(e, auth.ErrRefused.Error()) {
		t.Errorf("then %q", e)
	}
}

// TestRevocationOfDeafClient revokes the credential of a client that does not
// read, with the server's socket full.
func TestRevocationOfDeafClient(t *testing.T) {
	ts := newTestServer(t, nil)
	r := ts.raw(t)
	r.attach(wire.Attach{Epoch: 1})
	down := ts.session()
	r.signalling()
	for range 900 {
		down.s.SendSIP(1, make([]byte, 1000))
	}
	start := time.Now()
	ts.CloseCredential("office", errors.New("revoked"))
	for receive(t, down.events, "the end") != "closed: revoked" {
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestRefusedByHandler(t *testing.T) {
	ts := newTestServer(t, nil)
	ts.refuse = errors.New("not today")
	c := ts.client(nil)
	e := c.failure()
	if !strings.Contains(e, wire.CodeUnavailable.String()) || strings.Contains(e, "not today") {
		t.Errorf("got %s", e)
	}
}

func TestFailuresOfPhones(t *testing.T) {
	ts := newTestServer(t, func(c *ServerConfig) { c.Limits.Phones, c.Limits.Relays = 2, 1 })
	c := ts.client(nil)
	up := c.connected(false)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { up.OpenPhone(3, "full", nil) }, "phone 3: the server refused: a limit of the server is reached (no free port)"},
		{func() { up.OpenPhone(4, "broken", nil) }, "phone 4: the server refused: not available (see the server's log)"},
		{func() { up.OpenPhone(4, "alice", nil) }, "phone 4: the server refused: already in use in this session (ids must grow)"},
		{func() { up.OpenPhone(5, "alice", nil) }, "phone 5 127.0.0.1:6005"},
		{func() { up.OpenPhone(6, "alice", nil) }, "phone 6: the server refused: already in use in this session"},
		{func() { up.OpenPhone(7, "bob", nil) }, "phone 7 127.0.0.1:6007"},
		{func() { up.OpenPhone(8, "carol", nil) }, "phone 8: the server refused: a limit of the server is reached (at most 2 in a session)"},
		{func() { up.ClosePhone(5); up.OpenPhone(9, "alice", nil) }, "phone 9 127.0.0.1:6009"},
		{func() { up.OpenRelay(1) }, "relay 1 127.0.0.1:50002"},
		{func() { up.OpenRelay(2) }, "relay 2: the server refused: a limit of the server is reached (at most 1 in a session)"},
		{func() { up.CloseRelay(1); up.OpenRelay(3) }, "relay 3 127.0.0.1:50006"},
	} {
		step.do()
		expect(t, c.events, step.want)
	}
	up.SendSIP(8, []byte("nobody's"))
	up.SendSIP(9, []byte("alice's"))
	expect(t, ts.session().sip, "alice's")
	if n := ts.counters.Snapshot()["sip.dropped.unknown_phone"]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestSessionLimits(t *testing.T) {
	ts := newTestServer(t, func(c *ServerConfig) { c.Limits.SessionsPerCredential = 2 })
	a, b := ts.client(nil), ts.client(nil)
	a.connected(false)
	b.connected(false)
	c := ts.client(nil)
	if e := c.failure(); !strings.Contains(e, wire.CodeLimit.String()) {
		t.Errorf("got %s", e)
	}
	// A session that nobody uses makes room.
	a.redirect("")
	a.cut()
	until(t, func() bool {
		infos := ts.Sessions()
		return !infos[0].Attached || !infos[1].Attached
	})
	d := ts.client(nil)
	d.connected(false)
	if n := len(ts.Sessions()); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// rawClient is a client that does what a test wants it to do.
type rawClient struct {
	t       *testing.T
	conn    net.Conn
	ys      *yamux.Session
	control *yamux.Stream
}

// raw makes an authenticated connection.
func (ts *testServer) raw(t *testing.T) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", ts.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	secure := tls.Client(conn, clientTLS(ts.pin))
	if err := clientHandshake(t.Context(), secure); err != nil {
		t.Fatal(err)
	}
	b, err := binding(secure)
	if err != nil {
		t.Fatal(err)
	}
	if err := auth.Authenticate(secure, "office", ts.password, b); err != nil {
		t.Fatal(err)
	}
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	ys, err := yamux.Client(secure, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ys.Close() })
	return &rawClient{t: t, conn: conn, ys: ys}
}

// open opens a stream that starts with b.
func (r *rawClient) open(b ...byte) *yamux.Stream {
	r.t.Helper()
	stream, err := r.ys.OpenStream()
	if err != nil {
		r.t.Fatal(err)
	}
	// yamux tells of the opening before the bytes: a server that does not like them may
	// have closed the connection by the time that Write is through.
	if _, err := stream.Write(b); err != nil && !errors.Is(err, yamux.ErrSessionShutdown) {
		r.t.Fatal(err)
	}
	return stream
}

func (r *rawClient) attach(m wire.Attach) wire.Attached {
	r.t.Helper()
	r.control = r.open(m.Append([]byte{byte(wire.StreamControl)})...)
	body := r.read(r.control, wire.TypeAttached)
	attached, err := wire.ParseAttached(body)
	if err != nil {
		r.t.Fatal(err)
	}
	return attached
}

func (r *rawClient) signalling() *yamux.Stream { return r.open(byte(wire.StreamSignalling)) }

// read reads a frame, which must be of the wanted type.
func (r *rawClient) read(stream *yamux.Stream, want wire.Type) []byte {
	r.t.Helper()
	stream.SetReadDeadline(time.Now().Add(testTimeout))
	got, body, _, err := wire.ReadFrame(stream, make([]byte, wire.MaxControl), wire.MaxBody)
	if err != nil || got != want {
		r.t.Fatalf("got %v, %v, want %v", got, err, want)
	}
	return body
}

// gone waits until the server has closed the connection.
func (r *rawClient) gone() {
	r.t.Helper()
	receive(r.t, r.ys.CloseChan(), "the end of the connection")
}
