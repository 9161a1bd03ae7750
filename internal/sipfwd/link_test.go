package sipfwd

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func (a *agent) hangUp() {
	a.tcp.Close()
	a.tcp, a.in, a.framer = nil, nil, nil
}

func TestPBXUnreachableOverTCP(t *testing.T) {
	r := newRigOver(t, "TCP")
	r.pbxSock.ln.Close()
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	res := phone.next()
	if res.StatusCode() != 503 || res.header("Retry-After") == "" {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	if res := phone.next(); res.StatusCode() != 503 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	r.empty()
}

func TestPBXClosesAnIdleConnection(t *testing.T) {
	r := newRigOver(t, "TCP")
	phone := newAgent(t, "127.0.0.1:0")
	before := r.register(phone, "alice")
	r.pbxSock.hangUp()
	if after := r.register(phone, "alice"); after != before {
		t.Errorf("Contact %s, was %s", after, before)
	}
}

func TestUnansweredIsSentOnceMore(t *testing.T) {
	r := newRigOver(t, "TCP")
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	first := r.pbxSock.next()
	r.pbxSock.hangUp()
	second := r.pbxSock.next()
	if second.raw != first.raw {
		t.Errorf("the PBX got:\n%s\nwas:\n%s", second.raw, first.raw)
	}
	r.pbxSock.hangUp()
	if res := phone.next(); res.StatusCode() != 503 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	if b := r.pbxSock.read(50 * time.Millisecond); b != nil {
		t.Errorf("the PBX got once more:\n%s", b)
	}
	r.empty()
}

// TestRingingOutlivesItsConnection has the PBX lose the connection that its
// INVITE came on: the answer comes on the phone's own.
func TestRingingOutlivesItsConnection(t *testing.T) {
	r := newRigOver(t, "TCP")
	phone := newAgent(t, "127.0.0.1:0")
	at := r.register(phone, "alice")
	at, _, _ = strings.Cut(at, ";")
	caller := pbxOverTCP(t, at)
	in := phoneCall(t, caller, "bob", "alice")
	caller.send(netip.AddrPort{}, in.request("INVITE", at, "Contact: <sip:bob@"+r.pbxSock.addr().String()+">"))
	m := phone.next()
	phone.reply(m, "180 Ringing")
	if res := caller.next(); res.StatusCode() != 180 {
		t.Fatalf("the PBX got:\n%s", res.raw)
	}
	caller.tcp.Close()
	eventually(t, "closed", func() bool {
		for _, p := range r.pbx.allPhones() {
			p.port.streamsMu.Lock()
			defer p.port.streamsMu.Unlock()
			return len(p.port.streams) == 0
		}
		return false
	})
	phone.reply(m, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">")
	if res := r.pbxSock.next(); res.StatusCode() != 200 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
}

// TestNobodyWaitsForADial has a PBX that takes connections and says nothing.
func TestNobodyWaitsForADial(t *testing.T) {
	r := newRigOver(t, "TLS")
	phone := newAgent(t, "127.0.0.1:0")
	out := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, out.request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	var port netip.AddrPort
	eventually(t, "under way", func() bool {
		for _, p := range r.pbx.allPhones() {
			p.mu.Lock()
			defer p.mu.Unlock()
			port = p.port.addr
			return len(p.bindings) == 1
		}
		return false
	})
	conn, err := tls.Dial("tcp", port.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	pbx := streamAgent(t, conn)
	start := time.Now()
	pbx.send(port, phoneCall(t, pbx, "bob", "alice").request("OPTIONS", "sip:alice@"+port.String()))
	phone.reply(phone.next(), "200 OK")
	if res := pbx.next(); res.StatusCode() != 200 || time.Since(start) > dialWait/2 {
		t.Errorf("%d after %v", res.StatusCode(), time.Since(start))
	}
}

func TestPBXWithAnotherCertificate(t *testing.T) {
	r := newRigTrusting(t, "TLS", &tls.Config{ServerName: testDomain})
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		r.pbxSock.read(5 * time.Second) // answers the handshake
	}()
	phone := newAgent(t, "127.0.0.1:0")
	phone.send(r.proxy, phoneCall(t, phone, "alice", "alice").request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	if res := phone.next(); res.StatusCode() != 503 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	if r.counters.Snapshot()["sip.refused.pbx_certificate"] != 1 {
		t.Error("not counted")
	}
}
