package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

func TestReportVector(t *testing.T) {
	side := Side{
		In:     Leg{Packets: 250, Lost: 5, Jitter: 1200 * time.Microsecond},
		Tunnel: Leg{Packets: 300, Lost: 300, Jitter: 30 * time.Microsecond},
		Out:    Leg{Packets: 1 << 32, RTT: time.Hour},
	}
	report := appendReport(nil, 0x01020304, 5, side)
	vector, err := os.ReadFile("testdata/report.hex") // PROTOCOL.md has it too
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(vector), "\n", ""))
	if err != nil || !bytes.Equal(report, want) {
		t.Errorf("report %x, want %x, %v", report, want, err)
	}
	if !IsReport(report) {
		t.Error("not known for a report")
	}
	var read rtcp.ApplicationDefined
	if err := read.Unmarshal(report); err != nil || read.Name != reportName || read.SSRC != 0x01020304 || read.SubType != 1 {
		t.Errorf("pion/rtcp reads %+v, %v", read, err)
	}
	side.Tunnel.Jitter = reportTimeUnit // not 0, which would be not known
	side.Out = Leg{Packets: reportPackets, RTT: math.MaxUint16 * reportTimeUnit}
	if got := legsOfReport(report); got != side {
		t.Errorf("read %+v, want %+v", got, side)
	}
}

func legsOfReport(report []byte) Side {
	return parseLegs((*[reportLegsSize]byte)(report[reportLegs:]))
}

// A tunnelled is the way of a call's media: phone, lan, the tunnel, pbx, desk.
type tunnelled struct {
	t           *testing.T
	lan, pbx    *testRelay
	phone, desk *peer
	at          time.Duration
	reports     [2]int // that lan and pbx have sent
}

func newTunnelled(t *testing.T, asks bool) *tunnelled {
	t.Helper()
	w := &tunnelled{t: t, phone: newPeer(t, "127.0.0.1"), desk: newPeer(t, "127.0.0.1")}
	w.lan, w.pbx = newTestRelay(t, loopback4, LANPolicy(nil)), newTestRelay(t, loopback4, LANPolicy(nil))
	if asks {
		w.lan.reportAt.Store(0) // as with Config.Report
	}
	for r, p := range map[*testRelay]*peer{w.lan: w.phone, w.pbx: w.desk} {
		r.SetRemote(p.addr(), p.addr())
	}
	return w
}

// passes carries what a peer sends to the other one, or loses it in the tunnel.
func (w *tunnelled) passes(from *testRelay, c Component, packet []byte, lost bool) {
	w.t.Helper()
	at, sender, to, n := from.LocalAddr(), w.phone, w.pbx, 0
	if from == w.pbx {
		sender, to, n = w.desk, w.lan, 1
	}
	if c == RTCP {
		at = from.rtcpAddr()
	}
	w.at += 10 * ms
	w.lan.clock.Store(int64(w.at))
	w.pbx.clock.Store(int64(w.at))
	sender.send(at, string(packet))
	from.expect(c, string(packet))
	if !lost {
		to.mustSend(c, string(packet))
	}
	// What it has to report it has said by the time that it is read again: that is how to wait for it.
	sender.send(at, "done")
	for {
		got := <-from.sunk
		if got.packet == "done" {
			break
		}
		if got.c != RTCP || !IsReport([]byte(got.packet)) {
			w.t.Fatalf("the sink got %+v", got)
		}
		w.reports[n]++
		to.mustSend(RTCP, got.packet)
	}
}

// talk has both sides send for n packets of 20 ms.
func (w *tunnelled) talk(n int, lanLost, upLost, pbxLost, downLost func(i int) bool) {
	w.t.Helper()
	w.talkOn(0, n, lanLost, upLost, pbxLost, downLost)
}

// talkOn does so from packet first to before packet end.
func (w *tunnelled) talkOn(first, end int, lanLost, upLost, pbxLost, downLost func(i int) bool) {
	w.t.Helper()
	for i := first; i < end; i++ {
		for from, lost := range map[*testRelay][2]bool{w.lan: {lanLost(i), upLost(i)}, w.pbx: {pbxLost(i), downLost(i)}} {
			ssrc := uint32(9)
			if from == w.pbx {
				ssrc = 10
			}
			if !lost[0] {
				w.passes(from, RTP, rtpPacket(w.t, rtp.Header{SSRC: ssrc, SequenceNumber: uint16(i), Timestamp: uint32(i) * 160}, 1), lost[1])
			}
		}
	}
}

func every(n, of int) func(int) bool { return func(i int) bool { return i%of == n } }

