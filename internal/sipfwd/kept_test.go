package sipfwd

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// restartLAN ends the office's half and starts another one, which knows what the
// first has kept, at the same address. The session is a new one too.
func (r *rig) restartLAN(change func([]KeptPhone) []KeptPhone) {
	r.t.Helper()
	text, err := json.Marshal(r.lan.Kept())
	if err != nil {
		r.t.Fatal(err)
	}
	var kept []KeptPhone
	if err := json.Unmarshal(text, &kept); err != nil {
		r.t.Fatal(err)
	}
	r.lan.Close()
	cfg := r.lan.cfg
	cfg.Kept = change(kept)
	r.newSession()
	r.lan = NewLANSide(cfg)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(r.proxy))
	if err != nil {
		r.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", r.proxy.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.serve(udp, ln)
}

func asKept(kept []KeptPhone) []KeptPhone { return kept }

// opened waits until the new session knows n phones.
func (r *rig) opened(n int) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); len(r.pbx.allPhones()) != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%d phones are open, want %d", len(r.pbx.allPhones()), n)
		}
	}
}

// TestPhonesOutliveARestart: the PBX reaches a phone over UDP again though that has
// said nothing, and one over TCP from its first message on.
func TestPhonesOutliveARestart(t *testing.T) {
	r := newRig(t)
	a, b := r.handset("101", r.place(101)), r.handset("102", r.place(105))
	b.instance = "b"
	a.registers()
	b.registers()
	tcp := newTCPAgent(t, r.proxy)
	c := phoneCall(t, tcp, "103", "103")
	tcp.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: <sip:103@"+tcp.addr().String()+";transport=tcp>"))
	m := r.pbxSock.next()
	seen := strings.Trim(m.header("Contact"), "<>")
	r.pbxSock.reply(m, "200 OK", "Contact: <"+seen+">;expires=600")
	tcp.next()

	r.restartLAN(asKept)
	r.opened(3)
	if a.ask(a.uri) != 0 || b.ask(b.uri) != 0 {
		t.Error("a phone over UDP is not reached")
	}
	if got := a.ask(seen); got != 480 {
		t.Errorf("the phone over TCP, which is not connected: %d", got)
	}
	if n := len(r.lan.Phones()); n != 3 {
		t.Errorf("%d bindings", n)
	}
	again := newTCPAgent(t, r.proxy)
	c = phoneCall(t, again, "103", "101")
	again.send(r.proxy, c.request("MESSAGE", "sip:101@"+testDomain))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK")
	again.next()
	in := phoneCall(t, r.pbxSock, "pbx", "103")
	_, at, _ := strings.Cut(seen, "@")
	r.pbxSock.send(netip.MustParseAddrPort(strings.Split(at, ";")[0]), in.request("MESSAGE", seen))
	if m := again.next(); string(m.CallID()) != in.id {
		t.Errorf("the phone got:\n%s", m.raw)
	}

	// They register as ever, at the ports of before.
	for _, h := range []*handset{a, b} {
		before := h.uri
		if h.registers(); h.uri != before {
			t.Errorf("it was %s and is %s", before, h.uri)
		}
	}
	// What was known of them still counts.
	a.moveTo(r.place(111))
	other := r.handset("104", r.place(101))
	other.uaName = "other"
	a.uaName = "A"
	r.later()
	other.registers()
	if got := other.ask(a.uri); got != 480 {
		t.Errorf("for the phone that is elsewhere: %d", got)
	}
}

// TestAddressTakenDuringTheRestart: by what the network tells, before a REGISTER.
func TestAddressTakenDuringTheRestart(t *testing.T) {
	r := newRig(t)
	r.links.Store(netip.MustParseAddr("127.0.1.101"), "02:a")
	a := r.handset("101", r.place(101)).registers()
	r.links.Store(netip.MustParseAddr("127.0.1.101"), "02:b")
	r.restartLAN(asKept)
	r.opened(1)
	if got := a.ask(a.uri); got != 480 {
		t.Errorf("%d", got)
	}
}

