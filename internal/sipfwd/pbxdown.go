package sipfwd

import (
	"bytes"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// What the PBX sends to a phone's port.

func (p *pbxPhone) fromPBX(from source, b []byte) {
	if len(bytes.Trim(b, "\r\n\x00 ")) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.count("sip.refused.malformed")
		if res := badRequest(m, err, from.addr); res != nil {
			p.port.backTo(from, p.owner(from)).send(res)
		}
		return
	}
	p.handle(from, m)
}

// finishes handles what belongs to a transaction that was begun when the port
// was this phone's. It reports false for all else.
func (p *pbxPhone) finishes(from source, b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &p.msg
	if m.Parse(b) != nil {
		return false
	}
	if m.IsRequest() && p.edge.servers[requestKey(m)] == nil || !m.IsRequest() && p.edge.findClient(m) == nil {
		return false
	}
	p.handle(from, m)
	return true
}

func (p *pbxPhone) handle(from source, m *sipmsg.Message) {
	countRepairs(m, p.side.counters)
	if !m.IsRequest() {
		p.responseFromPBX(m)
		return
	}
	owner := p.owner(from)
	peer := p.port.replyTo(from, owner, m)
	m.SetViaReceived(from.addr.Addr(), from.addr.Port())
	switch string(m.Method()) {
	case "ACK":
		p.ackFromPBX(m)
	case "CANCEL":
		p.cancelFromPBX(peer, m)
	default:
		if !p.edge.retransmission(m) {
			p.requestFromPBX(peer, owner, m)
		}
	}
}

// requestFromPBX handles the request m of the target owner, to be answered to peer.
func (p *pbxPhone) requestFromPBX(peer hop, owner netip.AddrPort, m *sipmsg.Message) {
	s := p.edge.newServer(m, peer)
	if s == nil {
		return
	}
	if p.ended {
		p.count("sip.refused.session_over")
		p.edge.refuse(s, 480, "Office Not Connected")
		return
	}
	if tags, has := unknownExtensions(m); has {
		p.count("sip.refused.unknown_extension")
		p.edge.refuse(s, 420, "Bad Extension", "Unsupported", tags)
		return
	}
	uri, ok := p.phoneURI(p.legs.find(m, down), m)
	if !ok {
		if isOtherScheme(m.RequestURI()) {
			p.count(unknownScheme.counter)
			p.edge.refuseFor(s, unknownScheme)
			return
		}
		if string(m.Method()) == "OPTIONS" && userOf(m.RequestURI()) == "" {
			p.edge.refuse(s, 200, "OK", "Accept", "application/sdp")
			return
		}
		p.count("sip.refused.no_such_phone")
		p.edge.refuse(s, 404, "No Such Phone")
		return
	}
	l, has, no := p.legs.admit(m, down, &p.sdp)
	if no != nil {
		p.edge.refuseFor(s, no)
		return
	}
	s.leg = l
	if l != nil {
		l.target = owner
		b := l.dialogOf(m, down)
		p.notePeer(l, b, m)
		if has {
			answer := string(m.Method()) == "PRACK" && b.delayed
			s.offer = !answer
			p.sdpDown(l, b, answer)
		}
	}
	m.SetRequestURI(uri)
	p.stripOwnRoutes(m)
	stripOutbound(m)
	if !p.forward() {
		p.legs.abandon(l, m, "too complex")
		p.edge.refuse(s, 513, "Message Too Large")
	}
}

func (p *pbxPhone) sdpDown(l *leg, b *dialog, answer bool) {
	if answer {
		b.delayed = false
	}
	l.peerSDP(&p.sdp.Description, down, answer)
}

// notePeer keeps what a BYE of our own to the PBX would need.
func (p *pbxPhone) notePeer(l *leg, b *dialog, m *sipmsg.Message) {
	l.notePeer(b, m)
	if l.isCall && b.routes == nil && (m.IsRequest() || m.StatusCode() >= 200) {
		b.routes = recordRoutes(m, !m.IsRequest())
	}
}

func (p *pbxPhone) ackFromPBX(m *sipmsg.Message) {
	if p.edge.ack(m) || p.ended {
		return
	}
	l, has, no := p.legs.admit(m, down, &p.sdp)
	if no != nil {
		return
	}
	uri, ok := p.phoneURI(l, m)
	if !ok {
		p.count("sip.dropped.no_such_phone")
		return
	}
	if has {
		p.sdpDown(l, l.dialogOf(m, down), true)
	}
	m.SetRequestURI(uri)
	p.stripOwnRoutes(m)
	stripOutbound(m)
	p.forward()
}

func (p *pbxPhone) cancelFromPBX(peer hop, m *sipmsg.Message) {
	s := p.edge.servers[methodKey(m, "INVITE")]
	peer.send(answerCancel(m, s))
	if s == nil || s.status >= 200 || s.cancel {
		return
	}
	s.cancel = true
	p.stripOwnRoutes(m)
	stripOutbound(m)
	p.forward()
}

func (p *pbxPhone) responseFromPBX(m *sipmsg.Message) {
	c := p.edge.findClient(m)
	if c == nil {
		p.count("sip.dropped.stray_response")
		return
	}
	if !p.edge.advance(c, m) {
		return
	}
	status, l := m.StatusCode(), c.leg
	switch {
	case c.orphaned(m):
		p.edge.endLateCall(c, m, p.via(), recordRoutes(m, true))
		return
	case c.up == txKey{}, p.ended:
		return
	case status == 503 && !c.inDialog && p.elsewhere(c, "sip.failover.pbx_unavailable"):
		return // RFC 3263 section 4.3
	}
	if l != nil && !l.ended {
		l.target = targetOf(c.peer)
		b := p.legs.dialogIn(l, m, up)
		if status < 300 {
			p.notePeer(l, b, m)
		}
		p.legs.response(l, m, up)
		if has, no := p.sdp.find(m); no == nil && has && status < 300 {
			l.enter(b)
			p.sdpDown(l, b, c.offer)
			b.delayed = b.delayed || !c.offer
		}
	}
	if c.key.method == "REGISTER" && status >= 200 {
		p.registered(c, m, status)
	}
	m.PopVia()
	stripOutbound(m)
	p.forward()
}
