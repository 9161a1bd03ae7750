package sipfwd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestTakeover: a client that was restarted comes with a new session while its
// old one is still waited for.
func TestTakeover(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	c, port := r.setUp(phone, "old")
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, in.request("INVITE", uri))
	phone.from = r.proxy
	phone.reply(phone.next(), "180 Ringing") // and never answers
	r.pbxSock.next()

	old := r.pbx
	r.newSession()
	r.tunnel.mu.Lock()
	state := r.tunnel.state[1]
	r.tunnel.mu.Unlock()
	at, err := r.pbx.OpenPhone(1, "udp:"+phone.addr().String(), state)
	if err != nil || at != port {
		t.Fatalf("port %v, %v; want %v", at, err, port)
	}
	for range 2 {
		switch m := r.pbxSock.next(); {
		case m.StatusCode() == 480:
			in.toTag = string(m.ToTag())
			r.pbxSock.send(port, in.again("ACK", uri))
		case string(m.Method()) == "BYE" && string(m.CallID()) == c.id:
			r.pbxSock.reply(m, "200 OK")
		default:
			t.Errorf("the PBX got:\n%s", m.raw)
		}
	}
	r.pbxSock.silent(700 * time.Millisecond) // nothing of the old session is sent again
	r.pbxSock.send(port, phoneCall(t, r.pbxSock, "bob", "alice").request("MESSAGE", uri))
	if m := phone.next(); string(m.Method()) != "MESSAGE" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	old.FromTunnel(1, []byte(c.request("MESSAGE", "sip:x@y")))
	if n := r.counters.Snapshot()["sip.refused.port_taken_over"]; n != 1 {
		t.Errorf("counted %d", n)
	}
	old.Close()
	if n := len(r.pbx.Phones()); n != 1 {
		t.Errorf("%d bindings", n)
	}
}

// TestBothPartiesOfACallAreOnePhone: a PBX that is a proxy gives both legs the
// same Call-ID and tags.
func TestBothPartiesOfACallAreOnePhone(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	alice := r.register(phone, "alice")
	c := phoneCall(t, phone, "alice", "alice")
	contact := "Contact: <sip:alice@" + phone.addr().String() + ">"
	here, there := netip.MustParseAddrPort("127.0.0.1:7000"), netip.MustParseAddrPort("127.0.0.1:7100")

	// proxied is m as a proxy sends it on to the other leg.
	proxied := func(m received, uri string) string {
		via := "Via: SIP/2.0/UDP " + r.pbxSock.addr().String() + ";branch=" + newBranch() + ";rport\r\n"
		line, rest, _ := strings.Cut(m.raw, "\r\n")
		if m.IsRequest() {
			return string(m.Method()) + " " + uri + " SIP/2.0\r\n" + via + rest
		}
		_, rest, _ = strings.Cut(rest, "\r\n") // the proxy's own Via
		return line + "\r\n" + rest
	}
	phone.send(r.proxy, c.request("INVITE", "sip:alice@"+testDomain, contact, sdpAt(here)))
	inv := r.pbxSock.next()
	port := r.pbxSock.from
	r.pbxSock.send(port, proxied(inv, alice))
	ring := phone.next()
	phone.from = r.proxy
	phone.reply(ring, "200 OK", contact, sdpAt(there))
	r.pbxSock.send(port, proxied(r.pbxSock.next(), ""))
	if m := phone.next(); m.StatusCode() != 200 {
		t.Fatalf("the phone got:\n%s", m.raw)
	}
	c.toTag = "callee"
	phone.send(r.proxy, c.request("ACK", alice))
	r.pbxSock.send(port, proxied(r.pbxSock.next(), alice))
	if m := phone.next(); string(m.Method()) != "ACK" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	if a, b := r.media.port(0), r.media.port(1); a.phone() != here || b.phone() != there ||
		r.media.relays[a.pbx].remote() != b.pbx || r.media.relays[b.pbx].remote() != a.pbx {
		t.Errorf("legs mixed up: %v %v, %v %v", a.phone(), b.phone(), r.media.relays[a.pbx].remote(), r.media.relays[b.pbx].remote())
	}
	back := c.reverse(phone.addr())
	phone.send(r.proxy, back.request("BYE", alice))
	r.pbxSock.send(port, proxied(r.pbxSock.next(), alice))
	bye := phone.next()
	if r.state().mediaOpen != 2 {
		t.Error("media closed before the answer")
	}
	phone.reply(bye, "200 OK")
	r.pbxSock.send(port, proxied(r.pbxSock.next(), ""))
	phone.next()
	r.empty()
}

