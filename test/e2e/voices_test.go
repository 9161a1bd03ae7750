//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// frame is the time of the audio in a packet.
const frame = 20 * time.Millisecond

// voices are calls between a phone of the office and a server behind the PBX, both of them scripts, with media that the test
// itself sends and takes: what comes out is compared with what went in, packet by packet, without a phone's own delays.
type voices struct {
	t             *testing.T
	tun           *tunnel
	phone, server *peers.Script
	all           []*voice // of each call first that of the phone, then that of the server
	began         time.Time
	turn          uint32 // counts talks
	pauses        *lab.Pauses
}

// A voice is the media of one end of a call.
type voice struct {
	conn net.PacketConn
	to   *net.UDPAddr
	sent []time.Duration // by number
	ssrc uint32

	mu   sync.Mutex
	turn uint32
	came []cameFrame
}

// cameFrame is a packet of the present talk that came.
type cameFrame struct {
	number int
	at     time.Duration
}

// newVoices starts the chain on a network and sets up the calls.
func newVoices(t *testing.T, l *lab.Lab, calls int) *voices {
	t.Helper()
	host := l.Desk("server")
	tun := newTunnelBefore(t, l, peers.PBXConfig{Domain: domain, Users: users, Trunk: netip.AddrPortFrom(host.Addr, serverPort)})
	v := &voices{t: t, tun: tun, began: time.Now(), pauses: lab.WatchPauses(t)}
	v.server = peers.StartScript(t, host, peers.ScriptConfig{User: "server", Port: serverPort, To: netip.AddrPortFrom(lab.PBXDeskAddr, 5060)})
	v.phone = peers.StartScript(t, tun.Phone("alice"), peers.ScriptConfig{User: "alice", Password: users["alice"], To: officeSIP})
	v.phone.Register(domain, "")
	for i := range calls {
		v.call(i)
	}
	return v
}

func (v *voices) voice(host *lab.Host) *voice {
	v.t.Helper()
	conn, err := host.ListenUDP(netip.AddrPortFrom(host.Addr, 0).String())
	if err != nil {
		v.t.Fatal(err)
	}
	one := &voice{conn: conn, ssrc: rand.Uint32()}
	var reader sync.WaitGroup
	reader.Go(func() { one.listen(v.began) })
	v.t.Cleanup(func() {
		_ = conn.Close()
		reader.Wait()
	})
	v.all = append(v.all, one)
	return one
}

// call sets up one call.
func (v *voices) call(n int) {
	v.t.Helper()
	caller, callee := v.voice(v.phone.Host), v.voice(v.server.Host)
	invite := v.phone.Authorized(soon, fmt.Sprintf(`INVITE sip:9%[1]d@pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: <sip:{user}@pbx.example>;tag=voice%[1]d
To: <sip:9%[1]d@pbx.example>
Call-ID: voice-%[1]d
CSeq: {cseq} INVITE
Contact: <sip:{user}@{at}>
%[2]s`, n, voiceSDP(caller)))
	request := v.server.Wait(soon, "INVITE", func(m *pcap.Message) bool {
		return m.Method == "INVITE" && m.Header("Call-ID") == invite.Header("Call-ID")
	})
	callee.to = v.named(request.Message)
	v.server.Answer(request, "200 OK", "server", "Contact: <sip:9server@{at}>\n"+voiceSDP(callee))
	answer := v.phone.Final(soon, invite)
	if answer.Status != 200 {
		v.t.Fatalf("call %d is answered with %s", n, answer.StartLine)
	}
	caller.to = v.named(answer.Message)
	side := calling(v.phone, invite, answer.Message)
	number, _, _ := strings.Cut(invite.Header("CSeq"), " ")
	v.phone.Send("ACK " + side.uri + " SIP/2.0\nVia: {via}\n" + side.routes + "Max-Forwards: 70\nFrom: " + side.from +
		"\nTo: " + side.to + "\nCall-ID: " + side.callID + "\nCSeq: " + number + " ACK\nContent-Length: 0\n\n")
}

