package sipfwd

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// withTrunks gives the rig another LAN side, which has trunks, and waits until
// they are open.
func (r *rig) withTrunks(trunks ...Trunk) *rig {
	r.t.Helper()
	r.lan.Close()
	cfg := r.lan.cfg
	cfg.Office, cfg.Trunks = "office:", trunks
	r.lan = NewLANSide(cfg)
	udp, ln := listenBoth(r.t)
	r.proxy = addrPort(udp.LocalAddr())
	go r.lan.ServeUDP(udp)
	go r.lan.ServeTCP(ln)
	eventually(r.t, "open", func() bool {
		r.lan.mu.Lock()
		listening := r.lan.tcpPort != 0 && len(r.lan.udp) > 0
		r.lan.mu.Unlock()
		if !listening {
			return false
		}
		for _, t := range r.lan.Trunks() {
			if t.Address == "" {
				return false
			}
		}
		return true
	})
	return r
}

// trunkTo is a trunk to the office PBX a, by the name office.example.
func trunkTo(name string, a *agent) Trunk {
	return Trunk{Name: name, Host: "office.example", Port: a.addr().Port(), Transport: a.transport(), Addr: a.addr().Addr()}
}

// trunkPort is where the PBX reaches the trunk.
func (r *rig) trunkPort(name string) netip.AddrPort {
	r.t.Helper()
	for _, t := range r.pbx.Trunks() {
		if t.Name == name {
			return netip.MustParseAddrPort(t.Address)
		}
	}
	r.t.Fatalf("no trunk %s", name)
	return netip.AddrPort{}
}

// linksGone waits until the LAN side knows that its connections have ended.
func (r *rig) linksGone() {
	r.t.Helper()
	eventually(r.t, "gone", func() bool {
		r.lan.mu.Lock()
		defer r.lan.mu.Unlock()
		return len(r.lan.streams) == 0
	})
}

