package sipfwd

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
)

// officeCall is a call between two phones of one office through a PBX that has
// them send to each other: near is the caller's leg, far the callee's.
type officeCall struct {
	*rig
	alice, bob *agent
	near, far  *call
	nearPort   netip.AddrPort // that the PBX knows alice by
	farPort    netip.AddrPort
}

var (
	nearRTP = netip.MustParseAddrPort("127.0.0.1:7000")
	farRTP  = netip.MustParseAddrPort("127.0.0.1:7100")
	hold    = netip.MustParseAddrPort("127.0.0.1:9000") // the PBX's own music
)

// relay is the address that the PBX knows the media of the i-th leg by.
func (o *officeCall) relay(i int) netip.AddrPort { return o.media.port(i).pbx }

// joined reports whether the two phones' ports are joined, and fails the test
// when they disagree.
func (o *officeCall) joined() bool {
	o.t.Helper()
	near, far := o.media.port(0), o.media.port(1)
	a, b := near.peer() == MediaPort(far), far.peer() == MediaPort(near)
	if a != b || !a && (near.peer() != nil || far.peer() != nil) {
		o.t.Errorf("half joined: %v, %v", near.peer(), far.peer())
	}
	return a
}

func (o *officeCall) want(joined bool, when string) {
	o.t.Helper()
	if o.joined() != joined {
		o.t.Errorf("%s: joined is %v", when, !joined)
	}
}

func contactOf(a *agent) string { return "Contact: <sip:x@" + a.addr().String() + ">" }

// newOfficeCall sets the call up as far as the callee's 200, which the caller
// has not got yet.
func newOfficeCall(t *testing.T) (o *officeCall, inv received) {
	t.Helper()
	o = &officeCall{rig: newRig(t), alice: newAgent(t, "127.0.0.1:0"), bob: newAgent(t, "127.0.0.1:0")}
	uri := o.register(o.bob, "bob")
	o.farPort = o.pbxSock.from
	o.near = phoneCall(t, o.alice, "alice", "bob")
	o.alice.send(o.proxy, o.near.request("INVITE", "sip:bob@"+testDomain, contactOf(o.alice), sdpAt(nearRTP)))
	inv = o.pbxSock.next()
	o.nearPort = o.pbxSock.from
	o.far = phoneCall(t, o.pbxSock, "alice", "bob")
	o.far.id += " other leg"
	o.pbxSock.send(o.farPort, o.far.request("INVITE", uri, contactOf(o.pbxSock), sdpAt(o.relay(0))))
	ring := o.bob.next()
	o.bob.from = o.proxy
	o.bob.reply(ring, "200 OK", contactOf(o.bob), sdpAt(farRTP))
	o.pbxSock.next()
	o.far.toTag = "callee"
	o.pbxSock.send(o.farPort, o.far.request("ACK", "sip:x@"+o.farPort.String()))
	o.bob.next()
	o.pbxSock.from = o.nearPort
	return o, inv
}

// connect has the PBX tell the caller to send to an address.
func (o *officeCall) connect(inv received, to netip.AddrPort, attrs ...string) {
	o.t.Helper()
	o.pbxSock.reply(inv, "200 OK", contactOf(o.pbxSock), sdpAt(to, attrs...))
	o.alice.next()
	o.near.toTag = "callee"
	o.alice.send(o.proxy, o.near.request("ACK", "sip:bob@x"))
	o.pbxSock.next()
	o.alice.from = o.proxy
}

// move has the PBX offer the caller another address, which it answers with a
// status. It reports whether the ports were joined when the caller had the offer.
func (o *officeCall) move(to netip.AddrPort, status string) (meanwhile bool) {
	o.t.Helper()
	back := o.near.reverse(o.pbxSock.addr())
	back.seq = int(time.Now().UnixNano() >> 20 & 0xffffff)
	o.pbxSock.send(o.nearPort, back.request("INVITE", "sip:x@"+o.nearPort.String(), contactOf(o.pbxSock), sdpAt(to)))
	offer := o.alice.next()
	meanwhile = o.joined()
	if strings.HasPrefix(status, "2") {
		o.alice.reply(offer, status, contactOf(o.alice), sdpAt(nearRTP))
	} else {
		o.alice.reply(offer, status)
	}
	o.pbxSock.next()
	o.pbxSock.send(o.nearPort, back.again("ACK", "sip:x@"+o.nearPort.String()))
	o.alice.next()
	return meanwhile
}

