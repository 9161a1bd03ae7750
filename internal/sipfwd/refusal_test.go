package sipfwd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestProxyRequire is RFC 3261 section 16.3 item 5, in both directions.
func TestProxyRequire(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	up := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, up.request("OPTIONS", "sip:bob@"+testDomain, "Proxy-Require: one", "Proxy-Require: two"))
	if m := phone.next(); m.StatusCode() != 420 || m.header("Unsupported") != "one, two" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	down := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, down.request("OPTIONS", uri, "Proxy-Require: one"))
	if m := r.pbxSock.next(); m.StatusCode() != 420 || m.header("Unsupported") != "one" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestAckOfMalformedInviteEndsHere: its refusal is answered without a
// transaction, and the other side has never heard of the INVITE.
func TestAckOfMalformedInviteEndsHere(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	c := phoneCall(t, phone, "alice", "bob")
	invite := c.request("INVITE", "sip:bob@"+testDomain)
	phone.send(r.proxy, strings.Replace(invite, "Content-Length: 0", "Content-Length: -1", 1))
	res := phone.next()
	via, _ := res.TopVia()
	if res.StatusCode() != 400 || via.RPort != int(phone.addr().Port()) || string(via.Received) != "127.0.0.1" {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	c.toTag = string(res.ToTag())
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	r.pbxSock.silent(300 * time.Millisecond)
}

// TestUnframedRequestIsAnswered: a stream that cannot be cut into messages any
// more ends, but not without a word.
func TestUnframedRequestIsAnswered(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, strings.Replace(c.request("MESSAGE", "sip:bob@"+testDomain), "Content-Length: 0", fmt.Sprint("Content-Length: ", -1), 1))
	if b := string(phone.read(5 * time.Second)); !strings.HasPrefix(b, "SIP/2.0 400 ") {
		t.Errorf("the phone got:\n%s", b)
	}
}

// TestUnknownScheme is RFC 3261 section 16.3 item 2.
func TestUnknownScheme(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	port := r.pbxSock.from
	for uri, want := range map[string]int{"tel:+4930123456": 416, "soap.beep://192.0.2.103:3002": 416, "sip:nobody:x@": 404} {
		down := phoneCall(t, r.pbxSock, "bob", "alice")
		r.pbxSock.send(port, down.request("MESSAGE", uri))
		if m := r.pbxSock.next(); m.StatusCode() != want {
			t.Errorf("%s: the PBX got:\n%s", uri, m.raw)
		}
	}
}

// TestContactsOfRegister: one that cannot be read is refused, and none that can
// be is lost.
func TestContactsOfRegister(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	reg := phoneCall(t, phone, "alice", "alice")
	for _, bad := range []string{"<sip:alice@host:port>", "<sip :alice@192.0.2.1>", "<%73ip:alice@192.0.2.1>"} {
		phone.send(r.proxy, reg.request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">, "+bad))
		if m := phone.next(); m.StatusCode() != 400 {
			t.Errorf("%s: the phone got:\n%s", bad, m.raw)
		}
	}
	phone.send(r.proxy, reg.request("REGISTER", "sip:"+testDomain, "Contact: tel:+4930123456;q=0.5"))
	m := r.pbxSock.next()
	if m.header("Contact") != "tel:+4930123456;q=0.5" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	r.pbxSock.reply(m, "200 OK", "Contact: tel:+4930123456;q=0.5;expires=300")
	if m := phone.next(); m.header("Contact") != "tel:+4930123456;q=0.5;expires=300" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	if phones := r.lan.Phones(); len(phones) != 0 {
		t.Errorf("a telephone number is no phone of the office: %+v", phones)
	}
}

// TestAckGoesNoFurtherThanItsHops is RFC 3261 section 16.3 item 3, where nothing
// can be answered.
func TestAckGoesNoFurtherThanItsHops(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	down := phoneCall(t, r.pbxSock, "bob", "alice")
	ack := down.request("ACK", uri)
	r.pbxSock.send(port, strings.Replace(ack, "Max-Forwards: 70", "Max-Forwards: 0", 1))
	r.pbxSock.send(port, down.request("ACK", uri))
	if m := phone.next(); string(m.Method()) != "ACK" || m.header("Max-Forwards") != "69" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
}

// TestTooLargeForAStream: a message that is read over is answered, and the
// connection goes on behind it.
func TestTooLargeForAStream(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	c := phoneCall(t, phone, "alice", "bob")
	body := "body:" + strings.Repeat("x", 70_000)
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain, "Content-Type: text/plain", body))
	if m := phone.next(); m.StatusCode() != 513 || !strings.Contains(m.header("Via"), c.branch) {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	m := r.pbxSock.next()
	r.pbxSock.reply(m, "200 OK")
	if m := phone.next(); m.StatusCode() != 200 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	// The same of the PBX that turns to TCP for what no datagram holds.
	uri := r.register(newAgent(t, "127.0.0.1:0"), "carol")
	pbx := pbxOverTCP(t, uri)
	in := phoneCall(t, pbx, "bob", "carol")
	pbx.send(pbx.addr(), in.request("MESSAGE", uri, "Content-Type: text/plain", body))
	if m := pbx.next(); m.StatusCode() != 513 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestTooLargeForUDP: what came over a stream and fits into no datagram, or with
// our edits not into the tunnel, is refused at once, both ways.
func TestTooLargeForUDP(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	uri := r.register(newAgent(t, "127.0.0.1:0"), "carol")
	pbx := pbxOverTCP(t, uri)
	for _, from := range []struct {
		a       *agent
		at      netip.AddrPort
		user    string
		to, uri string
	}{{phone, r.proxy, "alice", "bob", "sip:bob@" + testDomain}, {pbx, pbx.addr(), "bob", "carol", uri}} {
		for _, size := range []int{65_450, 65_535} {
			c := phoneCall(t, from.a, from.user, from.to)
			message := func(body int) string {
				return c.request("MESSAGE", from.uri, "Content-Type: text/plain", "body:"+strings.Repeat("x", body))
			}
			from.a.send(from.at, message(size-len(message(10_000))+10_000))
			if m := from.a.next(); m.StatusCode() != 513 || !strings.Contains(m.header("Via"), c.branch) {
				t.Errorf("%d bytes of %s: it got:\n%s", size, from.user, m.raw)
			}
		}
	}
}