// TestTrunk: calls of any user in both directions, with the requests in their
// dialogs, over UDP and TCP.
func TestTrunk(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run("down "+transport, func(t *testing.T) {
			r := newRig(t)
			office := newListeningAgent(t, transport)
			r.withTrunks(trunkTo("berlin", office))
			at := r.trunkPort("berlin")
			call := phoneCall(t, r.pbxSock, "carol", "+4930123")
			diverted := "Diversion: <sip:dave@elsewhere.example>;reason=unconditional"
			r.pbxSock.send(at, call.request("INVITE", "sip:+4930123@"+at.String()+";user=phone;transport=udp",
				"Contact: <sip:carol@"+r.pbxSock.addr().String()+">", "P-Asserted-Identity: <sip:carol@third.example>", diverted,
				sdpAt(netip.MustParseAddrPort("127.0.0.1:9000"))))
			m := office.next()
			host := trunkTo("", office)
			want := "sip:+4930123@office.example" + portSuffix(int(host.Port)) + ";user=phone"
			if transport == "TCP" {
				want += ";transport=tcp"
			}
			if string(m.RequestURI()) != want {
				t.Errorf("the office PBX is asked for %s, want %s", m.RequestURI(), want)
			}
			if m.header("P-Asserted-Identity") != "<sip:carol@third.example>" || m.header("Diversion") != strings.TrimPrefix(diverted, "Diversion: ") {
				t.Errorf("the office PBX got:\n%s", m.raw)
			}
			if via, rr := m.header("Via"), m.header("Record-Route"); !strings.Contains(via, r.proxy.String()) || !strings.Contains(rr, r.proxy.String()) {
				t.Errorf("Via %s, Record-Route %s: the proxy is at %v", via, rr, r.proxy)
			}
			own := "<sip:office-pbx@" + office.addr().String() + ">"
			office.reply(m, "200 OK", "Contact: "+own, sdpAt(netip.MustParseAddrPort("127.0.0.1:9100")))
			res := r.pbxSock.next()
			if res.StatusCode() != 200 || res.header("Contact") != "<sip:office-pbx@"+at.String()+">" {
				t.Fatalf("the PBX got:\n%s", res.raw)
			}
			call.toTag = "callee"
			for _, method := range []string{"ACK", "INFO", "REFER", "BYE"} {
				r.pbxSock.send(at, call.request(method, "sip:office-pbx@"+at.String(), "Refer-To: <sip:x@y.example>"))
				in := office.next()
				if string(in.Method()) != method || string(in.RequestURI()) != strings.Trim(own, "<>") {
					t.Fatalf("the office PBX got:\n%s", in.raw)
				}
				if method != "ACK" {
					office.reply(in, "200 OK", "Contact: "+own)
					r.pbxSock.next()
				}
			}
			r.empty()
		})
		t.Run("up "+transport, func(t *testing.T) {
			r := newRig(t)
			office := newListeningAgent(t, transport)
			r.withTrunks(trunkTo("berlin", office))
			at := r.trunkPort("berlin")
			// From another port than the one that it takes requests at.
			caller := newAgent(t, "127.0.0.1:0")
			if transport == "TCP" {
				caller = newTCPAgent(t, r.proxy)
			}
			call := phoneCall(t, caller, "100", "+49301")
			call.from = "<sip:100@office.example>"
			caller.send(r.proxy, call.request("INVITE", "sip:+49301@"+r.proxy.String(),
				"Contact: <sip:100@"+office.addr().String()+";transport=tcp>", sdpAt(netip.MustParseAddrPort("127.0.0.1:9100"))))
			m := r.pbxSock.next()
			if r.pbxSock.from != at || string(m.RequestURI()) != "sip:+49301@"+testDomain || m.header("Contact") != "<sip:100@"+at.String()+">" ||
				!strings.HasPrefix(m.header("From"), "<sip:100@office.example>") {
				t.Fatalf("the PBX got from %v:\n%s", r.pbxSock.from, m.raw)
			}
			r.pbxSock.reply(m, "200 OK", "Contact: <sip:pbx@"+r.pbxSock.addr().String()+">", sdpAt(netip.MustParseAddrPort("127.0.0.1:9000")))
			if res := caller.next(); res.StatusCode() != 200 {
				t.Fatalf("the office PBX got:\n%s", res.raw)
			}
			call.toTag = "callee"
			caller.send(r.proxy, call.request("ACK", "sip:pbx@"+r.pbxSock.addr().String()))
			r.pbxSock.next()
			// The other way the request goes where the trunk was configured to be.
			r.pbxSock.send(at, call.reverse(r.pbxSock.addr()).request("BYE", "sip:100@"+at.String()))
			in := office.next()
			if string(in.Method()) != "BYE" || string(in.RequestURI()) != "sip:100@"+office.addr().String()+";transport=tcp" {
				t.Fatalf("the office PBX got:\n%s", in.raw)
			}
			office.reply(in, "200 OK")
			r.pbxSock.next()
			r.empty()
		})
	}
}

// TestTrunkOptions: each side's qualify is answered by the other one.
func TestTrunkOptions(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "pbx", "x").request("OPTIONS", "sip:"+at.String()))
	m := office.next()
	if string(m.RequestURI()) != "sip:office.example"+portSuffix(int(office.addr().Port())) {
		t.Errorf("the office PBX got:\n%s", m.raw)
	}
	office.reply(m, "486 Busy Here")
	if res := r.pbxSock.next(); res.StatusCode() != 486 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	office.send(r.proxy, phoneCall(t, office, "office", "x").request("OPTIONS", "sip:"+r.proxy.String()))
	m = r.pbxSock.next()
	if string(m.RequestURI()) != "sip:"+testDomain+portSuffix(int(r.proxy.Port())) && string(m.RequestURI()) != "sip:"+testDomain {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	r.pbxSock.reply(m, "200 OK")
	if res := office.next(); res.StatusCode() != 200 {
		t.Errorf("the office PBX got:\n%s", res.raw)
	}
}

