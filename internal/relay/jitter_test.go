package relay

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

const ms = time.Millisecond

// reference is the formula of RFC 3550 section 6.4.1 in seconds.
type reference struct {
	jitter, transit float64
	any             bool
}

func (r *reference) observe(sent, at time.Duration) {
	transit := (at - sent).Seconds()
	if r.any {
		r.jitter += (math.Abs(transit-r.transit) - r.jitter) / 16
	}
	r.transit, r.any = transit, true
}

func near(t *testing.T, got time.Duration, want float64, tolerance time.Duration) {
	t.Helper()
	if d := got.Seconds() - want; math.Abs(d) > tolerance.Seconds() {
		t.Errorf("jitter = %v, want %v within %v", got, time.Duration(want*1e9), tolerance)
	}
}

func TestJitterFollowsTheFormula(t *testing.T) {
	for _, test := range []struct {
		name        string
		payloadType uint8
		rate        uint32
		timestamp   uint32 // of the first packet
	}{
		{"PCMU", 0, 8000, 1000},
		{"G722", 9, 8000, 1000},
		{"L16", 10, 44100, 1000},
		{"H261", 31, 90000, 1000},
		{"PCMA across the wrap of timestamps", 8, 8000, math.MaxUint32 - 8000},
	} {
		t.Run(test.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var j jitter
			var r reference
			for i := range 500 {
				sent := time.Duration(i) * 20 * ms
				at := sent + 100*ms + time.Duration(random.Int64N(int64(30*ms)))
				j.observe(test.payloadType, test.timestamp+ticks(sent, test.rate), at)
				r.observe(sent, at)
			}
			near(t, j.duration(), r.jitter, ms/2)
		})
	}
}

func TestJitterOfSteadyStreamIsZero(t *testing.T) {
	var j jitter
	for i := range 200 {
		sent := time.Duration(i) * 20 * ms
		j.observe(0, ticks(sent, 8000), sent+5*ms)
	}
	if got := j.duration(); got != 0 {
		t.Errorf("jitter = %v, want 0", got)
	}
}

func TestJitterLearnsRateOfDynamicPayloadType(t *testing.T) {
	for _, rate := range knownRates {
		random := rand.New(rand.NewPCG(3, uint64(rate)))
		var j jitter
		var r reference
		for i := range 1000 {
			sent := time.Duration(i) * 20 * ms
			at := sent + 50*ms + time.Duration(random.Int64N(int64(20*ms)))
			j.observe(111, 77+ticks(sent, rate), at)
			r.observe(sent, at)
		}
		if j.rate != rate {
			t.Errorf("learnt %d Hz, want %d Hz", j.rate, rate)
		}
		near(t, j.duration(), r.jitter, ms/2)
	}
}

func TestJitterUnknownUntilRateIsLearnt(t *testing.T) {
	var j jitter
	for i := range 50 {
		j.observe(111, uint32(i)*960, time.Duration(i)*20*ms)
	}
	if j.rate != 0 || j.duration() != 0 {
		t.Errorf("after 1 s: rate %d Hz, jitter %v, want neither", j.rate, j.duration())
	}
}

func TestJitterIgnoresDTMF(t *testing.T) {
	// RFC 4733: all packets of an event carry the timestamp of its beginning.
	var j jitter
	for i := range 100 {
		at := time.Duration(i) * 20 * ms
		if i >= 40 && i < 60 {
			j.observe(101, ticks(40*20*ms, 8000), at)
			continue
		}
		j.observe(0, ticks(at, 8000), at)
	}
	if got := j.duration(); got != 0 {
		t.Errorf("jitter = %v, want 0", got)
	}
}

func TestJitterSurvivesNewTimestamps(t *testing.T) {
	var j jitter
	for i := range 100 {
		at := time.Duration(i) * 20 * ms
		timestamp := ticks(at, 8000)
		if i >= 50 {
			timestamp += 1 << 31
		}
		j.observe(0, timestamp, at)
	}
	if got := j.duration(); got != 0 {
		t.Errorf("jitter = %v, want 0", got)
	}
}

func TestJitterKeepsItsValueWhenTheRateChanges(t *testing.T) {
	var j jitter
	for i := range 100 {
		sent := time.Duration(i) * 20 * ms
		j.observe(0, ticks(sent, 8000), sent+time.Duration(i%2)*10*ms)
	}
	before := j.duration()
	j.observe(31, 0, 3*time.Second)
	near(t, j.duration(), before.Seconds(), ms/10)
}

func TestTicksAfterDays(t *testing.T) {
	const day = 24 * time.Hour
	if got, want := ticks(30*day+ms, 90000)-ticks(30*day, 90000), uint32(90); got != want {
		t.Errorf("1 ms after 30 days is %d ticks, want %d", got, want)
	}
}

// TestMeanJitter is of the whole stream, where the jitter of RFC 3550 is of now.
func TestMeanJitter(t *testing.T) {
	var j jitter
	if j.mean() != 0 {
		t.Error("jitter of nothing")
	}
	for i := range 1001 {
		at := time.Duration(i) * 20 * ms
		if i < 500 {
			at += time.Duration(i%2) * 16 * ms
		}
		j.observe(0, uint32(i)*160, at)
	}
	near(t, j.mean(), 0.008, ms/10)
	near(t, j.duration(), 0, ms/10)
}

// TestAddedJitter: a leg has what it added.
func TestAddedJitter(t *testing.T) {
	for _, test := range []struct{ all, before, want time.Duration }{
		{0, 0, 0}, {5 * ms, 0, 5 * ms}, {5 * ms, 3 * ms, 4 * ms}, {3 * ms, 5 * ms, 0}, {5 * ms, 5 * ms, 0},
	} {
		near(t, added(test.all, test.before), test.want.Seconds(), time.Microsecond)
	}
}
