package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/tunnel"
)

const patience = 60 * time.Second

// server is a tunnel server on a loopback port that answers everything: SIP
// and media come back, in brackets.
type server struct {
	t      testing.TB
	config mux.ServerConfig
	secret string
	pin    string
	addr   string

	mux    *mux.Server
	served chan error

	mu     sync.Mutex
	shift  int               // added to the ports of phones
	refuse string            // key that is refused
	opened map[string]string // state by key, of the last opening
	last   *session
}

type session struct {
	srv *server
	*mux.Session
}

func newServer(t testing.TB) *server {
	t.Helper()
	store, err := auth.OpenStore(filepath.Join(t.TempDir(), "credentials"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := store.Add("office", "")
	if err != nil {
		t.Fatal(err)
	}
	cert, pin, err := mux.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, secret: secret, pin: pin, opened: make(map[string]string)}
	s.config = mux.ServerConfig{
		Certificate: cert, Store: store, Throttle: new(auth.Throttle), Handler: s,
		Domain: "pbx.example.com", PBX: netip.MustParseAddrPort("127.0.0.1:5060"),
	}
	s.start("127.0.0.1:0")
	t.Cleanup(s.stop)
	return s
}

func (s *server) start(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.mux = mux.NewServer(s.config)
	s.served = make(chan error, 1)
	go func() { s.served <- s.mux.Serve(ln) }()
}

func (s *server) stop() {
	if s.mux != nil {
		s.mux.Close()
		<-s.served
		s.mux = nil
	}
}

func (s *server) NewSession(m *mux.Session) (mux.SessionHandler, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = &session{s, m}
	return s.last, nil
}

func (h *session) OpenPhone(id uint32, key string, state []byte) (netip.AddrPort, error) {
	h.srv.mu.Lock()
	defer h.srv.mu.Unlock()
	if key == h.srv.refuse {
		return netip.AddrPort{}, &mux.FailedError{Code: 6, Text: "no free port"}
	}
	h.srv.opened[key] = string(state)
	h.SavePhoneState(id, []byte("state of "+key))
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(6000+h.srv.shift+int(id))), nil
}

func (h *session) OpenRelay(channel uint32) (netip.AddrPort, error) {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(50000+2*channel)), nil
}

func (h *session) SIP(phone uint32, msg []byte) { h.SendSIP(phone, fmt.Appendf(nil, "(%s)", msg)) }
func (h *session) Media(channel uint32, rtcp bool, packet []byte) {
	h.SendMedia(channel, rtcp, fmt.Appendf(nil, "(%s)", packet))
}
func (h *session) ClosePhone(uint32) {}
func (h *session) CloseRelay(uint32) {}
func (h *session) Attached()         {}
func (h *session) Detached(error)    {}
func (h *session) Closed(error)      {}

// recorder keeps a client's events.
type recorder chan tunnel.Event

// await returns the next event of the type.
func await[E tunnel.Event](t testing.TB, r recorder) E {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case event := <-r:
			if e, ok := event.(E); ok {
				return e
			}
		case <-timeout:
			t.Fatalf("timed out waiting for %T", *new(E))
		}
	}
}

