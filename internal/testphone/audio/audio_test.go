package audio

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

func TestMuLaw(t *testing.T) {
	// Corner codes of ITU-T G.711, table 2a, in 16-bit scale.
	for code, want := range map[byte]int16{0xff: 0, 0x7f: 0, 0x80: 32124, 0x00: -32124, 0xfe: 8, 0x7e: -8, 0xef: 132} {
		if got := DecodeMuLaw(code); got != want {
			t.Errorf("DecodeMuLaw(%#x) = %d, want %d", code, got, want)
		}
	}
	for code := range 256 {
		linear := DecodeMuLaw(byte(code))
		if got := EncodeMuLaw(linear); DecodeMuLaw(got) != linear {
			t.Errorf("code %#x, sample %d: encoded again as %#x", code, linear, got)
		}
	}
	for sample := -32768; sample <= 32767; sample++ {
		decoded := int(DecodeMuLaw(EncodeMuLaw(int16(sample))))
		// Half a step of the segment, plus the two bits that mu-law has not, plus clipping.
		limit := max(sample, -sample)/16 + 8
		if diff := decoded - sample; max(diff, -diff) > limit {
			t.Fatalf("sample %d decodes as %d", sample, decoded)
		}
	}
}

func detect(frequency float64, fill func(frame []byte)) (heard, total int) {
	d := NewDetector(frequency)
	frame := make([]byte, FrameSize)
	for range 50 {
		fill(frame)
		d.Write(frame)
	}
	return d.Windows()
}

func TestDetector(t *testing.T) {
	tone := func(frequency float64) func([]byte) {
		var o Oscillator
		return func(frame []byte) { o.Fill(frame, frequency) }
	}
	for _, frequency := range []float64{200, 425, 440, 1004, 3000} {
		if heard, total := detect(frequency, tone(frequency)); heard != total || total != 10 {
			t.Errorf("%v Hz: heard in %d of %d windows", frequency, heard, total)
		}
	}
	for _, other := range []float64{0, 400, 480, 880, 1320} {
		if heard, total := detect(440, tone(other)); heard != 0 || total != 10 {
			t.Errorf("%v Hz taken for 440 Hz in %d of %d windows", other, heard, total)
		}
	}
	noise := rand.New(rand.NewPCG(1, 2))
	if heard, _ := detect(440, func(frame []byte) {
		for i := range frame {
			frame[i] = byte(noise.Uint32())
		}
	}); heard != 0 {
		t.Errorf("noise taken for a tone in %d windows", heard)
	}
}

func TestReception(t *testing.T) {
	packets := func(sequences ...uint16) *reception {
		var r reception
		for _, n := range sequences {
			r.packet(1, n, uint32(n)*uint32(FrameSize), time.Duration(n)*FrameDuration)
		}
		return &r
	}
	for _, test := range []struct {
		sequences []uint16
		missing   uint64
	}{
		{nil, 0},
		{[]uint16{7}, 0},
		{[]uint16{7, 8, 9}, 0},
		{[]uint16{7, 9, 8}, 0},
		{[]uint16{7, 9}, 1},
		{[]uint16{65534, 65535, 0, 2}, 1},
		{[]uint16{7, 7, 7}, 0},
	} {
		if r := packets(test.sequences...); r.missing() != test.missing {
			t.Errorf("%v: %d missing, want %d", test.sequences, r.missing(), test.missing)
		}
	}
	if r := packets(1, 2, 3, 4, 5); r.jitter != 0 {
		t.Errorf("evenly spaced packets have jitter %v", r.jitter)
	}
}

func TestStopwatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Stopwatch
		w.start(mark{1, 1}, time.Now())
		time.Sleep(3 * time.Millisecond)
		if d, ok := w.stop(mark{1, 1}, time.Now()); !ok || d != 3*time.Millisecond {
			t.Errorf("stop = %v, %v", d, ok)
		}
		for i := range stopwatchSize {
			w.start(mark{uint16(i), 2}, time.Now())
		}
		if _, ok := w.stop(mark{1, 1}, time.Now()); ok || len(w.sent) != stopwatchSize {
			t.Errorf("old packet kept, %d in all", len(w.sent))
		}
	})
}

func TestStream(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	loopback := netip.MustParseAddr("127.0.0.1")
	var stopwatch Stopwatch
	streams := make([]*Stream, 3)
	for i := range streams {
		s, err := Listen(loopback, &stopwatch)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if s.LocalAddr().Port()%2 != 0 {
			t.Errorf("RTP port %d is odd", s.LocalAddr().Port())
		}
		streams[i] = s
	}
	connect := func(s, to *Stream, tone float64) {
		a := to.LocalAddr()
		s.SetRemote(a, netip.AddrPortFrom(a.Addr(), a.Port()+1))
		s.SetTone(tone)
		s.SetSending(true)
		s.Start()
	}
	a, b, stranger := streams[0], streams[1], streams[2]
	connect(a, b, 440)
	connect(b, a, 880)
	connect(stranger, b, 1320)

	if err := a.Hear(ctx, 880, 500*time.Millisecond); err != nil {
		t.Error(err)
	}
	if err := b.Hear(ctx, 440, 1200*time.Millisecond); err != nil {
		t.Error(err)
	}
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if err := b.Hear(short, 1320, 100*time.Millisecond); !errors.Is(err, ErrNotHeard) {
		t.Errorf("the stranger was heard: %v", err)
	}

	a.SetSending(false)
	sent := a.Stats().Sent
	if err := a.Hear(ctx, 880, 200*time.Millisecond); err != nil {
		t.Error(err)
	}
	if got := a.Stats().Sent; got != sent {
		t.Errorf("%d packets sent while not sending", got-sent)
	}
	stats := b.Stats()
	if stats.Foreign == 0 || stats.Malformed != 0 || stats.RTCPReceived == 0 {
		t.Errorf("stats %+v", stats)
	}
	if d := stats.Delay; d.Samples == 0 || d.Median < 0 || d.P99 < d.Median || d.Max < d.P99 {
		t.Errorf("delay %+v", d)
	}
}