// voiceSDP is the end of a message with the SDP of a voice.
func voiceSDP(one *voice) string {
	at := one.conn.LocalAddr().(*net.UDPAddr)
	return fmt.Sprintf(`Content-Type: application/sdp
Content-Length: {length}

v=0
o=- 1 1 IN IP4 %[1]v
s=-
c=IN IP4 %[1]v
t=0 0
m=audio %[2]d RTP/AVP 0
`, at.IP, at.Port)
}

// named is where the SDP of a message wants media.
func (v *voices) named(m *pcap.Message) *net.UDPAddr {
	v.t.Helper()
	c, media := m.SDP('c'), m.SDP('m')
	if len(c) == 0 || len(media) == 0 {
		v.t.Fatalf("no SDP in %s", m.Payload)
	}
	port, err := strconv.ParseUint(strings.Fields(media[0])[1], 10, 16)
	if err != nil {
		v.t.Fatal(err)
	}
	addr, err := netip.ParseAddr(strings.TrimPrefix(c[0], "IN IP4 "))
	if err != nil {
		v.t.Fatal(err)
	}
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port)))
}

// say sends the next packet.
func (one *voice) say(turn uint32, began time.Time) error {
	n := len(one.sent)
	b := make([]byte, 172)
	b[0] = 0x80
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	binary.BigEndian.PutUint32(b[4:], uint32(n)*160)
	binary.BigEndian.PutUint32(b[8:], one.ssrc)
	binary.BigEndian.PutUint32(b[12:], turn)
	binary.BigEndian.PutUint32(b[16:], uint32(n))
	one.sent = append(one.sent, time.Since(began))
	_, err := one.conn.WriteTo(b, one.to)
	return err
}

// listen notes what comes until the socket is closed.
func (one *voice) listen(began time.Time) {
	buf := make([]byte, 2048)
	for {
		n, _, err := one.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		at := time.Since(began)
		one.mu.Lock()
		if n == 172 && binary.BigEndian.Uint32(buf[12:]) == one.turn {
			one.came = append(one.came, cameFrame{int(binary.BigEndian.Uint32(buf[16:])), at})
		}
		one.mu.Unlock()
	}
}

// start begins a new talk: what comes of earlier ones does not count.
func (v *voices) start() {
	v.turn++
	for _, one := range v.all {
		one.sent = one.sent[:0]
		one.mu.Lock()
		one.turn, one.came = v.turn, nil
		one.mu.Unlock()
	}
}

