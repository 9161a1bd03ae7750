package sipfwd

import (
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// What the tunnel brings for the phones of the office.

func (p *lanPhone) fromTunnel(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.lastUsed = time.Now()
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.side.counters.Counter("sip.dropped.unparsable_from_tunnel").Inc()
		return
	}
	if !m.IsRequest() {
		p.responseFromTunnel(m)
		return
	}
	switch string(m.Method()) {
	case "ACK":
		p.ackFromTunnel(m)
	case "CANCEL":
		p.cancelFromTunnel(m)
	default:
		p.requestFromTunnel(m)
	}
}

func (p *lanPhone) requestFromTunnel(m *sipmsg.Message) {
	l, has, no := p.legs.admit(m, down, &p.sdp)
	if no != nil {
		p.toTunnel(answerTo(m, no))
		return
	}
	refuse := func(status int, reason string) {
		p.toTunnel(responseTo(m, status, reason, randomHex()))
		p.legs.abandon(l, m, reason)
	}
	f := p.route(l, m)
	if f == nil {
		p.side.counters.Counter(notConnected.counter).Inc()
		refuse(notConnected.status, notConnected.reason)
		return
	}
	if !oneHopLess(m) {
		p.side.counters.Counter(tooManyHops.counter).Inc()
		refuse(tooManyHops.status, tooManyHops.reason)
		return
	}
	offer := false
	p.trunk.retarget(m)
	if l != nil {
		l.flow = f
		if has {
			if !p.ensurePorts(l, f, down) {
				refuse(488, noMediaPort.reason)
				return
			}
			b := l.dialogOf(m, down)
			answer := string(m.Method()) == "PRACK" && b.delayed
			offer = !answer
			p.sdpDown(l, b, m, answer)
		}
	}
	if recordsRoute(m) {
		m.AddBefore(sipmsg.RecordRoute, "Record-Route", f.recordRoute(isSIPS(m.RequestURI())))
	}
	l.throughProxies(m)
	branch := newBranch()
	m.PushVia([]byte(f.via() + ";branch=" + branch))
	if f.reliable() {
		m.EnsureContentLength()
	}
	out := appendEdited(nil, m, p.side.counters)
	if no := unsendable(f, out); no != nil {
		p.side.counters.Counter(no.counter).Inc()
		refuse(no.status, no.reason)
		return
	}
	c := p.edge.newClient(branch, string(m.Method()), requestKey(m), out, f)
	if c == nil {
		refuse(503, noRoomLeft.reason)
		return
	}
	c.leg, c.offer = l, offer
}

// sdpDown writes our LAN ports into m, which comes from the PBX.
func (p *lanPhone) sdpDown(l *leg, b *dialog, m *sipmsg.Message, answer bool) {
	l.noteHold(&p.sdp.Description, down)
	if answer {
		b.delayed = false
		l.answered()
	}
	l.pbxSDP(&p.sdp.Description, answer)
	p.rewriteSDP(l, m, MediaPort.LAN)
}

// route chooses the flow for a request to the phone: its dialog's, that of the
// binding that the Request-URI names, else where the phone was heard last, else
// where it has registered.
// Never where a Contact points.
func (p *lanPhone) route(l *leg, m *sipmsg.Message) *flow {
	if p.trunk != nil {
		return p.trunk.toTrunk()
	}
	if l != nil && l.flow != nil && !l.flow.gone.Load() {
		return l.flow
	}
	if b := p.bindings[string(m.RequestURI())]; b != nil && !b.flow.gone.Load() {
		return b.flow
	}
	if p.flow != nil && !p.flow.gone.Load() {
		return p.flow
	}
	// The last one was a connection for one request.
	var latest *lanBinding
	for _, b := range p.bindings {
		if !b.flow.gone.Load() && (latest == nil || b.info.Expires.After(latest.info.Expires)) {
			latest = b
		}
	}
	if latest == nil {
		return nil
	}
	return latest.flow
}

