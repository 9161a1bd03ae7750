package mux

import "time"

const (
	// reportEvery is how often a receiver says what has come, while something
	// comes.
	reportEvery = 40 * time.Millisecond
	// silenceAfter is how long datagrams may go without a report, beyond the
	// round trip, before the path is left: three reports and the time to the next
	// packet.
	silenceAfter = 3*reportEvery + 20*time.Millisecond
	// sendingGap is a pause of the sender after which it waits for a report anew.
	sendingGap = 100 * time.Millisecond

	// probeFirst and probeMax bound the time between probes of a path that does
	// not answer; it doubles.
	probeFirst = 200 * time.Millisecond
	probeMax   = 30 * time.Second
	// probeIdle is the time between probes of a path that answers: shorter than
	// a NAT forgets a UDP mapping (RFC 4787 section 4.3: 2 minutes; in practice
	// 30 seconds).
	probeIdle = 10 * time.Second
	// probeStep is the time between the probes that prove a path.
	probeStep = 50 * time.Millisecond
	// probeWait is how long an answer may take before it counts as lost, beyond
	// the round trip.
	probeWait = 250 * time.Millisecond
	// idleFailures is how many probes in a row may go unanswered on an idle path.
	idleFailures = 4

	// proofs is how many answered probes in a row prove a path that was left;
	// twice as many each time that it is left again within relapse, up to
	// maxProofs.
	proofs    = 3
	maxProofs = 48
	relapse   = 30 * time.Second

	// queueing is what a round trip may be longer than usual without a queue being
	// the reason, and leastFor how long the usual one is remembered.
	queueing = 30 * time.Millisecond
	leastFor = time.Minute
)

// A pathWatch decides whether datagrams are used, from what is sent and what
// comes back. It is a state machine without a clock, socket or lock of its own:
// times are handed in as the time since any fixed moment. The zero value is of
// a path that has never answered.
type pathWatch struct {
	proven  bool
	rtt     time.Duration // smoothed, 0: not known
	least   time.Duration // the least round trip of late
	leastAt time.Duration // when that was measured

	waiting  bool          // a datagram is out that no report has covered
	since    time.Duration // when it went out
	lastSent time.Duration // when any went out

	probes   uint32        // sent so far; the last one's id
	probed   time.Duration // when it was sent
	answered bool          // it was answered
	failures int           // probes in a row without an answer
	needed   int           // answers in a row until the path is proven; 0: one
	left     time.Duration // when the path was last left
	wasLeft  bool
	relapses int
	nextAt   time.Duration // of the next probe
}

// sent takes note of a datagram with media, and reports whether the path is
// silent and was left just now.
func (w *pathWatch) sent(now time.Duration) (silent bool) {
	if !w.proven {
		return false
	}
	if !w.waiting || now-w.lastSent > sendingGap {
		w.waiting, w.since = true, now
	}
	w.lastSent = now
	if now-w.since <= silenceAfter+w.rtt {
		return false
	}
	w.leave(now)
	return true
}

// reported takes note of a report: what was sent has come.
func (w *pathWatch) reported() { w.waiting = false }

// leave gives the path up until probes prove it again.
func (w *pathWatch) leave(now time.Duration) {
	w.relapses++
	if !w.wasLeft || now-w.left > relapse {
		w.relapses = 0
	}
	w.left, w.wasLeft = now, true
	w.proven, w.waiting = false, false
	w.needed = min(proofs<<min(w.relapses, 8), maxProofs)
	w.failures = 0
	w.nextAt = now + probeFirst
}

// next returns when the next probe is due.
func (w *pathWatch) next() time.Duration { return w.nextAt }

// probe returns the id of the probe that is sent now. left is true when the one
// before it was the last chance of an idle path.
func (w *pathWatch) probe(now time.Duration) (id uint32, left bool) {
	if w.probes > 0 && !w.answered {
		w.failures++
		if w.proven && w.failures >= idleFailures {
			w.leave(now)
			left = true
		}
	}
	w.probes++
	w.probed, w.answered = now, false
	switch {
	case w.proven:
		w.nextAt = now + probeWait + w.rtt
	default:
		w.nextAt = now + min(probeFirst<<min(w.failures, 16), probeMax)
	}
	return w.probes, left
}

// answer takes note of the answer to a probe, and reports whether the path is
// proven just now. Only the answer to the last probe counts.
func (w *pathWatch) answer(id uint32, now time.Duration) (proven bool) {
	if id != w.probes || w.answered || w.probes == 0 {
		return false
	}
	w.answered = true
	w.measure(now-w.probed, now)
	if w.failures > 0 && !w.proven && w.wasLeft {
		w.needed = max(w.needed, proofs)
	}
	w.failures = 0
	if w.proven {
		w.nextAt = w.probed + probeIdle
		return false
	}
	if w.needed--; w.needed > 0 {
		w.nextAt = now + probeStep
		return false
	}
	w.proven = true
	w.nextAt = now + probeIdle
	return true
}

// congested says that the round trip has become much longer than it was of late:
// packets queue somewhere for lack of bandwidth.
func (w *pathWatch) congested() bool { return w.rtt > 2*w.least+queueing }

// measure smooths the round trip as RFC 6298 does.
func (w *pathWatch) measure(rtt, now time.Duration) {
	if rtt < 0 {
		return
	}
	if w.least == 0 || rtt < w.least || now-w.leastAt > leastFor {
		w.least, w.leastAt = rtt, now
	}
	if w.rtt == 0 {
		w.rtt = rtt
		return
	}
	w.rtt += (rtt - w.rtt) / 8
}
