package quality

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// TestMOS has the pairs of R and MOS of ITU-T G.107 annex B, table B.1.
func TestMOS(t *testing.T) {
	for rating, want := range map[float64]float64{-5: 1, 0: 1, 3: 1, 50: 2.58, 60: 3.10, 70: 3.60, 80: 4.024, 90: 4.34, 93.2: 4.41, 100: 4.5, 120: 4.5} {
		if got := MOS(rating); math.Abs(got-want) > 0.006 {
			t.Errorf("MOS(%v) = %.3f, want %.2f", rating, got, want)
		}
	}
}

func TestRating(t *testing.T) {
	codec := func(payloadType uint8, clockRate uint32) Codec {
		c, ok := CodecOf(payloadType, clockRate)
		if !ok {
			t.Fatalf("payload type %d is no speech", payloadType)
		}
		return c
	}
	for _, test := range []struct {
		name        string
		codec       Codec
		loss        float64
		rtt, jitter time.Duration
		want        float64
	}{
		// 20 ms of a packet cost 0.48.
		{"G.711", codec(0, 8000), 0, 0, 0, 92.72},
		{"G.711, 1 %", codec(8, 8000), .01, 0, 0, 92.72 - 95./26.1},
		{"G.711, 5 %", codec(8, 8000), .05, 0, 0, 92.72 - 95*5/30.1},
		{"G.711, all", codec(8, 8000), 1, 0, 0, 92.72 - 95*100/125.1},
		{"G.729", codec(18, 8000), 0, 0, 0, 81.72},
		{"G.729, 2 %", codec(18, 8000), .02, 0, 0, 81.72 - 84*2/21.},
		{"100 ms one way", codec(0, 8000), 0, 200 * ms, 0, 93.2 - .024*120},
		{"400 ms one way", codec(0, 8000), 0, 800 * ms, 0, 93.2 - .024*420 - .11*(420-177.3)},
		{"50 ms of jitter", codec(0, 8000), 0, 0, 50 * ms, 93.2 - .024*120},
		{"nothing is worse than 0", codec(3, 8000), 1, 10 * time.Second, 0, 0},
		{"a dynamic payload type", codec(111, 48000), .05, 0, 0, 92.72 - 95*5/30.1},
	} {
		if got := test.codec.Rating(test.loss, test.rtt, test.jitter); math.Abs(got-test.want) > 0.001 {
			t.Errorf("%s: %.3f, want %.3f", test.name, got, test.want)
		}
	}
}

func TestRatingNeverRises(t *testing.T) {
	for payloadType := range uint8(128) {
		codec, ok := CodecOf(payloadType, 8000)
		if !ok {
			continue
		}
		last := math.Inf(1)
		for loss := 0.0; loss <= 1; loss += 0.01 {
			if r := codec.Rating(loss, 0, 0); r > last || MOS(r) < 1 {
				t.Fatalf("%s: R %v at a loss of %v, MOS %v", codec.Name, r, loss, MOS(r))
			} else {
				last = r
			}
		}
	}
}

func TestCodecOf(t *testing.T) {
	for _, test := range []struct {
		payloadType uint8
		clockRate   uint32
		want        string // "": no speech, as far as is known
	}{
		{0, 8000, "G.711"}, {8, 8000, "G.711"}, {3, 8000, "GSM"}, {4, 8000, "G.723.1"}, {9, 8000, "G.722"}, {18, 8000, "G.729"},
		{7, 8000, "G.711 assumed"}, {11, 44100, "G.711 assumed"},
		{13, 8000, ""}, {26, 90000, ""}, {34, 90000, ""}, {72, 0, ""},
		{96, 90000, ""}, {96, 0, ""}, {111, 48000, "G.711 assumed"}, {97, 16000, "G.711 assumed"},
	} {
		codec, ok := CodecOf(test.payloadType, test.clockRate)
		if codec.Name != test.want || ok != (test.want != "") {
			t.Errorf("payload type %d, %d Hz: %q, %v, want %q", test.payloadType, test.clockRate, codec.Name, ok, test.want)
		}
	}
}

func leg(t *testing.T, name Name, packets, lost uint64, jitter, rtt time.Duration, codec uint8) Leg {
	t.Helper()
	c, voice := CodecOf(codec, 8000)
	l, ok := Measure(name, packets, lost, jitter, rtt, c, voice)
	if !ok {
		t.Fatal("nothing was measured")
	}
	return l
}