func (p *lanPhone) ackFromTunnel(m *sipmsg.Message) {
	l, has, no := p.legs.admit(m, down, &p.sdp)
	if no != nil {
		return
	}
	f := p.route(l, m)
	if f == nil {
		p.side.counters.Counter("sip.dropped.flow_gone").Inc()
		return
	}
	if has && p.ensurePorts(l, f, down) {
		p.sdpDown(l, l.dialogOf(m, down), m, true)
	}
	if !oneHopLess(m) {
		p.side.counters.Counter(tooManyHops.counter).Inc()
		return
	}
	p.trunk.retarget(m)
	l.throughProxies(m)
	m.PushVia([]byte(f.via() + ";branch=" + ackBranch(m)))
	if f.reliable() {
		m.EnsureContentLength()
	}
	f.send(appendEdited(nil, m, p.side.counters))
}

func (p *lanPhone) cancelFromTunnel(m *sipmsg.Message) {
	c := p.edge.findUp(methodKey(m, "INVITE"))
	if c == nil {
		p.side.counters.Counter("sip.dropped.stray_cancel").Inc()
		return
	}
	p.reconnect(c)
	p.edge.cancelClient(c, cancelFor(c, m))
}

func (p *lanPhone) responseFromTunnel(m *sipmsg.Message) {
	s := p.edge.servers[requestKey(m)]
	if s == nil {
		p.strayResponse(m)
		return
	}
	status := m.StatusCode()
	if l := s.leg; l == nil || l.ended {
		// Without its call there is no media port, and the phone could not reach the
		// address of the PBX.
		if has, no := p.sdp.find(m); no == nil && has && status < 300 {
			p.side.counters.Counter(noSuchCall.counter).Inc()
			p.edge.refuseFor(s, noSuchCall)
			return
		}
	} else {
		p.legs.response(l, m, up)
		p.responseSDPDown(s, l, m, status)
	}
	f := p.backTo(s)
	if status/100 == 2 && s.key.method == "REGISTER" {
		p.registered(s, f, m)
	}
	if status > 100 && status < 300 && m.ToTag() != nil && s.creates {
		f.recordProxies(s, m)
	}
	stripOutbound(m)
	if f.reliable() {
		m.EnsureContentLength()
	}
	p.edge.respond(s, m, appendEdited(nil, m, p.side.counters))
}

func (p *lanPhone) responseSDPDown(s *serverTx, l *leg, m *sipmsg.Message, status int) {
	if status >= 300 {
		if s.offer {
			l.rejected()
		}
		return
	}
	if has, no := p.sdp.find(m); no == nil && has && p.ensurePorts(l, s.peer.(*flow), down) {
		b := l.dialogOf(m, up)
		l.enter(b)
		p.sdpDown(l, b, m, s.offer)
		b.delayed = b.delayed || !s.offer
	}
}

// strayResponse forwards a 2xx to an INVITE whose transaction is over while its
// call goes on: another branch of a fork, which only the phone can end. All else is
// dropped; the PBX ends a call of its own that nobody acknowledges.
func (p *lanPhone) strayResponse(m *sipmsg.Message) {
	var l *leg
	if m.StatusCode()/100 == 2 && string(m.Method()) == "INVITE" {
		l = pickLeg(p.legs.byKey[legKey{string(m.CallID()), up, string(m.FromTag())}], string(m.ToTag()))
	}
	if l == nil || l.ended || l.flow == nil || l.flow.gone.Load() {
		p.side.counters.Counter("sip.dropped.stray_response").Inc()
		return
	}
	if has, no := p.sdp.find(m); no != nil || has && !p.ensurePorts(l, l.flow, down) {
		p.side.counters.Counter("sip.dropped.stray_response").Inc()
		return
	} else if has {
		p.rewriteSDP(l, m, MediaPort.LAN) // whose media are in force it does not change
	}
	stripOutbound(m)
	if l.flow.reliable() {
		m.EnsureContentLength()
	}
	l.flow.send(appendEdited(nil, m, p.side.counters))
}
