package sipfwd

import (
	"fmt"
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
