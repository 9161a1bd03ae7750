package relay

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

func marshalRTCP(t testing.TB, packets ...rtcp.Packet) []byte {
	t.Helper()
	b, err := rtcp.Marshal(packets)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A listener receives RTP and reports about it as RFC 3550 appendix A has it,
// independently of stream.
type listener struct {
	any               bool
	base, highest     uint32 // extended
	received          uint32
	senderTime, delay uint32
	jitter            uint32
}

func (l *listener) hear(seq uint16) {
	if !l.any {
		*l = listener{any: true, base: uint32(seq), highest: uint32(seq), senderTime: l.senderTime, jitter: l.jitter}
	}
	ext := l.highest&^0xffff | uint32(seq)
	if step := int16(seq - uint16(l.highest)); step > 0 {
		if ext < l.highest {
			ext += 1 << 16
		}
		l.highest = ext
	}
	l.received++
}

func (l *listener) report(ssrc uint32) rtcp.ReceptionReport {
	return rtcp.ReceptionReport{
		SSRC: ssrc, TotalLost: (l.highest - l.base + 1 - l.received) & 0xffffff, LastSequenceNumber: l.highest,
		Jitter: l.jitter, LastSenderReport: l.senderTime, Delay: l.delay,
	}
}

// A lineup is the direction from the tunnel to a peer.
type lineup struct {
	t       testing.TB
	out     meter
	control control
	peer    listener
	ssrc    uint32
	at      time.Duration
	twice   bool // what is withheld comes
}

// send has a packet come out of the tunnel, unless it is lost before, and reach the
// peer, unless it is withheld or lost there.
func (l *lineup) send(seq uint16, before, withheld, after bool) {
	l.at += 20 * ms
	if before {
		return
	}
	packet := rtpPacket(l.t, rtp.Header{SSRC: l.ssrc, SequenceNumber: seq, Timestamp: uint32(seq) * 160}, 1)
	copies := 1
	if withheld && l.twice {
		copies = 2
	}
	for range copies {
		if l.out.measure(packet, l.at) {
			l.out.note(!withheld)
		}
	}
	if !withheld && !after {
		l.peer.hear(seq)
	}
}

func (l *lineup) report(more ...rtcp.Packet) {
	packets := append([]rtcp.Packet{&rtcp.ReceiverReport{SSRC: 77, Reports: []rtcp.ReceptionReport{l.peer.report(l.ssrc)}}}, more...)
	l.control.heard(&l.out, marshalRTCP(l.t, packets...), l.at)
}

func (l *lineup) told() span {
	_, _, told := l.out.spans()
	return told
}

// TestAnotherPeerReports: what one peer has lost stays lost when the call is transferred to
// another, and what is said late is not said again.
func TestAnotherPeerReports(t *testing.T) {
	l := &lineup{t: t, ssrc: 9}
	talk := func(first, last uint16) {
		for seq := first; seq < last; seq++ {
			l.send(seq, false, false, seq%10 == 3)
		}
	}
	talk(0, 1000)
	l.report()
	early := l.peer.report(l.ssrc)
	talk(1000, 2000)
	l.report()
	if got, want := l.told(), (span{2000, 200}); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
	l.control.heard(&l.out, marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 77, Reports: []rtcp.ReceptionReport{early}}), l.at)
	l.at += time.Second
	l.report()
	if got, want := l.told(), (span{2000, 200}); got != want {
		t.Errorf("after a late report: %+v, want %+v", got, want)
	}
	l.peer = listener{}
	say := func() {
		l.at += time.Second
		l.control.heard(&l.out, marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 78, Reports: []rtcp.ReceptionReport{l.peer.report(l.ssrc)}}), l.at)
	}
	talk(2000, 2500)
	say()
	talk(2500, 3000)
	say()
	// The new peer's first report is where it counts from.
	if got, want := l.told(), (span{2500, 250}); got != want {
		t.Errorf("after a transfer: %+v, want %+v", got, want)
	}
}