// talk has all voices talk at once, from both ends, each a packet every 20 ms, first for a time in which the programs may get
// to know the path. meanwhile, if it is not nil, is called with each packet and the time that has passed. It returns what became
// of the packets that were sent after the first time, once those under way have had time to arrive. Order counts always.
func (v *voices) talk(first, length time.Duration, meanwhile func(passed time.Duration)) *heardVoices {
	v.t.Helper()
	v.start()
	h := &heardVoices{}
	start := time.Now()
	for i := 0; ; i++ {
		due := time.Duration(i) * frame / time.Duration(len(v.all))
		if due >= first+length {
			break
		}
		time.Sleep(due - time.Since(start))
		h.pause = max(h.pause, time.Since(start)-due)
		if meanwhile != nil {
			meanwhile(time.Since(start))
		}
		if err := v.all[i%len(v.all)].say(v.turn, v.began); err != nil {
			v.t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	h.pause = max(h.pause, v.pauses.Longest(start))
	for i, one := range v.all {
		other := v.all[i^1]
		one.mu.Lock()
		h.add(other.sent, one.came, start.Add(first).Sub(v.began))
		one.mu.Unlock()
	}
	slices.Sort(h.delays)
	return h
}

// heardVoices is what became of the packets of all voices.
type heardVoices struct {
	sent, missing, repeated, disordered int
	// longest is the longest piece of audio that is missing in one.
	longest time.Duration
	delays  []time.Duration // of those that came, sorted
	// pause is how long the machine itself has stood still meanwhile.
	pause time.Duration
}

func (h *heardVoices) add(sent []time.Duration, came []cameFrame, from time.Duration) {
	at := make([]int, len(sent)) // how often each came
	highest := -1
	for _, f := range came {
		if f.number >= len(sent) {
			h.disordered++ // what was never sent
			continue
		}
		if at[f.number]++; at[f.number] > 1 {
			h.repeated++
		}
		if f.number < highest {
			h.disordered++
		}
		highest = max(highest, f.number)
		if sent[f.number] >= from {
			h.delays = append(h.delays, f.at-sent[f.number])
		}
	}
	hole := time.Duration(0)
	for n, times := range at {
		if sent[n] < from {
			continue
		}
		h.sent++
		if times > 0 {
			hole = 0
			continue
		}
		h.missing++
		hole += frame
		h.longest = max(h.longest, hole)
	}
}

func (h *heardVoices) loss() float64 { return float64(h.missing) / float64(max(h.sent, 1)) }

// delay is what the share of the packets that came took at most.
func (h *heardVoices) delay(share float64) time.Duration {
	if len(h.delays) == 0 {
		return 0
	}
	return h.delays[min(int(share*float64(len(h.delays))), len(h.delays)-1)]
}

func (h *heardVoices) String() string {
	return fmt.Sprintf("%d sent, %d missing (%.3f %%), longest hole %v, %d repeated, %d out of order, delay %v, 99 %% %v, worst %v; the machine paused for %v", h.sent,
		h.missing, 100*h.loss(), h.longest, h.repeated, h.disordered, h.delay(0.5).Round(time.Millisecond),
		h.delay(0.99).Round(time.Millisecond), h.delay(1).Round(time.Millisecond), h.pause.Round(time.Millisecond))
}

// still is a pause of the machine that is long enough for packets to be late, and paths to be given up, without a fault of the
// programs.
const still = 30 * time.Millisecond

// expect has the voices talk, and fails the test if more than this share of the packets is missing, if a hole is longer, if one
// packet in a hundred is late, or if any came twice or behind a later one. Where too much is missing or late while the machine stood
// still they talk again, up to three times in all.
func (v *voices) expect(what string, loss float64, hole time.Duration, talk func() *heardVoices) {
	v.t.Helper()
	for attempt := 1; ; attempt++ {
		h := talk()
		v.t.Logf("%s: %v", what, h)
		if h.repeated > 0 || h.disordered > 0 {
			v.t.Errorf("%s: %d repeated, %d out of order; %s", what, h.repeated, h.disordered, v.pathCounters())
		}
		if h.loss() <= loss && h.longest <= hole && h.delay(0.99) <= late {
			return
		}
		if h.pause >= still && attempt < 3 {
			continue
		}
		v.t.Errorf("%s: %v; want at most %.2f %% missing, holes of %v, one packet in a hundred later than %v; %s", what, h,
			100*loss, hole, late, v.pathCounters())
		return
	}
}

// pathCounters tells what both programs have counted of the path.
func (v *voices) pathCounters() string {
	v.t.Helper()
	daemon, proxy := v.tun.statuses()
	var b strings.Builder
	for i, counters := range []map[string]uint64{daemon.Counters, proxy.Counters} {
		b.WriteString([]string{"tunneld:", "; tunnelproxy:"}[i])
		for _, name := range slices.Sorted(maps.Keys(counters)) {
			if n := counters[name]; n > 0 && (strings.HasPrefix(name, "path.") || strings.HasPrefix(name, "media.")) {
				fmt.Fprintf(&b, " %s %d", name, n)
			}
		}
	}
	return b.String()
}

// overtaken is how many packets both programs have dropped because later ones had taken the other way.
func (v *voices) overtaken() uint64 {
	daemon, proxy := v.tun.statuses()
	return daemon.Counters["path.dropped.overtaken"] + proxy.Counters["path.dropped.overtaken"]
}
