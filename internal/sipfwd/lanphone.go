package sipfwd

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// inbound is a message that waits for its phone. b is the phone's own.
type inbound struct {
	flow  *flow
	b     []byte
	ended func() // in the place of a message: what the end of the flow means
}

// lanPhone is a phone of the office. Its goroutine serve handles what the phone
// sends, in order; another one reads what the tunnel brings. Both hold mu while
// they work, as timers do.
type lanPhone struct {
	side   *LANSide
	key    string
	source netip.Addr // where it was first heard from
	inbox  chan inbound
	wake   chan struct{}
	trunk  *lanTrunk // nil: it is a phone
	// Guarded by side.mu:
	flows []*flow // the latest, oldest first
	lost  []lostLine

	opening sync.Mutex // of the tunnel, one at a time; taken before mu

	mu        sync.Mutex
	conn      PhoneConn // nil until the tunnel has opened it
	edge      *edge
	legs      *legTable
	bindings  map[string]*lanBinding // by Contact URI
	flow      *flow                  // heard last
	lastUsed  time.Time
	known     bool      // it has registered once
	state     []byte    // for the next opening, while conn is nil
	openLater time.Time // it was refused
	closed    bool

	msg sipmsg.Message
	sdp sessionBody
	out []byte // of one message, toward the tunnel
}

// lanBinding is a Contact of a phone that the PBX has accepted.
type lanBinding struct {
	info    PhoneInfo
	flow    *flow
	device  string // see deviceOf
	line    *line
	expires slot
}

// claim is how surely the message m, of a flow that does not tell, is of this
// phone: a request by its dialog, its Contact or its address of record; 0 is not
// at all.
func (p *lanPhone) claim(m *sipmsg.Message) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !m.IsRequest() {
		if p.edge.findClient(m) != nil {
			return 3
		}
		return 0
	}
	if p.legs.find(m, up) != nil {
		return 3
	}
	contact, n := []byte(contactURI(m)), 0
	for uri, b := range p.bindings {
		switch {
		case sameAddress([]byte(uri), contact):
			return 2
		case sameAddress([]byte(b.info.AOR), m.FromURI()):
			n = 1
		}
	}
	return n
}

// sameAddress says whether two URIs have the same user, host and port. Their
// parameters may tell of another transport.
func sameAddress(a, b []byte) bool {
	u, okA := sipmsg.ParseURI(a)
	v, okB := sipmsg.ParseURI(b)
	return okA && okB && bytes.Equal(u.User, v.User) && bytes.EqualFold(u.Host, v.Host) && u.Port == v.Port
}

func newLANPhone(s *LANSide, key string, source netip.Addr) *lanPhone {
	p := &lanPhone{
		side: s, key: key, source: source, inbox: make(chan inbound, phoneInbox), wake: make(chan struct{}, 1),
		bindings: make(map[string]*lanBinding), lastUsed: time.Now(),
	}
	p.edge = newEdge(&p.mu, s.counters, &s.budget, p.timedOut)
	p.legs = newLegTable(p.edge, up, s.cfg.Events, p.hangUp)
	return p
}

// serve owns the phone from its first message to the end.
func (p *lanPhone) serve() {
	defer p.side.wg.Done()
	idle := time.NewTicker(strangerIdle)
	defer idle.Stop()
	for {
		select {
		case in := <-p.inbox:
			if in.ended != nil {
				in.ended()
			} else {
				p.fromPhone(in.flow, in.b)
			}
		case <-p.wake:
			p.letGo()
			p.reopen()
		case <-idle.C:
			if p.retire() {
				return
			}
		case <-p.side.done:
			p.close()
			return
		}
	}
}

// retire ends a phone that nothing refers to any more.
func (p *lanPhone) retire() bool {
	if p.trunk != nil {
		return false
	}
	p.mu.Lock()
	patience := strangerIdle
	if p.known {
		patience = phoneIdle
	}
	busy := len(p.inbox) > 0 || len(p.bindings) > 0 || p.legs.count > 0 || len(p.edge.servers) > 0 || len(p.edge.clients) > 0 ||
		time.Since(p.lastUsed) < patience
	p.mu.Unlock()
	if busy {
		return false
	}
	p.side.remove(p)
	p.close()
	return true
}

func (p *lanPhone) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range p.legs.all() {
		p.legs.drop(l, errShutdown.Error())
	}
	p.edge.close()
	p.side.mu.Lock()
	for _, b := range p.bindings {
		b.expires.stop()
		p.side.unsettle(b.line)
	}
	p.side.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}

