package redundancy

import (
	"math/rand/v2"
	"testing"
)

// reporter makes the reports of a peer on a path that loses datagrams.
type reporter struct {
	p                 Policy
	now               int64
	highest, received uint64
	random            *rand.Rand
}

// run lets time pass, with so many datagrams a second of which a share is lost.
func (r *reporter) run(seconds float64, rate int, loss float64) {
	for end := r.now + int64(seconds*second); r.now < end; {
		r.now += 200 * millisecond
		for range rate / 5 {
			r.highest++
			if r.random.Float64() >= loss {
				r.received++
			}
		}
		r.p.Report(r.now, r.highest, r.received)
	}
}

func newReporter(seed uint64) *reporter {
	return &reporter{random: rand.New(rand.NewPCG(seed, 1)), now: 1 << 50}
}

// mean returns how many copies a packet gets on average.
func (r *reporter) mean() float64 {
	sum := 0
	for range 1000 {
		sum += r.p.Copies()
	}
	return float64(sum) / 1000
}

func TestPolicy(t *testing.T) {
	for seed := range uint64(20) {
		for _, rate := range []int{50, 500, 5000} {
			r := newReporter(seed)
			r.run(60, rate, 0)
			if r.p.Protects() || r.p.Copies() != 0 {
				t.Fatal("copies without loss")
			}
			r.run(10, rate, 0.03)
			if !r.p.Protects() || r.mean() > 1.3 {
				t.Errorf("seed %d, %d a second: %.2f copies at 3 %%", seed, rate, r.mean())
			}
			r.run(20, rate, 0.10)
			if rate > 50 && r.mean() < 1.8 {
				t.Errorf("seed %d, %d a second: %.2f copies at 10 %%", seed, rate, r.mean())
			}
			r.run(9, rate, 0)
			if !r.p.Protects() {
				t.Errorf("seed %d, %d a second: copies ended within 9 s", seed, rate)
			}
			r.run(13, rate, 0)
			if r.p.Protects() {
				t.Errorf("seed %d, %d a second: copies did not end", seed, rate)
			}
		}
	}
}

// TestHysteresis stays between the two thresholds, in either state.
func TestHysteresis(t *testing.T) {
	r := newReporter(1)
	r.run(10, 5000, 0)
	r.run(30, 5000, 0.0035)
	if r.p.Protects() {
		t.Error("copies at 0.35 %")
	}
	r.run(12, 5000, 0.01)
	if !r.p.Protects() {
		t.Error("no copies at 1 %")
	}
	r.run(60, 5000, 0.0035)
	if !r.p.Protects() {
		t.Error("copies ended at 0.35 %")
	}
	r.run(25, 5000, 0.001)
	if r.p.Protects() {
		t.Error("copies did not end at 0.1 %")
	}
}

// TestCongestion has a path that loses a quarter of twice the bytes.
func TestCongestion(t *testing.T) {
	r := newReporter(1)
	r.run(20, 500, 0.01)
	with, without := 0, 0
	for range 1000 {
		loss := 0.01
		if r.p.Protects() {
			loss = 0.25
			with++
		} else {
			without++
		}
		r.run(0.2, 500, loss)
	}
	if with > without {
		t.Errorf("copies go on for %d of %d though they cause loss", with, with+without)
	}
	// Loss that is there without copies too is no reason to end.
	for _, rate := range []int{50, 500, 5000} {
		r = newReporter(2)
		with = 0
		for range 1000 {
			r.run(0.2, rate, 0.2)
			if r.p.Protects() {
				with++
			}
		}
		if with < 950 {
			t.Errorf("%d a second: copies for %d of 1000 reports though loss has always been 20 %%", rate, with)
		}
	}
}

func TestBudget(t *testing.T) {
	for budget, most := range map[int]float64{0: 2, 50: 0, 100: 1, 150: 1.5, 200: 2} {
		r := newReporter(3)
		r.p.Budget = budget
		r.run(30, 500, 0.3)
		if got := r.mean(); got > most+0.01 || got < most-0.3 {
			t.Errorf("budget %d: %.2f copies, want %.1f", budget, got, most)
		}
	}
}

// TestReports has reports that tell less than one before, gaps of minutes between
// them, and datagrams that are late.
func TestReports(t *testing.T) {
	var p Policy
	p.Report(0, 100, 100)
	p.Report(second, 200, 200)
	p.Report(second, 150, 150)
	p.Report(second, 300, 150)
	if loss, lost, sent := p.Loss(); loss != 0 || lost != 0 || sent != 100 {
		t.Errorf("%d, %d of %d", loss, lost, sent)
	}
	p.Report(2*second, 300, 290) // 10 are late
	if loss, lost, _ := p.Loss(); loss != 500 || lost != 10 {
		t.Errorf("%d, %d", loss, lost)
	}
	p.Report(2*second, 300, 300)
	if loss, _, _ := p.Loss(); loss != 0 {
		t.Errorf("%d", loss)
	}
	p.Report(300*second, 400, 350)
	if _, lost, sent := p.Loss(); lost != 50 || sent != 100 {
		t.Errorf("%d of %d", lost, sent)
	}
}

func TestPatience(t *testing.T) {
	var p Patience
	if p.Hold(0) != 0 {
		t.Error("patience without a reason")
	}
	p.Protected(0)
	if p.Hold(protectedFor-1) != MaxHold || p.Hold(protectedFor) != 0 {
		t.Error("the end of protection")
	}
	now := int64(second)
	p.Late(now, 10*millisecond)
	if h := p.Hold(now); h < 10*millisecond || h > 20*millisecond {
		t.Errorf("%d after a packet that was 10 ms late", h)
	}
	p.Late(now, 70*millisecond) // nothing would have helped
	p.Late(now, 0)
	if h := p.Hold(now); h > 20*millisecond {
		t.Errorf("%d", h)
	}
	p.Late(now, 50*millisecond)
	if h := p.Hold(now); h != MaxHold {
		t.Errorf("%d", h)
	}
	// As long as waiting helps it goes on, then it ends.
	for range 10 {
		now += 5 * second
		p.Filled(now, 40*millisecond)
		if h := p.Hold(now); h < 40*millisecond {
			t.Errorf("%d", h)
		}
	}
	for range 20 {
		now += forget + 1
		p.Hold(now)
	}
	if h := p.Hold(now); h != 0 {
		t.Errorf("%d long after the path has reordered", h)
	}
}
