package sipfwd

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// phoneOver is a phone of the rig on transport, with the address it sends to.
func (r *rig) phoneOver(transport string) (*agent, netip.AddrPort) {
	r.t.Helper()
	switch transport {
	case "TLS":
		return newTLSAgent(r.t, r.secure), r.secure
	case "TCP":
		return newTCPAgent(r.t, r.proxy), r.proxy
	}
	return newAgent(r.t, "127.0.0.1:0"), r.proxy
}

// TestTransportsMix makes calls both ways in each mix of transports: each edge
// answers for its own side.
func TestTransportsMix(t *testing.T) {
	for _, phone := range []string{"UDP", "TCP", "TLS"} {
		for _, pbx := range []string{"UDP", "TCP", "TLS"} {
			t.Run("phone over "+phone+", PBX over "+pbx, func(t *testing.T) {
				t.Parallel()
				testMix(t, phone, pbx)
			})
		}
	}
}

func testMix(t *testing.T, phoneTransport, pbxTransport string) {
	r := newRigOver(t, pbxTransport)
	phone, proxy := r.phoneOver(phoneTransport)
	r.proxy = proxy
	at := r.register(phone, "alice")
	param := ";transport=" + strings.ToLower(pbxTransport)
	if pbxTransport == "UDP" {
		param = ""
	}
	if _, rest, _ := strings.Cut(at, ";"); ";"+rest != param && param+rest != "" {
		t.Errorf("the PBX knows the phone as %s, want %q behind it", at, param)
	}

	up := phoneCall(t, phone, "alice", "bob")
	phone.send(proxy, up.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	m := r.pbxSock.next()
	if got := m.header("Via"); !strings.HasPrefix(got, "SIP/2.0/"+pbxTransport+" 127.0.0.1:26") {
		t.Errorf("Via: %s", got)
	}
	if got := m.header("Contact"); got != "<"+at+">" {
		t.Errorf("Contact: %s, want %s", got, at)
	}
	if again := r.pbxSock.again(patience(pbxTransport)); again != (pbxTransport == "UDP") {
		t.Errorf("INVITE repeated toward the PBX: %v", again)
	}
	r.pbxSock.reply(m, "486 Busy Here")
	if ack := r.pbxSock.last(); string(ack.Method()) != "ACK" {
		t.Errorf("the PBX got:\n%s", ack.raw)
	}
	if res := phone.next(); res.StatusCode() != 486 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	if again := phone.again(patience(phoneTransport)); again != (phoneTransport == "UDP") {
		t.Errorf("486 repeated toward the phone: %v", again)
	}
	phone.send(proxy, up.again("ACK", "sip:bob@"+testDomain))

	down := phoneCall(t, r.pbxSock, "carol", "alice")
	r.pbxSock.send(r.pbxSock.from, down.request("INVITE", at, "Contact: <sip:carol@"+r.pbxSock.addr().String()+">"))
	m = phone.last()
	if got := m.header("Via"); !strings.HasPrefix(got, "SIP/2.0/"+phoneTransport+" "+proxy.String()) {
		t.Errorf("Via: %s", got)
	}
	if again := phone.again(patience(phoneTransport)); again != (phoneTransport == "UDP") {
		t.Errorf("INVITE repeated toward the phone: %v", again)
	}
	phone.send(phone.from, answer(m, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">"))
	res := r.pbxSock.next()
	if got := res.header("Contact"); res.StatusCode() != 200 || got != "<"+at+">" {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	if again := r.pbxSock.again(patience(pbxTransport)); again != (pbxTransport == "UDP") {
		t.Errorf("200 repeated toward the PBX: %v", again)
	}
	down.toTag = "callee"
	r.pbxSock.send(r.pbxSock.from, down.request("ACK", at))
	if m = phone.last(); string(m.Method()) != "ACK" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	bye := down.reverse(phone.addr())
	bye.transport, bye.seq = phoneTransport, 100
	phone.send(proxy, bye.request("BYE", "sip:carol@"+r.pbxSock.addr().String()))
	r.pbxSock.reply(r.pbxSock.last(), "200 OK")
	if res := phone.next(); res.StatusCode() != 200 {
		t.Errorf("BYE: %d", res.StatusCode())
	}
}

// patience is how long to wait for a message that is repeated over UDP alone: where
// it must come it may be late.
func patience(transport string) time.Duration {
	if transport == "UDP" {
		return 5 * time.Second
	}
	return 600 * time.Millisecond
}

// again says whether the last message comes once more within d.
func (a *agent) again(d time.Duration) bool {
	a.t.Helper()
	deadline := time.Now().Add(d)
	for time.Now().Before(deadline) {
		if b := a.read(time.Until(deadline)); b != nil && string(b) == a.seen {
			return true
		}
	}
	return false
}

// last is the next message that is not the one before, nor a 100.
func (a *agent) last() received {
	a.t.Helper()
	before := a.seen
	for {
		if m := a.next(); m.raw != before {
			return m
		}
	}
}
