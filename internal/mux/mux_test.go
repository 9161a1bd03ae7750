package mux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/counter"
)

const testTimeout = 60 * time.Second

// testServer is a Server on a loopback port whose sessions are testSessions.
type testServer struct {
	*Server
	t        testing.TB
	addr     string
	store    *auth.Store
	password *auth.Password
	pin      string
	counters *counter.Set
	sessions chan *testSession // every new one
	refuse   error             // of NewSession
	served   chan error
}

// testSession is the SessionHandler of the tests.
type testSession struct {
	s       *Session
	phones  map[uint32]string // owned by the signalling
	sip     chan string
	media   chan string
	events  chan string
	onSIP   func(phone uint32, msg string) // nil: to the channel
	onMedia func(channel uint32, rtcp bool, packet []byte)
}

func (h *testSession) event(format string, args ...any) { h.events <- fmt.Sprintf(format, args...) }

func (h *testSession) OpenPhone(id uint32, key string, state []byte) (netip.AddrPort, error) {
	switch key {
	case "full":
		return netip.AddrPort{}, &FailedError{Code: 6, Text: "no free port"}
	case "broken":
		return netip.AddrPort{}, errors.New("the path of a file")
	}
	h.phones[id] = key
	h.event("open %d %s %q", id, key, state)
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 6000+uint16(id)), nil
}

func (h *testSession) ClosePhone(id uint32) { h.event("close %d", id) }

func (h *testSession) OpenRelay(channel uint32) (netip.AddrPort, error) {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 50000+2*uint16(channel)), nil
}

func (h *testSession) CloseRelay(channel uint32) { h.event("close relay %d", channel) }

func (h *testSession) SIP(phone uint32, msg []byte) {
	if h.onSIP != nil {
		h.onSIP(phone, string(msg))
		return
	}
	h.sip <- string(msg)
}

func (h *testSession) Media(channel uint32, rtcp bool, packet []byte) {
	if h.onMedia != nil {
		h.onMedia(channel, rtcp, packet)
		return
	}
	select {
	case h.media <- fmt.Sprintf("%d %t %s", channel, rtcp, packet):
	default:
	}
}

func (h *testSession) Attached()             { h.event("attached") }
func (h *testSession) Detached(reason error) { h.event("detached: %v", reason) }
func (h *testSession) Closed(reason error)   { h.event("closed: %v", reason) }

func (ts *testServer) NewSession(s *Session) (SessionHandler, error) {
	if ts.refuse != nil {
		return nil, ts.refuse
	}
	h := &testSession{
		s: s, phones: make(map[uint32]string),
		sip: make(chan string, 4096), media: make(chan string, 4096), events: make(chan string, 4096),
	}
	ts.sessions <- h
	return h, nil
}

func testLogger(t testing.TB) *zap.Logger {
	if testing.Verbose() {
		return zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	return zap.NewNop()
}

// officeCredential is a credential store with the credential "office". Deriving
// keys takes so long, by intention, that all tests share one.
type officeCredential struct {
	file     []byte
	password *auth.Password
	err      error
}

var office = sync.OnceValue(func() (o officeCredential) {
	dir, err := os.MkdirTemp("", "mux-test")
	if err != nil {
		return officeCredential{err: err}
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "credentials")
	store, err := auth.OpenStore(path)
	if err != nil {
		return officeCredential{err: err}
	}
	secret, err := store.Add("office", "")
	if err != nil {
		return officeCredential{err: err}
	}
	o.password = auth.NewPassword([]byte(secret))
	o.file, o.err = os.ReadFile(path)
	return o
})

// newTestServer starts a server with one credential, "office". change may
// alter its configuration.
func newTestServer(t testing.TB, change func(*ServerConfig)) *testServer {
	t.Helper()
	o := office()
	if o.err != nil {
		t.Fatal(o.err)
	}
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, o.file, 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := auth.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	ts := &testServer{t: t, store: store, password: o.password, counters: new(counter.Set), sessions: make(chan *testSession, 16), served: make(chan error, 1)}
	cert, pin, err := NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	ts.pin = pin
	c := ServerConfig{
		Certificate: cert, Store: store, Throttle: new(auth.Throttle), Handler: ts,
		Domain: "pbx.example.com", PBX: netip.MustParseAddrPort("127.0.0.1:5060"), Software: "test server",
		Counters: ts.counters, Logger: testLogger(t),
	}
	if change != nil {
		change(&c)
	}
	ts.Server = NewServer(c)
	ts.start("127.0.0.1:0")
	t.Cleanup(func() { ts.stop() })
	return ts
}

func (ts *testServer) start(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		ts.t.Fatal(err)
	}
	ts.addr = ln.Addr().String()
	go func() { ts.served <- ts.Serve(ln) }()
}

