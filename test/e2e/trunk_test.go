//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// officeDomain is that of the users of the PBX in the office.
const officeDomain = "office.example"

// trunkAt is where the PBX reaches the trunk, and is reached from it.
var trunkAt = netip.MustParseAddrPort("127.0.0.1:6900")

// newTrunk starts the chain with a PBX on each side: users of the domain at the one of the lab, those of officeDomain at
// another Kamailio, on a host of the office, whose name is the trunk's.
func newTrunk(t *testing.T, transport string) (*tunnel, *lab.Host) {
	t.Helper()
	tun := prepareTunnel(t, lab.New(t))
	office := tun.Phone("office-pbx")
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users, Peer: peers.Peer{
		Domain: officeDomain, At: trunkAt, Transport: "udp", From: trunkAt,
	}})
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: officeDomain, Users: users, Host: office, Peer: peers.Peer{
		Domain: domain, At: officeSIP, Transport: transport, From: netip.AddrPortFrom(lab.ProxyAddr, 0),
	}})
	tun.inside = tun.PBX.Capture("lo", "udp")
	tun.watchWAN()
	tun.startDaemon("--trunk-port", "default/office-pbx=6900")
	tun.join()
	tun.startProxy("--trunk", fmt.Sprintf("office-pbx=%v;transport=%s", office.Addr, transport))
	tun.waitUp()
	lab.Eventually(t, soon, "the trunk is open, and answers", func() bool {
		status, _ := peers.Options(tun.PBX, trunkAt, "sip:"+trunkAt.String())
		return status == 200
	})
	return tun, office
}

// dialURI is dial with another domain than the PBX's.
func dialURI(t *testing.T, caller, callee *peers.Baresip, uri string) *call {
	t.Helper()
	c := &call{t: t, caller: caller, callee: callee}
	for i, b := range []*peers.Baresip{caller, callee} {
		c.marks[i], c.heard[i] = b.Mark(), len(b.Heard())
	}
	caller.Dial(uri)
	callee.Wait(soon, c.marks[1], "CALL_INCOMING", "CALL_ESTABLISHED")
	return c
}

// TestTrunk: two PBXs that proxy, bridged through the tunnel. Calls in both directions at once, held, resumed and transferred,
// and ended by either side.
func TestTrunk(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			testTrunk(t, transport)
		})
	}
}

func testTrunk(t *testing.T, transport string) {
	tun, office := newTrunk(t, transport)
	extension := func(user, tr string) *peers.Baresip {
		config := answering(phone(user, tr, office.Addr.String()))
		config.Domain = officeDomain
		return start(t, tun.Phone(user), config)
	}
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	alice := start(t, tun.Desk("alice"), answering(phone("alice", "tcp", deskPBX)))
	dave, bob := extension("dave", "udp"), extension("bob", "tcp")

	down := dialURI(t, carol, dave, "sip:dave@"+officeDomain).established()
	up := dialURI(t, bob, alice, "sip:alice@"+domain).established()
	down.talk(time.Second)
	up.talk(time.Second)
	for _, p := range tun.inside.SIP() {
		if p.Method == "INVITE" && p.Dst.Port() == 5060 && p.Src.Addr().IsLoopback() && p.Src != trunkAt {
			t.Errorf("the PBX has %s from %v, not from the trunk", p.StartLine, p.Src)
		}
	}

	// A re-INVITE from each side of the tunnel, and one back.
	for _, holder := range []*peers.Baresip{carol, dave} {
		seen := len(tun.inside.SIP())
		holder.Command("hold", "")
		tun.waitSince(seen, "the call is held", func(m *pcap.Message) bool {
			return m.Method == "INVITE" && strings.Contains(string(m.Payload), "a=sendonly")
		})
		tun.waitSince(seen, "that is answered", response(200, "INVITE"))
		seen = len(tun.inside.SIP())
		holder.Command("resume", "")
		tun.waitSince(seen, "and resumed", response(200, "INVITE"))
		isSent(t, carol, "dave")
		isSent(t, dave, "carol")
	}
	bob.Hangup()
	up.closed()

	// The PBX's user sends the office's to another user of the PBX: a REFER down, and a new call up.
	mark, heard, daveHeard := alice.Mark(), len(alice.Heard()), len(dave.Heard())
	carol.Command("transfer", "sip:alice@"+domain)
	alice.Wait(soon, mark, "CALL_ESTABLISHED")
	carol.Wait(soon, down.marks[0], "CALL_CLOSED")
	hear(t, time.Second, listener{alice, heard, tones["dave"]}, listener{dave, daveHeard, tones["alice"]})
	alice.Hangup()
	dave.Wait(soon, down.marks[1], "CALL_CLOSED")

	again := dialURI(t, carol, bob, "sip:bob@"+officeDomain).established().talk(time.Second)
	carol.Hangup()
	again.closed()
	daemon, proxy := tun.statuses()
	if len(daemon.Trunks) != 1 || daemon.Trunks[0].Name != "office-pbx" || daemon.Trunks[0].Address != trunkAt.String() ||
		len(proxy.Trunks) != 1 || !strings.Contains(proxy.Trunks[0].Peer, office.Addr.String()) {
		t.Errorf("trunks: %+v, %+v", daemon.Trunks, proxy.Trunks)
	}
	lab.Eventually(t, soon, "no call is left", func() bool {
		daemon, proxy := tun.statuses()
		return len(daemon.Calls)+len(proxy.Calls) == 0
	})
	check, err := tun.Office.Run(tun.proxyArgs("check", "--trunk", "office-pbx="+office.Addr.String())...)
	if want := "office-pbx: " + office.Addr.String() + ":5060 answers OPTIONS over UDP"; err != nil || !strings.Contains(check, want) {
		t.Errorf("check: %v\n%s", err, check)
	}
}

