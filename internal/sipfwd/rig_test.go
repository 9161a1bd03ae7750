package sipfwd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// rig is both halves of the proxy joined by a tunnel that is a pair of Go
// channels; phones and PBX are sockets on loopback that a test scripts.
type rig struct {
	t        testing.TB
	lan      *LANSide
	pbx      *PBXSide
	ports    *PhonePorts
	pbxSock  *agent
	targets  *fakePBX
	proxy    netip.AddrPort // of the office, UDP and TCP
	secure   netip.AddrPort // the same for TLS
	tunnel   *fakeTunnel
	media    *fakeMedia
	events   *recordedEvents
	counters *counter.Set
	links    sync.Map // hardware addresses by netip.Addr, where phones have any

	phonePort uint16 // see place
}

const testDomain = "pbx.example"

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigOver(t, "UDP")
}

// newRigOver has the PBX reached over transport.
func newRigOver(t testing.TB, transport string) *rig {
	t.Helper()
	return newRigTrusting(t, transport, &tls.Config{InsecureSkipVerify: true})
}

func newRigTrusting(t testing.TB, transport string, trusted *tls.Config) *rig {
	t.Helper()
	r := &rig{t: t, counters: new(counter.Set), events: &recordedEvents{}}
	r.pbxSock = newListeningAgent(t, transport)
	r.targets = &fakePBX{targets: []netip.AddrPort{r.pbxSock.addr()}}
	r.media = &fakeMedia{relays: make(map[netip.AddrPort]*fakeRelay)}
	var secured *tls.Config
	if transport == "TLS" {
		secured = testTLS()
	}
	var err error
	r.ports, err = OpenPhonePorts(PhonePortsConfig{
		Addr: netip.MustParseAddr("127.0.0.1"), Low: 26000, High: 26999,
		IsPBX:    func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") },
		Counters: r.counters, StateFile: t.TempDir() + "/ports.json",
		Transport: transport, ServerTLS: secured,
		ClientTLS: func(netip.AddrPort) *tls.Config { return trusted },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.tunnel = &fakeTunnel{conns: make(map[uint32]*fakePhoneConn), state: make(map[uint32][]byte)}
	r.tunnel.up.Store(true)
	r.newSession()
	r.lan = NewLANSide(LANSideConfig{
		LANAddress: netip.MustParseAddr("127.0.0.1"), Tunnel: r.tunnel, Allocate: r.media.allocate,
		Counters: r.counters, Events: r.events, Neighbour: r.neighbour,
	})
	udp, ln := listenBoth(t)
	r.proxy = addrPort(udp.LocalAddr())
	r.serve(udp, ln)
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.secure = addrPort(secure.Addr())
	go r.lan.ServeTLS(secure, testTLS())
	t.Cleanup(func() {
		r.lan.Close()
		r.pbx.Close()
		r.ports.Close()
		if t.Failed() {
			t.Log(r.counters.Snapshot())
		}
	})
	return r
}

func (r *rig) serve(udp *net.UDPConn, ln net.Listener) {
	go r.lan.ServeUDP(udp)
	go r.lan.ServeTCP(ln)
}

func (r *rig) neighbour(a netip.Addr) string {
	link, _ := r.links.Load(a)
	s, _ := link.(string)
	return s
}

func listenBoth(t testing.TB) (*net.UDPConn, net.Listener) {
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addrPort(ln.Addr())))
		if err == nil {
			return udp, ln
		}
		ln.Close()
	}
	t.Fatal("no port is free for UDP and TCP at once")
	return nil, nil
}

func (r *rig) newSession() {
	r.pbx = NewPBXSide(PBXSideConfig{
		Credential: "office", PBX: r.targets, Ports: r.ports,
		Send: r.tunnel.down, SaveState: r.tunnel.save, Relay: r.media.relay, Counters: r.counters, Events: noEvents{},
	})
	r.tunnel.side.Store(r.pbx)
}

// fakePBX is a PBX of the targets that it is given, in order of preference.
type fakePBX struct {
	mu        sync.Mutex
	targets   []netip.AddrPort
	down      map[netip.AddrPort]bool
	suspected []netip.AddrPort
}

func (f *fakePBX) Target(tried ...netip.AddrPort) (netip.AddrPort, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.targets {
		if !f.down[t] && !slices.Contains(tried, t) {
			return t, true
		}
	}
	return f.targets[0], len(tried) == 0
}

func (f *fakePBX) Owner(from netip.AddrPort) netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.targets, from) {
		return from
	}
	return netip.AddrPort{}
}

func (f *fakePBX) Down(target netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.down[target]
}

func (f *fakePBX) Suspect(target netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.suspected = append(f.suspected, target)
}

