package sipfwd

import (
	"context"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// What the phones of the office send.

func (p *lanPhone) fromPhone(f *flow, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.lastUsed = time.Now()
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.side.malformed(f, m, err)
		return
	}
	countRepairs(m, p.side.counters)
	if !m.IsRequest() {
		p.responseFromPhone(m)
		return
	}
	p.flow = f
	if p.trunk != nil {
		p.trunk.heard = p.lastUsed
	}
	m.SetViaReceived(f.remote.Addr(), f.remote.Port())
	switch string(m.Method()) {
	case "ACK":
		p.ackFromPhone(f, m)
	case "CANCEL":
		p.cancelFromPhone(f, m)
	default:
		if !p.edge.retransmission(m) {
			p.requestFromPhone(f, m)
		}
	}
}

func (p *lanPhone) requestFromPhone(f *flow, m *sipmsg.Message) {
	s := p.edge.newServer(m, f)
	if s == nil {
		return
	}
	method := string(m.Method())
	if method == "OPTIONS" && p.trunk == nil && p.addressedToUs(f, m.RequestURI()) && userOf(m.RequestURI()) == "" {
		p.edge.refuse(s, 200, "OK", "Accept", "application/sdp", "Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER")
		return
	}
	if tags, has := unknownExtensions(m); has {
		p.side.counters.Counter("sip.refused.unknown_extension").Inc()
		p.edge.refuse(s, 420, "Bad Extension", "Unsupported", tags)
		return
	}
	// A hang-up is kept for the moment when the connection is back: the PBX
	// would never hear of it otherwise. All else is told at once, so that the
	// phone can turn to its second server.
	wasOpen := p.conn != nil
	if !p.side.cfg.Tunnel.Up() && !(method == "BYE" && wasOpen) || !p.open() {
		p.side.counters.Counter("sip.refused.tunnel_down").Inc()
		p.edge.refuse(s, 503, "Tunnel Down", "Retry-After", "10")
		return
	}
	if !wasOpen && (s.status >= 200 || m.Parse(s.request) != nil) {
		return // the session was lost meanwhile
	}
	if no := p.trackRequest(s, f, m); no != nil {
		p.edge.refuseFor(s, no)
		return
	}
	p.editRequestUp(f, m)
	if !p.forward() {
		p.legs.abandon(s.leg, m, "too complex")
		p.edge.refuse(s, 513, "Message Too Large")
	}
}

// trackRequest notes the leg of s and puts our relays into its SDP.
func (p *lanPhone) trackRequest(s *serverTx, f *flow, m *sipmsg.Message) *refusal {
	l, has, no := p.legs.admit(m, up, &p.sdp)
	if l == nil {
		return no
	}
	s.leg, l.flow = l, f
	b := l.dialogOf(m, up)
	l.notePeer(b, m)
	l.noteProxies(m)
	if !has {
		return nil
	}
	answer := string(m.Method()) == "PRACK" && b.delayed
	s.offer = !answer
	if !p.ensurePorts(l, f, up) {
		p.legs.abandon(l, m, noMediaPort.reason)
		return noMediaPort
	}
	p.sdpUp(l, b, m, answer)
	return nil
}

// sdpUp notes the phone's addresses and writes the relays' into m. p.sdp holds
// m's SDP.
func (p *lanPhone) sdpUp(l *leg, b *dialog, m *sipmsg.Message, answer bool) {
	if answer {
		b.delayed = false
		l.pbxAnswered(true)
	}
	l.peerSDP(&p.sdp.Description, up, answer)
	p.rewriteSDP(l, m, MediaPort.PBX)
}

// ensurePorts sees to a media port for every m-line of p.sdp.
// The phone on f finds them at the address of ours that it uses for SIP, or near
// what the SDP names, if it is the phone's own: it travels in direction from.
func (p *lanPhone) ensurePorts(l *leg, f *flow, from direction) bool {
	ctx, cancel := context.WithTimeout(context.Background(), allocWait)
	defer cancel()
	for i, m := range p.sdp.Media() {
		if m.Port == 0 || !m.OverUDP() {
			continue
		}
		if i >= maxMediaLines {
			return false
		}
		lan := f.media()
		if from == up {
			lan = p.side.mediaNear(m.Addr.Unmap(), lan)
		}
		if !p.ensurePort(ctx, l, l.line(i), lan, f) {
			p.side.counters.Counter(noMediaPort.counter).Inc()
			return false
		}
	}
	return true
}

// ensurePort gives the line a media port at lan, for the phone on f. One that it has
// already is moved there when the phone has come into another network since.
func (p *lanPhone) ensurePort(ctx context.Context, l *leg, line *mediaLine, lan netip.Addr, f *flow) bool {
	if line.port != nil {
		if line.near == f.media() {
			return true
		}
		if err := line.port.Move(lan); err != nil {
			return false
		}
		line.near = f.media()
		p.side.counters.Counter("media.moved.network").Inc()
		return true
	}
	port, err := p.side.cfg.Allocate(ctx, lan)
	if err != nil {
		return false
	}
	line.port, line.near, line.crossbar = port, f.media(), &p.side.crossbar
	line.connect(l)
	line.cross()
	return true
}

// ackFromPhone forwards the ACK of a 2xx; the others end here.
func (p *lanPhone) ackFromPhone(f *flow, m *sipmsg.Message) {
	if p.edge.ack(m) || p.conn == nil {
		return
	}
	l, has, no := p.legs.admit(m, up, &p.sdp)
	if no != nil {
		return
	}
	if l != nil {
		l.flow = f
		if has && p.ensurePorts(l, f, up) {
			p.sdpUp(l, l.dialogOf(m, up), m, true)
		}
	}
	p.editRequestUp(f, m)
	p.forward()
}

// cancelFromPhone answers a CANCEL, which is hop by hop, and sends one on.
func (p *lanPhone) cancelFromPhone(f *flow, m *sipmsg.Message) {
	s := p.edge.servers[methodKey(m, "INVITE")]
	f.send(answerCancel(m, s))
	if s == nil || s.status >= 200 || s.cancel {
		return
	}
	s.cancel = true
	p.editRequestUp(f, m)
	p.forward()
}

func (p *lanPhone) responseFromPhone(m *sipmsg.Message) {
	c := p.edge.findClient(m)
	if c == nil {
		p.side.counters.Counter("sip.dropped.stray_response").Inc()
		return
	}
	if c.invite && m.StatusCode() >= 300 || c.cancel != nil { // ACK or CANCEL follows
		p.reconnect(c)
	}
	f := c.peer.(*flow)
	if !p.edge.response(c, m) {
		return
	}
	if c.orphaned(m) {
		p.edge.endLateCall(c, m, f.via(), nil)
		return
	}
	if l := c.leg; l != nil && !l.ended {
		b := p.legs.dialogIn(l, m, down)
		l.notePeer(b, m)
		p.noteProxiesIn(l, b, f, m)
		p.legs.response(l, m, down)
		if c.offer && m.StatusCode() >= 300 {
			l.pbxAnswered(false)
		}
		if has, no := p.sdp.find(m); no == nil && has && m.StatusCode() < 300 && p.ensurePorts(l, f, up) {
			l.enter(b)
			p.sdpUp(l, b, m, c.offer)
			b.delayed = b.delayed || !c.offer
		}
	}
	m.PopVia()
	p.removeOwnRecordRoute(f, m)
	stripOutbound(m)
	p.forward()
}

// timedOut answers the PBX for a phone that does not.
func (p *lanPhone) timedOut(c *clientTx) { answerTimeout(c, p.toTunnel, p.legs) }
