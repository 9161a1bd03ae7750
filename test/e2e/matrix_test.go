//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// The matrix is calls with everything that SIP has for calls, between phones that SIPp plays by the scenarios in
// peers/scenarios/calls: each out of the office, into it, and within it. A call is one test, and all of them share one tunnel.
// The scenario fails where a message comes that it does not expect, or one does not come. Beyond that every call is compared
// at its two ends: see transparent.

// A matrix is a tunnel with hosts at both ends, each of which plays many phones.
type matrix struct {
	*tunnel
	ipv6         bool // in the office
	office, desk [2]*station
	branch       *station // in the second office, where there is one
	calls        atomic.Int32
}

// A station is a host whose link is captured.
type station struct {
	*lab.Host
	proxy  netip.AddrPort // where its phones send to
	relays netip.Addr     // where they are told to send media
	link   *lab.Capture
	wire   sipWire
}

// newMatrix has phones of IPv4; with ipv6 those of the office have IPv6 and no IPv4.
func newMatrix(t *testing.T, ipv6 bool) *matrix {
	t.Helper()
	l := lab.New(t)
	if ipv6 {
		l.UseIPv6()
	}
	tun := prepareTunnel(t, l)
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users, Open: true})
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon()
	tun.join()
	tun.startProxy()
	tun.waitUp()
	m := &matrix{tunnel: tun, ipv6: ipv6}
	for i, name := range []string{"one", "two"} {
		if ipv6 {
			m.office[i] = &station{Host: tun.Phone6("office" + name), proxy: officeSIP6, relays: officeSIP6.Addr()}
		} else {
			m.office[i] = &station{Host: tun.Phone("office" + name), proxy: officeSIP, relays: lab.ProxyAddr}
		}
		m.desk[i] = &station{Host: tun.Desk("desk" + name), proxy: netip.AddrPortFrom(lab.PBXDeskAddr, 5060), relays: lab.PBXAddr}
		for _, s := range []*station{m.office[i], m.desk[i]} {
			s.link = s.Capture("eth0", "")
		}
	}
	return m
}

// addBranch adds a station in the second office.
func (m *matrix) addBranch() {
	m.t.Helper()
	office := m.startBranch()
	m.branch = &station{
		Host: office.Phone("branch"), proxy: netip.AddrPortFrom(lab.BranchProxyAddr, 5060), relays: lab.BranchProxyAddr,
	}
	m.branch.link = m.branch.Capture("eth0", "")
}

// A way is between whom a call is, as seen from the office.
type way string

const (
	outward  way = "out"
	inward   way = "in"
	internal way = "internal"
	between  way = "between" // two offices
)

func (m *matrix) stations(w way) (caller, callee *station) {
	switch w {
	case outward:
		return m.office[0], m.desk[0]
	case inward:
		return m.desk[0], m.office[0]
	case between:
		return m.office[0], m.branch
	}
	return m.office[0], m.office[1]
}

// A dialogue is one call that SIPps play by one scenario.
type dialogue struct {
	*matrix
	scene
	t              *testing.T
	id             string
	caller, callee *party          // callee is the first where there are several
	parties        []*party        // callees, then the caller
	passed         map[string]bool // packets of media that have arrived
}

// A party is one side of a dialogue: a SIPp for the signalling, and sockets of the test's at the ports that its SDP names.
type party struct {
	*peers.Player
	*station
	d     *dialogue
	media []net.PacketConn
	moved map[int]int // m-lines whose media port is not that of their own number
}

// at is the number of the media port of an m-line.
func (p *party) at(line int) int {
	if port, ok := p.moved[line]; ok {
		return port
	}
	return line
}

// dialogueMedia is how many media ports a party of a dialogue has. Each has one more, for RTCP.
const dialogueMedia = 3

// start starts the dialogue of a scene: the callees are registered and wait, the caller calls.
func (m *matrix) start(t *testing.T, s scene, w way) *dialogue {
	t.Helper()
	n := int(m.calls.Add(1))
	d := &dialogue{matrix: m, t: t, scene: s, passed: map[string]bool{}, id: fmt.Sprintf("%s-%s-%d", s.scenario, w, n)}
	from, to := m.stations(w)
	roles := []peers.Role{peers.Callee, peers.Caller}
	if s.second {
		roles = []peers.Role{peers.Callee, second, peers.Caller}
	}
	number := fmt.Sprintf("callee%d", n)
	for i, role := range roles {
		p := &party{station: to, d: d, moved: map[int]int{}}
		part := peers.Part{
			Scenario: s.scenario, Role: role, Port: uint16(10000 + 10*n + i), Transport: "udp",
			User: number, Number: number, Domain: domain, CallID: d.id,
		}
		if role == peers.Caller {
			p.station = from
			part.User, part.Proxy = fmt.Sprintf("caller%d", n), from.proxy
			if s.overTCP {
				part.Transport = "tcp"
			}
		} else {
			m.register(t, to, part)
		}
		for j := range dialogueMedia {
			part.Media = append(part.Media, uint16(12000+100*n+20*i+2*j))
			p.listen(part.Media[j])
			p.listen(part.Media[j] + 1)
		}
		p.Player = peers.StartPlayer(t, p.station.Host, part)
		d.parties = append(d.parties, p)
	}
	d.callee, d.caller = d.parties[0], d.parties[len(d.parties)-1]
	return d
}

