package mux

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/siptunnel/siptunnel/internal/replay"
	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// challengeIDs tells the ids of challenges from those of other probes.
const challengeIDs = 1 << 31

// receive takes a datagram of g, which it destroys, and reports whether settle is
// to be called when those are handled that came with it.
func (p *mediaPath) receive(g *generation, datagram []byte, from udp.Route) (settle bool) {
	now, size := p.now(), len(datagram)
	p.in.Lock()
	defer p.in.Unlock()
	if p.in.closed {
		return false
	}
	plaintext, n, err := g.opener.Open(datagram)
	if err != nil {
		if errors.Is(err, seal.ErrReplayed) || errors.Is(err, seal.ErrOld) {
			p.count.replayed.Inc()
		} else {
			p.count.forged.Inc()
		}
		return false
	}
	p.in.count++
	p.in.bytes += uint64(size)
	p.in.now, p.in.replied = now, false
	newest := n >= p.in.highest
	p.in.highest, p.in.from = max(p.in.highest, n), from
	p.note(g, newest, now)
	p.in.unpacker.Unpack(int64(now), n, plaintext, p)
	settle = !p.in.touched
	p.in.touched = true
	return settle
}

// note has the sending half know of a datagram.
func (p *mediaPath) note(g *generation, newest bool, now time.Duration) {
	p.out.Lock()
	defer p.out.Unlock()
	if g == p.out.offered && !p.out.closed {
		p.use(g)
	}
	p.out.receipt.fresh, p.out.receipt.count = true, p.in.count
	if !newest {
		return
	}
	p.out.receipt.highest, p.out.receipt.at = p.in.highest, now
	if !p.client && p.in.from != p.out.route {
		p.move(p.in.from, now)
	}
}

// move follows the peer to another address. It was there, as only it can seal, but
// whoever can hold a datagram back can send it on from elsewhere, and the peer may
// name an address that is not its own: it has to answer from there. Once an address
// has not, the path stays where it is until the next one has.
func (p *mediaPath) move(to udp.Route, now time.Duration) {
	c := &p.out.challenge
	switch {
	case !p.out.route.Remote.IsValid():
		p.out.watch.nextAt = now
		p.out.route = to
	case c.open && to == c.old:
		c.open = false
		p.follow(to)
	case c.open && to == c.new:
		// It is being asked.
	default:
		if !c.open {
			c.open, c.old, c.until = true, p.out.route, now+challengeWait
		}
		c.new, c.id = to, challengeIDs|rand.Uint32()
		if now >= p.out.wary {
			p.follow(to)
		}
		p.challenge(now)
	}
	p.schedule()
}

// challenge asks the peer to answer from its new address.
func (p *mediaPath) challenge(now time.Duration) {
	c := &p.out.challenge
	c.again = now + challengeAgain
	p.single(wire.Record{Type: wire.RecordProbe, ID: c.id}, c.new, now)
}

// follow sends to another address from now on, what waits included.
func (p *mediaPath) follow(to udp.Route) {
	p.count.moved.Inc()
	p.out.route = to
}

// settleChallenge sees to a challenge that is not answered.
func (p *mediaPath) settleChallenge(now time.Duration) {
	c := &p.out.challenge
	switch {
	case !c.open:
	case now >= c.until:
		c.open = false
		p.out.wary = now + distrust
		if p.out.route != c.old {
			p.follow(c.old)
		}
	case now >= c.again:
		p.challenge(now)
	}
}

// settle does what follows from the datagrams that have come.
func (p *mediaPath) settle() {
	now := p.now()
	p.in.Lock()
	p.in.touched = false
	p.countDropped()
	at, holds := p.in.unpacker.Deadline(int64(now))
	p.in.Unlock()
	p.out.Lock()
	defer p.out.Unlock()
	if p.out.holdUntil = 0; holds {
		p.out.holdUntil = max(time.Duration(at), 1)
	}
	if p.reportIsDue(now, standalone) && !p.out.closed {
		p.single(p.report(now), p.out.route, now)
	}
	p.schedule()
}

// countDropped counts what the unpacker has dropped since the last time. Copies that
// were not needed are no loss. It is called with in locked.
func (p *mediaPath) countDropped() {
	d, before := p.in.unpacker.Dropped(), p.in.dropped
	if d == before {
		return
	}
	p.in.dropped = d
	p.count.malformed.Add(d.Malformed - before.Malformed)
	p.count.channel.Add(d.Channel - before.Channel)
	p.count.context.Add(d.Context + d.Stale - before.Context - before.Stale)
	p.count.late.Add(d.Late - before.Late)
	p.count.overtaken.Add(d.Overtaken - before.Overtaken)
	p.count.fragments.Add(d.Fragment - before.Fragment)
}

// aside hands on a packet that came over the connection behind a mark, in its place
// among those that come as datagrams.
func (p *mediaPath) aside(channel uint32, rtcp bool, after uint64, packet []byte) {
	now := p.now()
	p.in.Lock()
	defer p.in.Unlock()
	if p.in.closed {
		return
	}
	if p.in.unpacker.Aside(int64(now), channel, rtcp, after, p) {
		p.config.received(channel, rtcp, packet)
		return
	}
	p.countDropped()
}

// Packet is part of bundle.Receiver, as are the methods that follow. They are
// called with in locked.
func (p *mediaPath) Packet(channel uint32, rtcp bool, packet []byte) {
	p.config.received(channel, rtcp, packet)
}

func (p *mediaPath) Answer(r wire.Record) {
	p.out.Lock()
	defer p.out.Unlock()
	p.out.packer.Answer(int64(p.in.now), r)
}

