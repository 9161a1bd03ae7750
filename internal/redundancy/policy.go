package redundancy

import "math"

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
	// judge is how long after its beginning protection is judged, and backOff how
	// long there is none if it has made loss worse.
	judge   = buckets * bucketWidth
	backOff = 30 * second

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
// If 10 s after the beginning loss is surely more than twice what it was and 3
// points more, the path is not short of luck but of bandwidth: copies end for 30 s.
type Policy struct {
	// Budget is what copies may cost, in percent of the packets: 0 for
	// DefaultBudget, below 100 for none at all.
	Budget int

	any               bool
	highest, received uint64 // of the report before
	bucket            [buckets]sample
	newest            int64 // index of the bucket of the last report

	on        bool
	share     uint32  // of packets that get a second copy, in wholeShare
	sum       uint32  // of the shares of packets since the last second copy
	low       int64   // since when loss has been low; 0: it is not
	began     int64   // when copies began
	before    float64 // the most that loss can have been then
	judged    bool
	suspended int64 // until when there are no copies
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
	loss, lost, sent := p.Loss()
	if now < p.suspended || p.budget() < 100 {
		return
	}
	if p.on && !p.judged && now-p.began >= judge {
		p.judged = true
		if float64(loss) > 2*p.before+300 {
			p.on, p.suspended = false, now+backOff
			return
		}
	}
	if !p.on && loss >= onLoss && lost >= leastLost {
		p.begin(now, lost, sent)
	}
	p.share = p.second(float64(loss) / 10_000)
	switch {
	case !p.on || loss >= offLoss:
		p.low = 0
	case p.low == 0:
		p.low = now
	case now-p.low >= calm:
		p.on, p.low = false, 0
	}
}

// begin begins to send copies. What loss was before is known to within a few
// standard deviations of the number of losses.
func (p *Policy) begin(now int64, lost, sent uint64) {
	few := float64(lost)
	p.before = min(10_000, 10_000*(few+3*math.Sqrt(few)+3)/float64(sent))
	p.on, p.began, p.judged, p.low = true, now, false, 0
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