// TestEachLegHasItsOwnLosses: both ends say the same of all legs that RTP shows.
func TestEachLegHasItsOwnLosses(t *testing.T) {
	w := newTunnelled(t, true)
	w.talk(600, every(1, 20), every(2, 40), every(3, 15), every(4, 25))
	lan, pbx := w.lan.Stats().Quality, w.pbx.Stats().Quality
	if !lan.Apart || !pbx.Apart {
		t.Fatalf("losses are not told apart: %+v, %+v", lan, pbx)
	}
	for name, leg := range map[string]struct {
		got     Leg
		percent float64 // of what went into the leg
	}{
		"phone to lan, as lan sees it": {lan.Near.In, 5},
		"phone to lan, as pbx knows":   {pbx.Far.In, 5},
		"lan to pbx, as pbx sees it":   {pbx.Near.Tunnel, 2.5 / .95},
		"lan to pbx, as lan knows":     {lan.Far.Tunnel, 2.5 / .95},
		"desk to pbx, as pbx sees it":  {pbx.Near.In, 100. / 15},
		"desk to pbx, as lan knows":    {lan.Far.In, 100. / 15},
		"pbx to lan, as lan sees it":   {lan.Near.Tunnel, 4 / (1 - 1./15)},
		"pbx to lan, as pbx knows":     {pbx.Far.Tunnel, 4 / (1 - 1./15)},
	} {
		got := 100 * float64(leg.got.Lost) / float64(leg.got.Packets)
		if leg.got.Packets < 100 || math.Abs(got-leg.percent) > 0.7 {
			t.Errorf("%s: %d of %d packets lost, %.1f %%, want %.1f %%", name, leg.got.Lost, leg.got.Packets, got, leg.percent)
		}
	}
	// 600 packets both ways take 11 s: lan reports 1, 2, 4 and 8 s after its first packet, pbx answers likewise.
	if lan, pbx := w.reports[0], w.reports[1]; lan < 3 || lan > 5 || pbx < 3 || pbx > 5 {
		t.Errorf("%v reports", w.reports)
	}
	for _, p := range []*peer{w.phone, w.desk} {
		if err := p.SetReadDeadline(time.Now().Add(100 * ms)); err != nil {
			t.Fatal(err)
		}
		for buf := make([]byte, 2048); ; {
			n, _, err := p.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			if IsReport(buf[:n]) {
				t.Fatal("a peer got a report")
			}
		}
	}
}

// TestPacketsAside: what went to another phone of the office meanwhile was not lost in the
// tunnel.
func TestPacketsAside(t *testing.T) {
	w := newTunnelled(t, true)
	direct := func(i int) bool {
		if i < 200 || i >= 300 {
			return false
		}
		w.lan.Aside()
		return true
	}
	w.talk(600, never, direct, never, never)
	if leg := w.pbx.Stats().Quality.Near.Tunnel; leg.Lost != 0 || leg.Packets < 200 {
		t.Errorf("%+v", leg)
	}
}

// TestReplacedRelay: what was measured before the phone went to another place is known
// after it, at both ends, and each leg keeps its losses.
func TestReplacedRelay(t *testing.T) {
	w := newTunnelled(t, true)
	w.talk(300, every(1, 10), every(2, 40), never, never)
	if err := w.lan.Send(RTP, nil); err == nil {
		t.Fatal("nothing was sent")
	}
	before := w.lan.Stats()
	w.lan = w.lan.replaced(loopback4, LANPolicy(nil))
	w.lan.SetRemote(w.phone.addr(), w.phone.addr())
	if s := w.lan.Stats(); s.In != before.In || s.Out != before.Out || s.Dropped != before.Dropped || s.LastIn != before.LastIn || s.Quality != before.Quality {
		t.Errorf("%+v, before %+v", s, before)
	}
	w.talkOn(300, 1000, never, never, never, never)
	lan, pbx := w.lan.Stats().Quality, w.pbx.Stats().Quality
	for name, leg := range map[string]struct {
		got  Leg
		lost uint64
	}{
		"phone to lan, as lan sees it": {lan.Near.In, 30},
		"phone to lan, as pbx knows":   {pbx.Far.In, 30},
		"lan to pbx, as pbx sees it":   {pbx.Near.Tunnel, 8},
		"lan to pbx, as lan knows":     {lan.Far.Tunnel, 8},
		"desk to pbx, as pbx sees it":  {pbx.Near.In, 0},
		"pbx to lan, as lan sees it":   {lan.Near.Tunnel, 0},
	} {
		// Reports came 1, 2, 4 and 8 s after the first packet, the last one so after the relay was replaced.
		if leg.got.Packets < 350 || leg.got.Lost != leg.lost {
			t.Errorf("%s: %d of %d packets lost, want %d", name, leg.got.Lost, leg.got.Packets, leg.lost)
		}
	}
}

// TestReplacedByNothing: a relay that cannot be replaced goes on.
func TestReplacedByNothing(t *testing.T) {
	phone, r := newPeer(t, "127.0.0.1"), newTestRelay(t, loopback4, LANPolicy(nil))
	r.SetRemote(phone.addr(), phone.addr())
	pair, err := freePorts(t, loopback4, 2, time.Now).Open()
	if err != nil {
		t.Fatal(err)
	}
	closed, err := NewPoller(PollerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Config{Pair: pair, Poller: closed, Replaces: r.Relay}); err == nil {
		t.Fatal("started with a Poller that is closed")
	}
	phone.send(r.LocalAddr(), "still here")
	r.expect(RTP, "still here")
}

func never(int) bool { return false }

