package sipfwd

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// testTLS is a server's configuration with a certificate that nobody verifies.
var testTLS = sync.OnceValue(func() *tls.Config {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
})

func TestPhoneOverTLS(t *testing.T) {
	r := newRig(t)
	phone := newTLSAgent(t, r.secure)
	reg := phoneCall(t, phone, "alice", "alice")
	contact := `<sips:alice@` + phone.addr().String() + `;transport=tls;x=1>`
	phone.send(r.secure, reg.request("REGISTER", "sips:"+r.secure.String(), "Route: <sips:"+r.secure.String()+";lr>", "Contact: "+contact, "Expires: 60"))
	m := r.pbxSock.next()
	if got := string(m.RequestURI()); got != "sips:"+testDomain {
		t.Errorf("Request-URI %s", got)
	}
	if m.header("Route") != "" {
		t.Errorf("Route: %s", m.header("Route"))
	}
	at := "sip:alice@" + r.pbxSock.from.String()
	if got := m.header("Contact"); got != "<"+at+";x=1>" {
		t.Errorf("Contact: %s", got)
	}
	r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=60")
	res := phone.next()
	if got := res.header("Contact"); got != contact+";expires=60" {
		t.Errorf("the phone got Contact %s, want its own", got)
	}

	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, in.request("INVITE", at, "Contact: <sip:bob@"+r.pbxSock.addr().String()+">"))
	m = phone.next()
	if got := string(m.RequestURI()); got != strings.Trim(contact, "<>") {
		t.Errorf("Request-URI %s, want the phone's own", got)
	}
	if got := m.header("Via"); !strings.HasPrefix(got, "SIP/2.0/TLS "+r.secure.String()) {
		t.Errorf("Via: %s", got)
	}
	if got, want := m.header("Record-Route"), "<sips:"+r.secure.String()+";lr>"; got != want {
		t.Errorf("Record-Route: %s, want %s", got, want)
	}
	phone.send(r.secure, answer(m, "200 OK", "Contact: "+contact))
	res = r.pbxSock.next()
	if got := res.header("Contact"); got != "<"+at+";x=1>" || res.header("Record-Route") != "" {
		t.Errorf("the PBX got:\n%s", res.raw)
	}

	out := phoneCall(t, phone, "alice", "carol")
	phone.send(r.secure, out.request("INVITE", "sip:carol@"+testDomain, "Contact: "+contact))
	m = r.pbxSock.next()
	r.pbxSock.reply(m, "200 OK", "Contact: <sip:carol@"+r.pbxSock.addr().String()+">")
	res = phone.next()
	if got, want := res.header("Record-Route"), "<sip:"+r.secure.String()+";transport=tls;lr>"; got != want {
		t.Errorf("Record-Route: %s, want %s", got, want)
	}
}

func TestReconnectOverTLSKeepsThePort(t *testing.T) {
	r := newRig(t)
	first := newTLSAgent(t, r.secure)
	register := func(a *agent) string {
		c := phoneCall(t, a, "alice", "alice")
		a.send(r.secure, c.request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+a.addr().String()+";transport=tls>", "Expires: 60"))
		m := r.pbxSock.next()
		r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact"))
		a.next()
		return m.header("Contact")
	}
	before := register(first)
	first.tcp.Close()
	if after := register(newTLSAgent(t, r.secure)); after != before {
		t.Errorf("Contact %s, was %s", after, before)
	}
}

func TestPlainTextAtTheTLSPort(t *testing.T) {
	r := newRig(t)
	stranger := newTCPAgent(t, r.secure)
	stranger.send(r.secure, phoneCall(t, stranger, "alice", "alice").request("OPTIONS", "sip:"+testDomain))
	eventually(t, "refused", func() bool { return r.counters.Snapshot()["sip.refused.tls_handshake"] == 1 })
	r.register(newAgent(t, "127.0.0.1:0"), "bob")
}

// pbxOverTCP is the PBX when it turns to TCP for a request to at, the Contact that
// it knows.
func pbxOverTCP(t *testing.T, at string) *agent {
	t.Helper()
	_, port, _ := strings.Cut(at, "@")
	return newTCPAgent(t, netip.MustParseAddrPort(port))
}