// isSent fails the test unless a second of the tone of from, and nothing else, reaches the phone: baresip's recording ends
// when it is held.
func isSent(t *testing.T, phone *peers.Baresip, from string) {
	t.Helper()
	wire := phone.Host.Capture("eth0", "udp")
	heard := func() []int16 {
		for _, stream := range pcap.Streams(wire.Packets()) {
			if stream.Dst.Addr() == phone.Host.Addr {
				return audio.ULaw(stream.Payload(0))
			}
		}
		return nil
	}
	lab.Eventually(t, soon, phone.User+" is sent a second of audio", func() bool { return len(heard()) >= audio.Rate })
	wire.Stop()
	purely(t, phone.User, heard(), tones[from])
}

// waitSince waits until Kamailio's side of the tunnel has seen a message after the first n that the function accepts.
func (tun *tunnel) waitSince(n int, what string, accept func(*pcap.Message) bool) {
	tun.t.Helper()
	lab.Eventually(tun.t, soon, what, func() bool { return slices.ContainsFunc(tun.inside.SIP()[n:], accept) })
}

// TestTrunkAway: the PBX is told at once that the office is gone, or that the trunk is, and calls work again once they are
// back.
func TestTrunkAway(t *testing.T) {
	t.Parallel()
	tun, _ := newTrunk(t, "tcp")
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	refused := func(status string) {
		t.Helper()
		mark := carol.Mark()
		carol.Dial("sip:nobody@" + officeDomain)
		if closed := carol.Wait(soon, mark, "CALL_CLOSED"); !strings.Contains(closed.Param, status) {
			t.Errorf("a call ended with %q, want %s", closed.Param, status)
		}
	}
	refused("404") // by the PBX of the office
	tun.tunneld.Stop()
	tun.startDaemon("--trunk-port", "default/office-pbx=6900")
	tun.waitUp()
	lab.Eventually(t, soon, "the trunk is open again", func() bool {
		daemon, _ := tun.statuses()
		return len(daemon.Trunks) == 1
	})
	refused("404")
	tun.proxy.Stop()
	refused("480")
	tun.startProxy("--trunk", "office-pbx=192.168.77.99;transport=tcp") // nobody is there
	tun.waitUp()
	lab.Eventually(t, soon, "the trunk is open", func() bool {
		_, proxy := tun.statuses()
		return proxy.Trunks[0].Address != ""
	})
	refused("500") // RFC 3261 section 16.7 item 6
	tun.inside.WaitSIP(soon, "the PBX is told why", func(m *pcap.Message) bool {
		return m.Status == 503 && strings.Contains(m.StartLine, "Trunk Unreachable")
	})
}

// TestTrunkTenCalls: SIPp as the PBX of the office, reached by a static route, with ten calls of phones beside the PBX at once.
func TestTrunkTenCalls(t *testing.T) {
	t.Parallel()
	tun := prepareTunnel(t, lab.New(t))
	office := tun.Phone("office-pbx")
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: tenUsers(), Trunk: trunkAt})
	tun.watchWAN()
	tun.startDaemon("--trunk-port", "default/office-pbx=6900")
	tun.join()
	tun.startProxy("--trunk", fmt.Sprintf("office-pbx=%v:5070", office.Addr))
	tun.waitUp()
	tenCalls(t, office, tun.Desk, deskPBX)
}