// TestTrunkToPBXOverTCP: the transports of the two PBXs do not meet.
func TestTrunkToPBXOverTCP(t *testing.T) {
	r := newRigOver(t, "TCP")
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	office.send(r.proxy, phoneCall(t, office, "100", "carol").request("SUBSCRIBE", "sip:carol@"+testDomain, "Contact: <sip:100@"+office.addr().String()+">"))
	m := r.pbxSock.next()
	if got := m.header("Contact"); got != "<sip:100@"+at.String()+";transport=tcp>" {
		t.Errorf("the PBX got Contact %s", got)
	}
	r.pbxSock.reply(m, "200 OK")
	if res := office.next(); res.StatusCode() != 200 {
		t.Errorf("the office PBX got:\n%s", res.raw)
	}
	pbx := newTCPAgent(t, at)
	pbx.send(at, phoneCall(t, pbx, "carol", "100").request("MESSAGE", "sip:100@"+at.String()+";transport=tcp"))
	in := office.next()
	if want := "sip:100@office.example" + portSuffix(int(office.addr().Port())); string(in.RequestURI()) != want {
		t.Errorf("the office PBX is asked for %s, want %s", in.RequestURI(), want)
	}
	office.reply(in, "200 OK")
	if res := pbx.next(); res.StatusCode() != 200 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
}

// TestTrunkKeepsOtherDomains: a PBX that uses the trunk as its next hop, with or
// without a Route, has its Request-URI reach the other one as it is.
func TestTrunkKeepsOtherDomains(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	for _, routes := range [][]string{nil, {"Route: <sip:" + at.String() + ";lr>, <sip:office.example;lr>"}} {
		r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "100").request("MESSAGE", "sip:100@office.example", routes...))
		m := office.next()
		want := ""
		if routes != nil {
			want = "<sip:office.example;lr>"
		}
		if string(m.RequestURI()) != "sip:100@office.example" || m.header("Route") != want {
			t.Errorf("the office PBX got:\n%s", m.raw)
		}
	}
}

// TestTrunkUnreachable: over TCP the PBX is told at once.
func TestTrunkUnreachable(t *testing.T) {
	r := newRig(t)
	office := newListeningAgent(t, "TCP")
	r.withTrunks(trunkTo("berlin", office))
	office.ln.Close()
	at := r.trunkPort("berlin")
	call := phoneCall(t, r.pbxSock, "carol", "100")
	r.pbxSock.send(at, call.request("INVITE", "sip:100@"+at.String()))
	if res := r.pbxSock.next(); res.StatusCode() != 503 || res.header("Retry-After") == "" {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	r.pbxSock.send(at, call.again("ACK", "sip:100@"+at.String()))
	if n := r.counters.Snapshot()["sip.refused.trunk_unreachable"]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

// TestTrunkConnectionEnds: what is unanswered is sent once more on a new one.
func TestTrunkConnectionEnds(t *testing.T) {
	r := newRig(t)
	office := newListeningAgent(t, "TCP")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "100").request("MESSAGE", "sip:100@"+at.String()))
	first := office.next()
	office.hangUp()
	second := office.next()
	if first.raw != second.raw {
		t.Errorf("%s\nwas:\n%s", second.raw, first.raw)
	}
	office.reply(second, "200 OK")
	if res := r.pbxSock.next(); res.StatusCode() != 200 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	// Between two requests nothing is lost.
	office.hangUp()
	r.linksGone()
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "101").request("MESSAGE", "sip:101@"+at.String()))
	office.reply(office.next(), "200 OK")
	if res := r.pbxSock.next(); res.StatusCode() != 200 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
}