func TestPBXTurnsToTCP(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	at := r.register(phone, "alice")
	pbx := pbxOverTCP(t, at)
	in := phoneCall(t, pbx, "bob", "alice")
	long := "X-Long: " + strings.Repeat("x", 3000)
	// In pieces, with a keepalive in front of it.
	invite := "\r\n\r\n" + in.request("INVITE", at, "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", long)
	for piece := range slices.Chunk([]byte(invite), 700) {
		pbx.send(netip.AddrPort{}, string(piece))
	}
	pong := make([]byte, 2)
	if _, err := io.ReadFull(pbx.in, pong); err != nil || string(pong) != "\r\n" {
		t.Errorf("keepalive answered with %q, %v", pong, err)
	}
	m := phone.next()
	if !strings.Contains(m.raw, long) {
		t.Error("the request has lost something")
	}
	phone.reply(m, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">")
	res := pbx.next()
	if res.StatusCode() != 200 || res.header("Contact") != "<"+at+">" {
		t.Fatalf("the PBX got:\n%s", res.raw)
	}
	if got := res.header("Via"); !strings.HasPrefix(got, "SIP/2.0/TCP "+pbx.addr().String()) || !strings.Contains(got, "received=127.0.0.1") {
		t.Errorf("Via: %s", got)
	}
	// The UDP edge of the office repeats it until the ACK; that of the PBX, on
	// TCP, does not.
	pbx.silent(700 * time.Millisecond)
	in.toTag = "callee"
	pbx.send(netip.AddrPort{}, in.request("ACK", at))
	if m = phone.next(); string(m.Method()) != "ACK" {
		t.Fatalf("the phone got:\n%s", m.raw)
	}
	// The phone hangs up; its request goes where all its requests go.
	bye := in.reverse(phone.addr())
	bye.transport = "UDP"
	phone.send(r.proxy, bye.request("BYE", "sip:bob@"+r.pbxSock.addr().String()))
	m = r.pbxSock.next()
	r.pbxSock.reply(m, "200 OK")
	if res := phone.next(); res.StatusCode() != 200 {
		t.Errorf("BYE: %d", res.StatusCode())
	}
}

func TestDoorOfThePhonePortOverTCP(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	at := r.register(phone, "alice")
	_, port, _ := strings.Cut(at, "@")
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	conn, err := dialer.Dial("tcp", port)
	if err != nil {
		t.Fatal(err)
	}
	stranger := streamAgent(t, conn)
	conn.Write([]byte(phoneCall(t, stranger, "eve", "alice").request("OPTIONS", at)))
	if _, err := stranger.in.ReadByte(); err == nil {
		t.Error("a stranger was answered")
	}
	phone.silent(50 * time.Millisecond)
	if r.counters.Snapshot()["sip.dropped.not_the_pbx"] == 0 {
		t.Error("not counted")
	}
	for range maxPortStreams {
		pbxOverTCP(t, at)
	}
	eventually(t, "many connections", func() bool {
		r.ports.mu.Lock()
		defer r.ports.mu.Unlock()
		for _, p := range r.ports.open {
			p.streamsMu.Lock()
			defer p.streamsMu.Unlock()
			return len(p.streams) == maxPortStreams
		}
		return false
	})
	if _, err := pbxOverTCP(t, at).in.ReadByte(); err == nil {
		t.Error("one more was answered")
	}
}

func TestPhoneKeepsAPortThatIsTakenForTCP(t *testing.T) {
	addr := netip.MustParseAddr("127.0.0.1")
	// A number that is free for both, then taken for TCP.
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	n := addrPort(probe.Addr()).Port()
	open := func(p *PhonePorts) (*phonePort, error) {
		port, _, err := p.acquire(phoneID{"office", "phone"}, nil)
		return port, err
	}
	p, err := OpenPhonePorts(PhonePortsConfig{Addr: addr, Low: n, High: n, IsPBX: func(netip.Addr) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := open(p); !errors.Is(err, ErrNoPhonePort) {
		t.Fatalf("a new phone got a port without TCP: %v", err)
	}
	p.book[phoneID{"office", "phone"}] = &bookEntry{Credential: "office", Key: "phone", Port: n, Used: time.Now()}
	port, err := open(p)
	if err != nil || port.addr.Port() != n || port.socks.tcp != nil {
		t.Errorf("the phone lost its port: %v", err)
	}
}

// TestManyRequestsWaitForOneConnection: a gateway registers all of its lines
// while the PBX is being connected to.
func TestManyRequestsWaitForOneConnection(t *testing.T) {
	r := newRigOver(t, "TCP")
	phone := newTCPAgent(t, r.proxy)
	const lines = 300
	for i := range lines {
		user := fmt.Sprint("line", i)
		phone.send(r.proxy, phoneCall(t, phone, user, user).request("REGISTER", "sip:"+testDomain,
			"Contact: <sip:"+user+"@"+phone.addr().String()+`>;+sip.instance="<urn:uuid:1>"`))
	}
	for range lines {
		m := r.pbxSock.next()
		r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact"))
	}
	for range lines {
		if m := phone.next(); m.StatusCode() != 200 {
			t.Fatalf("the phone got:\n%s", m.raw)
		}
	}
}
