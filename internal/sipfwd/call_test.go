package sipfwd

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestRegister(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	if want := "sip:alice@" + r.pbxSock.from.String(); uri != want {
		t.Errorf("the PBX was given %s, want %s: the port that the REGISTER came from", uri, want)
	}
	if !r.events.has("registered sip:alice@" + testDomain) {
		t.Error("no event")
	}
	if got := r.lan.Phones(); len(got) != 1 || got[0].Contact != "sip:alice@"+phone.addr().String() {
		t.Errorf("phones: %+v", got)
	}

	c := phoneCall(t, phone, "alice", "alice")
	c.seq = 10
	phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: *", "Expires: 0"))
	m := r.pbxSock.next()
	if got := m.header("Contact"); got != "*" {
		t.Errorf("Contact: %q, want *", got)
	}
	r.pbxSock.reply(m, "200 OK")
	phone.next()
	if !r.events.has("gone sip:alice@" + testDomain + ": unregistered") {
		t.Error("no event")
	}
	if n := len(r.pbx.Phones()); n != 0 {
		t.Errorf("%d bindings left at the PBX side", n)
	}
}

func TestRegisterSeveralContacts(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "alice")
	contacts := `<sip:alice@192.168.7.7:5060;transport=udp>;reg-id=1;q=0.5, "Desk, two" <sip:alice@192.168.7.7:5062>`
	phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: "+contacts, "Expires: 600"))
	m := r.pbxSock.next()
	port := r.pbxSock.from.String()
	want := `<sip:alice@` + port + `>;q=0.5, "Desk, two" <sip:alice@` + port + `;st-line=1>`
	if got := m.header("Contact"); got != want {
		t.Fatalf("Contact:\n%s, want\n%s", got, want)
	}
	r.pbxSock.reply(m, "200 OK", "Contact: "+want, "Contact: <sip:other@198.51.100.1>", "Expires: 60")
	res := phone.next()
	if !strings.Contains(res.raw, `Contact: <sip:alice@192.168.7.7:5060;transport=udp>;q=0.5, "Desk, two" <sip:alice@192.168.7.7:5062>`) ||
		!strings.Contains(res.raw, "Contact: <sip:other@198.51.100.1>") {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, in.request("MESSAGE", "sip:alice@"+port+";st-line=1"))
	req := phone.next()
	if got := string(req.RequestURI()); got != "sip:alice@192.168.7.7:5062" {
		t.Errorf("Request-URI %s", got)
	}
}

func TestCallFromPhone(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			r := newRig(t)
			phone := newAgent(t, "127.0.0.1:0")
			if transport == "TCP" {
				phone = newTCPAgent(t, r.proxy)
			}
			callFromPhone(t, r, phone)
		})
	}
}

// TestRepeatedACK: the ACK that answers a repeated 2xx is the same at the far end,
// which knows by that what it has seen.
func TestRepeatedACK(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	same := func(caller, callee *agent, to netip.AddrPort, target string) {
		t.Helper()
		c := phoneCall(t, caller, "x", "y")
		caller.send(to, c.request("INVITE", target, "Contact: <sip:x@"+caller.addr().String()+">"))
		inv := callee.next()
		callee.reply(inv, "200 OK", "Contact: <sip:y@"+callee.addr().String()+">")
		caller.next()
		c.toTag = "callee"
		ack := c.request("ACK", target)
		caller.send(to, ack)
		caller.send(to, ack)
		first, second := callee.next(), callee.next()
		if string(first.Method()) != "ACK" || first.raw != second.raw {
			t.Errorf("%s\nthen:\n%s", first.raw, second.raw)
		}
	}
	same(phone, r.pbxSock, r.proxy, "sip:bob@"+testDomain)
	same(r.pbxSock, phone, r.pbxSock.from, uri)
}