func (ts *testServer) stop() {
	ts.Close()
	if ts.served != nil {
		if err := <-ts.served; err != nil {
			ts.t.Errorf("Serve: %v", err)
		}
		ts.served = nil
	}
}

func (ts *testServer) session() *testSession { return receive(ts.t, ts.sessions, "a new session") }

// receive returns what comes out of ch, or fails the test.
func receive[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(testTimeout):
		t.Fatalf("timed out waiting for %s", what)
		panic("unreachable")
	}
}

// expect fails the test unless the next thing out of ch is want.
func expect(t testing.TB, ch <-chan string, want string) {
	t.Helper()
	if got := receive(t, ch, fmt.Sprintf("%q", want)); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// testClient is a Client whose calls arrive as strings.
type testClient struct {
	*Client
	t       testing.TB
	events  chan string
	sip     chan string
	media   chan string
	current chan *ClientSession // every time one is attached
	onMedia func(channel uint32, rtcp bool, packet []byte)

	mu    sync.Mutex
	conns []net.Conn // made so far
	deny  bool       // no more
	addr  string     // instead of the configured one
}

// dial is the ClientConfig's Dial.
func (h *testClient) dial(ctx context.Context, network, address string) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deny {
		return nil, errors.New("no route")
	}
	if h.addr != "" {
		address = h.addr
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		h.conns = append(h.conns, conn)
	}
	return conn, err
}

// redirect makes later connections go to another address, or nowhere.
func (h *testClient) redirect(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addr, h.deny = addr, addr == ""
}

func (h *testClient) Attached(s *ClientSession, resumed bool) {
	select {
	case h.current <- s:
	default: // a test that does not look
	}
	h.events <- fmt.Sprintf("attached %t", resumed)
}
func (h *testClient) Detached(s *ClientSession, err error) { h.events <- "detached" }
func (h *testClient) Lost(s *ClientSession, err error)     { h.events <- fmt.Sprintf("lost: %v", err) }
func (h *testClient) Failed(err error, retry time.Time) {
	h.events <- fmt.Sprintf("failed, again %t: %v", !retry.IsZero(), err)
}
func (h *testClient) Pinned(pin string) { h.events <- "pinned " + pin }
func (h *testClient) PhoneOpened(phone uint32, addr netip.AddrPort) {
	h.events <- fmt.Sprintf("phone %d %v", phone, addr)
}
func (h *testClient) PhoneFailed(phone uint32, err error) {
	h.events <- fmt.Sprintf("phone %d: %v", phone, err)
}
func (h *testClient) PhoneState(phone uint32, state []byte) {
	h.events <- fmt.Sprintf("state %d %s", phone, state)
}
func (h *testClient) RelayOpened(channel uint32, addr netip.AddrPort) {
	h.events <- fmt.Sprintf("relay %d %v", channel, addr)
}
func (h *testClient) RelayFailed(channel uint32, err error) {
	h.events <- fmt.Sprintf("relay %d: %v", channel, err)
}
func (h *testClient) SIP(phone uint32, msg []byte) { h.sip <- string(msg) }
func (h *testClient) Media(channel uint32, rtcp bool, packet []byte) {
	if h.onMedia != nil {
		h.onMedia(channel, rtcp, packet)
		return
	}
	select {
	case h.media <- fmt.Sprintf("%d %t %s", channel, rtcp, packet):
	default:
	}
}

// cut closes the present connection under the client's feet.
func (h *testClient) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[len(h.conns)-1].Close()
}

