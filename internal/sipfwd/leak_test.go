package sipfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

// state is what both halves remember of the phones.
type state struct{ legs, servers, clients, mediaOpen, relaysInUse int }

func (r *rig) state() state {
	var s state
	tally := func(e *edge, t *legTable) {
		s.servers, s.clients = s.servers+len(e.servers), s.clients+len(e.clients)
		s.legs += t.count
	}
	for _, p := range r.lan.allPhones() {
		p.mu.Lock()
		tally(p.edge, p.legs)
		p.mu.Unlock()
	}
	for _, p := range r.pbx.allPhones() {
		p.mu.Lock()
		tally(p.edge, p.legs)
		p.mu.Unlock()
	}
	r.media.mu.Lock()
	defer r.media.mu.Unlock()
	for _, p := range r.media.ports {
		if !p.isClosed() {
			s.mediaOpen++
		}
	}
	for _, relay := range r.media.relays {
		if relay.remote().IsValid() {
			s.relaysInUse++
		}
	}
	return s
}

// expire makes every timer of transactions and legs fire now. Sockets cannot be
// had under a fake clock.
func (r *rig) expire() {
	flush := func(e *edge, t *legTable) {
		for _, l := range t.all() {
			if l.ended || l.ending {
				t.drop(l, "test")
			}
		}
		for _, s := range e.servers {
			if s.status >= 200 {
				e.dropServer(s)
			}
		}
		for _, c := range e.clients {
			if c.status >= 200 || c.left || c.key.method == "CANCEL" {
				e.dropClient(c)
			}
		}
	}
	for _, p := range r.lan.allPhones() {
		p.mu.Lock()
		flush(p.edge, p.legs)
		p.mu.Unlock()
	}
	for _, p := range r.pbx.allPhones() {
		p.mu.Lock()
		flush(p.edge, p.legs)
		p.mu.Unlock()
	}
}

func (r *rig) empty() {
	r.t.Helper()
	r.expire()
	if got := r.state(); got != (state{}) {
		r.t.Errorf("left behind: %+v", got)
	}
	if up, down := r.lan.budget.used.Load(), r.pbx.budget.used.Load(); up != 0 || down != 0 {
		r.t.Errorf("%d and %d bytes of budget not given back", up, down)
	}
}

var testRTP = netip.MustParseAddrPort("127.0.0.1:7000")

// setUp has phone call the PBX; it returns the call with the port that the PBX
// knows the phone by.
func (r *rig) setUp(phone *agent, id string) (*call, netip.AddrPort) {
	r.t.Helper()
	c := phoneCall(r.t, phone, "alice", "bob")
	c.id = id
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP)))
	inv := r.pbxSock.next()
	port := r.pbxSock.from
	r.pbxSock.reply(inv, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(testRTP))
	phone.next()
	c.toTag = "callee"
	phone.send(r.proxy, c.request("ACK", "sip:bob@"+r.pbxSock.addr().String()))
	r.pbxSock.next()
	return c, port
}

// reverse is the other party's side of the dialog c.
func (c *call) reverse(at netip.AddrPort) *call {
	return &call{id: c.id, from: c.to, to: c.from, fromTag: c.toTag, toTag: c.fromTag, transport: "UDP", at: at}
}

func TestNothingIsLeftOf300Calls(t *testing.T) {
	r := newRig(t)
	phones := make([]*agent, 6)
	for i := range phones {
		phones[i] = newAgent(t, "127.0.0.1:0")
		if i%2 == 1 {
			phones[i] = newTCPAgent(t, r.proxy)
		}
		r.setUpAndEnd(phones[i], fmt.Sprint("warm", i), false)
	}
	before := runtime.NumGoroutine()
	for i := range 300 {
		r.setUpAndEnd(phones[i%len(phones)], fmt.Sprint("call", i), i%4 < 2)
	}
	r.empty()
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	started, ended := r.events.count("started"), r.events.count("ended")
	if started != 306 || ended != 306 {
		t.Errorf("%d calls started, %d ended", started, ended)
	}
}

func (r *rig) setUpAndEnd(phone *agent, id string, byPBX bool) {
	r.t.Helper()
	c, port := r.setUp(phone, id)
	if byPBX {
		r.pbxSock.send(port, c.reverse(r.pbxSock.addr()).request("BYE", "sip:alice@"+port.String()))
		bye := phone.next()
		phone.from = r.proxy
		phone.reply(bye, "200 OK")
		r.pbxSock.next()
		return
	}
	phone.send(r.proxy, c.request("BYE", "sip:bob@"+r.pbxSock.addr().String()))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK")
	phone.next()
}