// set says which targets do not answer.
func (f *fakePBX) set(down ...netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = make(map[netip.AddrPort]bool)
	for _, t := range down {
		f.down[t] = true
	}
}

// fakeTunnel is an in-memory tunnel.
type fakeTunnel struct {
	up    atomic.Bool
	side  atomic.Pointer[PBXSide]
	mu    sync.Mutex
	next  uint32
	conns map[uint32]*fakePhoneConn
	state map[uint32][]byte
	gate  atomic.Pointer[chan struct{}] // that OpenPhone waits for
}

func (f *fakeTunnel) Up() bool       { return f.up.Load() }
func (f *fakeTunnel) Domain() string { return testDomain }

func (f *fakeTunnel) OpenPhone(_ context.Context, key string, state []byte) (PhoneConn, error) {
	if !f.Up() {
		return nil, errors.New("down")
	}
	if gate := f.gate.Load(); gate != nil {
		<-*gate
	}
	f.mu.Lock()
	f.next++
	c := &fakePhoneConn{tunnel: f, id: f.next, key: key, in: make(chan []byte, 4096), done: make(chan struct{})}
	f.conns[c.id] = c
	f.mu.Unlock()
	at, err := f.side.Load().OpenPhone(c.id, key, state)
	c.local = at
	return c, err
}

func (f *fakeTunnel) down(phone uint32, msg []byte) {
	f.mu.Lock()
	c := f.conns[phone]
	f.mu.Unlock()
	c.in <- bytes.Clone(msg)
}

func (f *fakeTunnel) save(phone uint32, state []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[phone] = bytes.Clone(state)
}

type fakePhoneConn struct {
	net.PacketConn
	tunnel *fakeTunnel
	id     uint32
	key    string
	local  netip.AddrPort
	in     chan []byte
	done   chan struct{}
	once   sync.Once
}

func (c *fakePhoneConn) Receive(f func(msg []byte)) error {
	select {
	case msg := <-c.in:
		f(msg)
		return nil
	case <-c.done:
		return net.ErrClosed
	}
}

func (c *fakePhoneConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.tunnel.side.Load().FromTunnel(c.id, b)
	return len(b), nil
}

func (c *fakePhoneConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

func (c *fakePhoneConn) State() []byte {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	return c.tunnel.state[c.id]
}

func (c *fakePhoneConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// fakeMedia hands out media ports whose addresses can be told apart.
type fakeMedia struct {
	fail   atomic.Bool
	mu     sync.Mutex
	n      int
	ports  []*fakePort
	relays map[netip.AddrPort]*fakeRelay
}

type fakePort struct {
	lan, pbx   netip.AddrPort
	mu         sync.Mutex
	rtp, rtcp  netip.AddrPort
	signalling netip.Addr
	closed     bool
	joined     MediaPort
}

type fakeRelay struct {
	mu        sync.Mutex
	rtp, rtcp netip.AddrPort
}

func (f *fakeMedia) allocate(_ context.Context, lan netip.Addr) (MediaPort, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail.Load() {
		return nil, errors.New("no port is left")
	}
	f.n++
	if lan == netip.MustParseAddr("127.0.0.1") {
		lan = netip.MustParseAddr("127.0.0.10")
	}
	p := &fakePort{
		lan: netip.AddrPortFrom(lan, uint16(40000+2*f.n)),
		pbx: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.20"), uint16(50000+2*f.n)),
	}
	f.ports = append(f.ports, p)
	f.relays[p.pbx] = &fakeRelay{}
	return p, nil
}

func (f *fakeMedia) relay(at netip.AddrPort) (Relay, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, ok := f.relays[at]
	return r, ok
}

func (f *fakeMedia) port(i int) *fakePort {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ports[i]
}

func (p *fakePort) LAN() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lan
}
func (p *fakePort) Move(lan netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lan = netip.AddrPortFrom(lan, p.lan.Port()+1000)
	return nil
}
func (p *fakePort) PBX() netip.AddrPort { return p.pbx }
func (p *fakePort) SetPhone(rtp, rtcp netip.AddrPort, signalling netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rtp, p.rtcp, p.signalling = rtp, rtcp, signalling
}
func (p *fakePort) Join(peer MediaPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joined = peer
}
func (p *fakePort) peer() MediaPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.joined
}
func (p *fakePort) Stats() MediaStats { return MediaStats{} }
func (p *fakePort) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}
func (p *fakePort) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}
func (p *fakePort) phone() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rtp
}