func (p *party) listen(port uint16) {
	p.d.t.Helper()
	conn, err := p.station.ListenUDP(netip.AddrPortFrom(p.station.Addr, port).String())
	if err != nil {
		p.d.t.Fatal(err)
	}
	p.d.t.Cleanup(func() { _ = conn.Close() })
	p.media = append(p.media, conn)
}

// register registers the part's user at the part's own port, where SIPp will listen in a moment.
func (m *matrix) register(t *testing.T, s *station, part peers.Part) {
	t.Helper()
	at := netip.AddrPortFrom(s.Addr, part.Port)
	conn, err := s.ListenUDP(at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := peers.Exchange(conn, s.proxy, fmt.Sprintf("REGISTER sip:%[2]s SIP/2.0\r\n"+
		"Via: SIP/2.0/UDP %[3]v;branch=z9hG4bK-register-%[4]s-%[5]s;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%[1]s@%[2]s>;tag=%[5]s\r\nTo: <sip:%[1]s@%[2]s>\r\nCall-ID: register-%[4]s-%[5]s\r\nCSeq: 1 REGISTER\r\n"+
		"Contact: <sip:%[1]s@%[3]v;transport=UDP>\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n",
		part.User, domain, at, part.CallID, part.Role), soon)
	if err != nil || answer.Status != 200 {
		t.Fatalf("%s cannot register: %v, %+v", part.User, err, answer)
	}
}

// heard returns everything that went in the dialogue over the party's link.
func (p *party) heard() []*pcap.Message {
	at := netip.AddrPortFrom(p.station.Addr, p.Port)
	var own []*pcap.Message
	for _, m := range p.wire.of(p.link.Packets(), p.d.id) {
		if m.Src == at || m.Dst == at {
			own = append(own, m)
		}
	}
	return own
}

// messages is heard without what is the same as an earlier message: retransmissions.
func (p *party) messages() (sent, received []*pcap.Message) {
	seen := map[string]bool{}
	for _, m := range p.heard() {
		key := string(m.Payload)
		if m.Method == "ACK" {
			key = p.d.carried(m) // on each way that it takes its Via is another
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		if m.Src.Port() == p.Port {
			sent = append(sent, m)
		} else {
			received = append(received, m)
		}
	}
	return sent, received
}

// count is how many messages that the function accepts went over the party's link, repeated ones too.
func (p *party) count(accept func(*pcap.Message) bool) (n int) {
	for _, m := range p.heard() {
		if accept(m) {
			n++
		}
	}
	return n
}

// sees waits until a message of the dialogue that the function accepts has passed the party's link, and returns it.
func (p *party) sees(what string, accept func(*pcap.Message) bool) *pcap.Message {
	p.d.t.Helper()
	var found *pcap.Message
	ok := lab.Within(soon, func() bool {
		for _, m := range p.heard() {
			if accept(m) {
				found = m
				return true
			}
		}
		return p.d.failed()
	})
	if !ok || found == nil {
		p.d.t.Fatalf("no %s at the %s; %s", what, p.Role, p.d.trace())
	}
	return found
}

// failed tells whether a player has ended with an error.
func (d *dialogue) failed() bool {
	return slices.ContainsFunc(d.parties, func(p *party) bool { return !p.Running() && p.Exit(0) != 0 })
}

// isRequest accepts the request of that method and CSeq.
func isRequest(method string, cseq int) func(*pcap.Message) bool {
	return func(m *pcap.Message) bool {
		return m.Method == method && m.Header("CSeq") == fmt.Sprint(cseq, " ", method)
	}
}

// isResponse accepts the response to a request of that method and CSeq.
func isResponse(status, cseq int, method string) func(*pcap.Message) bool {
	return func(m *pcap.Message) bool {
		return m.Status == status && m.Header("CSeq") == fmt.Sprint(cseq, " ", method)
	}
}

// request waits for a request at the party's link.
func (p *party) request(method string, cseq int) *pcap.Message {
	p.d.t.Helper()
	return p.sees(fmt.Sprintf("%s with CSeq %d", method, cseq), isRequest(method, cseq))
}

// response waits for a response at the party's link.
func (p *party) response(status, cseq int, method string) *pcap.Message {
	p.d.t.Helper()
	return p.sees(fmt.Sprintf("%d to %s with CSeq %d", status, method, cseq), isResponse(status, cseq, method))
}

// ends waits until all parts are played to their end, and compares what both ends have seen.
func (d *dialogue) ends() {
	d.t.Helper()
	d.endsUncompared()
	d.transparent(d.caller, d.callee)
	d.transparent(d.callee, d.caller)
}

// endsMerged is ends for a caller with several callees: the final responses of those who do not answer stay with the PBX, and
// so does what the caller has to say to somebody else.
func (d *dialogue) endsMerged() {
	d.t.Helper()
	d.endsUncompared()
	callees := d.parties[:len(d.parties)-1]
	var left []string
	if !lab.Within(soon, func() bool {
		_, left = d.compare(callees[0], d.caller)
		for _, p := range callees[1:] {
			_, other := d.compare(p, d.caller)
			left = slices.DeleteFunc(left, func(text string) bool { return !slices.Contains(other, text) })
		}
		return len(left) == 0
	}) {
		d.t.Errorf("arrived at the caller, but none of the callees has sent it:\n%s", strings.Join(left, "\n"))
	}
	for _, p := range callees {
		if _, strange := d.compare(d.caller, p); len(strange) > 0 {
			d.t.Errorf("arrived at the %s, but the caller has not sent it:\n%s", p.Role, strings.Join(strange, "\n"))
		}
		unheard, _ := d.compare(p, d.caller)
		for _, text := range unheard {
			if !strings.HasPrefix(text, "SIP/2.0 487 ") {
				d.t.Errorf("did not arrive at the caller as the %s has sent it:\n%s", p.Role, text)
			}
		}
	}
}

func (d *dialogue) endsUncompared() {
	d.t.Helper()
	for _, p := range d.parties {
		if !lab.Within(soon, func() bool { return !p.Running() }) {
			d.t.Fatalf("the %s is not done: %s", p.Role, d.trace())
		}
		if code := p.Exit(soon); code != 0 {
			d.t.Errorf("the %s ended with %d: %s", p.Role, code, d.trace())
		}
	}
}

// trace is what the dialogue looked like at all its ends.
func (d *dialogue) trace() string {
	var b strings.Builder
	for _, p := range d.parties {
		fmt.Fprintf(&b, "\nat the %s: %s\n", p.Role, p.Errors())
		for _, m := range p.heard() {
			arrow := map[bool]string{true: "->", false: "<-"}[m.Src.Port() == p.Port]
			fmt.Fprintf(&b, "%s %s %s [%s] %s\n", m.Time.Format("15:04:05.000"), arrow, m.StartLine, m.Header("CSeq"), m.SDP('m'))
		}
	}
	return b.String()
}

// A baseline is what both programs say before the calls.
type baseline struct{ daemon, proxy status }

func (m *matrix) baseline() (b baseline) {
	m.t.Helper()
	b.daemon, b.proxy = m.statuses()
	return b
}

// empty fails the test unless both programs say that all calls are over, their relays free, and nothing was refused, dropped or
// left unanswered.
func (m *matrix) empty(t *testing.T, before baseline) {
	t.Helper()
	var after baseline
	lab.Within(soon, func() bool {
		after = m.baseline()
		return after.like(before)
	})
	if !after.like(before) {
		t.Errorf("left: %d and %d calls (%v, %v), %d and %d relays; there were %d and %d relays before", len(after.daemon.Calls),
			len(after.proxy.Calls), after.daemon.Calls, after.proxy.Calls, len(after.daemon.Relays), len(after.proxy.Relays),
			len(before.daemon.Relays), len(before.proxy.Relays))
	}
	unwanted := regexp.MustCompile(`^(sip\.(refused|dropped|timeout|ended)|media\.dropped)\.`)
	for name, counters := range map[string][2]map[string]uint64{
		"tunneld": {before.daemon.Counters, after.daemon.Counters}, "tunnelproxy": {before.proxy.Counters, after.proxy.Counters},
	} {
		for counter, n := range counters[1] {
			if n > counters[0][counter] && unwanted.MatchString(counter) && !slices.Contains(mayDrop, counter) {
				t.Errorf("%s counts %d of %s", name, n-counters[0][counter], counter)
			}
		}
	}
}

// mayDrop counts what was held, and what a busy machine was too late with.
var mayDrop = []string{"media.dropped.held", "media.dropped.late"}

func (b baseline) like(before baseline) bool {
	return len(b.daemon.Calls) == 0 && len(b.proxy.Calls) == 0 && len(b.daemon.Relays) == len(before.daemon.Relays) &&
		len(b.proxy.Relays) == len(before.proxy.Relays)
}

// settle gives what should not come the time to come.
const settle = 100 * time.Millisecond