// TestChallengeIsNoEnd: a call that is challenged keeps its leg and its media
// port, and is one call in the log.
func TestChallengeIsNoEnd(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	for _, status := range []string{"407 Proxy Authentication Required", "401 Unauthorized", "407 Proxy Authentication Required"} {
		phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, sdpAt(testRTP)))
		inv := r.pbxSock.next()
		if !strings.Contains(inv.raw, "m=audio 50002 ") {
			t.Errorf("another relay:\n%s", inv.raw)
		}
		r.pbxSock.reply(inv, status)
		r.pbxSock.next() // ACK
		phone.next()
		phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	}
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, sdpAt(testRTP)))
	inv := r.pbxSock.next()
	r.pbxSock.reply(inv, "200 OK", sdpAt(testRTP))
	phone.next()
	if s := r.state(); s.mediaOpen != 1 || s.relaysInUse != 1 {
		t.Errorf("%+v", s)
	}
	if r.events.count("started") != 1 || r.events.count("ended") != 0 {
		t.Errorf("events: %q", r.events.lines)
	}
}

// TestSameCallIDAfterRefusal: RFC 3261 section 8.1.3.5 and RFC 4028 have an
// INVITE come again with the same Call-ID after other refusals than challenges.
func TestSameCallIDAfterRefusal(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	for range 3 {
		phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, sdpAt(testRTP)))
		r.pbxSock.reply(r.pbxSock.next(), "422 Session Interval Too Small")
		r.pbxSock.next()
		phone.next()
		phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	}
	eventually(t, "nothing left", func() bool { return r.state().mediaOpen == 0 })
	if r.events.count("started") != 3 || r.events.count("ended") != 3 {
		t.Errorf("events: %q", r.events.lines)
	}
	r.empty()
}

// TestRefusedCallsAreForgotten: whoever refuses an INVITE, and why.
func TestRefusedCallsAreForgotten(t *testing.T) {
	bad := "v=0\r\nm=audio\r\n"
	for _, tt := range []struct {
		name   string
		spoil  func(r *rig)
		body   string
		status int
	}{
		{"malformed SDP of the phone", func(*rig) {}, bad, 488},
		{"no media port", func(r *rig) { r.media.fail.Store(true) }, sdpAt(testRTP), 503},
		{"too many calls", func(r *rig) { r.lan.budget.take(maxState - legCost/2) }, sdpAt(testRTP), 503},
		{"too many transactions", func(r *rig) { r.pbx.budget.take(maxState - legCost) }, sdpAt(testRTP), 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.spoil(r)
			phone := newAgent(t, "127.0.0.1:0")
			c := phoneCall(t, phone, "alice", "bob")
			phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, tt.body))
			if m := phone.next(); m.StatusCode() != tt.status {
				t.Errorf("the phone got:\n%s", m.raw)
			}
			eventually(t, "nothing left", func() bool { r.expire(); s := r.state(); return s.legs == 0 && s.mediaOpen == 0 })
			if r.events.count("started") != r.events.count("ended") {
				t.Errorf("events: %q", r.events.lines)
			}
		})
	}
	t.Run("malformed SDP of the PBX", func(t *testing.T) {
		r := newRig(t)
		phone := newAgent(t, "127.0.0.1:0")
		uri := r.register(phone, "alice")
		c := phoneCall(t, r.pbxSock, "bob", "alice")
		r.pbxSock.send(r.pbxSock.from, c.request("INVITE", uri, bad))
		if m := r.pbxSock.next(); m.StatusCode() != 488 {
			t.Errorf("the PBX got:\n%s", m.raw)
		}
		eventually(t, "nothing left", func() bool { return r.state().legs == 0 })
	})
}

// TestNothingIsAllocatedForAnEndedCall: SDP that comes behind the BYE.
func TestNothingIsAllocatedForAnEndedCall(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c, port := r.setUp(phone, "late")
	phone.send(r.proxy, c.request("BYE", "sip:bob@"+r.pbxSock.addr().String()))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK")
	phone.next()
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+r.pbxSock.addr().String(), sdpAt(testRTP)))
	if m := phone.next(); m.StatusCode() != 481 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	r.pbxSock.send(port, c.reverse(r.pbxSock.addr()).request("UPDATE", "sip:alice@"+port.String(), sdpAt(testRTP)))
	if m := r.pbxSock.next(); m.StatusCode() != 481 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	if n := r.state().mediaOpen; n != 0 {
		t.Errorf("%d media ports open", n)
	}
}