// TestForkToOnePhone: two Contacts of a phone are rung by one INVITE.
func TestForkToOnePhone(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	body := sdpAt(testRTP)
	var rung [2]received
	var branch [2]string
	phone.from = r.proxy
	for i := range rung {
		c.seq = 0
		r.pbxSock.send(port, c.request("INVITE", uri, "Contact: <sip:bob@127.0.0.1:9>", body))
		branch[i] = c.branch
		rung[i] = phone.next()
	}
	phone.send(r.proxy, strings.ReplaceAll(answer(rung[1], "486 Busy Here"), "tag=callee", "tag=second"))
	r.pbxSock.next()
	phone.next() // ACK
	phone.reply(rung[0], "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP))
	r.pbxSock.next()
	if s := r.state(); s.mediaOpen != 1 || len(r.lan.Calls()) != 1 {
		t.Errorf("%+v, %d calls", s, len(r.lan.Calls()))
	}
}

// TestHoldAndDelayedOffers follows the addresses through re-INVITEs.
func TestHoldAndDelayedOffers(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c, port := r.setUp(phone, "hold")
	phone.from = r.proxy
	relay := r.media.relays[r.media.port(0).pbx]
	moved, other := netip.MustParseAddrPort("127.0.0.1:8100"), netip.MustParseAddrPort("127.0.0.1:7200")
	contact := "Contact: <sip:x@127.0.0.1:9>"
	back := c.reverse(r.pbxSock.addr())

	// The PBX moves; refused, then accepted.
	r.pbxSock.send(port, back.request("INVITE", "sip:alice@"+port.String(), contact, sdpAt(moved)))
	phone.reply(phone.next(), "488 Not Acceptable Here")
	r.pbxSock.next()
	r.pbxSock.send(port, back.again("ACK", "sip:alice@"+port.String()))
	phone.next() // ACK of the proxy
	if relay.remote() != testRTP {
		t.Errorf("a refused offer moved the media to %v", relay.remote())
	}
	r.pbxSock.send(port, back.request("INVITE", "sip:alice@"+port.String(), contact, sdpAt(moved)))
	phone.reply(phone.next(), "200 OK", contact, sdpAt(testRTP))
	r.pbxSock.next()
	if relay.remote() != moved {
		t.Errorf("the PBX's media goes to %v", relay.remote())
	}
	r.pbxSock.send(port, back.request("ACK", "sip:alice@"+port.String()))
	phone.next()

	// The phone holds, the old way, and resumes from another port.
	hold := strings.ReplaceAll(sdpAt(testRTP), "c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0")
	for _, body := range []string{hold, sdpAt(other)} {
		phone.send(r.proxy, c.request("INVITE", "sip:bob@x", contact, body))
		inv := r.pbxSock.next()
		if inv.ToTag() == nil || strings.Contains(inv.raw, "0.0.0.0") != (body == hold) || !strings.Contains(inv.raw, "m=audio 50002 ") {
			t.Errorf("the PBX got:\n%s", inv.raw)
		}
		r.pbxSock.reply(inv, "200 OK", contact, sdpAt(moved))
		phone.next()
		phone.send(r.proxy, c.request("ACK", "sip:bob@x"))
		r.pbxSock.next()
	}
	if got := r.media.port(0).phone(); got != other {
		t.Errorf("the phone's media goes to %v", got)
	}

	// The PBX asks for an offer and answers it in the ACK.
	r.pbxSock.send(port, back.request("INVITE", "sip:alice@"+port.String(), contact))
	phone.reply(phone.next(), "200 OK", contact, sdpAt(testRTP))
	if ok := r.pbxSock.next(); !strings.Contains(ok.raw, "m=audio 50002 ") {
		t.Errorf("the PBX got:\n%s", ok.raw)
	}
	r.pbxSock.send(port, back.request("ACK", "sip:alice@"+port.String(), sdpAt(testRTP)))
	if ack := phone.next(); !strings.Contains(ack.raw, "m=audio 40002 ") {
		t.Errorf("the phone got:\n%s", ack.raw)
	}
	eventually(t, "media where the ACK says", func() bool { return relay.remote() == testRTP && r.media.port(0).phone() == testRTP })
	if n := len(r.media.ports); n != 1 {
		t.Errorf("%d media ports for one call", n)
	}
}

// TestReconnectedPhoneKeepsItsContact: the PBX must not ring all the Contacts
// that a phone behind TCP has had.
func TestReconnectedPhoneKeepsItsContact(t *testing.T) {
	for _, params := range []string{"", `;+sip.instance="<urn:uuid:1>";reg-id=1`} {
		r := newRig(t)
		seen := make(map[string]bool)
		var last *agent
		for i := range 40 {
			phone := newTCPAgent(t, r.proxy)
			c := phoneCall(t, phone, "alice", "alice")
			c.seq = i
			own := "<sip:alice@" + phone.addr().String() + ";transport=tcp>"
			phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: "+own+params))
			m := r.pbxSock.next()
			contact, _, _ := strings.Cut(m.header("Contact"), ">")
			seen[contact] = true
			r.pbxSock.reply(m, "200 OK", "Contact: "+contact+">;expires=600")
			if res := phone.next(); res.header("Contact") != own+";expires=600" {
				t.Fatalf("the phone got:\n%s", res.raw)
			}
			last = phone
			if i < 39 {
				phone.tcp.Close()
			}
		}
		if len(seen) != 1 || len(r.pbx.Phones()) != 1 {
			t.Errorf("the PBX knows %d Contacts", len(seen))
		}
		for contact := range seen {
			c := phoneCall(t, r.pbxSock, "bob", "alice")
			r.pbxSock.send(r.pbxSock.from, c.request("MESSAGE", strings.Trim(contact, "<")))
			last.next()
		}
		if r.events.count("registered") != 1 || r.events.count("gone") != 0 {
			t.Errorf("events: %q", r.events.lines)
		}
	}
}

// TestUnacceptedContactMovesNothing: a REGISTER without the right password.
func TestUnacceptedContactMovesNothing(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "alice")
	register := func(uri, status string) {
		t.Helper()
		phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: <"+uri+`>;+sip.instance="<urn:uuid:1>"`))
		m := r.pbxSock.next()
		contact, _, _ := strings.Cut(m.header("Contact"), ">")
		r.pbxSock.reply(m, status, "Contact: "+contact+">;expires=600")
		phone.next()
	}
	register("sip:alice@192.0.2.1", "200 OK")
	register("sip:alice@192.0.2.66", "403 Forbidden")
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, in.request("MESSAGE", "sip:alice@"+r.pbxSock.from.String()))
	if m := phone.next(); string(m.RequestURI()) != "sip:alice@192.0.2.1" {
		t.Errorf("Request-URI %s", m.RequestURI())
	}
}

