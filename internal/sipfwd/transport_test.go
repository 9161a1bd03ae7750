package sipfwd

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"math/big"
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