// TestWhatThePeerLost has a phone report on what it gets, and looks at whose the
// losses are.
func TestWhatThePeerLost(t *testing.T) {
	every := func(n, of uint16) func(seq uint16) bool { return func(seq uint16) bool { return seq%of == n } }
	never := func(uint16) bool { return false }
	for _, test := range []struct {
		name                    string
		first                   uint16
		before, withheld, after func(seq uint16) bool
		from                    int  // the peer listens from this packet on
		twice                   bool // what is withheld comes
		want                    span
	}{
		{name: "nothing", want: span{1000, 0}},
		{name: "on its own leg", after: every(3, 10), want: span{1000, 100}},
		{name: "before", before: every(3, 10), want: span{900, 0}},
		{name: "both", before: every(3, 10), after: every(4, 10), want: span{900, 100}},
		{name: "withheld", withheld: every(3, 10), want: span{900, 0}},
		{name: "withheld, with copies", withheld: every(3, 10), twice: true, after: every(4, 10), want: span{900, 100}},
		{name: "all three", before: every(1, 10), withheld: every(2, 10), after: every(3, 10), want: span{800, 100}},
		{name: "across the wrap", first: 65000, after: every(3, 10), want: span{1000, 100}},
		{name: "held at first", withheld: func(seq uint16) bool { return seq < 300 }, after: every(3, 10), want: span{700, 70}},
		{name: "who comes late", from: 250, after: every(3, 10), want: span{1000, 75}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range []*func(uint16) bool{&test.before, &test.withheld, &test.after} {
				if *f == nil {
					*f = never
				}
			}
			l := lineup{t: t, ssrc: 9, twice: test.twice}
			for i := range uint16(1000) {
				seq := test.first + i
				l.send(seq, test.before(i), test.withheld(i), test.after(i) || int(i) < test.from)
				if i%250 == 249 && l.peer.any {
					l.report()
				}
			}
			if got := l.told(); got != test.want {
				t.Errorf("told %+v, want %+v", got, test.want)
			}
		})
	}
}

// TestPeersThatStartAnew: what was said before stays, what is said then counts from
// there.
func TestPeersThatStartAnew(t *testing.T) {
	run := func(l *lineup, first uint16, n int) {
		for i := range n {
			l.send(first+uint16(i), false, false, i%10 == 5)
			if i%100 == 99 {
				l.report()
			}
		}
	}
	t.Run("the stream restarts", func(t *testing.T) {
		l := lineup{t: t, ssrc: 9}
		run(&l, 100, 500)
		l.peer = listener{}
		run(&l, 40000, 500)
		if got := l.told(); got.packets < 990 || got.packets > 1000 || got.lost < 95 || got.lost > 100 {
			t.Errorf("told %+v, want about 1000 and 100", got)
		}
	})
	t.Run("another SSRC", func(t *testing.T) {
		l := lineup{t: t, ssrc: 9}
		for range 2 * maxStreams {
			l.ssrc++
			l.peer = listener{}
			run(&l, 100, 500)
		}
		if got, want := l.told(), (span{2 * maxStreams * 500, 2 * maxStreams * 50}); got != want {
			t.Errorf("told %+v, want %+v", got, want)
		}
	})
	t.Run("the peer restarts", func(t *testing.T) {
		l := lineup{t: t, ssrc: 9}
		run(&l, 65300, 500)
		l.peer = listener{} // and knows nothing of the cycle
		run(&l, 65300-65536+500, 500)
		if got := l.told(); got.packets > 1000 || got.packets < 895 || got.lost > 100 || got.lost < 85 {
			t.Errorf("told %+v, want about 1000 and 100", got)
		}
	})
	t.Run("cumulative loss that shrinks", func(t *testing.T) {
		l := lineup{t: t, ssrc: 9}
		run(&l, 0, 200)
		l.peer.received += 200 // everything came twice
		l.report()
		if got := l.told(); got.lost > got.packets {
			t.Errorf("told %+v", got)
		}
	})
}

