package redundancy

const (
	// The path's loss at which each packet is sent once more, and below which, for
	// calm, it is not any more. In 1/10,000.
	onLoss, offLoss = 50, 25
	// leastLost is how many datagrams must be lost before loss is believed.
	leastLost = 2
	// residual is the loss of packets at which second copies of some begin, in
	// 1/10,000 too: what no ear notices.
	residual = 15

	// calm is how long loss must have been low before protection ends.
	calm = 10 * second

	// Copies of so much loss are suspected of causing it: they are left out for
	// trial, in which the first part is not counted since reports are late.
	suspect     = 1500
	suspectLost = 20
	trial       = 3 * second
	trialSettle = 1 * second
	// backOff is how long there are none when loss was less than half without,
	// nextTrial how long they are not suspected again otherwise.
	backOff   = 30 * second
	nextTrial = 300 * second

	// DefaultBudget is what copies may cost at most: twice the bytes of the packets,
	// in percent.
	DefaultBudget = 200

	buckets     = 10
	bucketWidth = second
	wholeShare  = 256
)

// A Policy decides from the peer's reports how many copies of each packet are
// sent. The zero value sends none yet and is ready for use.
//
// Loss is that of the last 10 s. Copies begin at 0.5 % and end when loss has been
// below 0.25 % for 10 s. With a loss of p and one copy of each packet p^2 of the
// packets are lost; so many get a second copy that 0.15 % are, from a loss of
// 3.9 % on, within the budget.
//
// Where the path is short of bandwidth copies cause loss. Up to 15 % they mend more
// than they cause. Beyond that they are left out for 3 s: if loss then is less than
// half, for 30 s more.
type Policy struct {
	// Budget is what copies may cost, in percent of the packets: 0 for
	// DefaultBudget, below 100 for none at all.
	Budget int

	any               bool
	highest, received uint64 // of the report before
	bucket            [buckets]sample
	newest            int64 // index of the bucket of the last report

	on        bool
	share     uint32 // of packets that get a second copy, in wholeShare
	sum       uint32 // of the shares of packets since the last second copy
	low       int64  // since when loss has been low; 0: it is not
	began     int64  // when copies began
	trial     trialRun
	suspended int64 // until when there are no copies
	trusted   int64 // until when copies are not suspected
}

// trialRun is a time without copies.
type trialRun struct {
	since  int64 // 0: there is none
	before uint64
	count  sample
}

type sample struct {
	sent uint64
	lost int64 // may be negative for a moment: datagrams that were late
}

// Report takes a report of the peer: the highest counter that it has received,
// and how many datagrams it has received in all. One that is older than one before
// changes nothing.
func (p *Policy) Report(now int64, highest, received uint64) {
	if !p.any {
		p.any, p.highest, p.received, p.newest = true, highest, received, now/bucketWidth
		return
	}
	if highest < p.highest || received < p.received {
		return
	}
	p.advance(now)
	sent, came := highest-p.highest, received-p.received
	b := &p.bucket[p.newest%buckets]
	b.sent += sent
	b.lost += int64(sent) - int64(came)
	if p.trial.since != 0 && now-p.trial.since > trialSettle {
		p.trial.count.sent += sent
		p.trial.count.lost += int64(sent) - int64(came)
	}
	p.highest, p.received = highest, received
	p.decide(now)
}

// advance empties the buckets between the last report and now.
func (p *Policy) advance(now int64) {
	index := now / bucketWidth
	for i := max(p.newest+1, index-buckets+1); i <= index; i++ {
		p.bucket[i%buckets] = sample{}
	}
	p.newest = max(p.newest, index)
}

// Loss returns the loss of the last 10 s in 1/10,000, and how many datagrams were
// lost of how many sent.
func (p *Policy) Loss() (perMyriad, lost, sent uint64) {
	var missing int64
	for i := range p.bucket {
		sent += p.bucket[i].sent
		missing += p.bucket[i].lost
	}
	if sent == 0 || missing <= 0 {
		return 0, 0, sent
	}
	lost = min(uint64(missing), sent)
	return lost * 10_000 / sent, lost, sent
}

// Protects reports whether packets are to be sent again.
func (p *Policy) Protects() bool { return p.on }

// Copies returns how many copies of the next packet are to be sent: 0, 1 or 2.
func (p *Policy) Copies() int {
	if !p.on {
		return 0
	}
	if p.sum += p.share; p.sum >= wholeShare {
		p.sum -= wholeShare
		return 2
	}
	return 1
}

func (p *Policy) budget() int {
	if p.Budget == 0 {
		return DefaultBudget
	}
	return p.Budget
}

func (p *Policy) decide(now int64) {
	if now < p.suspended || p.budget() < 100 {
		return
	}
	if p.trial.since != 0 {
		p.judge(now)
		return
	}
	loss, lost, _ := p.Loss()
	if !p.on && loss >= onLoss && lost >= leastLost {
		p.on, p.began, p.low = true, now, 0
	}
	p.share = p.second(float64(loss) / 10_000)
	switch {
	case !p.on:
	case loss >= suspect && lost >= suspectLost && now >= p.trusted && now-p.began >= buckets*bucketWidth:
		p.on, p.trial = false, trialRun{since: now, before: loss}
	case loss >= offLoss:
		p.low = 0
	case p.low == 0:
		p.low = now
	case now-p.low >= calm:
		p.on = false
	}
}

// judge ends a trial when it is time.
func (p *Policy) judge(now int64) {
	if now-p.trial.since < trial {
		return
	}
	before, count := p.trial.before, p.trial.count
	p.trial = trialRun{}
	if uint64(max(count.lost, 0))*20_000 < before*count.sent {
		p.suspended = now + backOff
		return
	}
	p.on, p.began, p.low, p.trusted = true, now, 0, now+nextTrial
}

// second returns the share of packets that need a second copy. With a share of q
// the loss of packets is (1-q)loss^2 + q loss^3.
func (p *Policy) second(loss float64) uint32 {
	most := min(1, float64(p.budget()-100)/100)
	if most <= 0 || loss*loss <= residual/10_000. {
		return 0
	}
	q := (loss*loss - residual/10_000.) / (loss * loss * max(1-loss, 0.01))
	return uint32(min(q, most) * wholeShare)
}