func (s *server) client(change func(*tunnel.Config)) (*tunnel.Client, recorder) {
	s.t.Helper()
	events := make(recorder, 1024)
	c := tunnel.Config{
		Server: s.addr, Name: "office", Password: s.secret, Pin: s.pin, Software: "test",
		OnEvent: func(e tunnel.Event) { events <- e },
	}
	if change != nil {
		change(&c)
	}
	client, err := tunnel.Dial(s.ctx(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { client.Close() })
	return client, events
}

func (s *server) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

// exchange writes until something comes back, as long as it takes for media to
// find its way.
func exchange(t testing.TB, conn net.PacketConn, text string) string {
	t.Helper()
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := conn.WriteTo([]byte(text), nil); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _, err := conn.ReadFrom(buf)
		if err == nil {
			return string(buf[:n])
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	t.Fatalf("no answer to %q", text)
	return ""
}

func TestClient(t *testing.T) {
	s := newServer(t)
	c, events := s.client(func(c *tunnel.Config) { c.Pin = "" })
	if e := await[tunnel.KeyPinned](t, events); e.Pin != s.pin || c.Pin() != s.pin {
		t.Errorf("pinned %q and %q, want %q", e.Pin, c.Pin(), s.pin)
	}
	if e := await[tunnel.Connected](t, events); e.Resumed || e.Server != s.addr {
		t.Errorf("%+v", e)
	}
	if !c.Up() || c.Err() != nil || c.Domain() != "pbx.example.com" {
		t.Errorf("up %t, error %v, domain %q", c.Up(), c.Err(), c.Domain())
	}

	phone, err := c.Phone(s.ctx(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	if got := phone.LocalAddr().String(); got != "127.0.0.1:6001" {
		t.Errorf("phone at %s", got)
	}
	if _, err := c.Phone(s.ctx(), "alice"); err != tunnel.ErrPhoneOpen {
		t.Errorf("the same key again: %v", err)
	}
	if n, err := phone.WriteTo([]byte("OPTIONS"), nil); n != 7 || err != nil {
		t.Error(n, err)
	}
	buf := make([]byte, 5)
	n, from, err := phone.ReadFrom(buf)
	if string(buf[:n]) != "(OPTI" || from.String() != "127.0.0.1:5060" || err != nil {
		t.Errorf("read %q from %v, %v", buf[:n], from, err)
	}

	media, err := c.Media(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if a, b := media.RTP().LocalAddr().String(), media.RTCP().LocalAddr().String(); a != "127.0.0.1:50002" || b != "127.0.0.1:50003" {
		t.Errorf("media at %s and %s", a, b)
	}
	if got := exchange(t, media.RTP(), "rtp"); got != "(rtp)" {
		t.Errorf("RTP: %q", got)
	}
	if got := exchange(t, media.RTCP(), "rtcp"); got != "(rtcp)" {
		t.Errorf("RTCP: %q", got)
	}
	delivered := make(chan string, 1)
	media.Deliver(func(rtcp bool, packet []byte) { delivered <- fmt.Sprint(rtcp, string(packet)) })
	for rtcp, conn := range map[bool]net.PacketConn{false: media.RTP(), true: media.RTCP()} {
		if _, err := conn.WriteTo([]byte("x"), nil); err != nil {
			t.Error(err)
		}
		select {
		case got := <-delivered:
			if want := fmt.Sprint(rtcp, "(x)"); got != want {
				t.Errorf("delivered %q, want %q", got, want)
			}
		case <-s.ctx().Done():
			t.Fatal("nothing was delivered")
		}
	}
	if st := c.Status(); !st.Up || st.Phones != 1 || st.Media != 1 || st.Connects != 1 || st.PBX != "127.0.0.1:5060" || st.BytesIn == 0 || st.Remote != s.addr {
		t.Errorf("%+v", st)
	}

	media.Close()
	for _, conn := range []net.PacketConn{media.RTP(), media.RTCP()} {
		if _, err := conn.WriteTo([]byte("x"), nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("WriteTo after Close: %v", err)
		}
	}
	// Reading ends when the client is closed.
	go c.Close()
	for err == nil {
		_, _, err = phone.ReadFrom(buf)
	}
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom: %v", err)
	}
	c.Close()
	if _, err := c.Phone(s.ctx(), "bob"); !errors.Is(err, tunnel.ErrClosed) {
		t.Errorf("Phone after Close: %v", err)
	}
	if _, err := c.Media(s.ctx()); !errors.Is(err, tunnel.ErrClosed) {
		t.Errorf("Media after Close: %v", err)
	}
}

// TestNewSession starts the server anew under a client with phones and media.
func TestNewSession(t *testing.T) {
	s := newServer(t)
	c, events := s.client(nil)
	var phones []*tunnel.Phone
	for i := range 40 { // more than are opened at once
		phone, err := c.Phone(s.ctx(), fmt.Sprint("phone ", i))
		if err != nil {
			t.Fatal(err)
		}
		phones = append(phones, phone)
	}
	media, err := c.Media(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if got := exchange(t, phones[0], "x"); got != "(x)" {
		t.Fatalf("got %q", got)
	}
	s.stop()
	await[tunnel.SessionLost](t, events)
	if _, _, err := media.RTP().ReadFrom(make([]byte, 10)); !errors.Is(err, tunnel.ErrSessionLost) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadFrom: %v", err)
	}
	if c.Up() || c.Err() == nil {
		t.Errorf("up %t, error %v", c.Up(), c.Err())
	}
	// What phones write now waits, within bounds.
	waiting := -1
	for err = nil; err == nil; waiting++ {
		_, err = phones[39].WriteTo([]byte("waits"), nil)
	}
	if !errors.Is(err, tunnel.ErrBacklog) {
		t.Errorf("WriteTo: %v", err)
	}

	s.shift, s.refuse = 100, "phone 7"
	s.start(s.addr)
	if e := await[tunnel.Connected](t, events); e.Resumed {
		t.Error("resumed")
	}
	moved := map[string]bool{}
	lost := ""
	for len(moved) < 39 || lost == "" {
		switch e := (<-events).(type) {
		case tunnel.PhoneMoved:
			moved[e.Phone.Key()] = true
		case tunnel.PhoneLost:
			lost = e.Phone.Key()
		}
	}
	if lost != "phone 7" {
		t.Errorf("lost %q", lost)
	}
	if _, _, err := phones[7].ReadFrom(make([]byte, 10)); err == nil {
		t.Error("a lost phone can be read")
	}
	if got := phones[39].LocalAddr().String(); got != "127.0.0.1:6140" {
		t.Errorf("phone at %s", got)
	}
	buf := make([]byte, 100)
	for range waiting {
		if n, _, err := phones[39].ReadFrom(buf); string(buf[:n]) != "(waits)" || err != nil {
			t.Fatalf("read %q, %v", buf[:n], err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.opened["phone 3"]; got != "state of phone 3" {
		t.Errorf("opened again with state %q", got)
	}
}

// TestRestorePhone: a program that was restarted brings what the server gave to the
// one before it.
func TestRestorePhone(t *testing.T) {
	s := newServer(t)
	c, _ := s.client(nil)
	phone, err := c.Phone(s.ctx(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for string(phone.State()) != "state of alice" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	state := phone.State()
	c.Close()
	again, _ := s.client(nil)
	for key, state := range map[string][]byte{"alice": state, "bob": make([]byte, 1<<20)} {
		if _, err := again.RestorePhone(s.ctx(), key, state); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened["alice"] != "state of alice" || s.opened["bob"] != "" {
		t.Errorf("opened with %q and %d bytes", s.opened["alice"], len(s.opened["bob"]))
	}
}

func TestResume(t *testing.T) {
	s := newServer(t)
	var lock sync.Mutex
	var last net.Conn
	c, events := s.client(func(c *tunnel.Config) {
		c.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			lock.Lock()
			defer lock.Unlock()
			last = conn
			return conn, err
		}
	})
	phone, err := c.Phone(s.ctx(), "alice")
	if err != nil {
		t.Fatal(err)
	}
	media, err := c.Media(s.ctx())
	if err != nil {
		t.Fatal(err)
	}
	await[tunnel.Connected](t, events)
	lock.Lock()
	last.Close()
	lock.Unlock()
	await[tunnel.Disconnected](t, events)
	phone.WriteTo([]byte("while it was down"), nil)
	if e := await[tunnel.Connected](t, events); !e.Resumed {
		t.Error("not resumed")
	}
	buf := make([]byte, 100)
	if n, _, err := phone.ReadFrom(buf); string(buf[:n]) != "(while it was down)" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if got := exchange(t, media.RTP(), "rtp"); got != "(rtp)" {
		t.Errorf("RTP: %q", got)
	}
}

func TestDialErrors(t *testing.T) {
	s := newServer(t)
	good := tunnel.Config{Server: s.addr, Name: "office", Password: s.secret, Pin: s.pin}
	for _, test := range []struct {
		name   string
		change func(*tunnel.Config)
		want   error
	}{
		{"wrong password", func(c *tunnel.Config) { c.Password = "wrong horse battery" }, tunnel.ErrRefused},
		{"changed key", func(c *tunnel.Config) { c.Pin = strings.Repeat("A", 43) }, tunnel.ErrKeyChanged},
		{"unreachable", func(c *tunnel.Config) { c.Server = "127.0.0.1:1" }, tunnel.ErrUnreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := good
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			client, err := tunnel.Dial(ctx, c)
			if !errors.Is(err, test.want) || client != nil {
				t.Errorf("Dial: %v", err)
			}
		})
	}
	for _, change := range []func(*tunnel.Config){
		func(c *tunnel.Config) { c.Server = "host" },
		func(c *tunnel.Config) { c.Name = "UPPER" },
		func(c *tunnel.Config) { c.Password = "" },
		func(c *tunnel.Config) { c.Pin = "short" },
	} {
		c := good
		change(&c)
		if _, err := tunnel.New(c); err == nil {
			t.Errorf("New(%v) did not complain", c)
		}
	}
}

func TestThrottled(t *testing.T) {
	s := newServer(t)
	for range 100 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var throttled *tunnel.ThrottledError
		events := make(recorder, 16)
		c, err := tunnel.New(tunnel.Config{Server: s.addr, Name: "office", Password: "wrong horse battery", OnEvent: func(e tunnel.Event) { events <- e }})
		if err != nil {
			t.Fatal(err)
		}
		e := await[tunnel.Refused](t, events)
		c.Close()
		cancel()
		if errors.As(e.Err, &throttled) {
			if throttled.RetryAfter <= 0 {
				t.Errorf("retry after %v", throttled.RetryAfter)
			}
			return
		}
		_ = ctx
	}
	t.Error("nobody was throttled")
}

// TestSecretsStayInside formats what people put into logs.
func TestSecretsStayInside(t *testing.T) {
	link, err := tunnel.ParseLink(" siptunnel://office:correct-horse@host.example:5090#" + strings.Repeat("A", 43) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if link.Secret != "correct-horse" || link.Config().Password != "correct-horse" || link.Config().Pin == "" {
		t.Error("the link lost something")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, v := range []any{link, &link, link.Config()} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, "correct-horse") || strings.Contains(text, "636f72726563742d686f727365") {
				t.Errorf("%s of %T shows %s", verb, v, text)
			}
		}
	}
	if _, err := tunnel.ParseLink("siptunnel://office:correct-horse@"); err == nil || strings.Contains(err.Error(), "correct-horse") {
		t.Errorf("ParseLink: %v", err)
	}
}

func TestWaitingEndsWithContext(t *testing.T) {
	c, err := tunnel.New(tunnel.Config{Server: "127.0.0.1:1", Name: "office", Password: "correct horse"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Phone(ctx, "alice"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Phone: %v", err)
	}
	if _, err := c.Media(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Media: %v", err)
	}
	if n := c.Status().Phones; n != 0 {
		t.Errorf("%d phones are left", n)
	}
	if _, err := c.Phone(ctx, ""); err == nil {
		t.Error("an empty key was taken")
	}
}
