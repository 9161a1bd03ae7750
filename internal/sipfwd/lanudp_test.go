package sipfwd

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// wildcard opens a UDP listener of the office on all addresses of a family and
// returns its port.
func (r *rig) wildcard(network string) uint16 {
	r.t.Helper()
	conn, err := net.ListenPacket(network, ":0")
	if err != nil {
		r.t.Skipf("no %s here: %v", network, err)
	}
	go r.lan.ServeUDP(conn.(*net.UDPConn))
	return addrPort(conn.LocalAddr()).Port()
}

// TestEveryPhoneSeesTheAddressThatItUses: on a listener of all addresses, what a
// phone gets comes from the address that it has sent to and names nothing else.
func TestEveryPhoneSeesTheAddressThatItUses(t *testing.T) {
	for _, test := range []struct{ network, phone, proxy string }{
		{"udp4", "127.0.0.1", "127.0.0.2"},
		{"udp4", "127.0.0.1", "127.0.0.3"},
		{"udp6", "::1", "::1"},
		{"udp", "127.0.0.1", "127.0.0.4"}, // IPv4 on a socket of both families
		{"udp", "::1", "::1"},
	} {
		t.Run(test.network+" "+test.proxy, func(t *testing.T) {
			r := newRig(t)
			r.lan.cfg.LANAddress = netip.Addr{}
			proxy := netip.AddrPortFrom(netip.MustParseAddr(test.proxy), r.wildcard(test.network))
			phone := newAgent(t, netip.AddrPortFrom(netip.MustParseAddr(test.phone), 0).String())
			r.proxy = proxy
			at := r.register(phone, "alice")
			if phone.from != proxy {
				t.Errorf("the answer comes from %v, want %v", phone.from, proxy)
			}
			phone.send(proxy, "\r\n\r\n")
			if pong := phone.read(5 * time.Second); string(pong) != "\r\n" || phone.from != proxy {
				t.Errorf("keepalive answered with %q from %v", pong, phone.from)
			}

			in := phoneCall(t, r.pbxSock, "bob", "alice")
			r.pbxSock.send(r.pbxSock.from, in.request("INVITE", at, "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(netip.MustParseAddrPort("127.0.0.1:7000"))))
			m := phone.next()
			if phone.from != proxy {
				t.Errorf("the request comes from %v, want %v", phone.from, proxy)
			}
			if got, want := m.header("Record-Route"), "<sip:"+proxy.String()+";lr>"; got != want {
				t.Errorf("Record-Route: %s, want %s", got, want)
			}
			if got := m.header("Via"); !strings.HasPrefix(got, "SIP/2.0/UDP "+proxy.String()+";") {
				t.Errorf("Via: %s", got)
			}
			family := "c=IN IP4 "
			if proxy.Addr().Is6() {
				family = "c=IN IP6 "
			}
			if want := family + test.proxy + "\r\n"; !strings.Contains(m.raw, want) {
				t.Errorf("no %q in:\n%s", want, m.raw)
			}
			// An address of the other family on the way back: the PBX gets its relay.
			phone.send(proxy, answer(m, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">",
				"v=0\r\no=- 1 1 IN IP6 ::1\r\ns=-\r\nc=IN IP6 ::1\r\nt=0 0\r\nm=audio 7100 RTP/AVP 0\r\n"))
			res := r.pbxSock.next()
			if want := "c=IN IP4 127.0.0.20\r\n"; !strings.Contains(res.raw, want) || res.header("Record-Route") != "" {
				t.Errorf("the PBX got:\n%s", res.raw)
			}
		})
	}
}

// TestSocketForAnAddress: what begins here leaves from a socket that has the address.
func TestSocketForAnAddress(t *testing.T) {
	open := func(network, address string) *lanSocket {
		t.Helper()
		conn, err := net.ListenPacket(network, address)
		if err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { conn.Close() })
		k, err := newLANSocket(conn.(*net.UDPConn))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	four, six, both := open("udp4", ":0"), open("udp6", ":0"), open("udp", ":0")
	first, second, loop6 := open("udp4", "127.0.0.1:0"), open("udp4", "127.0.0.2:0"), open("udp6", "[::1]:0")
	at4, at6 := netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::1")
	for _, test := range []struct {
		sockets []*lanSocket
		at      netip.Addr
		want    *lanSocket
	}{
		{[]*lanSocket{six, four}, at4, four},
		{[]*lanSocket{four, six}, at6, six},
		{[]*lanSocket{both}, at4, both},
		{[]*lanSocket{both}, at6, both},
		{[]*lanSocket{first, second, loop6}, at4, second},
		{[]*lanSocket{first, loop6}, at4, first},
		{[]*lanSocket{first, second, loop6}, at6, loop6},
		{[]*lanSocket{first, four}, at6, nil},
		{nil, at4, nil},
	} {
		s := &LANSide{udp: test.sockets}
		if got := s.socketAt(test.at); got != test.want {
			t.Errorf("%v of %v", got, test)
		}
	}
}

// TestAddressThatIsGiven: with a LANAddress every phone of its family is told that.
func TestAddressThatIsGiven(t *testing.T) {
	r := newRig(t)
	port := r.wildcard("udp4")
	r.proxy = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port)
	phone := newAgent(t, "127.0.0.1:0")
	at := r.register(phone, "alice")
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, in.request("MESSAGE", at))
	m := phone.next()
	if want := fmt.Sprintf("SIP/2.0/UDP 127.0.0.1:%d;", port); !strings.HasPrefix(m.header("Via"), want) || phone.from != r.proxy {
		t.Errorf("Via: %s from %v", m.header("Via"), phone.from)
	}
}

