package sipfwd

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// handset is a phone of a test, which may change its address.
type handset struct {
	*agent
	r        *rig
	user     string
	instance string
	uaName   string
	callID   string
	seq      int
	uri      string // at the PBX

	contactUser string
}

func (r *rig) handset(user, at string) *handset {
	return &handset{agent: newAgent(r.t, at), r: r, user: user, callID: "register " + user}
}

// moveTo gives the handset another address.
func (h *handset) moveTo(at string) {
	h.udp.Close()
	h.agent = newAgent(h.r.t, at)
}

// reboot has it forget all that it had before.
func (h *handset) reboot() { h.callID += "'" }

// registers registers the handset and notes how the PBX knows it.
func (h *handset) registers(via ...string) *handset {
	h.r.t.Helper()
	c := phoneCall(h.r.t, h.agent, h.user, h.user)
	c.id, c.seq = h.callID, h.seq
	c.fromTag = "tag of " + h.callID
	c.fromTag = strings.ReplaceAll(c.fromTag, " ", "")
	contact := "Contact: <sip:" + cmp.Or(h.contactUser, h.user) + "@" + h.addr().String() + ">"
	if h.instance != "" {
		contact += `;+sip.instance="<urn:uuid:` + h.instance + `>"`
	}
	headers := append(via, contact)
	if h.uaName != "" {
		headers = append(headers, "User-Agent: "+h.uaName)
	}
	h.send(h.r.proxy, c.request("REGISTER", "sip:"+testDomain, headers...))
	h.seq = c.seq
	m := h.r.pbxSock.next()
	seen, _, _ := strings.Cut(m.header("Contact"), ">")
	contacts := []string{"Contact: " + seen + ">;expires=600"}
	if strings.HasPrefix(h.uri, "sip:"+h.user) && h.uri != strings.TrimPrefix(seen, "<") { // a PBX lists all that it has
		contacts = append(contacts, "Contact: <"+h.uri+">;expires=500")
	}
	h.r.pbxSock.reply(m, "200 OK", contacts...)
	if res := h.next(); res.StatusCode() != 200 {
		h.r.t.Fatalf("%s got:\n%s", h.user, res.raw)
	}
	h.uri = strings.TrimPrefix(seen, "<")
	return h
}

// ask has the PBX send a request to uri and returns the answer of our own, 0 when
// the request reached the handset.
func (h *handset) ask(uri string) int {
	h.r.t.Helper()
	c := phoneCall(h.r.t, h.r.pbxSock, "pbx", h.user)
	c.id = randomHex()
	_, at, _ := strings.Cut(uri, "@")
	at, _, _ = strings.Cut(at, ";")
	h.r.pbxSock.send(netip.MustParseAddrPort(at), c.request("MESSAGE", uri))
	for _, wait := range []time.Duration{50 * time.Millisecond, time.Second, 4 * time.Second} {
		if b := h.read(wait); b != nil {
			if !strings.Contains(string(b), "MESSAGE ") || !strings.Contains(string(b), c.id) {
				h.r.t.Fatalf("%s got:\n%s", h.user, b)
			}
			h.reply(h.parsed(b), "200 OK")
			if m := h.r.pbxSock.next(); m.StatusCode() != 200 {
				h.r.t.Errorf("the PBX got:\n%s", m.raw)
			}
			return 0
		}
		if b := h.r.pbxSock.read(50 * time.Millisecond); b != nil {
			m := h.parsed(b)
			return m.StatusCode()
		}
	}
	h.r.t.Fatalf("no trace of the request to %s", uri)
	return 0
}

func (h *handset) parsed(b []byte) received {
	m := received{raw: string(b)}
	if err := m.Parse(b); err != nil {
		h.r.t.Fatal(err)
	}
	h.from = h.r.proxy
	return m
}

// later is as if the last REGISTER was some time ago.
func (r *rig) later() {
	r.lan.mu.Lock()
	defer r.lan.mu.Unlock()
	for f := range r.lan.byFlow {
		if !f.tenant.heard.IsZero() {
			f.tenant.heard = f.tenant.heard.Add(-2 * bootTime)
		}
	}
}