func (ts *testServer) client(change func(*ClientConfig)) *testClient {
	h := &testClient{
		t: ts.t, events: make(chan string, 4096), sip: make(chan string, 4096), media: make(chan string, 4096),
		current: make(chan *ClientSession, 64),
	}
	c := ClientConfig{
		Server: ts.addr, Name: "office", Password: ts.password, Pin: ts.pin,
		Software: "test client", Handler: h, Counters: ts.counters,
		Dial:    h.dial,
		backoff: backoff{first: 2 * time.Millisecond, max: 50 * time.Millisecond, refused: 10 * time.Millisecond, refusedTo: 50 * time.Millisecond},
	}
	if change != nil {
		change(&c)
	}
	h.Client = NewClient(c)
	ts.t.Cleanup(func() { h.Client.Close() })
	return h
}

// connected waits for the client's next attachment.
func (h *testClient) connected(resumed bool) *ClientSession {
	h.t.Helper()
	want := fmt.Sprintf("attached %t", resumed)
	for {
		if e := receive(h.t, h.events, want); e == want {
			return receive(h.t, h.current, "the session")
		} else if e == fmt.Sprintf("attached %t", !resumed) {
			h.t.Fatalf("got %q, want %q", e, want)
		}
	}
}

func TestSession(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	expect(t, down.events, "attached")
	if up.ID() != down.s.ID() || up.Domain() != "pbx.example.com" || up.PBX() != netip.MustParseAddrPort("127.0.0.1:5060") || up.Software() != "test server" {
		t.Errorf("session %q %q %v %q", up.ID(), up.Domain(), up.PBX(), up.Software())
	}

	up.OpenPhone(1, "alice", []byte("state"))
	expect(t, down.events, `open 1 alice "state"`)
	expect(t, c.events, "phone 1 127.0.0.1:6001")
	up.SendSIP(1, []byte("REGISTER"))
	expect(t, down.sip, "REGISTER")
	down.s.SendSIP(1, []byte("200"))
	expect(t, c.sip, "200")
	down.s.SavePhoneState(1, []byte("new state"))
	expect(t, c.events, "state 1 new state")

	up.OpenRelay(1)
	expect(t, c.events, "relay 1 127.0.0.1:50002")
	// The stream is opened behind the scenes, and media is lost until then.
	until(t, func() bool {
		up.SendMedia(1, false, []byte("up"))
		select {
		case got := <-down.media:
			return got == "1 false up"
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
	down.s.SendMedia(1, true, []byte("down"))
	expect(t, c.media, "1 true down")

	infos := ts.Sessions()
	if len(infos) != 1 || infos[0].Phones != 1 || infos[0].Relays != 1 || !infos[0].Attached || infos[0].Software != "test client" || infos[0].BytesIn == 0 {
		t.Errorf("Sessions: %+v", infos)
	}

	up.CloseRelay(1)
	expect(t, down.events, "close relay 1")
	up.ClosePhone(1)
	expect(t, down.events, "close 1")
	c.Close()
	if e := receive(t, down.events, "the end"); e != "detached: the other end closed the session: it is stopping" {
		t.Errorf("event %q", e)
	}
	expect(t, down.events, "closed: the other end closed the session: it is stopping")
	if n := len(ts.Sessions()); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// until repeats f until it is true or the test's patience ends.
func until(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !f(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out")
		}
	}
}

// TestNothingIsLeft closes servers and clients in all states and expects every
// goroutine to be gone when Close returns.
func TestNothingIsLeft(t *testing.T) {
	office() // whatever deriving keys starts
	before := runtime.NumGoroutine()
	for range 5 {
		ts := newTestServer(t, nil)
		a, b, lonely := ts.client(nil), ts.client(nil), ts.client(func(c *ClientConfig) { c.Server = "127.0.0.1:1" })
		up := a.connected(false)
		b.connected(false)
		up.OpenRelay(1)
		receive(t, a.events, "a relay")
		conn, err := net.Dial("tcp", ts.addr) // never says a word
		if err != nil {
			t.Fatal(err)
		}
		b.redirect("")
		b.cut()
		a.Close()
		ts.stop()
		lonely.Close()
		b.Close()
		conn.Close()
	}
	// yamux's own goroutines end a moment after its Close.
	for deadline := time.Now().Add(testTimeout); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, %d after\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}
