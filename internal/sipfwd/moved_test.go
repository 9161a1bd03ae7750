package sipfwd

import (
	"strings"
	"testing"
)

// TestLargeRequestOverTCP has phones on UDP turn to TCP for a large request. They
// are at one host, so that their addresses do not tell them apart.
func TestLargeRequestOverTCP(t *testing.T) {
	r := newRig(t)
	alice, bob := newAgent(t, "127.0.0.1:0"), newAgent(t, "127.0.0.1:0")
	at := r.register(alice, "alice")
	r.register(bob, "bob")

	tcp := newTCPAgent(t, r.proxy)
	c := phoneCall(t, tcp, "alice", "carol")
	contact := "Contact: <sip:alice@" + alice.addr().String() + ";transport=tcp>"
	tcp.send(r.proxy, c.request("INVITE", "sip:carol@"+testDomain, contact, "X-Long: "+strings.Repeat("x", 3000)))
	m := r.pbxSock.next()
	if got := m.header("Contact"); got != "<"+at+">" {
		t.Fatalf("Contact %s, registered is %s", got, at)
	}
	if got := "sip:alice@" + r.pbxSock.from.String(); got != at {
		t.Errorf("it came from %s, registered is %s", got, at)
	}
	r.pbxSock.reply(m, "200 OK", "Contact: <sip:carol@"+r.pbxSock.addr().String()+">")
	res := tcp.next()
	if res.StatusCode() != 200 || !strings.Contains(res.header("Record-Route"), "transport=tcp") {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	c.toTag = "callee"
	tcp.send(r.proxy, c.request("ACK", "sip:carol@"+r.pbxSock.addr().String()))
	r.pbxSock.next()

	// The connection goes, the call stays: the phone is where it has registered.
	tcp.tcp.Close()
	eventually(t, "closed", func() bool {
		r.lan.mu.Lock()
		defer r.lan.mu.Unlock()
		return len(r.lan.streams) == 0
	})
	bye := c.reverse(r.pbxSock.addr())
	bye.transport = "UDP"
	r.pbxSock.send(r.pbxSock.from, bye.request("BYE", at))
	alice.reply(alice.next(), "200 OK")
	if res := r.pbxSock.next(); res.StatusCode() != 200 {
		t.Errorf("BYE: %d", res.StatusCode())
	}
	if n := len(r.lan.allPhones()); n != 2 {
		t.Errorf("%d phones, want 2", n)
	}
}

func TestLargeRequestInADialog(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	c, port := r.setUp(phone, "one")
	tcp := newTCPAgent(t, r.proxy)
	c.at, c.transport = tcp.addr(), "TCP"
	c.from = "\"another name\" <sip:anonymous@anonymous.invalid>" // RFC 4916: the tags count
	tcp.send(r.proxy, c.request("INFO", "sip:bob@"+r.pbxSock.addr().String(), "X-Long: "+strings.Repeat("x", 3000)))
	m := r.pbxSock.next()
	if string(m.Method()) != "INFO" || r.pbxSock.from != port {
		t.Errorf("from %v, the call is at %v:\n%s", r.pbxSock.from, port, m.raw)
	}
}

// TestWhoIsMeantIsNotGuessed has two phones of one user at one host.
func TestWhoIsMeantIsNotGuessed(t *testing.T) {
	r := newRig(t)
	first := r.register(newAgent(t, "127.0.0.1:0"), "alice")
	second := r.register(newAgent(t, "127.0.0.1:0"), "alice")
	tcp := newTCPAgent(t, r.proxy)
	c := phoneCall(t, tcp, "alice", "carol")
	tcp.send(r.proxy, c.request("INVITE", "sip:carol@"+testDomain, "Contact: <sip:alice@"+tcp.addr().String()+">"))
	m := r.pbxSock.next()
	if got := m.header("Contact"); got == "<"+first+">" || got == "<"+second+">" {
		t.Errorf("Contact %s is one of two that may be meant", got)
	}
}