// place is an address of the LAN; the port is the same at all of them, and nobody
// else's on this machine.
func (r *rig) place(host int) string {
	r.t.Helper()
	if r.phonePort == 0 {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 1, 101)})
		if err != nil {
			r.t.Fatal(err)
		}
		r.phonePort = addrPort(conn.LocalAddr()).Port()
		conn.Close()
	}
	return fmt.Sprintf("127.0.1.%d:%d", host, r.phonePort)
}

// TestAnotherPhoneOnTheOldAddress: a call for a phone whose address another one
// has by now must not ring that, before and after the first one has registered
// where it is.
func TestAnotherPhoneOnTheOldAddress(t *testing.T) {
	for _, tt := range []struct {
		name   string
		a, b   string // instances
		spoil  func(r *rig, a, b *handset)
		moved  bool // the port at the PBX is another one at the new address
		reboot bool
	}{
		{"hardware addresses differ", "", "", func(r *rig, _, _ *handset) { r.links.Store(netip.MustParseAddr("127.0.1.101"), "02:b") }, true, true},
		{"another make", "", "", func(_ *rig, a, b *handset) { b.uaName = "B" }, true, true},
		{"long after", "", "", func(r *rig, _, _ *handset) { r.later() }, true, true},
		{"both have an instance", "a", "b", func(*rig, *handset, *handset) {}, false, false},
		{"only the first one has", "a", "", func(r *rig, _, _ *handset) { r.later() }, false, true},
		{"only the second one has", "", "b", func(_ *rig, _, b *handset) { b.uaName = "B" }, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.links.Store(netip.MustParseAddr("127.0.1.101"), "02:a")
			if tt.name == "long after" || tt.a != "" {
				r.links.Clear()
			}
			a := r.handset("101", r.place(101))
			a.instance, a.uaName = tt.a, "A"
			a.registers()
			before := a.uri
			if got := a.ask(before); got != 0 {
				t.Fatalf("asked in vain: %d", got)
			}
			a.moveTo(r.place(105))
			b := r.handset("102", r.place(101))
			b.instance, b.uaName = tt.b, "A"
			tt.spoil(r, a, b)
			b.registers()
			if got := b.ask(before); got != 480 {
				t.Errorf("for the phone that is elsewhere: %d, want 480", got)
			}
			_, port, _ := strings.Cut(b.uri, "@")
			if got := b.ask("sip:101@" + port); got == 0 && strings.HasSuffix(before, port) {
				t.Errorf("the first phone's user at its old port reached the second one")
			}
			if got := b.ask(b.uri); got != 0 {
				t.Errorf("for the one that has its address: %d", got)
			}
			a.registers()
			if got := a.ask(a.uri); got != 0 {
				t.Errorf("for the first one at its new address: %d", got)
			}
			if (a.uri != before) != tt.moved {
				t.Errorf("it was %s and is %s", before, a.uri)
			}
			if got := b.ask(b.uri); got != 0 {
				t.Errorf("for the second one: %d", got)
			}
			b.registers() // as always
			if got := b.ask(b.uri); got != 0 {
				t.Errorf("for the second one, refreshed: %d", got)
			}
			if n := len(r.lan.Phones()); n != 2 {
				t.Errorf("%d bindings: %+v", n, r.lan.Phones())
			}
		})
	}
}

// TestPhonesSwapAddresses, without instances: each is reached where it is.
func TestPhonesSwapAddresses(t *testing.T) {
	r := newRig(t)
	first, second := netip.MustParseAddrPort(r.place(101)).Addr(), netip.MustParseAddrPort(r.place(105)).Addr()
	r.links.Store(first, "02:a")
	r.links.Store(second, "02:b")
	a, b := r.handset("101", r.place(101)).registers(), r.handset("102", r.place(105)).registers()
	for range 4 {
		a.udp.Close()
		b.udp.Close()
		link, _ := r.links.Swap(first, r.neighbour(second))
		r.links.Store(second, link)
		at := a.addr
		a.moveTo(map[bool]string{true: r.place(105), false: r.place(101)}[at().String() == r.place(101)])
		b.moveTo(map[bool]string{true: r.place(101), false: r.place(105)}[a.addr().String() == r.place(105)])
		oldA, oldB := a.uri, b.uri
		a.registers()
		if got := a.ask(oldB); got != 480 {
			t.Errorf("for the other one: %d", got)
		}
		b.registers()
		if got := b.ask(oldA); got != 480 && oldA != a.uri {
			t.Errorf("for the other one: %d", got)
		}
		if a.ask(a.uri) != 0 || b.ask(b.uri) != 0 {
			t.Error("not reached")
		}
	}
	if n := len(r.lan.Phones()); n != 2 {
		t.Errorf("%d bindings", n)
	}
}

