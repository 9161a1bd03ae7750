package redundancy

const (
	// The path's loss at which each packet is sent once more, and below which, for
	// Calm, it is not any more. In 1/10,000.
	onLoss, offLoss = 50, 25
	// The same for a second copy.
	onLoss2, offLoss2 = 800, 500
	// leastLost is how many datagrams must be lost before loss is believed.
	leastLost = 2

	// calm is how long loss must have been low before protection ends.
	calm = 10 * second
	// backOff is how long there is none after it has made loss worse.
	backOff = 30 * second
	// judge is how long after its beginning protection is judged.
	judge = 4 * second

	buckets     = 10
	bucketWidth = second
)

// A Policy decides from the peer's reports how many copies of each packet are
// sent. The zero value sends none yet, and never more than one; it is ready for
// use.
//
// Loss is that of the last 10 s. Copies begin at 0.5 % and end when loss has been
// below 0.25 % for 10 s; second copies, if allowed, begin at 8 % and end below 5 %.
// If 4 s after the beginning loss is more than twice what it was and 3 points
// more, the path is not short of luck but of bandwidth: copies end for 30 s.
type Policy struct {
	// MostCopies is the highest number of copies of a packet: 1 (also when 0) or 2.
	MostCopies int

	any               bool
	highest, received uint64 // of the report before
	bucket            [buckets]sample
	newest            int64 // index of the bucket of the last report

	level     int
	low       int64 // since when loss has been low; 0: it is not
	began     int64 // when the level was raised
	before    uint64
	judged    bool
	suspended int64 // until when there are no copies
}

type sample struct {
	sent uint64
	lost int64 // may be negative for a moment: late datagrams
}

// Report takes a report of the peer: the highest counter that it has received,
// and how many datagrams it has received in all. Reports that are older than one
// before are to be left out by the caller.
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

// Loss returns the loss of the last 10 s in 1/10,000, and how many datagrams are
// missing.
func (p *Policy) Loss() (perMyriad, lost uint64) {
	return p.lossOf(buckets)
}

// lossOf returns the loss of the last n buckets.
func (p *Policy) lossOf(n int64) (perMyriad, lost uint64) {
	var sent uint64
	var missing int64
	for i := range n {
		b := &p.bucket[(p.newest-i+buckets)%buckets]
		sent += b.sent
		missing += b.lost
	}
	if sent == 0 || missing <= 0 {
		return 0, 0
	}
	return min(uint64(missing)*10_000/sent, 10_000), uint64(missing)
}

// Copies returns how many copies of each packet are to be sent: 0, 1 or 2.
func (p *Policy) Copies() int { return p.level }

func (p *Policy) decide(now int64) {
	loss, lost := p.Loss()
	if now < p.suspended {
		return
	}
	if p.level > 0 && !p.judged && now-p.began >= judge {
		p.judged = true
		if recent, _ := p.lossOf(judge / bucketWidth); recent > 2*p.before && recent > p.before+300 {
			p.level, p.suspended = 0, now+backOff
			return
		}
	}
	most := max(1, p.MostCopies)
	switch {
	case p.level == 0 && loss >= onLoss && lost >= leastLost:
		p.raise(now, 1, loss)
	case p.level == 1 && most > 1 && loss >= onLoss2:
		p.raise(now, 2, loss)
	}
	floor := uint64(offLoss)
	if p.level == 2 {
		floor = offLoss2
	}
	switch {
	case p.level == 0 || loss >= floor:
		p.low = 0
	case p.low == 0:
		p.low = now
	case now-p.low >= calm:
		p.level, p.low = p.level-1, 0
	}
}

func (p *Policy) raise(now int64, level int, loss uint64) {
	p.level, p.began, p.before, p.judged, p.low = level, now, loss, false, 0
}
