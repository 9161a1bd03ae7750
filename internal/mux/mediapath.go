package mux

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/bundle"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	// lossyReports is the loss, in 1/10,000, from which reports are sent twice as
	// often: they are lost too.
	lossyReports = 100
	// standalone is how much later than reportEvery a report goes without a datagram
	// to go with.
	standalone = 10 * time.Millisecond
	// challengeWait is how long the peer has to answer from a new address before its
	// old one is taken for the right one again, and challengeAgain how often it is
	// asked meanwhile.
	challengeWait  = time.Second
	challengeAgain = 200 * time.Millisecond
	// distrust is for how long after that an address has to answer before anything
	// else is sent there.
	distrust = time.Minute
	// keyAge is when a key is changed, however few datagrams it has sealed.
	keyAge = time.Hour
	// oldKeys is how long datagrams under the keys of an earlier connection are
	// taken.
	oldKeys = 5 * time.Second
	// sentTimes is how many datagrams' times are remembered to measure the round
	// trip by reports.
	sentTimes = 256
	// maxBurst is how many sealed datagrams wait for FlushMedia at most.
	maxBurst = 64
)

// Pacing says when media that is to be sent leaves.
type Pacing struct {
	// Wait is for how long a packet may wait for others to share its datagram.
	Wait time.Duration
	// Adapt waits for up to 20 ms while the path is short of bandwidth.
	Adapt bool
	// Manual leaves it to FlushMedia, which is then called soon after each packet,
	// or after the last one of many.
	Manual bool
}

// shortWait is the Wait of Adapt while the path is short of bandwidth.
const shortWait = 20 * time.Millisecond

// wait is for how long packets wait on a path as w sees it.
func (p *Pacing) wait(w *pathWatch) time.Duration {
	if p.Adapt && w.congested() {
		return max(p.Wait, shortWait)
	}
	return p.Wait
}

// A mediaPath carries the media of a session as datagrams, as long as that works.
// It outlives the connections of the session, each of which gives it new keys. Its
// methods are safe for concurrent use.
//
// Packets that push takes go as datagrams, those that it does not take go over the
// connection.
type mediaPath struct {
	socket datagramSocket
	client bool
	config pathConfig
	count  pathCounters
	began  time.Time

	usable atomic.Bool // out.watch.proven, to be looked at without the lock
	// left is the counter of the first datagram after the path was last left: what
	// goes over the connection since then was sent after the datagrams below it, and
	// before any packet in those from it on.
	left atomic.Uint64

	// The receiving half. It is locked before the sending half.
	in struct {
		sync.Mutex
		unpacker bundle.Unpacker
		dropped  bundle.Dropped // by it, as counted so far
		closed   bool
		from     udp.Route     // of the datagram that is being handled
		now      time.Duration // when it came
		replied  bool          // to a probe in it
		touched  bool          // settle is due
		highest  uint64
		count    uint64
		bytes    uint64
	}

	// The sending half.
	out struct {
		sync.Mutex
		closed    bool
		packer    bundle.Packer
		sealer    *seal.Sealer // nil: no keys yet
		keyed     time.Duration
		current   *generation
		old       *generation // its datagrams are taken for a while
		offered   *generation // the peer has not used it yet
		route     udp.Route
		challenge challenge
		wary      time.Duration // until when addresses are distrusted
		watch     pathWatch
		token     uint32 // of the last probe: who was not sent it cannot answer
		burst     udp.Burst
		open      []byte // the datagram that is being filled, in burst's room; nil: none
		opened    time.Duration
		kept      bool // flush has left it open, for tick to send
		announced bool // config.pending was told
		receipt   receipt
		reported  time.Duration // when the receipt was last reported
		holdUntil time.Duration // when the unpacker has to be asked; 0: it has not
		bytes     uint64
		sent      [sentTimes]time.Duration // by counter

		timer   *time.Timer
		timerAt time.Duration // when it fires; 0: it does not
	}
}

// datagramSocket is a udp.Conn.
type datagramSocket interface {
	// Send sends the datagrams of b and reports how many it had to drop.
	Send(b *udp.Burst, to udp.Route) (dropped int, err error)
	// Receive hands over what has come. It wraps net.ErrClosed after Close.
	Receive(f func(datagram []byte, from udp.Route)) error
	Close() error
}

// pathConfig is what a path works with. Only received is required.
type pathConfig struct {
	pacing   Pacing
	received func(channel uint32, rtcp bool, packet []byte)
	// pending is told that there is something to flush, once until flush.
	pending func(*mediaPath)
	// learn is given the generation that datagrams with its id are of, and forget
	// takes it back. They are called with the path locked.
	learn  func(g *generation)
	forget func(g *generation)
	// changed is told that media goes as datagrams, or why it does not any more. It
	// is called with the path locked.
	changed  func(usable bool, reason string)
	counters *counter.Set
}

// receipt is what has come.
type receipt struct {
	highest, count uint64
	at             time.Duration // when highest came
	fresh          bool          // not reported yet
}

// challenge is a move of the peer that it has yet to confirm.
type challenge struct {
	open     bool
	old, new udp.Route
	id       uint32
	until    time.Duration
	again    time.Duration // when it is sent again
}