// TestMediaOfTheOtherFamily: a phone that uses SIP over IPv4 and offers media over
// IPv6, or both in an ANAT group (RFC 4091), finds ports of each family.
func TestMediaOfTheOtherFamily(t *testing.T) {
	r := newRig(t)
	r.wildcard("udp6") // skips without IPv6
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	out := phoneCall(t, phone, "alice", "bob")
	const groups = "a=group:ANAT 1 2\r\n"
	offer := "v=0\r\no=- 1 1 IN IP6 ::1\r\ns=-\r\nt=0 0\r\n" + groups +
		"m=audio 7000 RTP/AVP 0\r\nc=IN IP6 ::1\r\na=mid:1\r\nm=audio 7002 RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\na=mid:2\r\n"
	phone.send(r.proxy, out.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", "Require: sdp-anat", offer))
	m := r.pbxSock.next()
	if !strings.Contains(m.raw, groups+"m=audio 50002 RTP/AVP 0\r\nc=IN IP4 127.0.0.20\r\na=mid:1\r\nm=audio 50004 RTP/AVP 0\r\nc=IN IP4 127.0.0.20\r\na=mid:2\r\n") ||
		m.header("Require") != "sdp-anat" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
	if six, four := r.media.port(0).LAN().Addr(), r.media.port(1).LAN().Addr(); six != netip.IPv6Loopback() || !four.Is4() {
		t.Errorf("ports at %v and %v", six, four)
	}
	// The PBX takes the second of the two.
	r.pbxSock.reply(m, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">",
		"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"+groups+"m=audio 0 RTP/AVP 0\r\na=mid:1\r\nm=audio 9000 RTP/AVP 0\r\na=mid:2\r\n")
	res := phone.next()
	if want := fmt.Sprintf("c=IN IP4 %v\r\nt=0 0\r\n%sm=audio 0 RTP/AVP 0\r\na=mid:1\r\nm=audio %d RTP/AVP 0\r\na=mid:2\r\n",
		r.media.port(1).LAN().Addr(), groups, r.media.port(1).LAN().Port()); !strings.Contains(res.raw, want) {
		t.Errorf("the phone got:\n%s", res.raw)
	}
}

// TestPhoneMovesToAnotherNetwork in a call: the SDP that it gets from then on names
// our address in that network, and what the PBX sends to stays the same.
func TestPhoneMovesToAnotherNetwork(t *testing.T) {
	r := newRig(t)
	r.lan.cfg.LANAddress = netip.Addr{}
	port := r.wildcard("udp4")
	here, there := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), port)
	r.proxy = here
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	c := phoneCall(t, phone, "alice", "bob")
	contact := "Contact: <sip:alice@" + phone.addr().String() + ">"
	offer := func(proxy netip.AddrPort) (toPBX, toPhone string) {
		phone.send(proxy, c.request("INVITE", "sip:bob@"+testDomain, contact, sdpAt(netip.MustParseAddrPort("127.0.0.1:7000"))))
		m := r.pbxSock.next()
		r.pbxSock.reply(m, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(netip.MustParseAddrPort("127.0.0.1:9000")))
		res := phone.next()
		c.toTag = "callee"
		phone.send(proxy, c.again("ACK", "sip:bob@"+testDomain))
		r.pbxSock.next()
		_, toPBX, _ = strings.Cut(m.raw, "c=")
		_, toPhone, _ = strings.Cut(res.raw, "c=")
		return toPBX, toPhone
	}
	pbx1, phone1 := offer(here)
	pbx2, phone2 := offer(there)
	pbx3, phone3 := offer(there)
	if pbx2 != pbx1 || pbx3 != pbx1 || phone3 != phone2 {
		t.Errorf("SDP toward the PBX:\n%s\n%s\n%s", pbx1, pbx2, pbx3)
	}
	if !strings.HasPrefix(phone1, "IN IP4 127.0.0.2\r\n") || !strings.HasPrefix(phone2, "IN IP4 127.0.0.3\r\n") {
		t.Errorf("SDP toward the phone:\n%s\n%s", phone1, phone2)
	}
}