func (r *fakeRelay) SetRemote(rtp, rtcp netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rtp, r.rtcp = rtp, rtcp
}
func (r *fakeRelay) Stats() MediaStats { return MediaStats{} }
func (r *fakeRelay) remote() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rtp
}

type recordedEvents struct {
	mu    sync.Mutex
	lines []string
}

func (e *recordedEvents) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}
func (e *recordedEvents) PhoneRegistered(p PhoneInfo)     { e.add("registered %s", p.AOR) }
func (e *recordedEvents) PhoneGone(p PhoneInfo, r string) { e.add("gone %s: %s", p.AOR, r) }
func (e *recordedEvents) TrunkOpened(t TrunkInfo)         { e.add("trunk %s", t.Name) }
func (e *recordedEvents) TrunkGone(t TrunkInfo, r string) { e.add("trunk %s gone: %s", t.Name, r) }
func (e *recordedEvents) CallStarted(c CallInfo)          { e.add("started %s", c.Direction) }
func (e *recordedEvents) CallEnded(c CallInfo)            { e.add("ended %s", c.Reason) }
func (e *recordedEvents) has(line string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.lines {
		if l == line {
			return true
		}
	}
	return false
}

// agent is a scripted SIP peer on UDP, TCP or TLS.
type agent struct {
	t      testing.TB
	udp    *net.UDPConn
	tcp    net.Conn
	in     *bufio.Reader
	ln     *listener // that tcp comes from, when it is needed
	framer *sipmsg.Framer
	buf    []byte
	seen   string         // the last message but 100
	from   netip.AddrPort // of the last datagram
}