// TestKeptPhonesAreChecked: the file may be damaged, or another's.
func TestKeptPhonesAreChecked(t *testing.T) {
	r := newRig(t)
	r.handset("101", r.place(101)).registers()
	r.restartLAN(func(kept []KeptPhone) []KeptPhone {
		good := kept[0]
		spoil := func(key string, f func(*KeptBinding)) {
			k := good
			k.Key, k.Bindings = key, slices.Clone(good.Bindings)
			f(&k.Bindings[0])
			kept = append(kept, k)
		}
		spoil("", func(*KeptBinding) {})
		spoil(good.Key, func(*KeptBinding) {})
		spoil(strings.Repeat("x", 256), func(*KeptBinding) {})
		spoil("trunk:x", func(*KeptBinding) {})
		spoil("1", func(b *KeptBinding) { b.Contact = "sip:a@b\r\n" })
		spoil("2", func(b *KeptBinding) { b.Contact = "tel:1" })
		spoil("3", func(b *KeptBinding) { b.Expires = time.Now() })
		spoil("4", func(b *KeptBinding) { b.Transport = "QUIC" })
		spoil("5", func(b *KeptBinding) { b.Remote = netip.AddrPort{} })
		spoil("6", func(b *KeptBinding) { b.At = netip.AddrPort{} })
		spoil("7", func(b *KeptBinding) { b.AOR = strings.Repeat("x", maxURILength+1) })
		return append(kept, KeptPhone{Key: "8"})
	})
	r.opened(1)
	if n := len(r.lan.Phones()); n != 1 {
		t.Errorf("%+v", r.lan.Phones())
	}
}

// TestPhonesAreKeptWithinBounds: the rest registers anew.
func TestPhonesAreKeptWithinBounds(t *testing.T) {
	r := newRig(t)
	r.handset("101", r.place(101)).registers()
	r.restartLAN(func(kept []KeptPhone) []KeptPhone {
		for i := range 2 * maxPhones {
			k := kept[0]
			k.Key = "instance:" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
			kept = append(kept, k)
		}
		return kept
	})
	if n := len(r.lan.allPhones()); n > maxPhones {
		t.Errorf("%d phones", n)
	}
}

// TestChangesAreTold: what is new at once, what only goes on as such.
func TestChangesAreTold(t *testing.T) {
	r := newRig(t)
	changes := make(chan bool, 100)
	cfg := r.lan.cfg
	cfg.Changed = func(now bool) { changes <- now }
	r.lan.Close()
	r.lan = NewLANSide(cfg)
	udp, ln := listenBoth(t)
	r.proxy = addrPort(udp.LocalAddr())
	r.serve(udp, ln)
	a := r.handset("101", r.place(101))
	for _, want := range []bool{true, false, false} {
		a.registers()
		if got := <-changes; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestSDPOfACallBeforeTheRestart: the media ports of a call are gone with the program
// that had them, and the PBX's own address is of no use to a phone.
func TestSDPOfACallBeforeTheRestart(t *testing.T) {
	r := newRig(t)
	a := r.handset("101", r.place(101)).registers()
	c := phoneCall(t, a.agent, "101", "200")
	c.toTag = "callee"
	a.send(r.proxy, c.request("UPDATE", "sip:200@"+testDomain))
	r.pbxSock.reply(r.pbxSock.next(), "200 OK", sdpAt(testRTP))
	if m := a.next(); m.StatusCode() != 481 || strings.Contains(m.raw, "m=audio") {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	// A 2xx that no INVITE waits for, and no call either.
	for _, p := range r.lan.allPhones() {
		p.fromTunnel([]byte(strings.ReplaceAll(testResponse("200 OK", "INVITE", testBranch), "\r\n\r\n", "\r\n\r\n"+sdpAt(testRTP))))
	}
	a.silent(100 * time.Millisecond)
}