// TestWhereAPhoneHears: answers and requests reach the phone at the port that it
// has sent from, whether it asks for that with rport or not, unless its Via names
// its own address and another port.
func TestWhereAPhoneHears(t *testing.T) {
	for _, test := range []struct {
		name, via string // %s is the address of the port that the phone listens on
		elsewhere bool   // the phone listens there and sends from another one
	}{
		{"with rport", "127.0.0.1:9;rport", false},
		{"behind a NAT without rport", "192.168.200.7:5060", false},
		{"by name without rport", "phone.example", false},
		{"another port of its own", "%s", true},
		{"another port of its own with rport", "127.0.0.1:9;rport", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			listens, sends := newAgent(t, "127.0.0.1:0"), newAgent(t, "127.0.0.1:0")
			if !test.elsewhere {
				sends = listens
			}
			via := strings.ReplaceAll(test.via, "%s", listens.addr().String())
			reg := phoneCall(t, listens, "alice", "alice")
			request := reg.request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+listens.addr().String()+">")
			before, after, _ := strings.Cut(request, "Via: ")
			_, after, _ = strings.Cut(after, "\r\n")
			request = before + "Via: SIP/2.0/UDP " + via + ";branch=" + newBranch() + "\r\n" + after
			sends.send(r.proxy, request)
			m := r.pbxSock.next()
			at := strings.Trim(m.header("Contact"), "<>")
			r.pbxSock.reply(m, "200 OK", "Contact: <"+at+">;expires=300")
			if res := listens.next(); res.StatusCode() != 200 {
				t.Errorf("the phone got:\n%s", res.raw)
			}
			// Its next request, from yet another port if it does so, is of the same
			// phone, and what comes for it comes to where it listens.
			if test.elsewhere {
				sends = newAgent(t, "127.0.0.1:0")
			}
			sends.send(r.proxy, strings.ReplaceAll(strings.Replace(request, "1 REGISTER", "2 REGISTER", 1), ";branch=z9hG4bK", ";branch=z9hG4bK2"))
			m = r.pbxSock.next()
			if got := strings.Trim(m.header("Contact"), "<>"); got != at {
				t.Errorf("registered as %s, and as %s before", got, at)
			}
			r.pbxSock.reply(m, "200 OK", "Contact: <"+at+">;expires=300")
			listens.next()
			in := phoneCall(t, r.pbxSock, "bob", "alice")
			r.pbxSock.send(r.pbxSock.from, in.request("OPTIONS", at))
			asked := listens.next()
			// The answer may come from the other port.
			sends.send(r.proxy, answer(asked, "200 OK"))
			if res := r.pbxSock.next(); res.StatusCode() != 200 {
				t.Errorf("the PBX got:\n%s", res.raw)
			}
		})
	}
}