// generation is the keys of one connection.
type generation struct {
	path   *mediaPath
	id     uint32 // that datagrams to this end carry
	opener *seal.Opener
	sealer *seal.Sealer  // nil once it is used
	ends   time.Duration // of an old one
}

// pathCounters count what happens to datagrams.
type pathCounters struct {
	forged, replayed, unsent, left, moved        *counter.Counter
	malformed, channel, context, late, fragments *counter.Counter
	overtaken                                    *counter.Counter
}

// newMediaPath makes a path without keys.
func newMediaPath(socket datagramSocket, client bool, config pathConfig) *mediaPath {
	set := config.counters
	return &mediaPath{
		socket: socket, client: client, config: config, began: time.Now(),
		count: pathCounters{
			forged: set.Counter("path.dropped.not_authentic"), replayed: set.Counter("path.dropped.replayed"),
			unsent: set.Counter("path.dropped.not_sent"), left: set.Counter("path.left"), moved: set.Counter("path.moved"),
			malformed: set.Counter("path.dropped.malformed"), channel: set.Counter("path.dropped.unknown_channel"),
			context: set.Counter("path.dropped.no_context"), late: set.Counter("path.dropped.late"), fragments: set.Counter("path.dropped.fragment"),
			overtaken: set.Counter("path.dropped.overtaken"),
		},
	}
}

// now is the time that pathWatch and package bundle work with.
func (p *mediaPath) now() time.Duration { return time.Since(p.began) }

// rekey makes the keys of a connection the path's. The client uses them at once,
// the server when a datagram under them has come: the client knows them by then.
// peer is the id that the peer wants to see, own the one that it was told. route
// is where the server is, for a client.
func (p *mediaPath) rekey(exported []byte, suite seal.Suite, peer, own uint32, route udp.Route) error {
	send, receive := seal.Server, seal.Client
	if p.client {
		send, receive = receive, send
	}
	sealer, err := seal.NewSealer(exported, suite, send, peer)
	if err != nil {
		return err
	}
	opener, err := seal.NewOpener(exported, suite, receive, own)
	if err != nil {
		return err
	}
	g := &generation{path: p, id: own, opener: opener, sealer: sealer}
	p.in.Lock()
	defer p.in.Unlock()
	p.out.Lock()
	defer p.out.Unlock()
	if p.out.closed {
		p.config.forget(g)
		return nil
	}
	if p.out.current != nil {
		opener.Continue(p.out.current.opener)
	}
	if p.out.offered != nil {
		p.config.forget(p.out.offered)
	}
	p.out.offered = g
	p.config.learn(g)
	if p.client {
		p.out.route = route
		p.use(g)
		p.out.watch.nextAt = p.now()
		p.schedule()
	}
	return nil
}

// use begins to send with the keys of g. It is called with out locked, as is
// everything below that does not lock it.
func (p *mediaPath) use(g *generation) {
	now := p.now()
	if p.out.open != nil {
		p.finish(now)
	}
	p.transmit()
	if p.out.sealer != nil {
		g.sealer.Continue(p.out.sealer)
	}
	p.out.sealer, g.sealer, p.out.keyed = g.sealer, nil, now
	if p.out.old != nil {
		p.config.forget(p.out.old)
	}
	if p.out.old = p.out.current; p.out.old != nil {
		p.out.old.ends = now + oldKeys
	}
	p.out.current, p.out.offered = g, nil
}

// openChannel has packets of a channel be taken, closeChannel ends that.
func (p *mediaPath) openChannel(channel uint32) {
	p.in.Lock()
	p.in.unpacker.Open(channel)
	p.in.Unlock()
	p.out.Lock()
	p.out.packer.Open(channel)
	p.out.Unlock()
}

func (p *mediaPath) closeChannel(channel uint32) {
	p.in.Lock()
	p.in.unpacker.Close(channel)
	p.in.Unlock()
	p.out.Lock()
	p.out.packer.Close(channel)
	p.out.Unlock()
}

// close ends the path. received is called no more when it returns.
func (p *mediaPath) close() {
	p.in.Lock()
	defer p.in.Unlock()
	p.out.Lock()
	defer p.out.Unlock()
	p.in.closed, p.out.closed = true, true
	p.usable.Store(false)
	p.out.watch.proven = false
	for _, g := range []*generation{p.out.current, p.out.old, p.out.offered} {
		if g != nil {
			p.config.forget(g)
		}
	}
	if p.out.timer != nil {
		p.out.timer.Stop()
	}
}

