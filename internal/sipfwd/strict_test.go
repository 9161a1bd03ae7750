package sipfwd

import (
	"net/netip"
	"strings"
	"testing"
)

// TestTagsOfAckAndCancel: what must not lead around the tunnel is removed from
// requests of the PBX that have no transaction of their own, too.
func TestTagsOfAckAndCancel(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	headers := []string{"Supported: path, timer", "Path: <sip:192.0.2.1;lr>", "k: outbound"}
	r.pbxSock.send(port, c.request("INVITE", uri, headers...))
	inv := phone.next()
	phone.reply(inv, "180 Ringing")
	r.pbxSock.next()
	check := func(m received, method string) {
		t.Helper()
		if string(m.Method()) != method || m.header("Supported") != "timer" || m.header("Path") != "" || strings.Contains(m.raw, "outbound") {
			t.Errorf("the phone got:\n%s", m.raw)
		}
	}
	check(inv, "INVITE")
	r.pbxSock.send(port, c.again("CANCEL", uri, headers...))
	r.pbxSock.next()
	check(phone.next(), "CANCEL")
	r.pbxSock.send(port, c.request("ACK", uri, headers...))
	check(phone.next(), "ACK")
}

// TestOwnAddressIsReplacedWhole: whatever the form in which a phone writes our
// address, the PBX sees its domain in the place of all of it, and nothing else changes.
func TestOwnAddressIsReplacedWhole(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	host, port := r.proxy.Addr().String(), r.proxy.String()[len(r.proxy.Addr().String())+1:]
	own := host + ":0" + port
	for in, want := range map[string]string{
		"sip:bob@" + own:                   "sip:bob@" + testDomain,
		"sip:@" + own + ";x=y":             "sip:" + testDomain + ";x=y",
		"SIP:bob:pw@" + own + ";a=b?c=d&e": "SIP:bob:pw@" + testDomain + ";a=b?c=d&e",
		"sip:bob@" + own + "?":             "sip:bob@" + testDomain + "?",
	} {
		c := phoneCall(t, phone, "alice", "bob")
		c.id += in
		phone.send(r.proxy, c.request("REFER", in, "Refer-To: "+in, "Referred-By: <"+in+">;x", "Contact: <sip:alice@"+phone.addr().String()+">"))
		m := r.pbxSock.next()
		if string(m.RequestURI()) != want || m.header("Refer-To") != want || m.header("Referred-By") != "<"+want+">;x" {
			t.Errorf("%s: the PBX got:\n%s", in, m.raw)
		}
		r.pbxSock.reply(m, "202 Accepted")
		phone.next()
	}
}

// TestRTCPToNowhere: a phone that names no address for RTCP, as WebRTC stacks do,
// is no intruder; one that ranges over several ports gets one.
func TestRTCPToNowhere(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	for _, offer := range []string{
		sdpAt(netip.MustParseAddrPort("127.0.0.1:4000"), "rtcp:9 IN IP4 0.0.0.0"),
		strings.Replace(sdpAt(netip.MustParseAddrPort("127.0.0.1:4000")), "audio 4000 ", "audio 4000/2 ", 1),
	} {
		c := phoneCall(t, phone, "alice", "bob")
		c.id += offer
		c.id = strings.Map(func(r rune) rune {
			if r <= ' ' {
				return '_'
			}
			return r
		}, c.id)
		phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, offer))
		m := r.pbxSock.next()
		if string(m.Method()) != "INVITE" || strings.Contains(m.raw, "/2 RTP") {
			t.Errorf("the PBX got:\n%s", m.raw)
		}
		r.pbxSock.reply(m, "486 Busy Here")
		if ack := r.pbxSock.next(); string(ack.Method()) != "ACK" {
			t.Errorf("the PBX got:\n%s", ack.raw)
		}
		phone.next()
	}
}