// TestSTUNKeepalive: binding requests on the SIP port are answered, RFC 5626
// section 4.4.2, and what is like them does no harm.
func TestSTUNKeepalive(t *testing.T) {
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	const id = "0102030405060708090a0b0c"
	for _, test := range []struct{ name, request, want string }{
		{"RFC 8489", "000100002112a442" + id, "0101000c2112a442" + id + "0020000800"},
		{"RFC 3489", "0001000001020304" + id, "0101000c01020304" + id + "0001000800"},
		{"an indication", "001100002112a442" + id, ""},
		{"a length that is wrong", "000100042112a442" + id, ""},
		{"cut short", "000100002112a442", ""},
		{"zero bytes, as some keep a NAT open", "00000000", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, _ := hex.DecodeString(test.request)
			phone.send(r.proxy, string(request))
			if test.want == "" {
				phone.silent(50 * time.Millisecond)
				return
			}
			got := phone.read(5 * time.Second)
			if !strings.HasPrefix(hex.EncodeToString(got), test.want) || len(got) != 32 {
				t.Errorf("answered with %x", got)
			}
			mask := []byte{0, 0, 0, 0, 0, 0}
			if got[21] == 0x20 {
				mask = []byte{0x21, 0x12, 0x21, 0x12, 0xa4, 0x42}
			}
			port := uint16(got[26]^mask[0])<<8 | uint16(got[27]^mask[1])
			addr := netip.AddrFrom4([4]byte{got[28] ^ mask[2], got[29] ^ mask[3], got[30] ^ mask[4], got[31] ^ mask[5]})
			if netip.AddrPortFrom(addr, port) != phone.addr() {
				t.Errorf("the phone is told that it is %v:%d", addr, port)
			}
		})
	}
	r.register(phone, "alice")
	t.Run("IPv6", func(t *testing.T) {
		from := netip.MustParseAddrPort("[2001:db8::5]:6")
		request, _ := hex.DecodeString("000100002112a442" + id)
		// 2112a442 and the transaction id are what the address is masked with.
		want := "01010018" + "2112a442" + id + "00200014" + "0002" + "2114" + "0113a9fa" + "01020304" + "05060708" + "090a0b09"
		if got := hex.EncodeToString(answerSTUN(request, from)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// TestNetworksThatComeAndGo: an interface that gets an address is noticed without a
// restart, and so is one that loses it.
func TestNetworksThatComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var addrs []net.Addr
		var failure error
		s := NewLANSide(LANSideConfig{})
		s.nearby.addrs = func() ([]net.Addr, error) { return addrs, failure }
		network := func(cidr string) net.Addr {
			p := netip.MustParsePrefix(cidr)
			return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		}
		phone4, phone6 := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")
		expect := func(when string, four, six bool) {
			t.Helper()
			if s.serves(phone4) != four || s.serves(phone6) != six {
				t.Errorf("%s: %v, %v", when, s.serves(phone4), s.serves(phone6))
			}
		}
		expect("no interface", false, false)
		addrs = []net.Addr{network("198.51.100.1/24"), network("203.0.113.1/0")}
		time.Sleep(surroundingsAge)
		expect("IPv4, and an interface that is in everything", true, false)
		if !s.nearby.own(netip.MustParseAddr("198.51.100.1")) || s.nearby.own(phone4) {
			t.Error("the machine's own address is not told from others")
		}
		addrs = append(addrs, network("2001:db8::1/64"))
		time.Sleep(surroundingsAge)
		expect("both", true, true)
		failure = errors.New("netlink: no")
		time.Sleep(surroundingsAge)
		expect("the system does not say", true, true)
		addrs, failure = addrs[1:], nil
		time.Sleep(surroundingsAge)
		expect("IPv4 is gone", false, true)
		if !s.serves(netip.MustParseAddr("fe80::1%eth0")) || !s.serves(netip.MustParseAddr("fd00::1")) {
			t.Error("private and link-local sources are not served")
		}
		s.Close()
	})
}