// TestTrunkThatHangsUp: one that closes its connections while a call rings is not
// dialled but for what there is to send.
func TestTrunkThatHangsUp(t *testing.T) {
	r := newRig(t)
	office := newListeningAgent(t, "TCP")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	call := phoneCall(t, r.pbxSock, "carol", "100")
	r.pbxSock.send(at, call.request("INVITE", "sip:100@"+at.String()))
	m := office.next()
	office.reply(m, "180 Ringing")
	r.pbxSock.next()
	office.hangUp()
	r.linksGone()
	for dials := 0; ; dials++ {
		conn, err := office.ln.accept(time.Now().Add(300 * time.Millisecond))
		if err != nil {
			break
		}
		conn.Close()
		if dials > 3 {
			t.Fatal("it is dialled again and again, with nothing to send")
		}
	}
	r.pbxSock.send(at, call.again("CANCEL", "sip:100@"+at.String()))
	r.pbxSock.next()
	cancel := office.next()
	if string(cancel.Method()) != "CANCEL" {
		t.Fatalf("the office PBX got:\n%s", cancel.raw)
	}
	office.reply(cancel, "200 OK")
	// Its answer comes on a connection of its own, which may be the last one that it wants.
	office.hangUp()
	r.linksGone()
	again := newTCPAgent(t, r.proxy)
	again.send(r.proxy, answer(m, "487 Request Terminated"))
	if res := r.pbxSock.next(); res.StatusCode() != 487 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	if m := office.next(); string(m.Method()) != "ACK" {
		t.Errorf("the office PBX got:\n%s", m.raw)
	}
}

// TestTrunkAway: the PBX is told when the session is over, and a later one of the
// same office has the same port.
func TestTrunkAway(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	r.pbx.Close()
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "100").request("INVITE", "sip:100@"+at.String()))
	if res := r.pbxSock.next(); res.StatusCode() != 480 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	r.newSession()
	r.withTrunks(trunkTo("berlin", office))
	if again := r.trunkPort("berlin"); again != at {
		t.Errorf("now at %v, was at %v", again, at)
	}
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "101").request("MESSAGE", "sip:101@"+at.String()))
	if m := office.next(); string(m.Method()) != "MESSAGE" {
		t.Errorf("the office PBX got:\n%s", m.raw)
	}
}

// TestTrunkTakenOver: the session that has lost it, which may still be in its
// grace, does not list it.
func TestTrunkTakenOver(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	before := r.pbx
	r.newSession()
	r.withTrunks(trunkTo("berlin", office))
	if again := before.Trunks(); len(again) > 0 {
		t.Errorf("the earlier session has %+v", again)
	}
}

// TestTrunksOfOneHost are told apart by their ports.
func TestTrunksOfOneHost(t *testing.T) {
	r := newRig(t)
	first, second := newAgent(t, "127.0.0.1:0"), newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("first", first), trunkTo("second", second))
	for name, office := range map[string]*agent{"first": first, "second": second} {
		office.send(r.proxy, phoneCall(t, office, "a", "b").request("MESSAGE", "sip:b@"+testDomain))
		r.pbxSock.next()
		if r.pbxSock.from != r.trunkPort(name) {
			t.Errorf("%s comes from %v", name, r.pbxSock.from)
		}
	}
}

// TestSocketTowardTrunk: whatever the order in which sockets are opened.
func TestSocketTowardTrunk(t *testing.T) {
	sock := func(at string) *lanSocket { return &lanSocket{bound: netip.MustParseAddrPort(at)} }
	for _, tt := range []struct{ at, best, worse string }{
		{"192.0.2.1", "0.0.0.0:5060", "[::]:5060"},
		{"2001:db8::1", "[::]:5060", "0.0.0.0:5060"},
		{"192.0.2.1", "192.0.2.1:5080", "0.0.0.0:5060"},
		{"192.0.2.1", "0.0.0.0:5060", "192.0.2.9:5060"},
		{"192.0.2.1", "0.0.0.0:5060", "0.0.0.0:5080"},
		{"192.0.2.1", "192.0.2.9:5060", "[2001:db8::1]:5060"},
	} {
		for _, socks := range [][]*lanSocket{{sock(tt.best), sock(tt.worse)}, {sock(tt.worse), sock(tt.best)}} {
			s := &LANSide{flows: map[flowKey]*flow{}, byFlow: map[*flow]*lanPhone{}, udp: socks}
			f := s.udpFlowTo(netip.MustParseAddrPort("192.0.2.7:5060"), netip.MustParseAddr(tt.at), new(lanPhone))
			if f == nil || f.sock.bound.String() != tt.best {
				t.Errorf("from %s not %s", tt.at, tt.best)
			}
		}
	}
}