// ask has the caller offer something, which the PBX answers with an address.
func (o *officeCall) ask(answer netip.AddrPort, attr string) {
	o.t.Helper()
	o.alice.send(o.proxy, o.near.request("INVITE", "sip:bob@x", contactOf(o.alice), sdpAt(nearRTP, attr)))
	inv := o.pbxSock.next()
	o.connect(inv, answer)
}

// TestDirectMediaStaysInTheOffice follows two phones that the PBX has send to
// each other through everything that ends that and begins it anew.
func TestDirectMediaStaysInTheOffice(t *testing.T) {
	o, inv := newOfficeCall(t)
	o.want(false, "when only the callee was told of the caller")
	o.connect(inv, o.relay(1))
	o.want(true, "when both know each other")

	o.ask(o.relay(1), "sendonly")
	o.want(true, "on hold, but still at the other's relay")
	o.ask(hold, "sendonly")
	o.want(false, "with the music of the PBX")
	o.ask(o.relay(1), "sendrecv")
	o.want(true, "resumed")

	if o.move(hold, "488 Not Acceptable Here") {
		t.Error("joined while the PBX offers another address")
	}
	o.want(true, "when that was refused")
	if o.move(hold, "200 OK") {
		t.Error("joined while the PBX offers another address")
	}
	o.want(false, "when that was accepted")
	if o.move(o.relay(1), "488 Not Acceptable Here") || o.joined() {
		t.Error("joined by an offer that was refused")
	}
	if o.move(o.relay(1), "200 OK") {
		t.Error("joined by an offer that is not answered")
	}
	o.want(true, "back again")
	if !o.move(o.relay(1), "200 OK") || !o.joined() {
		t.Error("parted by an offer that says the same")
	}

	o.bob.send(o.proxy, o.far.reverse(o.bob.addr()).request("BYE", "sip:x@x"))
	o.pbxSock.reply(o.pbxSock.next(), "200 OK")
	o.bob.next()
	eventually(t, "parted by the end of a leg", func() bool { return !o.joined() })
	if o.media.port(0).isClosed() || !o.media.port(1).isClosed() {
		t.Error("the wrong port was closed")
	}
	o.alice.send(o.proxy, o.near.request("BYE", "sip:bob@x"))
	o.pbxSock.reply(o.pbxSock.next(), "200 OK")
	o.alice.next()
	o.empty()
	if n := len(o.lan.crossbar.points); n != 0 {
		t.Errorf("%d crosspoints left", n)
	}
}

// TestAnchoredMediaGoesToThePBX: nothing is joined unless both legs say so, and
// say so plainly.
func TestAnchoredMediaGoesToThePBX(t *testing.T) {
	t.Run("one leg at the PBX", func(t *testing.T) {
		o, inv := newOfficeCall(t)
		o.connect(inv, hold)
		o.want(false, "the caller sends to the PBX")
	})
	t.Run("at its own relay", func(t *testing.T) {
		o, inv := newOfficeCall(t)
		o.connect(inv, o.relay(0))
		o.want(false, "the caller sends to itself")
	})
	t.Run("RTCP elsewhere", func(t *testing.T) {
		o, inv := newOfficeCall(t)
		o.connect(inv, o.relay(1), "rtcp:9001 IN IP4 127.0.0.1")
		o.want(false, "RTCP goes to the PBX")
	})
}