// TestNotificationsAreNoCalls: a phone or PBX that sends NOTIFY all day must not
// use up what calls need, nor must subscriptions that are refused.
func TestNotificationsAreNoCalls(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	for i := range maxOtherLegs + 20 {
		c := phoneCall(t, phone, "alice", "bob")
		c.id = fmt.Sprint("notify", i)
		phone.send(r.proxy, c.request("NOTIFY", "sip:bob@"+testDomain, "Event: keep-alive"))
		r.pbxSock.reply(r.pbxSock.next(), "200 OK")
		phone.next()
		r.expire()
	}
	c, _ := r.setUp(phone, "call")
	if c.toTag == "" {
		t.Error("no call")
	}
	for _, p := range r.lan.allPhones() {
		p.mu.Lock()
		for _, l := range p.legs.all() {
			if !l.isCall && l.until.After(time.Now()) {
				t.Errorf("a NOTIFY without subscription is remembered until %v", l.until)
				break
			}
		}
		p.mu.Unlock()
	}
}

// TestFlowsOfAPhoneAreBounded: a phone that is known by its instance may come
// from ever new addresses.
func TestFlowsOfAPhoneAreBounded(t *testing.T) {
	r := newRig(t)
	for i := range 40 {
		phone := newAgent(t, "127.0.0.1:0")
		c := phoneCall(t, phone, "alice", "alice")
		c.seq = i
		phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, `Contact: <sip:alice@127.0.0.1:5060>;+sip.instance="<urn:uuid:1>"`))
		m := r.pbxSock.next()
		r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=60")
		phone.next()
	}
	r.lan.mu.Lock()
	defer r.lan.mu.Unlock()
	if len(r.lan.phones) != 1 || len(r.lan.flows) > maxFlowsPerPhone || len(r.lan.byFlow) > maxFlowsPerPhone {
		t.Errorf("%d phones, %d and %d flows", len(r.lan.phones), len(r.lan.flows), len(r.lan.byFlow))
	}
}

// TestLate200IsEnded: a callee that answers when its call was given up is told.
func TestLate200IsEnded(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	uri := r.register(phone, "alice")
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, in.request("INVITE", uri, sdpAt(testRTP)))
	inv := phone.next()
	phone.from = r.proxy
	phone.reply(inv, "180 Ringing")
	r.pbxSock.next()
	r.lan.Reset(errors.New("test"))
	if m := phone.next(); string(m.Method()) != "CANCEL" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	phone.reply(inv, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+";x>", sdpAt(testRTP))
	for _, method := range []string{"ACK", "BYE"} {
		m := phone.next()
		for string(m.Method()) == "CANCEL" {
			m = phone.next()
		}
		if string(m.Method()) != method || string(m.ToTag()) != "callee" || string(m.RequestURI()) != "sip:alice@"+phone.addr().String()+";x" {
			t.Errorf("want %s, the phone got:\n%s", method, m.raw)
		}
	}
	if n := r.state().mediaOpen; n != 0 {
		t.Errorf("%d media ports open", n)
	}
}

// TestByeAfterReINVITEOfTheOther: the tags of a BYE of our own do not depend on
// who sent the last INVITE.
func TestByeAfterReINVITEOfTheOther(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c, port := r.setUp(phone, "reinvite")
	back := c.reverse(r.pbxSock.addr())
	back.seq = 40
	r.pbxSock.send(port, back.request("INVITE", "sip:alice@"+port.String(), "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(testRTP)))
	phone.from = r.proxy
	phone.reply(phone.next(), "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP))
	r.pbxSock.next()
	r.pbxSock.send(port, back.request("ACK", "sip:alice@"+port.String()))
	phone.next()
	r.lan.Reset(errors.New("test"))
	if m := phone.next(); string(m.Method()) != "BYE" || string(m.FromTag()) != "callee" || string(m.ToTag()) != "caller" || m.header("CSeq") != "42 BYE" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	r.pbx.Close()
	if m := r.pbxSock.next(); string(m.Method()) != "BYE" || string(m.FromTag()) != "caller" || string(m.ToTag()) != "callee" || m.header("CSeq") != "2 BYE" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

func (e *recordedEvents) count(prefix string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, l := range e.lines {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}