func TestVerdict(t *testing.T) {
	good := leg(t, TunnelUp, 1000, 0, 2*ms, 30*ms, 0)
	before := leg(t, TunnelDown, 1000, 61, 0, 0, 0)
	before.Before = true
	for _, test := range []struct {
		name string
		legs []Leg
		want string
	}{
		{"nothing", nil, ""},
		{"too few packets", []Leg{leg(t, LANIn, fewest-1, 10, 0, 0, 0)}, ""},
		{"video", []Leg{leg(t, LANIn, 1000, 500, 0, 0, 34)}, ""},
		{"good", []Leg{good}, "good"},
		{"video beside it", []Leg{good, leg(t, LANIn, 1000, 500, 0, 0, 34)}, "good"},
		{"loss", []Leg{good, leg(t, LANIn, 1000, 61, 0, 0, 0)}, "fair: LAN leg, phone to tunnelproxy, lost 6.1 %"},
		{"the worst", []Leg{leg(t, LANIn, 1000, 61, 0, 0, 0), leg(t, PBXIn, 1000, 122, 0, 0, 0)}, "poor: PBX leg, PBX to tunneld, lost 12.2 %"},
		{"the first of two", []Leg{leg(t, LANIn, 1000, 61, 0, 0, 0), leg(t, PBXIn, 1000, 61, 0, 0, 0)}, "fair: LAN leg, phone to tunnelproxy, lost 6.1 %"},
		{"hardly anything comes", []Leg{leg(t, PBXOut, 1000, 900, 0, 0, 0)}, "bad: PBX leg, tunneld to PBX, lost 90.0 %"},
		{"jitter", []Leg{leg(t, LANOut, 1000, 0, 150*ms, 20*ms, 0)}, "poor: LAN leg, tunnelproxy to phone, jitter 150 ms"},
		{"delay", []Leg{leg(t, TunnelDown, 1000, 0, 5*ms, 600*ms, 0)}, "poor: tunnel, tunneld to tunnelproxy, round trip 600 ms"},
		{"all of it", []Leg{leg(t, LANOut, 1000, 100, 150*ms, 0, 0)}, "bad: LAN leg, tunnelproxy to phone, lost 10.0 %, jitter 150 ms"},
		{"the codec", []Leg{leg(t, LANIn, 1000, 0, 0, 0, 3)}, "fair: codec GSM"},
		{"before", []Leg{before}, "fair: tunnel, tunneld to tunnelproxy or before, lost 6.1 %"},
	} {
		if got := Verdict(test.legs); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestMeasure(t *testing.T) {
	if _, ok := Measure(LANIn, 0, 0, ms, ms, Assumed(), true); ok {
		t.Error("a leg without packets")
	}
	if l := leg(t, LANIn, 1000, 61, 1234*time.Microsecond, 30*ms, 0); l.LossPercent != 6.1 || l.JitterMS != 1.2 || l.RTTMS != 30 || l.Codec != "G.711" || l.Brief() != "3.77 6.1%" {
		t.Errorf("%+v, %s", l, l.Brief())
	}
	if l := leg(t, LANIn, 10, 1, 0, 0, 0); l.MOS != 0 || l.Brief() != "- 10.0%" {
		t.Errorf("%+v, %s", l, l.Brief())
	}
}

// TestJSON: what others read has names for the legs and leaves out what is not known.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(leg(t, TunnelDown, 10, 1, 0, 0, 34))
	if err != nil || string(text) != `{"leg":"tunnel_down","packets":10,"lost":1,"loss_percent":10}` {
		t.Errorf("%s, %v", text, err)
	}
	for name := range names {
		var read Leg
		text, err := json.Marshal(Leg{Name: name})
		if err == nil {
			err = json.Unmarshal(text, &read)
		}
		if err != nil || read.Name != name || strings.Contains(name.Describe(), "Name") {
			t.Errorf("%v: %s read as %v, %v", name, text, read.Name, err)
		}
	}
	if err := json.Unmarshal([]byte(`{"leg":"moon"}`), new(Leg)); err == nil {
		t.Error("a leg of the moon")
	}
}