func (p *mediaPath) Feedback(r *wire.Record) {
	now := p.now()
	p.out.Lock()
	defer p.out.Unlock()
	p.out.packer.Feedback(int64(now), r)
	if r.Type != wire.RecordReport || p.out.sealer == nil {
		return
	}
	next := p.out.sealer.Next()
	highest := replay.Reconstruct(r.Highest, wire.ReportBits, next)
	if highest >= next {
		return
	}
	p.out.watch.reported()
	p.out.sealer.Confirm(highest)
	if next-highest < sentTimes {
		p.out.watch.measure(now-p.out.sent[highest%sentTimes]-time.Duration(r.Delay)*time.Microsecond, now)
	}
}

func (p *mediaPath) Control(r *wire.Record, newest bool) {
	now := p.now()
	p.out.Lock()
	defer p.out.Unlock()
	switch {
	case p.out.closed:
	case r.Type == wire.RecordProbe:
		if p.in.replied {
			return // as many answers as a datagram has room for would be a flood
		}
		p.in.replied = true
		p.single(wire.Record{Type: wire.RecordReply, ID: r.ID, Time: r.Time}, p.in.from, now)
	case r.Type == wire.RecordReply && r.ID >= challengeIDs:
		if c := &p.out.challenge; c.open && r.ID == c.id && p.in.from == c.new {
			c.open = false
			if p.out.route != c.new {
				p.follow(c.new)
			}
		}
	case r.Type == wire.RecordReply && (r.Time != p.out.token || !p.client && p.in.from != p.out.route):
		// It proves nothing of where datagrams go.
	case r.Type == wire.RecordReply:
		if p.out.watch.answer(r.ID, now) {
			p.usable.Store(true)
			p.config.changed(true, "")
		}
		p.schedule()
	}
}

// tick does what is due.
func (p *mediaPath) tick() {
	now := p.now()
	p.in.Lock()
	if p.in.closed {
		p.in.Unlock()
		return
	}
	p.in.unpacker.Expire(int64(now), p)
	at, holds := p.in.unpacker.Deadline(int64(now))
	p.in.Unlock()
	p.out.Lock()
	defer p.out.Unlock()
	p.out.timerAt = 0
	if p.out.closed {
		return
	}
	if p.out.holdUntil = 0; holds {
		p.out.holdUntil = max(time.Duration(at), 1)
	}
	p.settleChallenge(now)
	if p.out.old != nil && now >= p.out.old.ends {
		p.config.forget(p.out.old)
		p.out.old = nil
	}
	at64, waits := p.out.packer.Deadline()
	due := waits && now >= time.Duration(at64)
	switch {
	case p.out.open != nil && p.tickSends() && (due || now-p.out.opened >= p.config.pacing.wait(&p.out.watch)):
		p.finish(now)
		p.transmit()
	case p.out.open == nil && due && p.out.sealer != nil:
		p.begin(now)
		p.finish(now)
		p.transmit()
	}
	if p.probes() && now >= p.out.watch.next() {
		id, left := p.out.watch.probe(now)
		if left {
			p.leave("probes are not answered", now)
		}
		p.out.token = rand.Uint32()
		p.single(wire.Record{Type: wire.RecordProbe, ID: id, Time: p.out.token}, p.out.route, now)
	}
	p.schedule()
}

// probes says whether the peer can be probed: it is known where it is.
func (p *mediaPath) probes() bool { return p.out.sealer != nil && p.out.route.Remote.IsValid() }

// tickSends says whether an open datagram is tick's to send, and not flush's.
func (p *mediaPath) tickSends() bool { return !p.config.pacing.Manual || p.out.kept }

// schedule has tick called when something is due.
func (p *mediaPath) schedule() {
	if p.out.closed {
		return
	}
	next := time.Duration(0)
	consider := func(at time.Duration, ok bool) {
		if ok && (next == 0 || at < next) {
			next = max(at, 1)
		}
	}
	consider(p.out.watch.next(), p.probes())
	consider(p.out.holdUntil, p.out.holdUntil > 0)
	consider(min(p.out.challenge.until, p.out.challenge.again), p.out.challenge.open)
	if p.out.old != nil {
		consider(p.out.old.ends, true)
	}
	if p.out.sealer != nil && (p.out.open == nil || p.tickSends()) {
		at, ok := p.out.packer.Deadline()
		consider(time.Duration(at), ok)
	}
	consider(p.out.opened+p.config.pacing.wait(&p.out.watch), p.out.open != nil && p.tickSends())
	if next == 0 || p.out.timerAt != 0 && p.out.timerAt <= next {
		return
	}
	p.out.timerAt = next
	wait := max(next-p.now(), 0)
	if p.out.timer == nil {
		p.out.timer = time.AfterFunc(wait, p.tick)
		return
	}
	p.out.timer.Reset(wait)
}

// PathInfo describes how a session's media goes.
type PathInfo struct {
	Datagrams bool          `json:"datagrams"` // or else over the connection
	RTT       time.Duration `json:"rtt"`
	// Loss is that of the datagrams sent in the last 10 s, as a share of them.
	Loss              float64 `json:"loss"`
	BytesIn, BytesOut uint64  `json:"-"`
}

func (p *mediaPath) info() PathInfo {
	p.in.Lock()
	bytesIn := p.in.bytes
	p.in.Unlock()
	p.out.Lock()
	defer p.out.Unlock()
	loss, _, _ := p.out.packer.Policy.Loss()
	return PathInfo{Datagrams: p.out.watch.proven, RTT: p.out.watch.rtt, Loss: float64(loss) / 1e4, BytesIn: bytesIn, BytesOut: p.out.bytes}
}