func TestPlainAddr(t *testing.T) {
	const plain = "v=0\nc=IN IP4 192.0.2.1\nm=audio 4000 RTP/AVP 0\n"
	for _, tt := range []struct {
		sdp  string
		want bool
	}{
		{plain, true},
		{plain + "a=rtcp:4001\n", true},
		{plain + "a=rtcp-mux\n", true},
		{plain + "a=inactive\n", true},
		{plain + "a=rtcp:4005\n", false},
		{plain + "a=rtcp:4001 IN IP4 192.0.2.2\n", false},
		{plain + "a=candidate:1 1 UDP 1 192.0.2.2 4000 typ host\n", false},
		{strings.Replace(plain, "4000", "4000/2", 1), false},
		{strings.Replace(plain, "4000", "0", 1), false},
		{strings.Replace(plain, "RTP/AVP", "TCP/RTP/AVP", 1), false},
		{strings.Replace(plain, "192.0.2.1", "0.0.0.0", 1), false},
		{strings.Replace(plain, "192.0.2.1", "pbx.example", 1), false},
	} {
		var d sdp.Description
		if err := d.Parse([]byte(tt.sdp)); err != nil {
			t.Fatal(err)
		}
		if got := plainAddr(&d.Media()[0]); got.rtp.IsValid() != tt.want {
			t.Errorf("%q: %v", tt.sdp, got)
		}
	}
}

// TestCrossbarForgetsOldSessions: after a lost session its addresses may belong
// to other ports.
func TestCrossbarForgetsOldSessions(t *testing.T) {
	at := func(s string) *fakePort { return &fakePort{pbx: netip.MustParseAddrPort(s)} }
	a, b, again := at("192.0.2.1:50000"), at("192.0.2.1:50002"), at("192.0.2.1:50000")
	var x crossbar
	x.point(a, b.pbx)
	x.point(b, a.pbx)
	if a.peer() != MediaPort(b) || b.peer() != MediaPort(a) {
		t.Fatal("not joined")
	}
	x.point(again, hold)
	if a.peer() != nil || b.peer() != nil || again.peer() != nil {
		t.Error("the old port is still joined")
	}
	x.point(again, b.pbx)
	if again.peer() != MediaPort(b) {
		t.Error("the new port is not joined")
	}
	x.point(a, netip.AddrPort{})
	if again.peer() != MediaPort(b) || b.peer() != MediaPort(again) {
		t.Error("the end of the old port parted the new one")
	}
	x.point(b, netip.AddrPort{})
	x.point(again, netip.AddrPort{})
	if again.peer() != nil || len(x.points) != 0 {
		t.Errorf("%d crosspoints left", len(x.points))
	}
}

// TestSilenceOfADirectCall: tunneld sees nothing of a call that stays in the
// office. It must not end that for its silence before the client gives it up.
func TestSilenceOfADirectCall(t *testing.T) {
	o, inv := newOfficeCall(t)
	o.connect(inv, o.relay(1))
	silent := func() (calls int) {
		for _, p := range o.pbx.allPhones() {
			p.mu.Lock()
			for _, l := range p.legs.all() {
				if l.isCall {
					l.activeAt = time.Now().Add(-mediaSilence - time.Second)
					p.legs.checkMedia(l)
				}
			}
			calls += len(p.legs.calls())
			p.mu.Unlock()
		}
		return calls
	}
	if n := silent(); n != 2 {
		t.Fatalf("%d calls go on", n)
	}
	gone := o.relay(1)
	o.media.mu.Lock()
	delete(o.media.relays, gone)
	o.media.mu.Unlock()
	if n := silent(); n != 0 {
		t.Errorf("%d calls go on without their relays", n)
	}
}

// TestMediaOverTCPIsRefused: an offer of audio and MSRP has its audio carried,
// and neither side is told an address of the other's for MSRP.
func TestMediaOverTCPIsRefused(t *testing.T) {
	const msrp = "m=message 2855 TCP/MSRP *\r\na=accept-types:text/plain\r\na=path:msrp://127.0.0.9:2855/x;tcp\r\n"
	refused := "m=message 0 TCP/MSRP *\r\na=accept-types:text/plain\r\n"
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP)+msrp))
	inv := r.pbxSock.next()
	if !strings.HasSuffix(inv.raw, "m=audio 50002 RTP/AVP 0\r\n"+refused) {
		t.Errorf("the PBX got:\n%s", inv.raw)
	}
	// A PBX that says an address all the same.
	r.pbxSock.reply(inv, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(testRTP)+msrp)
	if ok := phone.next(); !strings.HasSuffix(ok.raw, "m=audio 40002 RTP/AVP 0\r\n"+refused) {
		t.Errorf("the phone got:\n%s", ok.raw)
	}
	if n := r.state().mediaOpen; n != 1 {
		t.Errorf("%d media ports open, want that of the audio", n)
	}
}