// TestRegisterBehindLineEnds: a REGISTER is known as one whatever line ends a
// datagram begins with, so that another device at a known address is told apart.
func TestRegisterBehindLineEnds(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	first := r.pbxSock.from
	c := phoneCall(t, phone, "carol", "carol")
	phone.send(r.proxy, "\r\n"+c.request("REGISTER", "sip:"+testDomain, "User-Agent: another",
		`Contact: <sip:carol@`+phone.addr().String()+`>;+sip.instance="<urn:uuid:00000000-0000-4000-8000-000000000009>"`))
	m := r.pbxSock.next()
	if r.pbxSock.from == first {
		t.Error("another device has the port of the one before")
	}
	r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=60")
	phone.next()
}

// TestManyHeaders: how many headers a message has is nobody's business, in either
// direction.
func TestManyHeaders(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	for _, n := range []int{246, 256, 2000} {
		more := make([]string, n)
		for i := range more {
			more[i] = "X: y"
		}
		up := phoneCall(t, phone, "alice", "bob")
		phone.send(r.proxy, up.request("MESSAGE", "sip:bob@"+testDomain, more...))
		m := r.pbxSock.next()
		r.pbxSock.reply(m, "200 OK")
		if res := phone.next(); string(m.Method()) != "MESSAGE" || res.StatusCode() != 200 {
			t.Errorf("%d headers: the PBX got\n%.300s\nthe phone got\n%.300s", n, m.raw, res.raw)
		}
		down := phoneCall(t, r.pbxSock, "bob", "alice")
		r.pbxSock.send(port, down.request("MESSAGE", uri, more...))
		in := phone.next()
		phone.reply(in, "200 OK")
		if res := r.pbxSock.next(); string(in.Method()) != "MESSAGE" || res.StatusCode() != 200 {
			t.Errorf("%d headers: the phone got\n%.300s\nthe PBX got\n%.300s", n, in.raw, res.raw)
		}
	}
}

// TestRepairsAreCounted: what cannot be forwarded as it is, is put right as little as
// can be, and somebody may learn of it.
func TestRepairsAreCounted(t *testing.T) {
	r := newRig(t)
	phone, onStream := newAgent(t, "127.0.0.1:0"), newTCPAgent(t, r.proxy)
	r.register(phone, "alice")
	for _, tt := range []struct {
		counter string
		from    *agent
		change  func(msg string) string
		want    string // at the end of what the PBX gets, or in it
	}{
		{"sip.repaired.bytes_behind_body", phone, func(msg string) string { return msg + "\r\nBYE sip:x SIP/2.0\r\n" }, "Content-Length: 0\r\n\r\n"},
		{"sip.repaired.no_content_length", onStream, func(msg string) string { return strings.Replace(msg, "Content-Length: 0\r\n", "", 1) }, "Contact: <sip:alice@"},
		{"sip.repaired.contact_brackets", phone, func(msg string) string {
			return strings.Replace(msg, "<sip:alice@192.0.2.1>", "sip:alice@192.0.2.1?a=b", 1)
		}, "?a=b>\r\n"},
		{"sip.repaired.contact_removed", phone, func(msg string) string {
			return strings.Replace(msg, "<sip:alice@192.0.2.1>", "<sip:a@b@c>", 1)
		}, "Max-Forwards: 69\r\nContent-Length: 0\r\n\r\n"},
	} {
		c := phoneCall(t, tt.from, "alice", "bob")
		c.id += tt.counter
		before := r.counters.Snapshot()[tt.counter]
		tt.from.send(r.proxy, tt.change(c.request("MESSAGE", "sip:bob@"+testDomain, "Contact: <sip:alice@192.0.2.1>")))
		m := r.pbxSock.next()
		if !strings.Contains(m.raw, tt.want) || strings.Contains(m.raw, "BYE") {
			t.Errorf("%s: the PBX got:\n%s", tt.counter, m.raw)
		}
		if n := r.counters.Snapshot()[tt.counter] - before; n != 1 {
			t.Errorf("%s was counted %d times", tt.counter, n)
		}
		r.pbxSock.reply(m, "200 OK")
		tt.from.next()
	}
}