// TestTrunkMoves: the host's name has another address.
func TestTrunkMoves(t *testing.T) {
	r := newRig(t)
	before, after := newAgent(t, "127.0.0.1:0"), newAgent(t, "127.0.0.2:0")
	trunk := trunkTo("berlin", before)
	trunk.Port, trunk.Addr = after.addr().Port(), netip.Addr{}
	r.withTrunks(trunk)
	at := r.trunkPort("berlin")
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "100").request("MESSAGE", "sip:100@"+at.String()))
	if res := r.pbxSock.next(); res.StatusCode() != 480 {
		t.Errorf("the PBX got:\n%s", res.raw)
	}
	after.send(r.proxy, phoneCall(t, after, "a", "b").request("MESSAGE", "sip:b@"+testDomain))
	r.pbxSock.next()
	if r.pbxSock.from == at {
		t.Error("the trunk's port serves another host")
	}
	r.lan.SetTrunkAddr("berlin", after.addr().Addr())
	after.send(r.proxy, phoneCall(t, after, "a", "c").request("MESSAGE", "sip:b@"+testDomain))
	r.pbxSock.next()
	if r.pbxSock.from != at {
		t.Errorf("the trunk comes from %v", r.pbxSock.from)
	}
	r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", "101").request("MESSAGE", "sip:101@"+at.String()))
	if m := after.next(); string(m.Method()) != "MESSAGE" {
		t.Errorf("the trunk got:\n%s", m.raw)
	}
}

// TestTrunkDoesNotOpen: the reason is reported once, and it is tried again.
func TestTrunkDoesNotOpen(t *testing.T) {
	r := newRig(t)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r.ports.cfg.TrunkPorts = map[TrunkID]uint16{{"office", "berlin"}: addrPort(taken.LocalAddr()).Port()}
	r.lan.Close()
	cfg := r.lan.cfg
	cfg.Trunks = []Trunk{{Name: "berlin", Host: "127.0.0.1", Port: 5060, Transport: "UDP", Addr: netip.MustParseAddr("127.0.0.1")}}
	r.lan = NewLANSide(cfg)
	eventually(t, "reported", func() bool {
		r.events.mu.Lock()
		defer r.events.mu.Unlock()
		return len(r.events.lines) > 0 && strings.HasPrefix(r.events.lines[0], "trunk berlin gone: not opened")
	})
	if n := r.counters.Snapshot()["sip.refused.no_trunk_port"]; n != 1 {
		t.Errorf("counted %d", n)
	}
}