// push takes a packet to send, unless the path does not work.
func (p *mediaPath) push(channel uint32, rtcp bool, packet []byte) bool {
	if !p.usable.Load() || len(packet) == 0 || len(packet) > wire.MaxMedia {
		return false
	}
	now := p.now()
	p.out.Lock()
	if !p.out.watch.proven {
		p.out.Unlock()
		return false
	}
	for {
		if p.out.open == nil {
			p.begin(now)
		}
		var fits bool
		if p.out.open, fits = p.out.packer.Add(p.out.open, int64(now), channel, rtcp, packet); fits {
			break
		}
		// It is full: nothing is won by its waiting.
		p.finish(now)
		if !p.config.pacing.Manual || p.out.burst.Len() >= maxBurst {
			p.transmit()
		}
		if !p.out.watch.proven { // finish has left it
			p.transmit()
			p.out.Unlock()
			return false
		}
	}
	tell := false
	switch {
	case p.config.pacing.Manual:
		tell = p.config.pending != nil && !p.out.announced
		p.out.announced = true
	case p.config.pacing.wait(&p.out.watch) == 0:
		p.finish(now)
		p.transmit()
		p.schedule()
	default:
		p.schedule()
	}
	p.out.Unlock()
	if tell {
		p.config.pending(p)
	}
	return true
}

// flush sends what push has collected.
func (p *mediaPath) flush() {
	now := p.now()
	p.out.Lock()
	defer p.out.Unlock()
	if p.out.closed {
		return // what is on the list of its server still
	}
	p.out.announced = false
	if p.out.open != nil && now-p.out.opened >= p.flushWait() {
		p.finish(now)
	}
	p.out.kept = p.out.open != nil
	p.transmit()
	p.schedule()
}

// flushWait is for how long an open datagram stays so in spite of flush.
func (p *mediaPath) flushWait() time.Duration {
	if wait := p.config.pacing.wait(&p.out.watch); wait > p.config.pacing.Wait {
		return wait
	}
	return 0
}

// begin opens a datagram.
func (p *mediaPath) begin(now time.Duration) {
	p.out.open = p.out.packer.Begin(p.out.burst.Room(bundle.BufferLen), int64(now))
	p.out.opened, p.out.kept = now, false
}

// finish seals the open datagram.
func (p *mediaPath) finish(now time.Duration) {
	d := p.out.packer.End(p.out.open, int64(now))
	p.out.open = nil
	if p.reportIsDue(now, 0) && len(d)+wire.MaxFeedback+wire.DatagramTagLen <= wire.MaxDatagram {
		r := p.report(now)
		d = r.Append(d)
	}
	p.seal(d, now)
	if p.out.watch.sent(now) {
		p.leave("nothing comes back", now)
	}
}

// seal seals the datagram d, which lies where the burst has room for it.
func (p *mediaPath) seal(d []byte, now time.Duration) {
	if p.out.sealer == nil {
		return
	}
	if now-p.out.keyed > keyAge {
		if changed, err := p.out.sealer.Rekey(); changed && err == nil {
			p.out.keyed = now
		}
	}
	sealed, n, err := p.out.sealer.Seal(d)
	if err != nil {
		p.out.watch.leave(now)
		p.leave(err.Error(), now)
		return
	}
	p.out.burst.Commit(len(sealed))
	p.out.sent[n%sentTimes] = now
}

// leave is called when the path was left. Packets go over the connection from then
// on, and are told from those before by the counter.
func (p *mediaPath) leave(reason string, now time.Duration) {
	if p.out.open != nil {
		p.finish(now)
	}
	p.out.packer.Leave()
	p.left.Store(p.out.sealer.Next())
	if p.usable.Swap(false) {
		p.count.left.Inc()
		p.config.changed(false, reason)
	}
}

// single sends a datagram of one record at once, over a route of its own.
func (p *mediaPath) single(r wire.Record, to udp.Route, now time.Duration) {
	if p.out.sealer == nil {
		return
	}
	if p.out.open != nil {
		p.finish(now)
	}
	p.transmit()
	d := append(p.out.burst.Room(bundle.BufferLen), make([]byte, wire.DatagramHeaderLen)...)
	p.seal(r.Append(d), now)
	p.transmitTo(to)
}

// transmit sends the sealed datagrams.
func (p *mediaPath) transmit() { p.transmitTo(p.out.route) }

func (p *mediaPath) transmitTo(to udp.Route) {
	if p.out.burst.Len() == 0 {
		return
	}
	if to.Remote.IsValid() {
		p.out.bytes += uint64(p.out.burst.Bytes())
		// Where there is no route, for a moment or for good, the path is silent.
		if dropped, _ := p.socket.Send(&p.out.burst, to); dropped > 0 {
			p.count.unsent.Add(uint64(dropped))
		}
	}
	p.out.burst.Reset()
	if p.out.open != nil { // it lay behind them
		p.out.open = append(p.out.burst.Room(bundle.BufferLen), p.out.open...)
	}
}

// reportIsDue says whether the peer is to be told what has come.
func (p *mediaPath) reportIsDue(now, later time.Duration) bool {
	every := reportEvery
	if loss, _, _ := p.out.packer.Policy.Loss(); loss >= lossyReports {
		every /= 2
	}
	return p.out.receipt.fresh && now-p.out.reported >= every+later
}

func (p *mediaPath) report(now time.Duration) wire.Record {
	p.out.receipt.fresh, p.out.reported = false, now
	return wire.Record{
		Type: wire.RecordReport, Highest: uint32(p.out.receipt.highest), Received: uint32(p.out.receipt.count),
		Delay: uint32((now - p.out.receipt.at).Microseconds()),
	}
}