// TestNobodyAsks: an end that does not know of reports gets none.
func TestNobodyAsks(t *testing.T) {
	w := newTunnelled(t, false)
	w.talk(100, every(1, 20), every(-1, 2), every(-1, 2), every(4, 20))
	if w.reports != [2]int{} {
		t.Errorf("%v reports", w.reports)
	}
	q := w.lan.Stats().Quality
	if q.Apart || q.Far != (Side{}) || q.Near.Tunnel.Lost != 5 || q.Near.In.Lost != 5 {
		t.Errorf("%+v", q)
	}
}

// TestReportsOfStrangers: what only looks like a report is none, and RTCP counts
// from the peer alone.
func TestReportsOfStrangers(t *testing.T) {
	w := newTunnelled(t, true)
	w.talk(20, every(-1, 2), every(-1, 2), every(-1, 2), every(-1, 2))
	w.phone.send(w.lan.rtcpAddr(), string(appendReport(nil, 9, 20, Side{})))
	w.lan.waitFor("media.dropped.foreign_report", 1)
	forged := marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: 10, TotalLost: 15, LastSequenceNumber: 19}}})
	w.passes(w.lan, RTCP, marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 1}), false)
	newPeer(t, "127.0.0.66").send(w.lan.rtcpAddr(), string(forged))
	w.lan.waitFor("media.dropped.unknown_source", 1)
	if q := w.lan.Stats(); q.Quality.Near.Out != (Leg{}) || q.Dropped.Report != 1 {
		t.Errorf("%+v", q)
	}
	w.passes(w.lan, RTCP, forged, false)
	if got, want := w.lan.Stats().Quality.Near.Out, (Leg{Packets: 20, Lost: 15}); got != want {
		t.Errorf("what the peer itself says: %+v, want %+v", got, want)
	}
}

// TestReportOfNonsense: a client of the tunnel can say what it likes. It harms
// nothing but its own figures, which stay possible.
func TestReportOfNonsense(t *testing.T) {
	w := newTunnelled(t, false)
	w.talk(100, every(-1, 2), every(-1, 2), every(-1, 2), every(4, 20))
	for _, lost := range []uint64{0, 3, 5, 6, math.MaxUint32} {
		w.lan.mustSend(RTCP, string(appendReport(nil, 10, lost, Side{In: Leg{Packets: 1, Lost: 2}})))
		q := w.lan.Stats().Quality
		if want := 5 - min(lost, 5); q.Near.Tunnel.Lost != want || q.Near.Tunnel.Packets != 100-5+want || q.Far.In != (Leg{Packets: 1, Lost: 1}) {
			t.Errorf("%d lost before: %+v", lost, q)
		}
	}
}

// TestMuxedRTCP reads RTCP on the port of RTP.
func TestMuxedRTCP(t *testing.T) {
	w := newTunnelled(t, false)
	w.talk(20, every(-1, 2), every(-1, 2), every(-1, 2), every(-1, 2))
	w.passes(w.pbx, RTP, marshalRTCP(t, &rtcp.SenderReport{SSRC: 10, NTPTime: 0x1234_5678_9abc_def0}), false)
	w.at += time.Second
	w.passes(w.lan, RTP, marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 9, Reports: []rtcp.ReceptionReport{
		{SSRC: 10, TotalLost: 2, LastSequenceNumber: 19, LastSenderReport: 0x5678_9abc, Delay: 65536},
	}}), false)
	got := w.lan.Stats().Quality.Near.Out
	if d := got.RTT - 10*ms; got.Packets != 20 || got.Lost != 2 || max(d, -d) > time.Microsecond {
		t.Errorf("%+v, want 2 of 20 lost and 10 ms", got)
	}
}

// TestReportsDoNotAllocate: neither one that is sent nor one that comes.
func TestReportsDoNotAllocate(t *testing.T) {
	r := startRelay(t, Config{Accept: LANPolicy(nil), Report: true})
	phone := newPeer(t, "127.0.0.1")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	if err := r.Send(RTP, rtpPacket(t, rtp.Header{SSRC: 10}, 1)); err != nil {
		t.Fatal(err)
	}
	report := appendReport(nil, 10, 0, Side{})
	if n := testing.AllocsPerRun(1000, func() {
		r.report()
		if err := r.Send(RTCP, report); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !r.Stats().Quality.Apart {
		t.Error("the report was not taken")
	}
}

// FuzzReport: what is taken for a report can be read, and what is read can be.
func FuzzReport(f *testing.F) {
	f.Add(appendReport(nil, 9, 3, Side{In: Leg{Packets: 5, Lost: 1, Jitter: ms}, Out: Leg{Packets: 7, RTT: ms}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !IsReport(b) {
			return
		}
		side := legsOfReport(b)
		again := appendReport(nil, binary.BigEndian.Uint32(b[4:]), uint64(binary.BigEndian.Uint32(b[12:])), side)
		if got := legsOfReport(again); got != side {
			t.Fatalf("%+v, written and read again %+v", side, got)
		}
		for _, leg := range []Leg{side.In, side.Tunnel, side.Out} {
			if leg.Lost > leg.Packets {
				t.Fatalf("%+v", leg)
			}
		}
	})
}