// TestRoundTrip: the round trip is from the report that passed to the one that
// answers it, without the time that the peer has kept it.
func TestRoundTrip(t *testing.T) {
	const ntp = 0x1234_5678_9abc_def0
	sender := marshalRTCP(t, &rtcp.SenderReport{SSRC: 9, NTPTime: ntp}, &rtcp.SourceDescription{})
	for _, test := range []struct {
		name       string
		last       uint32
		held       time.Duration
		after      time.Duration
		want       time.Duration
		sentBefore int // other reports that pass behind it
	}{
		{"at once", 0x5678_9abc, 0, 30 * ms, 30 * ms, 0},
		{"held", 0x5678_9abc, 2 * time.Second, 2*time.Second + 45*ms, 45 * ms, 0},
		{"another report has passed since", 0x5678_9abc, time.Second, time.Second + 45*ms, 45 * ms, 3},
		{"forgotten", 0x5678_9abc, time.Second, time.Second + 45*ms, 0, 4},
		{"none came", 0, 0, 30 * ms, 0, 0},
		{"a report that never passed", 0x1111_1111, 0, 30 * ms, 0, 0},
		{"kept for longer than it can have", 0x5678_9abc, time.Minute, time.Second, 0, 0},
		{"of another time", 0x5678_9abc, 0, time.Minute, 0, 0},
		{"clocks that differ a little", 0x5678_9abc, time.Second, time.Second - 5*ms, time.Microsecond, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := lineup{t: t, ssrc: 9}
			l.send(1, false, false, false)
			l.control.passed(sender, l.at)
			for i := range test.sentBefore {
				l.control.passed(marshalRTCP(t, &rtcp.SenderReport{SSRC: 9, NTPTime: uint64(i+1) << 16}), l.at)
			}
			l.at += test.after
			l.peer.senderTime, l.peer.delay = test.last, uint32(test.held.Seconds()*65536)
			l.report()
			got := l.out.find(9).out.rtt
			if d := got - test.want; max(d, -d) > 50*time.Microsecond {
				t.Errorf("round trip %v, want %v", got, test.want)
			}
		})
	}
}

func TestExtendedReport(t *testing.T) {
	l := lineup{t: t, ssrc: 9}
	l.send(1, false, false, false)
	l.report(&rtcp.ExtendedReport{SenderSSRC: 77, Reports: []rtcp.ReportBlock{
		&rtcp.ReceiverReferenceTimeReportBlock{NTPTimestamp: 1},
		&rtcp.VoIPMetricsReportBlock{SSRC: 9, DiscardRate: 64, MOSLQ: 31, MOSCQ: 30},
	}})
	if o := l.out.find(9).out; o.mos != 31 || o.discarded != 64 {
		t.Errorf("MOS %d, discarded %d", o.mos, o.discarded)
	}
	l.report(&rtcp.ExtendedReport{SenderSSRC: 77, Reports: []rtcp.ReportBlock{&rtcp.VoIPMetricsReportBlock{SSRC: 9, MOSLQ: 127}}})
	if o := l.out.find(9).out; o.mos != 0 {
		t.Errorf("MOS %d where the phone has none", o.mos)
	}
}