// open makes sure that the tunnel knows the phone. While it waits for that mu is
// not held, and what p.msg holds may be lost.
func (p *lanPhone) open() bool {
	if p.conn != nil || p.closed {
		return !p.closed
	}
	p.mu.Unlock()
	p.opening.Lock()
	defer p.opening.Unlock()
	p.mu.Lock()
	if p.conn != nil || p.closed {
		return !p.closed
	}
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	state := p.state
	p.mu.Unlock()
	conn, err := p.side.cfg.Tunnel.OpenPhone(ctx, p.key, state)
	p.mu.Lock()
	if err == nil && p.closed {
		conn.Close()
		return false
	}
	if p.trunk != nil {
		p.trunk.opened(err)
	}
	if err != nil {
		p.side.counters.Counter("sip.refused.phone_not_opened").Inc()
		p.openLater = time.Now().Add(reopenLater)
		return false
	}
	p.conn = conn
	if p.trunk != nil {
		p.side.cfg.Events.TrunkOpened(p.trunk.info())
	}
	p.side.wg.Add(1)
	go func() {
		defer p.side.wg.Done()
		p.readTunnel(conn)
	}()
	return true
}

func (p *lanPhone) readTunnel(conn PhoneConn) {
	for {
		if err := conn.Receive(p.fromTunnel); err != nil {
			p.mu.Lock()
			if p.conn == conn {
				p.conn, p.state = nil, conn.State()
			}
			p.mu.Unlock()
			return
		}
	}
}

// toTunnel sends a message to the PBX side. Writes are kept for replay while
// the connection is down, so that an error means that the session is over.
func (p *lanPhone) toTunnel(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if p.conn == nil {
		p.side.counters.Counter("sip.dropped.tunnel_down").Inc()
		return
	}
	if _, err := p.conn.WriteTo(msg, nil); err != nil {
		p.side.counters.Counter("sip.dropped.tunnel_down").Inc()
	}
}

// forward sends the edited message p.msg into the tunnel. It reports false when
// our edits of it make no message.
func (p *lanPhone) forward() bool {
	p.out = forTunnel(p.out[:0], &p.msg, p.side.counters)
	p.toTunnel(p.out)
	return len(p.out) > 0
}

// afterwards has f run when the phone's messages that wait have been handled: they
// came before its connection ended.
func (p *lanPhone) afterwards(f func()) {
	select {
	case p.inbox <- inbound{ended: f}:
	case <-p.side.done:
	}
}

// flowLost answers the PBX for what it has asked the phone on f, a connection that
// has ended (RFC 3261 section 16.9): it can turn to another Contact. A call that
// rings may still be answered on the phone's next connection.
func (p *lanPhone) flowLost(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.edge.clients {
		if c.peer != hop(f) || c.status >= 200 || c.invite && c.status > 0 {
			continue
		}
		p.side.counters.Counter(notConnected.counter).Inc()
		p.edge.dropClient(c)
		answerInstead(c, notConnected, p.toTunnel, p.legs)
	}
}

// backTo is where responses to s go. Should its connection have ended, the phone's
// next one takes its place: RFC 3261 section 18.2.2 has a new one opened, which a
// phone behind a firewall does itself.
func (p *lanPhone) backTo(s *serverTx) *flow {
	f := s.peer.(*flow)
	if now := p.flow; f.gone.Load() && now != nil && now.reliable() && !now.gone.Load() {
		s.peer = now
		return now
	}
	return f
}

// reset ends what a lost session leaves behind.
func (p *lanPhone) reset(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.edge.servers {
		if s.status < 200 {
			p.edge.refuse(s, 503, "Tunnel Down", "Retry-After", "5")
		}
	}
	for _, c := range p.edge.clients {
		if c.invite && c.status < 200 {
			p.reconnect(c)
			p.edge.cancelClient(c, ownCancel(c.request))
		}
	}
	p.legs.endAll("tunnel lost: " + reason.Error())
}

// hangUp tells the phone that a call is over, in the name of the PBX.
func (p *lanPhone) hangUp(l *leg, reason string) {
	f := l.flow
	if p.trunk != nil {
		f = p.trunk.toTrunk()
	}
	if f != nil && !f.gone.Load() {
		p.edge.sendBye(l, down, f.via(), reason, f)
	}
}