// TestRingingIsNotPassedOn: the call that rings while the address changes hands.
func TestRingingIsNotPassedOn(t *testing.T) {
	r := newRig(t)
	a := r.handset("101", r.place(101))
	a.uaName = "A"
	a.registers()
	a.udp.Close()
	c := phoneCall(t, r.pbxSock, "pbx", "101")
	r.pbxSock.send(r.pbxSock.from, c.request("INVITE", a.uri, sdpAt(testRTP)))
	eventually(t, "the call is on its way", func() bool { return len(r.lan.Calls()) == 1 })
	b := r.handset("102", r.place(101))
	b.uaName = "B"
	c2 := phoneCall(t, b.agent, "102", "102")
	b.send(r.proxy, c2.request("REGISTER", "sip:"+testDomain, "Contact: <sip:102@"+r.place(101)+">", "User-Agent: B"))
	for {
		m := r.pbxSock.next()
		if m.IsRequest() {
			r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=600")
			break
		}
	}
	if m := r.pbxSock.next(); m.StatusCode() != 480 {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	invites := 0
	for b := b.read(2 * time.Second); b != nil; {
		if strings.HasPrefix(string(b), "INVITE") {
			invites++
		}
		b = nil
	}
	deadline := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(deadline) {
		if b := b.read(300 * time.Millisecond); b != nil && strings.HasPrefix(string(b), "INVITE") {
			t.Fatalf("the second phone got:\n%s", b)
		}
	}
}

// TestLinesOfOneDevice: a device without an instance may have many lines.
func TestLinesOfOneDevice(t *testing.T) {
	for _, tt := range []struct {
		name string
		link string
		via  []string
		gap  bool // between the lines
		want []int
	}{
		{"at once", "", nil, false, []int{0, 0, 0}},
		{"later, at one hardware address", "02:a", nil, true, []int{0, 0, 0}},
		{"later, through a proxy of the office", "", []string{"Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKx"}, true, []int{0, 0, 0}},
		{"later", "", nil, true, []int{480, 480, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			if tt.link != "" {
				r.links.Store(netip.MustParseAddr("127.0.1.101"), tt.link)
			}
			line := r.handset("1", r.place(101))
			uris := make([]string, 3)
			for i := range uris {
				if tt.gap && i > 0 {
					r.later()
				}
				line.user, line.callID = fmt.Sprint(i), fmt.Sprint("line", i)
				uris[i] = line.registers(tt.via...).uri
			}
			for i, uri := range uris {
				if got := line.ask(uri); got != tt.want[i] {
					t.Errorf("line %d at %s: %d", i, uri, got)
				}
			}
			// From the second time on there is no doubt.
			for range 2 {
				for i := range uris {
					r.later()
					line.user, line.callID = fmt.Sprint(i), fmt.Sprint("line", i)
					uris[i] = line.registers(tt.via...).uri
				}
			}
			for i, uri := range uris {
				if got := line.ask(uri); got != 0 {
					t.Errorf("refreshed line %d at %s: %d", i, uri, got)
				}
			}
		})
	}
}

// TestPhoneMovedWithoutInstance: it is the same one, with the Call-ID of before or
// on the same hardware, and what the PBX has of before rings nobody.
func TestPhoneMovedWithoutInstance(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		t.Run(fmt.Sprint("rebooted ", reboot), func(t *testing.T) { phoneMoved(t, reboot) })
	}
}

func phoneMoved(t *testing.T, reboot bool) {
	r := newRig(t)
	if reboot {
		r.links.Store(netip.MustParseAddr("127.0.1.101"), "02:a")
		r.links.Store(netip.MustParseAddr("127.0.1.105"), "02:a")
	}
	a := r.handset("101", r.place(101)).registers()
	before := a.uri
	a.moveTo(r.place(105))
	if reboot {
		a.reboot()
	}
	a.registers()
	eventually(t, "the binding at the old address is gone", func() bool { return len(r.lan.Phones()) == 1 })
	if got := a.ask(before); got != 480 {
		t.Errorf("at the old port: %d", got)
	}
	if got := a.ask(a.uri); got != 0 {
		t.Errorf("at the new port: %d", got)
	}
	if n := len(r.lan.Phones()); n != 1 {
		t.Errorf("%d bindings", n)
	}
}

