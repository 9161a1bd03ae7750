package mux

import (
	"testing"
	"time"
)

const (
	ms = time.Millisecond
	// watchRTT is the round trip of the paths of these tests.
	watchRTT = 30 * ms
)

// proven is a watch of a path that was proven at the time now.
func proven(t *testing.T, now time.Duration) *pathWatch {
	t.Helper()
	w := new(pathWatch)
	id, _ := w.probe(now - watchRTT)
	if !w.answer(id, now) || !w.proven || w.rtt != watchRTT {
		t.Fatalf("one answer does not prove a new path: %+v", w)
	}
	return w
}

// prove answers each probe at its time and returns when the path is proven and how
// many answers that took.
func (w *pathWatch) prove(now time.Duration) (at time.Duration, answers int) {
	for !w.proven && answers < 1000 {
		now = max(now, w.next())
		id, _ := w.probe(now)
		now += watchRTT
		w.answer(id, now)
		answers++
	}
	return now, answers
}

func TestPathWatchLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		every, until time.Duration // datagrams
		reported     func(at time.Duration) bool
		leaves       time.Duration // 0: never
	}{
		"reports come":              {20 * ms, 5000 * ms, func(at time.Duration) bool { return at%(40*ms) == 0 }, 0},
		"every third report comes":  {20 * ms, 5000 * ms, func(at time.Duration) bool { return at%(120*ms) == 0 }, 0},
		"none comes":                {20 * ms, 5000 * ms, func(time.Duration) bool { return false }, 180 * ms},
		"none comes, one a ms":      {ms, 5000 * ms, func(time.Duration) bool { return false }, 171 * ms},
		"none any more":             {20 * ms, 5000 * ms, func(at time.Duration) bool { return at < 1000*ms && at%(40*ms) == 0 }, 1140 * ms},
		"the talk ends before":      {20 * ms, 160 * ms, func(time.Duration) bool { return false }, 0},
		"packets too rare to judge": {120 * ms, 5000 * ms, func(time.Duration) bool { return false }, 0},
		"60 ms a packet":            {60 * ms, 5000 * ms, func(time.Duration) bool { return false }, 180 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			const start = time.Second
			w := proven(t, start)
			left := time.Duration(0)
			for at := time.Duration(0); at < test.until && left == 0; at += test.every {
				if test.reported(at) {
					w.reported()
				}
				if w.sent(start + at) {
					left = at
				}
			}
			if left != test.leaves {
				t.Errorf("left after %v, want %v", left, test.leaves)
			}
			if left > 0 && (left > 200*ms+watchRTT && test.leaves < time.Second || w.proven || w.sent(start+left)) {
				t.Errorf("left after %v: %+v", left, w)
			}
		})
	}
}

// TestPathWatchLongRoundTrip: reports that are under way are no silence.
func TestPathWatchLongRoundTrip(t *testing.T) {
	w := new(pathWatch)
	id, _ := w.probe(0)
	w.answer(id, 600*ms)
	for at := 600 * ms; at < 5000*ms; at += 20 * ms {
		if at > 1200*ms+reportEvery {
			w.reported()
		}
		if w.sent(at) {
			t.Fatalf("left after %v", at-600*ms)
		}
	}
}

// TestPathWatchHysteresis leaves the path again and again: each time it takes more
// to be proven, until it has been well for a while.
func TestPathWatchHysteresis(t *testing.T) {
	now := time.Second
	w := proven(t, now)
	for i, want := range []int{3, 6, 12, 24, 48, 48, 48} {
		now += time.Second
		w.leave(now)
		at, answers := w.prove(now)
		if answers != want {
			t.Errorf("left %d times: %d answers prove the path, want %d", i+1, answers, want)
		}
		if limit := probeFirst + time.Duration(want)*(probeStep+watchRTT); at-now > limit {
			t.Errorf("left %d times: proven after %v, want %v", i+1, at-now, limit)
		}
		now = at
	}
	now += relapse + time.Second
	w.leave(now)
	if _, answers := w.prove(now); answers != 3 {
		t.Errorf("after a quiet time %d answers prove the path, want 3", answers)
	}
}

func TestPathWatchIdle(t *testing.T) {
	w := proven(t, time.Second)
	for range 5 {
		at := w.next()
		id, left := w.probe(at)
		if left {
			t.Fatal("left with every probe answered")
		}
		w.answer(id, at+watchRTT)
		if got := w.next() - at; got != probeIdle {
			t.Errorf("the next probe is due after %v, want %v", got, probeIdle)
		}
	}
	// Three lost ones in a row are borne.
	for range 3 {
		if _, left := w.probe(w.next()); left {
			t.Fatal("left too early")
		}
	}
	at := w.next()
	id, left := w.probe(at)
	if left || w.answer(id, at+watchRTT) || !w.proven || w.failures != 0 {
		t.Fatalf("the fourth was answered: left %v, %+v", left, w)
	}
	start := w.next()
	for i := range idleFailures + 1 {
		at := w.next()
		if _, left := w.probe(at); left != (i == idleFailures) {
			t.Fatalf("probe %d: left %v", i, left)
		}
		if limit := idleFailures * (probeWait + 2*watchRTT); at-start > limit {
			t.Errorf("probe %d is sent after %v, want %v at most", i, at-start, limit)
		}
	}
}

// TestPathWatchAnswers takes none but the first answer to the last probe.
func TestPathWatchAnswers(t *testing.T) {
	w := new(pathWatch)
	if w.answer(0, 0) || w.answer(1, 0) {
		t.Error("an answer to no probe counts")
	}
	first, _ := w.probe(time.Second)
	second, _ := w.probe(2 * time.Second)
	if w.answer(first, 3*time.Second) || w.answer(second+1, 3*time.Second) || w.proven {
		t.Error("an answer to another probe counts")
	}
	if !w.answer(second, 3*time.Second) || w.answer(second, 3*time.Second) {
		t.Error("the answer does not count, or twice")
	}
}

// TestPathWatchBacksOff asks a path that never answers less and less often.
func TestPathWatchBacksOff(t *testing.T) {
	w := new(pathWatch)
	sent := 0
	for w.next() < 10*time.Minute {
		before := w.next()
		w.probe(before)
		sent++
		if wait := w.next() - before; wait < probeFirst || wait > probeMax {
			t.Fatalf("probe %d: the next one after %v", sent, wait)
		}
	}
	if sent < 20 || sent > 30 {
		t.Errorf("%d probes in ten minutes", sent)
	}
}

func TestPathWatchCongestion(t *testing.T) {
	w := proven(t, time.Second)
	now := time.Second
	feed := func(rtt time.Duration, n int) {
		for range n {
			now += 40 * ms
			w.measure(rtt, now)
		}
	}
	feed(watchRTT+20*ms, 50)
	if w.congested() {
		t.Error("20 ms more are no queue")
	}
	feed(200*ms, 50)
	if !w.congested() {
		t.Errorf("200 ms instead of 30 are one: %+v", w)
	}
	feed(watchRTT, 50)
	if w.congested() {
		t.Error("the queue is gone")
	}
	feed(200*ms, int((leastFor+20*time.Second)/(40*ms)))
	if w.congested() {
		t.Error("what has been so for a minute is how the path is")
	}
	w.measure(-ms, now)
	if w.rtt < 0 || w.least < 0 {
		t.Errorf("a negative round trip was believed: %+v", w)
	}
}
