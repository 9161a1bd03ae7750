package sipfwd

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// tagged is the answer to m of one branch of a fork.
func tagged(m received, tag, status string, headers ...string) string {
	return strings.Replace(answer(m, status, headers...), ";tag=callee", ";tag="+tag, 1)
}

// TestForkedCall: the media follow the branch that speaks, then the one that
// answers, and the end of one dialog is not that of the other.
func TestForkedCall(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	at := map[string]netip.AddrPort{"a": netip.MustParseAddrPort("127.0.0.1:8000"), "b": netip.MustParseAddrPort("127.0.0.1:8100")}
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP)))
	inv := r.pbxSock.next()
	port := r.pbxSock.from
	relay := r.media.relays[r.media.port(0).pbx]
	respond := func(tag, status string, headers ...string) {
		t.Helper()
		r.pbxSock.send(port, tagged(inv, tag, status, append([]string{"Contact: <sip:" + tag + "@127.0.0.1:9>"}, headers...)...))
		if m := phone.next(); string(m.ToTag()) != tag {
			t.Errorf("the phone got:\n%s", m.raw)
		}
	}
	want := func(tag string) {
		t.Helper()
		if relay.remote() != at[tag] {
			t.Errorf("media go to %v, want %v", relay.remote(), at[tag])
		}
	}
	respond("a", "183 Session Progress", sdpAt(at["a"]))
	want("a")
	respond("b", "183 Session Progress", sdpAt(at["b"]))
	want("b")
	respond("silent", "180 Ringing")
	want("b")
	respond("a", "200 OK") // its SDP was in a reliable response
	want("a")
	respond("b", "200 OK")
	want("b")
	for _, tag := range []string{"a", "b"} {
		c.toTag = tag
		phone.send(r.proxy, c.request("ACK", "sip:"+tag+"@127.0.0.1:9"))
		r.pbxSock.next()
	}

	phone.send(r.proxy, c.request("BYE", "sip:b@127.0.0.1:9"))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK")
	phone.next()
	want("a")
	if n := len(r.lan.Calls()) + len(r.pbx.Calls()); n != 2 {
		t.Errorf("%d calls at both sides, want 2", n)
	}
	r.pbx.Close()
	if bye := r.pbxSock.next(); string(bye.ToTag()) != "a" || string(bye.RequestURI()) != "sip:a@127.0.0.1:9" {
		t.Errorf("the PBX got:\n%s", bye.raw)
	}
	r.pbxSock.silent(300 * time.Millisecond)
	if n := len(r.pbx.Calls()); n != 0 {
		t.Errorf("%d calls left", n)
	}
}

// TestPhoneForks: behind one flow there may be several phones, each with a Contact
// of its own for its dialog.
func TestPhoneForks(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	port := r.pbxSock.from
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(port, c.request("INVITE", uri, "Contact: <sip:bob@127.0.0.1:9>", sdpAt(testRTP)))
	inv := phone.next()
	for i, tag := range []string{"a", "b"} {
		media := netip.AddrPortFrom(testRTP.Addr(), uint16(8200+2*i))
		phone.send(r.proxy, tagged(inv, tag, "200 OK", fmt.Sprintf("Contact: <sip:%s@192.168.7.%d>", tag, i), sdpAt(media)))
		r.pbxSock.next()
		if got := r.media.port(0).phone(); got != media {
			t.Errorf("media go to %v, want %v", got, media)
		}
	}
	for i, tag := range []string{"a", "b"} {
		c.toTag = tag
		r.pbxSock.send(port, c.request("BYE", uri))
		bye := phone.next()
		if want := fmt.Sprintf("sip:%s@192.168.7.%d", tag, i); string(bye.RequestURI()) != want {
			t.Errorf("the BYE goes to %s, want %s", bye.RequestURI(), want)
		}
		phone.from = r.proxy
		phone.reply(bye, "200 OK")
		r.pbxSock.next()
		if closed := r.media.port(0).isClosed(); closed != (tag == "b") {
			t.Errorf("after the end of %s: media closed is %v", tag, closed)
		}
	}
	r.empty()
}

// TestDialogsOfALegAreBounded: a callee with ever new tags costs a bounded amount,
// and those that have answered are kept.
func TestDialogsOfALegAreBounded(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, sdpAt(testRTP)))
	inv := r.pbxSock.next()
	port := r.pbxSock.from
	r.pbxSock.send(port, tagged(inv, "answered", "200 OK", sdpAt(testRTP)))
	phone.next()
	for i := range 3 * maxDialogs {
		r.pbxSock.send(port, tagged(inv, fmt.Sprint("late", i), "200 OK", sdpAt(testRTP)))
		phone.next()
	}
	c.toTag = "answered"
	phone.send(r.proxy, c.request("ACK", "sip:bob@127.0.0.1:9"))
	r.pbxSock.next()
	phone.send(r.proxy, c.request("BYE", "sip:bob@127.0.0.1:9"))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK")
	phone.next()
	for i := range 3 * maxDialogs {
		c.toTag = fmt.Sprint("late", i)
		phone.send(r.proxy, c.request("BYE", "sip:bob@127.0.0.1:9"))
		r.pbxSock.reply(r.pbxSock.next(), "200 OK")
		phone.next()
	}
	if n := len(r.lan.Calls()) + len(r.pbx.Calls()); n != 0 {
		t.Errorf("%d calls left", n)
	}
	r.empty()
}

// TestTagUsedAgain: the dialog of a second attempt is found though the refusal of
// the first had the same tag.
func TestTagUsedAgain(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	for _, status := range []string{"422 Session Interval Too Small", "200 OK"} {
		c.toTag = ""
		phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP)))
		inv := r.pbxSock.next()
		r.pbxSock.reply(inv, "183 Session Progress", sdpAt(testRTP))
		phone.next()
		r.pbxSock.reply(inv, status, "Contact: <sip:bob@127.0.0.1:9>")
		if status[0] == '4' {
			r.pbxSock.next() // ACK
		}
		phone.next()
		c.toTag = "callee"
		phone.send(r.proxy, c.again("ACK", "sip:bob@127.0.0.1:9"))
	}
	r.pbxSock.next() // ACK
	phone.send(r.proxy, c.request("INVITE", "sip:bob@127.0.0.1:9", sdpAt(testRTP)))
	if m := r.pbxSock.next(); string(m.Method()) != "INVITE" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}