// TestPhoneRebooted: with its instance it keeps its port and its Contact, wherever it
// is by now; without one, another port of its own is another phone's.
func TestPhoneRebooted(t *testing.T) {
	r := newRig(t)
	a := r.handset("101", r.place(101))
	a.instance = "1"
	before := a.registers().uri
	for _, at := range []string{r.place(101), r.place(105), "127.0.1.105:0"} {
		a.moveTo(at)
		a.reboot()
		if a.registers(); a.uri != before {
			t.Errorf("it was %s and is %s", before, a.uri)
		}
		if got := a.ask(a.uri); got != 0 {
			t.Errorf("asked in vain: %d", got)
		}
	}
	if n := len(r.pbx.Phones()); n != 1 {
		t.Errorf("%d bindings", n)
	}

	b := r.handset("102", "127.0.1.102:0").registers()
	first := b.uri
	b.moveTo("127.0.1.102:0")
	b.reboot()
	if b.registers(); b.uri == first {
		t.Error("two flows, one port")
	}
	if got := b.ask(b.uri); got != 0 {
		t.Errorf("asked in vain: %d", got)
	}
	if got := a.ask(a.uri); got != 0 {
		t.Errorf("asked in vain: %d", got)
	}
}

// TestRebootedPhoneWithAnotherContact: the PBX has two Contacts of it, and rings it
// once.
func TestRebootedPhoneWithAnotherContact(t *testing.T) {
	r := newRig(t)
	a := r.handset("101", r.place(101))
	a.contactUser = "101-0xaaaa"
	before := a.registers().uri
	a.reboot()
	a.contactUser = "101-0xbbbb"
	a.registers()
	if got := a.ask(before); got != 404 {
		t.Errorf("for the Contact of before: %d", got)
	}
	if got := a.ask(a.uri); got != 0 {
		t.Errorf("asked in vain: %d", got)
	}
}

// TestPhonesShareAnExtension: the PBX sees them apart.
func TestPhonesShareAnExtension(t *testing.T) {
	for _, instances := range [][2]string{{"", ""}, {"1", "2"}, {"", "2"}} {
		t.Run(strings.Join(instances[:], ","), func(t *testing.T) {
			r := newRig(t)
			a, b := r.handset("101", r.place(101)), r.handset("101", r.place(105))
			b.callID = "another"
			a.instance, b.instance = instances[0], instances[1]
			a.registers()
			b.registers()
			if a.uri == b.uri {
				t.Errorf("both are %s", a.uri)
			}
			if a.ask(a.uri) != 0 || b.ask(b.uri) != 0 {
				t.Error("not reached")
			}
			a.registers()
			if a.ask(a.uri) != 0 || b.ask(b.uri) != 0 {
				t.Error("not reached after a refresh")
			}
		})
	}
}

// TestUserOfBeforeIsNobodyElse: an office that was set up anew, or has lost its
// memory, gives the port of a phone to another one at the same address.
func TestUserOfBeforeIsNobodyElse(t *testing.T) {
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprint("over ", closed), func(t *testing.T) {
			r := newRig(t)
			a := r.handset("101", r.place(101)).registers()
			old := r.pbx
			if closed {
				old.Close()
			}
			r.newSession()
			key := "udp:" + r.place(101)
			if _, err := r.pbx.OpenPhone(1, key, nil); err != nil {
				t.Fatal(err)
			}
			a.udp.Close()
			b := r.handset("102", r.place(101))
			c := phoneCall(t, b.agent, "102", "102")
			r.pbx.FromTunnel(1, []byte(c.request("REGISTER", "sip:"+testDomain, "Contact: <sip:102@"+r.place(101)+">")))
			m := r.pbxSock.next()
			r.pbxSock.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=600")
			eventually(t, "registered", func() bool { return len(r.pbx.Phones()) == 1 })
			if got := b.ask(a.uri); got != 404 {
				t.Errorf("for the user of before: %d", got)
			}
		})
	}
}