// TestOwnResponsesAnswerRPort is RFC 3581 section 4.
func TestOwnResponsesAnswerRPort(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	c.at = netip.MustParseAddrPort("192.0.2.7:5060")
	want := fmt.Sprintf(";rport=%d;received=127.0.0.1", phone.addr().Port())
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain))
	if m := phone.any(5 * time.Second); m.StatusCode() != 100 || !strings.Contains(m.raw, want) {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.again("CANCEL", "sip:bob@"+testDomain))
	if m := phone.next(); !strings.Contains(m.raw, want) {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	r.pbxSock.next()
	port := r.pbxSock.from
	in := phoneCall(t, r.pbxSock, "bob", "nobody")
	in.at = netip.MustParseAddrPort("192.0.2.8:5060")
	r.pbxSock.send(port, in.request("INVITE", "sip:nobody@"+port.String()))
	if m := r.pbxSock.next(); m.StatusCode() != 404 || !strings.Contains(m.raw, fmt.Sprintf(";rport=%d;received=127.0.0.1", r.pbxSock.addr().Port())) {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestRouteByName: the outbound proxy of a phone may be set by a name.
func TestRouteByName(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain, "Route: <sip:gateway.office;lr>, <sip:edge.example;lr>"))
	if m := r.pbxSock.next(); m.header("Route") != "<sip:edge.example;lr>" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain, "Route: <sip:"+testDomain+";lr>"))
	if m := r.pbxSock.next(); m.header("Route") != "<sip:"+testDomain+";lr>" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestCloseTellsPhonesOnTCP: what is sent last still goes out.
func TestCloseTellsPhonesOnTCP(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	r.setUp(phone, "closing")
	r.lan.Close()
	if m := phone.next(); string(m.Method()) != "BYE" || m.header("Reason") == "" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
}

// TestFlowGone: a request for a phone whose connection is closed.
func TestFlowGone(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	uri := r.register(phone, "alice")
	phone.tcp.Close()
	eventually(t, "the flow is forgotten", func() bool {
		r.lan.mu.Lock()
		defer r.lan.mu.Unlock()
		return len(r.lan.byFlow) == 0 && len(r.lan.streams) == 0
	})
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, c.request("INVITE", uri, sdpAt(testRTP)))
	if m := r.pbxSock.next(); m.StatusCode() != 480 || m.ToTag() == nil {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	if s := r.state(); s.mediaOpen != 0 {
		t.Errorf("%+v", s)
	}
}