// TestHostileRTCP: none of this says anything of the stream.
func TestHostileRTCP(t *testing.T) {
	block := func(change func(*rtcp.ReceptionReport)) []byte {
		r := rtcp.ReceptionReport{SSRC: 9, LastSequenceNumber: 100}
		change(&r)
		return marshalRTCP(t, &rtcp.ReceiverReport{SSRC: 77, Reports: []rtcp.ReceptionReport{r}})
	}
	good := block(func(r *rtcp.ReceptionReport) { r.TotalLost = 10 })
	random := rand.NewChaCha8([32]byte{1})
	encrypted := slices.Clone(good)
	_, _ = random.Read(encrypted[8:])
	encrypted = append(encrypted, 0x80, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	short := slices.Clone(good)
	short[3] = 200
	counts := slices.Clone(good)[:8]
	counts[0], counts[3] = counts[0]|0x1f, 1
	padded := slices.Clone(good)
	padded[0] |= 0x20
	padded[len(padded)-1] = 255
	for name, packet := range map[string][]byte{
		"empty":                     {},
		"cut in its header":         good[:7],
		"cut in its block":          good[:20],
		"longer than it is":         short,
		"more blocks than it has":   counts,
		"more padding than it has":  padded,
		"SRTCP":                     encrypted,
		"of another stream":         block(func(r *rtcp.ReceptionReport) { r.SSRC = 8; r.TotalLost = 10 }),
		"of packets not sent yet":   block(func(r *rtcp.ReceptionReport) { r.LastSequenceNumber = 5000; r.TotalLost = 10 }),
		"of packets from before it": block(func(r *rtcp.ReceptionReport) { r.LastSequenceNumber = 65000; r.TotalLost = 10 }),
		"no version":                append([]byte{0}, good[1:]...),
		"no RTCP":                   append([]byte{0x81, 0}, good[2:]...),
	} {
		t.Run(name, func(t *testing.T) {
			l := lineup{t: t, ssrc: 9}
			for seq := range uint16(101) {
				l.send(seq, false, false, false)
			}
			l.control.heard(&l.out, packet, l.at)
			if o := l.out.find(9).out; l.told() != (span{}) || o.rtt != 0 || o.blocks != 0 {
				t.Errorf("told %+v, round trip %v, %d blocks", l.told(), o.rtt, o.blocks)
			}
		})
	}
	l := lineup{t: t, ssrc: 9}
	for seq := range uint16(101) {
		l.send(seq, false, false, false)
	}
	l.control.heard(&l.out, good, l.at)
	if got, want := l.told(), (span{101, 10}); got != want {
		t.Errorf("told %+v by the packet that the others are made of, want %+v", got, want)
	}
	// More was lost than there was: nothing is counted, and the next block counts from there.
	l.control.heard(&l.out, block(func(r *rtcp.ReceptionReport) { r.TotalLost = 5000 }), l.at)
	if got, want := l.told(), (span{101, 10}); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
}

// TestFloodOfRTCP: what is more than maxRTCP a second is not read.
func TestFloodOfRTCP(t *testing.T) {
	l := lineup{t: t, ssrc: 9}
	l.send(1, false, false, false)
	for range 10 * maxRTCP {
		l.report()
	}
	if got := l.out.find(9).out.blocks; got != maxRTCP {
		t.Errorf("%d read in a second, want %d", got, maxRTCP)
	}
	l.at += time.Second
	l.report()
	if got := l.out.find(9).out.blocks; got != maxRTCP+1 {
		t.Errorf("%d read in all, want %d", got, maxRTCP+1)
	}
}

func TestRTCPDoesNotAllocate(t *testing.T) {
	l := lineup{t: t, ssrc: 9}
	l.send(1, false, false, false)
	in := marshalRTCP(t, &rtcp.SenderReport{SSRC: 77, Reports: []rtcp.ReceptionReport{l.peer.report(9)}}, &rtcp.ExtendedReport{
		SenderSSRC: 77, Reports: []rtcp.ReportBlock{&rtcp.VoIPMetricsReportBlock{SSRC: 9, MOSLQ: 40}},
	})
	before := l.out.find(9).out.blocks
	if n := testing.AllocsPerRun(1000, func() {
		l.at += time.Second
		l.control.passed(in, l.at)
		l.control.heard(&l.out, in, l.at)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := l.out.find(9).out.blocks - before; got != 1001 {
		t.Errorf("%d of 1001 were read", got)
	}
}

// FuzzRTCP compares the blocks that are found with those that pion/rtcp finds, where
// it reads the whole; and whatever comes, the figures stay possible.
func FuzzRTCP(f *testing.F) {
	report := rtcp.ReceptionReport{SSRC: 9, TotalLost: 3, LastSequenceNumber: 40, Jitter: 80, LastSenderReport: 0x5678_9abc, Delay: 65536}
	for _, packets := range [][]rtcp.Packet{
		{&rtcp.ReceiverReport{SSRC: 77, Reports: []rtcp.ReceptionReport{report, {SSRC: 8}}}},
		{&rtcp.SenderReport{SSRC: 77, NTPTime: 0x1234_5678_9abc_def0, Reports: []rtcp.ReceptionReport{report}}, rtcp.NewCNAMESourceDescription(77, "a")},
		{&rtcp.ReceiverReport{SSRC: 77}, &rtcp.ExtendedReport{SenderSSRC: 77, Reports: []rtcp.ReportBlock{&rtcp.VoIPMetricsReportBlock{SSRC: 9, MOSLQ: 40}}}},
		{&rtcp.ReceiverReport{SSRC: 77, ProfileExtensions: []byte{1, 2, 3, 4}}, &rtcp.Goodbye{Sources: []uint32{77}}, &rtcp.PictureLossIndication{}},
		{&rtcp.ReceiverReport{SSRC: 77}, &rtcp.Goodbye{}, &rtcp.SenderReport{SSRC: 77, Reports: []rtcp.ReceptionReport{report}}},
	} {
		f.Add(marshalRTCP(f, packets...))
	}
	f.Add(appendReport(nil, 9, 3, Side{In: Leg{Packets: 5, Lost: 1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		compareBlocks(t, b)
		l := lineup{t: t, ssrc: 9}
		for seq := range uint16(50) {
			l.send(seq, seq%10 == 1, seq%10 == 2, false)
			if seq == 25 {
				l.control.passed(b, l.at)
			}
			if seq%10 == 9 {
				l.control.heard(&l.out, b, l.at)
			}
		}
		o := l.out.find(9).out
		if told := l.told(); told.lost > told.packets || told.packets > 5*maxBlockSpan || o.rtt < 0 || o.rtt >= maxRoundTrip || o.mos > 50 {
			t.Fatalf("impossible: %+v, %+v", told, o)
		}
	})
}

func compareBlocks(t *testing.T, b []byte) {
	packets, err := rtcp.Unmarshal(b)
	if err != nil {
		return
	}
	var want, got []rtcp.ReceptionReport
	n := 0
	for p, rest, ok := nextRTCP(b); ok; p, rest, ok = nextRTCP(rest) {
		n++
		for i := range int(p.count) {
			block, ok := p.block(i)
			if !ok {
				break
			}
			got = append(got, rtcp.ReceptionReport{
				SSRC: block.ssrc, TotalLost: uint32(block.lost) & 0xffffff, LastSequenceNumber: block.highest,
				Jitter: block.jitter, LastSenderReport: block.last, Delay: block.delay,
			})
		}
	}
	for _, p := range packets[:n] { // Ours stops at packet types that RFC 5761 has not, and at wrong padding.
		switch p := p.(type) {
		case *rtcp.ReceiverReport:
			want = append(want, p.Reports...)
		case *rtcp.SenderReport:
			want = append(want, p.Reports...)
		}
	}
	for i := range want {
		want[i].FractionLost = 0
	}
	for i := range want {
		if i >= len(got) && hasPadding(b) {
			return // which pion/rtcp takes for part of the packet
		}
		if i >= len(got) || got[i] != want[i] {
			t.Fatalf("blocks %+v, pion/rtcp has %+v", got, want)
		}
	}
	if len(got) > len(want) {
		t.Fatalf("blocks %+v, pion/rtcp has %+v", got, want)
	}
}

// hasPadding says whether a packet of a compound has padding, or is not read for it.
func hasPadding(b []byte) bool {
	for len(b) > 0 {
		if b[0]&0x20 != 0 {
			return true
		}
		_, rest, ok := nextRTCP(b)
		if !ok {
			return false
		}
		b = rest
	}
	return false
}