// newListeningAgent is a PBX. Over TCP and TLS it has one connection at a time,
// which its peer makes.
func newListeningAgent(t testing.TB, transport string) *agent {
	t.Helper()
	if transport == "UDP" {
		return newAgent(t, "127.0.0.1:0")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &agent{t: t, ln: &listener{ln.(*net.TCPListener), transport}}
}

type listener struct {
	*net.TCPListener
	transport string
}

func (l *listener) accept(deadline time.Time) (net.Conn, error) {
	l.SetDeadline(deadline)
	conn, err := l.Accept()
	if err == nil && l.transport == "TLS" {
		conn = tls.Server(conn, testTLS())
	}
	return conn, err
}

func newAgent(t testing.TB, addr string) *agent {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &agent{t: t, udp: c}
}

func newTCPAgent(t testing.TB, to netip.AddrPort) *agent {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	return streamAgent(t, c)
}

func newTLSAgent(t testing.TB, to netip.AddrPort) *agent {
	t.Helper()
	c, err := tls.Dial("tcp", to.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	return streamAgent(t, c)
}

func streamAgent(t testing.TB, c net.Conn) *agent {
	t.Cleanup(func() { c.Close() })
	return &agent{t: t, tcp: c, in: bufio.NewReader(c)}
}

func (a *agent) transport() string {
	if a.ln != nil {
		return a.ln.transport
	}
	switch a.tcp.(type) {
	case nil:
		return "UDP"
	case *tls.Conn:
		return "TLS"
	}
	return "TCP"
}

func (a *agent) addr() netip.AddrPort {
	if a.ln != nil {
		return addrPort(a.ln.Addr())
	}
	if a.tcp != nil {
		return addrPort(a.tcp.LocalAddr())
	}
	return addrPort(a.udp.LocalAddr())
}

func (a *agent) send(to netip.AddrPort, msg string) {
	a.t.Helper()
	var err error
	if a.tcp != nil {
		_, err = a.tcp.Write([]byte(msg))
	} else {
		_, err = a.udp.WriteToUDPAddrPort([]byte(msg), to)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// next is the next message that is not a 100.
func (a *agent) next() received {
	a.t.Helper()
	for {
		m := a.any(5 * time.Second)
		if m.StatusCode() != 100 {
			return m
		}
	}
}

func (a *agent) any(wait time.Duration) received {
	a.t.Helper()
	b := a.read(wait)
	if b == nil {
		a.t.Fatal("no message came")
	}
	r := received{raw: string(b)}
	if !strings.HasPrefix(r.raw, "SIP/2.0 100 ") {
		a.seen = r.raw
	}
	if err := r.Parse(b); err != nil {
		a.t.Fatalf("%v in:\n%s", err, b)
	}
	return r
}

// silent fails the test when a message comes within d.
func (a *agent) silent(d time.Duration) {
	a.t.Helper()
	if b := a.read(d); b != nil {
		a.t.Fatalf("unexpected message:\n%s", b)
	}
}

func (a *agent) read(wait time.Duration) []byte {
	a.t.Helper()
	deadline := time.Now().Add(wait)
	if a.tcp == nil && a.ln != nil {
		c, err := a.ln.accept(deadline)
		if err != nil {
			return nil
		}
		a.t.Cleanup(func() { c.Close() })
		a.tcp, a.in = c, bufio.NewReader(c)
	}
	if a.tcp != nil {
		a.tcp.SetReadDeadline(deadline)
		if a.framer == nil {
			a.framer = sipmsg.NewFramer(a.in)
		}
		b, err := a.framer.Next()
		if err != nil {
			return nil
		}
		return bytes.Clone(b)
	}
	a.udp.SetReadDeadline(deadline)
	if a.buf == nil {
		a.buf = make([]byte, maxMessage)
	}
	n, from, err := a.udp.ReadFromUDPAddrPort(a.buf)
	if err != nil {
		return nil
	}
	a.from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	return bytes.Clone(a.buf[:n])
}

// reply answers m to where it came from.
func (a *agent) reply(m received, status string, headers ...string) {
	a.t.Helper()
	a.send(a.from, answer(m, status, headers...))
}

// received is a parsed message with its text.
type received struct {
	sipmsg.Message
	raw string
}

func (r *received) header(name string) string {
	v, _ := r.NamedValue(name)
	return string(v)
}

// answer builds a response with the headers given; the last one may be a body:
// SDP, which begins with "v=0", or anything behind "body:".
func answer(m received, status string, headers ...string) string {
	var b strings.Builder
	b.WriteString("SIP/2.0 " + status + "\r\n")
	for _, h := range m.Headers() {
		switch h.Kind {
		case sipmsg.Via, sipmsg.From, sipmsg.CallID, sipmsg.CSeq, sipmsg.RecordRoute:
			b.Write(m.Text(h.Line))
		case sipmsg.To:
			line := string(bytes.TrimRight(m.Text(h.Line), "\r\n"))
			if m.ToTag() == nil {
				line += ";tag=callee"
			}
			b.WriteString(line + "\r\n")
		}
	}
	finish(&b, headers)
	return b.String()
}

func finish(b *strings.Builder, headers []string) {
	body := ""
	for _, h := range headers {
		if strings.HasPrefix(h, "v=0") {
			body = h
			b.WriteString("Content-Type: application/sdp\r\n")
			continue
		}
		if strings.HasPrefix(h, "body:") {
			body = h[len("body:"):]
			continue
		}
		b.WriteString(h + "\r\n")
	}
	fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
}

// call describes the requests of one dialog of a test.
type call struct {
	id, from, to string // From and To values without tags
	fromTag      string
	toTag        string
	transport    string
	at           netip.AddrPort // the sender
	seq          int
	branch       string
}

func (c *call) request(method, uri string, headers ...string) string {
	c.branch = newBranch()
	if method != "ACK" && method != "CANCEL" {
		c.seq++
	}
	return c.again(method, uri, headers...)
}

// again builds a request with the branch of the last one.
func (c *call) again(method, uri string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=%s;rport\r\n", method, uri, c.transport, c.at, c.branch)
	fmt.Fprintf(&b, "From: %s;tag=%s\r\nTo: %s", c.from, c.fromTag, c.to)
	if c.toTag != "" {
		b.WriteString(";tag=" + c.toTag)
	}
	fmt.Fprintf(&b, "\r\nCall-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n", c.id, c.seq, method)
	finish(&b, headers)
	return b.String()
}

func phoneCall(t testing.TB, a *agent, from, to string) *call {
	c := &call{
		id: t.Name() + from + to, fromTag: "caller", transport: a.transport(), at: a.addr(),
		from: "<sip:" + from + "@" + testDomain + ">", to: "<sip:" + to + "@" + testDomain + ">",
	}
	return c
}

func sdpAt(at netip.AddrPort, attrs ...string) string {
	s := fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", at.Addr(), at.Addr(), at.Port())
	for _, a := range attrs {
		s += "a=" + a + "\r\n"
	}
	return s
}

// register registers user from a at the PBX and returns the Contact URI that the
// PBX was given.
func (r *rig) register(a *agent, user string) string {
	r.t.Helper()
	c := phoneCall(r.t, a, user, user)
	c.id += a.addr().String()
	contact := "<sip:" + user + "@" + a.addr().String() + ">"
	a.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: "+contact, "Expires: 600"))
	m := r.pbxSock.next()
	seen := m.header("Contact")
	r.pbxSock.reply(m, "200 OK", "Contact: "+seen+";expires=300")
	res := a.next()
	if got := res.header("Contact"); got != contact+";expires=300" {
		r.t.Fatalf("phone got Contact %q", got)
	}
	return strings.Trim(seen, "<>")
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(5 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("never: " + what)
		}
	}
}