func callFromPhone(t *testing.T, r *rig, phone *agent) {
	c := phoneCall(t, phone, "alice", "bob")
	phoneRTP, pbxRTP := netip.MustParseAddrPort("127.0.0.1:7000"), netip.MustParseAddrPort("127.0.0.1:8000")
	contact := "<sip:alice@" + phone.addr().String() + ";transport=tcp>"
	route := "<sip:" + r.proxy.String() + ";lr>"
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Route: "+route, "X-Odd :  kept ", "Contact: "+contact, sdpAt(phoneRTP)))
	inv := r.pbxSock.next()
	if strings.Count(inv.raw, "Via:") != 2 || strings.Contains(inv.raw, "Route:") || !strings.Contains(inv.raw, "X-Odd :  kept \r\n") ||
		inv.header("Max-Forwards") != "69" || inv.header("Contact") != "<sip:alice@"+r.pbxSock.from.String()+">" ||
		!strings.Contains(inv.raw, "c=IN IP4 127.0.0.20\r\nt=0 0\r\nm=audio 50002 RTP") {
		t.Errorf("the PBX got:\n%s", inv.raw)
	}
	r.pbxSock.reply(inv, "180 Ringing", "Contact: <sip:"+r.pbxSock.addr().String()+">")
	ring := phone.next()
	if !strings.Contains(ring.raw, "Record-Route: <sip:"+r.proxy.String()) {
		t.Errorf("no Record-Route of the proxy in:\n%s", ring.raw)
	}
	r.pbxSock.reply(inv, "200 OK", "Contact: <sip:"+r.pbxSock.addr().String()+">", sdpAt(pbxRTP))
	ok := phone.next()
	if ok.StatusCode() != 200 || !strings.Contains(ok.raw, "c=IN IP4 127.0.0.10\r\nt=0 0\r\nm=audio 40002 RTP") || strings.Count(ok.raw, "Via:") != 1 {
		t.Errorf("the phone got:\n%s", ok.raw)
	}
	if got := r.media.port(0).phone(); got != phoneRTP {
		t.Errorf("LAN side sends media to %v", got)
	}
	if got := r.media.relays[r.media.port(0).pbx].remote(); got != pbxRTP {
		t.Errorf("PBX side sends media to %v", got)
	}
	c.toTag = "callee"
	phone.send(r.proxy, c.request("ACK", "sip:"+r.pbxSock.addr().String(), "Route: "+route))
	if m := r.pbxSock.next(); string(m.Method()) != "ACK" {
		t.Errorf("want ACK, got:\n%s", m.raw)
	}
	if n := len(r.lan.Calls()) + len(r.pbx.Calls()); n != 2 {
		t.Errorf("%d calls in both halves together, want 2", n)
	}

	// The PBX hangs up.
	back := &call{id: c.id, from: c.to, to: c.from, fromTag: "callee", toTag: "caller", transport: "UDP", at: r.pbxSock.addr()}
	r.pbxSock.send(r.pbxSock.from, back.request("BYE", "sip:alice@"+r.pbxSock.from.String()))
	bye := phone.next()
	if got := string(bye.RequestURI()); got != strings.Trim(contact, "<>") {
		t.Errorf("Request-URI of BYE: %s, want the phone's Contact", got)
	}
	phone.from = r.proxy
	phone.reply(bye, "200 OK")
	if m := r.pbxSock.next(); m.StatusCode() != 200 || strings.Count(m.raw, "Via:") != 1 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	eventually(t, "media closed", r.media.port(0).isClosed)
	if !r.events.has("ended hung up by the PBX") {
		t.Errorf("events: %q", r.events.lines)
	}
}

func TestCallFromPBX(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, c.request("INVITE", uri, "Record-Route: <sip:pbx.example;lr>", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">",
		sdpAt(netip.MustParseAddrPort("127.0.0.1:8000"))))
	inv := phone.next()
	rr := "Record-Route: <sip:" + r.proxy.String() + ";lr>\r\nRecord-Route: <sip:pbx.example;lr>"
	if string(inv.RequestURI()) != "sip:alice@"+phone.addr().String() || !strings.Contains(inv.raw, rr) || inv.header("Max-Forwards") != "69" ||
		!strings.Contains(inv.raw, "m=audio 40002 ") {
		t.Errorf("the phone got:\n%s", inv.raw)
	}
	phone.from = r.proxy
	phone.reply(inv, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+";ob>", sdpAt(netip.MustParseAddrPort("127.0.0.1:7000")))
	ok := r.pbxSock.next()
	if strings.Contains(ok.raw, r.proxy.String()) || !strings.Contains(ok.raw, "Record-Route: <sip:pbx.example;lr>") ||
		ok.header("Contact") != "<sip:alice@"+port.String()+";ob>" || !strings.Contains(ok.raw, "m=audio 50002 ") {
		t.Errorf("the PBX got:\n%s", ok.raw)
	}
	c.toTag = "callee"
	r.pbxSock.send(port, c.request("ACK", "sip:alice@"+port.String()+";ob"))
	if ack := phone.next(); string(ack.RequestURI()) != "sip:alice@"+phone.addr().String()+";ob" {
		t.Errorf("the phone got:\n%s", ack.raw)
	}
	back := &call{id: c.id, from: c.to, to: c.from, fromTag: "callee", toTag: "caller", transport: "UDP", at: phone.addr()}
	phone.send(r.proxy, back.request("BYE", "sip:bob@"+r.pbxSock.addr().String(), "Route: <sip:"+r.proxy.String()+";lr>, <sip:pbx.example;lr>"))
	bye := r.pbxSock.next()
	if bye.header("Route") != "<sip:pbx.example;lr>" {
		t.Errorf("the PBX got:\n%s", bye.raw)
	}
	r.pbxSock.reply(bye, "200 OK")
	phone.next()
}