// TestTrunkManyCalls: SIPp as both PBXs, a hundred calls each way at once. Every one of them goes as its scenario says.
func TestTrunkManyCalls(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"u1", "t1"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			tun := prepareTunnel(t, lab.New(t))
			office := tun.Phone("office-pbx")
			call := func(host *lab.Host, port uint16, transport string, to netip.AddrPort) *lab.Process {
				return peers.StartSIPp(t, host, peers.SIPpConfig{Scenario: "uac_trunk", Port: port, Args: []string{
					"-m", "200", "-l", "100", "-r", "40", "-t", transport, "-key", "domain", domain, to.String()}})
			}
			answer := func(host *lab.Host, transport string) *lab.Process {
				return peers.StartSIPp(t, host, peers.SIPpConfig{Scenario: "uas_echo", Port: 5070, Args: []string{"-t", transport}})
			}
			trunk := netip.AddrPortFrom(lab.PBXAddr, 6900)
			answer(tun.PBX, "u1")
			answer(office, transport)
			tun.watchWAN()
			tun.startDaemon("--pbx", lab.PBXAddr.String()+":5070", "--trunk-port", "default/office-pbx=6900")
			tun.join()
			tun.startProxy("--trunk", fmt.Sprintf("office-pbx=%v:5070;transport=%s", office.Addr, map[string]string{"u1": "udp", "t1": "tcp"}[transport]))
			lab.Eventually(t, soon, "the trunk is open", func() bool {
				out, _ := tun.PBX.Run(tun.tunneldArgs("status", "--json")...)
				return strings.Contains(out, `"address": "`+trunk.String()+`"`)
			})
			for _, calls := range []*lab.Process{call(tun.PBX, 5080, "u1", trunk), call(office, 5080, transport, officeSIP)} {
				if code := calls.Exit(3 * soon); code != 0 {
					t.Errorf("SIPp, calling, ended with %d", code)
				}
			}
			lab.Eventually(t, soon, "no call is left", func() bool {
				daemon, proxy := tun.statuses()
				return len(daemon.Calls)+len(proxy.Calls) == 0
			})
			if daemon, proxy := tun.statuses(); t.Failed() {
				t.Log(daemon.Counters, proxy.Counters)
			}
		})
	}
}

// TestRegisteringPBX: a PBX of the office registers as a phone does, or all of its numbers at once (RFC 6140). Calls to any of
// them reach it, with what PBXs tell each other in headers.
func TestRegisteringPBX(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			tun := prepareTunnel(t, lab.New(t))
			host := tun.Desk("server")
			peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users, Numbers: "dave", Trunk: netip.AddrPortFrom(host.Addr, serverPort)})
			tun.watchWAN()
			tun.startDaemon()
			tun.join()
			tun.startProxy()
			tun.waitUp()
			server := peers.StartScript(t, host, peers.ScriptConfig{User: "server", Port: serverPort, To: netip.AddrPortFrom(lab.PBXDeskAddr, 5060)})
			office := peers.StartScript(t, tun.Phone("office-pbx"), peers.ScriptConfig{User: "dave", Password: users["dave"], Transport: transport, To: officeSIP})
			office.Register(domain, "")
			calledAs(t, server, office)
			// The same with all numbers at once.
			for expires, contact := range []string{"*", "<sip:{at};transport={transport};bnc>"} {
				sent := office.Authorized(soon, `REGISTER sip:pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: <sip:dave@pbx.example>;tag=bulk
To: <sip:dave@pbx.example>
Call-ID: bulk-{at}-`+strconv.Itoa(expires)+`
CSeq: {cseq} REGISTER
Contact: `+contact+`
Require: gin
Proxy-Require: gin
Supported: path
Expires: `+strconv.Itoa(3600*expires)+`
Content-Length: 0

`)
				if answer := office.Final(soon, sent); answer.Status != 200 || contact != "*" && !strings.Contains(answer.Header("Contact"), ";bnc>") {
					t.Fatalf("REGISTER is answered with %s, Contact %s", answer.StartLine, answer.Header("Contact"))
				}
			}
			calledAs(t, server, office)
		})
	}
}

// calledAs has the server call ever other numbers of the office's PBX, which is to be asked for them at its Contact.
func calledAs(t *testing.T, server, office *peers.Script) {
	t.Helper()
	for i := range 5 {
		number := fmt.Sprintf("+493012345%d", i)
		sent := server.Send(fmt.Sprintf(`INVITE sip:%[1]s@pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: "A caller" <sip:+4940999@elsewhere.example>;tag={id}
To: <sip:%[1]s@third.example>
Call-ID: {id}
CSeq: 8 INVITE
Contact: <sip:9server@172.20.0.101:5070>
P-Asserted-Identity: "A caller" <sip:+4940999@elsewhere.example>
Diversion: <sip:+4930111@pbx.example>;reason=unconditional
Content-Length: 0

`, number))
		arrived := office.Wait(soon, "the call to "+number, func(m *pcap.Message) bool {
			return m.Method == "INVITE" && m.Header("Call-ID") == sent.Header("Call-ID")
		})
		if want := fmt.Sprintf("INVITE sip:%s@%v;transport=%s SIP/2.0", number, office.Addr, strings.ToLower(office.Transport)); arrived.StartLine != want {
			t.Errorf("the office's PBX got %s, want %s", arrived.StartLine, want)
		}
		untouched(t, sent, arrived.Message)
		office.Answer(arrived, "486 Busy Here", "office", "")
		server.Ack(sent, server.Final(soon, sent))
	}
}