func TestTrunkPorts(t *testing.T) {
	file := t.TempDir() + "/ports.json"
	open := func(fixed map[TrunkID]uint16) *PhonePorts {
		p, err := OpenPhonePorts(PhonePortsConfig{
			Addr: netip.MustParseAddr("127.0.0.1"), Low: 27300, High: 27305, StateFile: file,
			IsPBX: func(netip.Addr) bool { return true }, TrunkPorts: fixed,
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := open(nil)
	if at := p.mustAcquire(t, "office", "phone"); at.Port() != 27300 {
		t.Fatalf("the phone has %v", at)
	}
	if at := p.mustAcquire(t, "office", "A:trunk:berlin"); at.Port() != 27301 {
		t.Fatalf("the trunk has %v", at)
	}
	p.Close()
	// A trunk gets the phone's port, another one a port outside of the range.
	p = open(map[TrunkID]uint16{{"office", "berlin"}: 27300, {"office", "bonn"}: 27310})
	defer p.Close()
	for _, want := range []struct {
		credential, key string
		port            uint16
	}{
		{"office", "A:trunk:berlin", 27300},
		{"office", "A:trunk:bonn", 27310},
		{"office", "phone", 27301},
		{"office", "B:trunk:berlin", 27300}, // set up anew
		{"office", "A:trunk:other", 27302},
	} {
		if at := p.mustAcquire(t, want.credential, want.key); at.Port() != want.port {
			t.Errorf("%s has %v, want %d", want.key, at, want.port)
		}
	}
	if _, _, err := p.acquire(phoneID{"office", "one too many"}, nil); err == nil {
		t.Error("a phone got what is left for others")
	}
	if at := p.mustAcquire(t, "other office", "A:trunk:berlin"); at.Port() != 27303 {
		t.Errorf("another office's trunk of the same name has %v", at)
	}
}

func TestTrunkOfKey(t *testing.T) {
	for key, want := range map[string]string{
		"trunk:berlin":                  "berlin",
		"ABC:trunk:berlin-1.b_2":        "berlin-1.b_2",
		"ABC:trunk:":                    "",
		"ABC:trunk:" + longName:         "",
		"ABC:trunk:a/b":                 "",
		"ABC:udp:1.2.3.4:5060":          "",
		"ABC:tcp:1.2.3.4:trunk:x":       "",
		"instance:trunk:x":              "",
		"instance:<urn:uuid:1>trunk:x":  "",
		"instance:<urn:uuid:1>:trunk:x": "",
	} {
		if name, ok := trunkOfKey(key); ok != (want != "") || ok && name != want {
			t.Errorf("%q: %q, %v", key, name, ok)
		}
	}
}

const longName = "a-name-that-is-longer-than-a-trunk-may-have"

// TestRegisteringPBX: a small PBX registers one Contact, and gets calls to all of
// its numbers.
func TestRegisteringPBX(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	at := strings.TrimPrefix(r.register(office, "trunk"), "sip:trunk@")
	for i := range 20 { // at once
		number := "+49301" + string(rune('a'+i))
		r.pbxSock.send(netip.MustParseAddrPort(at), phoneCall(t, r.pbxSock, "carol", number).request("INVITE", "sip:"+number+"@"+at,
			sdpAt(netip.MustParseAddrPort("127.0.0.1:9000"))))
		m := office.next()
		if string(m.RequestURI()) != "sip:"+number+"@"+office.addr().String() {
			t.Fatalf("the office PBX got:\n%s", m.raw)
		}
		office.reply(m, "200 OK", "Contact: <sip:"+number+"@"+office.addr().String()+">", sdpAt(netip.MustParseAddrPort("127.0.0.1:9100")))
		if res := r.pbxSock.next(); res.StatusCode() != 200 {
			t.Fatalf("the PBX got:\n%s", res.raw)
		}
	}
	if n := len(r.pbx.Calls()); n != 20 {
		t.Errorf("%d calls", n)
	}
}

// TestBulkRegistration is RFC 6140: one Contact without user for all numbers.
func TestBulkRegistration(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, office, "pbx", "pbx")
	own := "<sip:" + office.addr().String() + ";bnc>"
	office.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: "+own, "Require: gin", "Proxy-Require: gin", "Supported: path", "Expires: 7200"))
	m := r.pbxSock.next()
	seen := m.header("Contact")
	at := strings.TrimSuffix(strings.TrimPrefix(seen, "<sip:"), ";bnc>")
	if at == seen || m.header("Require") != "gin" || m.header("Proxy-Require") != "gin" || m.header("Supported") != "" {
		t.Fatalf("the PBX got:\n%s", m.raw)
	}
	r.pbxSock.reply(m, "200 OK", "Contact: "+seen+";expires=3600", "Require: gin")
	if res := office.next(); res.StatusCode() != 200 || res.header("Contact") != own+";expires=3600" {
		t.Fatalf("the office PBX got:\n%s", res.raw)
	}
	// A second Contact does not take the others' calls.
	r.register(office, "fax")
	for number, want := range map[string]string{
		"+12145550102": "sip:+12145550102@" + office.addr().String(),
		"fax":          "sip:fax@" + office.addr().String(),
	} {
		r.pbxSock.send(netip.MustParseAddrPort(at), phoneCall(t, r.pbxSock, "carol", number).request("MESSAGE", "sip:"+number+"@"+at))
		if m := office.next(); string(m.RequestURI()) != want {
			t.Errorf("the office PBX got:\n%s", m.raw)
		}
	}
}

func TestUnknownProxyRequire(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	phone.send(r.proxy, phoneCall(t, phone, "a", "b").request("MESSAGE", "sip:b@"+testDomain, "Proxy-Require: gin, foo", "Proxy-Require: bar"))
	if res := phone.next(); res.StatusCode() != 420 || res.header("Unsupported") != "foo, bar" {
		t.Errorf("the phone got:\n%s", res.raw)
	}
}

// TestProxyInOffice: a proxy between phone and tunnelproxy records its route, and
// both halves of the dialog pass through it; the PBX does not hear of it.
func TestProxyInOffice(t *testing.T) {
	const proxies = "<sip:192.168.1.2;lr>, <sip:192.168.1.3;lr>"
	values := func(m received, name string) string {
		var all []string
		for _, h := range m.Headers() {
			if strings.EqualFold(string(m.Text(h.Name)), name) {
				all = append(all, string(m.Text(h.Value)))
			}
		}
		return strings.Join(all, ", ")
	}
	t.Run("up", func(t *testing.T) {
		r := newRig(t)
		office := newAgent(t, "127.0.0.1:0")
		call := phoneCall(t, office, "alice", "bob")
		office.send(r.proxy, call.request("INVITE", "sip:bob@"+testDomain, "Via: SIP/2.0/UDP 192.168.1.9;branch=z9hG4bK1",
			"Record-Route: "+proxies, "Contact: <sip:alice@192.168.1.9>"))
		m := r.pbxSock.next()
		if m.header("Record-Route") != "" {
			t.Errorf("the PBX got:\n%s", m.raw)
		}
		at := r.pbxSock.from
		pbx := "<sip:127.0.0.1;lr>"
		r.pbxSock.reply(m, "200 OK", "Contact: <sip:bob@127.0.0.1>", "Record-Route: "+pbx)
		res := office.next()
		if got, want := values(res, "Record-Route"), pbx+", <sip:"+r.proxy.String()+";lr>, "+proxies; got != want {
			t.Errorf("Record-Route: %s\nwant %s", got, want)
		}
		call.toTag = "callee"
		office.send(r.proxy, call.request("ACK", "sip:bob@127.0.0.1", "Route: <sip:"+r.proxy.String()+";lr>, "+pbx))
		if m := r.pbxSock.next(); m.header("Route") != pbx {
			t.Errorf("the PBX got:\n%s", m.raw)
		}
		r.pbxSock.send(at, call.reverse(r.pbxSock.addr()).request("BYE", "sip:alice@"+at.String()))
		if m := office.next(); values(m, "Route") != proxies || string(m.RequestURI()) != "sip:alice@192.168.1.9" {
			t.Errorf("the office's proxy got:\n%s", m.raw)
		}
	})
	t.Run("down", func(t *testing.T) {
		r := newRig(t)
		office := newAgent(t, "127.0.0.1:0")
		uri := r.register(office, "alice")
		at := netip.MustParseAddrPort(strings.TrimPrefix(uri, "sip:alice@"))
		call := phoneCall(t, r.pbxSock, "carol", "alice")
		pbx := "<sip:127.0.0.1;lr>"
		r.pbxSock.send(at, call.request("INVITE", uri, "Record-Route: "+pbx, "Contact: <sip:carol@127.0.0.1>"))
		m := office.next()
		res := strings.Replace(answer(m, "200 OK", "Contact: <sip:alice@192.168.1.9>"), "Record-Route:", "Record-Route: "+proxies+"\r\nRecord-Route:", 1)
		office.send(r.proxy, res)
		ok := r.pbxSock.next()
		if values(ok, "Record-Route") != pbx {
			t.Errorf("the PBX got:\n%s", ok.raw)
		}
		call.toTag = "callee"
		for _, method := range []string{"ACK", "INVITE", "CANCEL"} {
			build := call.request
			if method == "CANCEL" {
				build = call.again
			}
			r.pbxSock.send(at, build(method, "sip:alice@"+at.String()))
			if method == "CANCEL" { // is answered, and sent on after a provisional response
				r.pbxSock.next()
				office.reply(m, "180 Ringing")
			}
			m = office.next()
			if string(m.Method()) != method || values(m, "Route") != "<sip:192.168.1.3;lr>, <sip:192.168.1.2;lr>" {
				t.Errorf("the office's proxy got:\n%s", m.raw)
			}
		}
	})
}

// TestTrunkThatRegisters: its registration is one beside the static route.
func TestTrunkThatRegisters(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	r.withTrunks(trunkTo("berlin", office))
	at := r.trunkPort("berlin")
	if uri := r.register(office, "main"); uri != "sip:main@"+at.String() {
		t.Errorf("registered as %s", uri)
	}
	for user, want := range map[string]string{"main": "main@" + office.addr().String(), "100": "100@office.example" + portSuffix(int(office.addr().Port()))} {
		r.pbxSock.send(at, phoneCall(t, r.pbxSock, "carol", user).request("MESSAGE", "sip:"+user+"@"+at.String()))
		if m := office.next(); string(m.RequestURI()) != "sip:"+want {
			t.Errorf("the office PBX got:\n%s", m.raw)
		}
	}
}

// TestTrunkOutsideOfTheOffice: its address is served because it is configured.
func TestTrunkOutsideOfTheOffice(t *testing.T) {
	r := newRig(t)
	r.withTrunks(Trunk{Name: "far", Host: "192.0.2.7", Port: 5060, Transport: "UDP", Addr: netip.MustParseAddr("192.0.2.7")})
	r.lan.nearby.mu.Lock() // whatever networks this machine is in
	r.lan.nearby.addrs, r.lan.nearby.read = func() ([]net.Addr, error) { return nil, nil }, time.Time{}
	r.lan.nearby.mu.Unlock()
	if !r.lan.serves(netip.MustParseAddr("192.0.2.7")) || r.lan.serves(netip.MustParseAddr("192.0.2.8")) {
		t.Error("the trunk is not served, or its neighbour is")
	}
}

// TestTrunkOfThisMachine: a PBX beside tunnelproxy may send from another of the
// machine's addresses than it is reached at.
func TestTrunkOfThisMachine(t *testing.T) {
	r := newRig(t)
	office, other := newAgent(t, "127.0.0.1:0"), newAgent(t, "127.0.0.3:0")
	r.withTrunks(trunkTo("here", office))
	other.send(r.proxy, phoneCall(t, other, "a", "b").request("MESSAGE", "sip:b@"+testDomain))
	r.pbxSock.next()
	if r.pbxSock.from != r.trunkPort("here") {
		t.Errorf("it comes from %v", r.pbxSock.from)
	}
}

// TestTrunkEvents: both sides tell of a trunk that comes and goes.
func TestTrunkEvents(t *testing.T) {
	r := newRig(t)
	office := newAgent(t, "127.0.0.1:0")
	seen := new(recordedEvents)
	r.pbx.cfg.Events = seen
	r.withTrunks(trunkTo("berlin", office))
	info := r.lan.Trunks()[0]
	if info.Peer != "UDP:office.example"+portSuffix(int(office.addr().Port())) || info.Address != r.trunkPort("berlin").String() || !info.Heard.IsZero() {
		t.Errorf("%+v", info)
	}
	office.send(r.proxy, phoneCall(t, office, "a", "b").request("MESSAGE", "sip:b@"+testDomain))
	r.pbxSock.next()
	if heard := r.lan.Trunks()[0].Heard; time.Since(heard) > time.Minute {
		t.Errorf("heard at %v", heard)
	}
	r.pbx.Close()
	if !r.events.has("trunk berlin") || !seen.has("trunk berlin") || !seen.has("trunk berlin gone: tunnel lost") {
		t.Errorf("%q, %q", r.events.lines, seen.lines)
	}
}