func TestCancelFromPhone(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain))
	inv := r.pbxSock.next()
	r.pbxSock.reply(inv, "180 Ringing")
	phone.next()
	phone.send(r.proxy, c.again("CANCEL", "sip:bob@"+testDomain, "Reason: SIP;cause=200"))
	if m := phone.next(); m.StatusCode() != 200 || string(m.Method()) != "CANCEL" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	cancel := r.pbxSock.next()
	via, _ := cancel.TopVia()
	want, _ := inv.TopVia()
	if string(cancel.Method()) != "CANCEL" || string(via.Branch) != string(want.Branch) || cancel.header("Reason") == "" || strings.Count(cancel.raw, "Via:") != 1 {
		t.Errorf("the PBX got:\n%s", cancel.raw)
	}
	r.pbxSock.reply(cancel, "200 OK")
	r.pbxSock.reply(inv, "487 Request Terminated")
	if ack := r.pbxSock.next(); string(ack.Method()) != "ACK" {
		t.Errorf("the PBX got:\n%s", ack.raw)
	}
	if m := phone.next(); m.StatusCode() != 487 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	r.pbxSock.silent(300 * time.Millisecond)
}

func TestCancelFromPBXAndCrossing200(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, c.request("INVITE", uri))
	inv := phone.next()
	phone.from = r.proxy
	phone.reply(inv, "180 Ringing")
	r.pbxSock.next()
	r.pbxSock.send(port, c.again("CANCEL", uri))
	if m := r.pbxSock.next(); m.StatusCode() != 200 || string(m.Method()) != "CANCEL" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	if m := phone.next(); string(m.Method()) != "CANCEL" || string(m.RequestURI()) != string(inv.RequestURI()) {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.reply(inv, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">")
	if m := r.pbxSock.next(); m.StatusCode() != 200 || string(m.Method()) != "INVITE" {
		t.Errorf("a 200 that crosses the CANCEL must be relayed, the PBX got:\n%s", m.raw)
	}
}

func TestRetransmissionsAreAbsorbed(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	inv := c.request("INVITE", "sip:bob@"+testDomain)
	phone.send(r.proxy, inv)
	first := r.pbxSock.next()
	phone.send(r.proxy, inv)
	if m := phone.any(time.Second); m.StatusCode() != 100 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	r.pbxSock.reply(first, "486 Busy Here")
	if m := r.pbxSock.next(); string(m.Method()) != "ACK" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	busy := phone.next()
	again := phone.next() // timer G
	if busy.raw != again.raw || busy.StatusCode() != 486 {
		t.Errorf("the phone got:\n%sand\n%s", busy.raw, again.raw)
	}
	c.toTag = "callee"
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	r.pbxSock.silent(300 * time.Millisecond)
}

func TestTunnelDown(t *testing.T) {
	r := newRig(t)
	r.tunnel.up.Store(false)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "alice")
	phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain))
	m := phone.any(time.Second)
	if m.StatusCode() != 503 || m.header("Retry-After") == "" || m.ToTag() == nil {
		t.Errorf("the phone got:\n%s", m.raw)
	}
}

func TestForeignMediaAddressIsRefused(t *testing.T) {
	r := newRig(t)
	id := uint32(77)
	conn := &fakePhoneConn{tunnel: r.tunnel, id: id, in: make(chan []byte, 8), done: make(chan struct{})}
	r.tunnel.conns[id] = conn
	if _, err := r.pbx.OpenPhone(id, "rogue", nil); err != nil {
		t.Fatal(err)
	}
	c := &call{id: "rogue", from: "<sip:a@b>", to: "<sip:c@d>", fromTag: "x", transport: "UDP", at: netip.MustParseAddrPort("10.9.9.9:5060")}
	r.pbx.FromTunnel(id, []byte(c.request("INVITE", "sip:c@d", sdpAt(netip.MustParseAddrPort("203.0.113.9:4000")))))
	if msg := string(<-conn.in); !strings.HasPrefix(msg, "SIP/2.0 488 ") {
		t.Errorf("the client got:\n%s", msg)
	}
	r.pbxSock.silent(200 * time.Millisecond)
	if n := r.counters.Snapshot()["sip.refused.foreign_media_address"]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestSessionEnds(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(netip.MustParseAddrPort("127.0.0.1:7000"))))
	inv := r.pbxSock.next()
	r.pbxSock.reply(inv, "200 OK", "Contact: <sip:bob@127.0.0.1:9>", "Record-Route: <sip:two;lr>, <sip:one;lr>", sdpAt(netip.MustParseAddrPort("127.0.0.1:8000")))
	phone.next()
	c.toTag = "callee"
	phone.send(r.proxy, c.request("ACK", "sip:bob@127.0.0.1:9"))
	r.pbxSock.next()

	r.pbx.Close()
	bye := r.pbxSock.next()
	if string(bye.Method()) != "BYE" || string(bye.RequestURI()) != "sip:bob@127.0.0.1:9" || string(bye.FromTag()) != "caller" || string(bye.ToTag()) != "callee" ||
		!strings.Contains(bye.raw, "Route: <sip:one;lr>\r\nRoute: <sip:two;lr>") {
		t.Errorf("the PBX got:\n%s", bye.raw)
	}
	r.pbxSock.reply(bye, "200 OK")
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, in.request("INVITE", uri))
	if m := r.pbxSock.next(); m.StatusCode() != 480 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	r.lan.Reset(errors.New("grace over"))
	if m := phone.next(); string(m.Method()) != "BYE" || string(m.RequestURI()) != "sip:alice@"+phone.addr().String() || string(m.FromTag()) != "callee" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	if !r.media.port(0).isClosed() {
		t.Error("media port left open")
	}
}

func TestBindingsComeBackWithTheirState(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	old := r.pbxSock.from
	r.pbx.Close()
	r.newSession()
	at, err := r.pbx.OpenPhone(1, "udp:"+phone.addr().String(), r.tunnel.state[1])
	if err != nil || at != old {
		t.Fatalf("port %v, %v; want %v again", at, err, old)
	}
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(old, c.request("MESSAGE", uri))
	if m := phone.next(); string(m.RequestURI()) != "sip:alice@"+phone.addr().String() {
		t.Errorf("the phone got:\n%s", m.raw)
	}
}

func TestMalformedHurtsNobody(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	c := phoneCall(t, phone, "alice", "bob")
	bad := strings.Replace(c.request("MESSAGE", "sip:bob@"+testDomain), "CSeq: 1 MESSAGE", "CSeq: one MESSAGE", 1)
	phone.send(r.proxy, bad+c.request("MESSAGE", "sip:bob@"+testDomain))
	if b := string(phone.read(5 * time.Second)); !strings.HasPrefix(b, "SIP/2.0 400 ") {
		t.Errorf("the phone got:\n%s", b)
	}
	if m := r.pbxSock.next(); string(m.Method()) != "MESSAGE" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

func TestHopsAndOwnOptions(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, strings.Replace(c.request("MESSAGE", "sip:bob@"+testDomain), "Max-Forwards: 70", "Max-Forwards: 0", 1))
	if m := phone.next(); m.StatusCode() != 483 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.request("OPTIONS", "sip:"+r.proxy.String()))
	if m := phone.next(); m.StatusCode() != 200 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+r.proxy.String()))
	if m := r.pbxSock.next(); string(m.RequestURI()) != "sip:bob@"+testDomain {
		t.Errorf("own name is not replaced by the domain:\n%s", m.raw)
	}
	port := r.pbxSock.from
	in := phoneCall(t, r.pbxSock, "bob", "nobody")
	r.pbxSock.send(port, in.request("INVITE", "sip:nobody@"+port.String()))
	if m := r.pbxSock.next(); m.StatusCode() != 404 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

func TestLargeMessage(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	c := phoneCall(t, phone, "alice", "bob")
	big := "X-Big: " + strings.Repeat("0123456789", 5000)
	phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain, big))
	if m := r.pbxSock.next(); !strings.Contains(m.raw, big) {
		t.Errorf("%d bytes arrived", len(m.raw))
	}
}
