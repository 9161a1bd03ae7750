package sipfwd

import (
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// What the tunnel brings for the PBX.

func (p *pbxPhone) fromTunnel(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.count("sip.refused.malformed")
		if res := badRequest(m, err, netip.AddrPort{}); res != nil {
			p.toTunnel(res)
		}
		return
	}
	switch {
	case p.ended:
		// Another session of the credential has the phone's port.
		p.count("sip.refused.port_taken_over")
		if m.IsRequest() && string(m.Method()) != "ACK" {
			p.side.cfg.Send(p.id, responseTo(m, 503, "Phone Taken Over", randomHex(), "Retry-After", "30"))
		}
	case !m.IsRequest():
		p.responseFromTunnel(m)
	case string(m.Method()) == "CANCEL":
		if c := p.edge.findUp(methodKey(m, "INVITE")); c != nil {
			p.edge.cancelClient(c, cancelFor(c, m))
		} else {
			p.count("sip.dropped.stray_cancel")
		}
	default:
		p.requestFromTunnel(m)
	}
}

func (p *pbxPhone) requestFromTunnel(m *sipmsg.Message) {
	method := string(m.Method())
	refuse := func(no *refusal) {
		if method != "ACK" {
			p.toTunnel(responseTo(m, no.status, no.reason, randomHex(), no.headers...))
		}
	}
	if !oneHopLess(m) {
		p.count(tooManyHops.counter)
		refuse(tooManyHops)
		return
	}
	l, has, no := p.legs.admit(m, up, &p.sdp)
	offer := false
	if no == nil && l != nil {
		b := l.dialogOf(m, up)
		b.noteContact(m)
		if has {
			answer := method == "ACK" || method == "PRACK" && b.delayed
			offer, no = !answer, p.relaysNamed(l, b, answer)
		}
	}
	if no != nil {
		refuse(no)
		p.legs.abandon(l, m, no.reason)
		return
	}
	var contacts map[string]*pbxBinding
	if method == "REGISTER" {
		if no := checkContacts(m); no != nil {
			p.count(no.counter)
			refuse(no)
			return
		}
		contacts = p.registering(m)
	}
	p.rewriteContacts(m, contacts)
	stripOutbound(m)
	// A route set through the office would lead the PBX's requests to
	// addresses that it cannot reach, or that a client chose.
	m.RemoveAll(sipmsg.RecordRoute)
	branch := newBranch()
	if method == "ACK" {
		branch = ackBranch(m)
	}
	m.PushVia([]byte(p.via() + ";branch=" + branch))
	peer := p.port.hopTo(p.target(l))
	if peer.reliable() {
		m.EnsureContentLength()
	}
	out := appendEdited(nil, m, p.side.counters)
	if method == "ACK" {
		peer.send(out)
		return
	}
	if no := unsendable(peer, out); no != nil {
		p.count(no.counter)
		refuse(no)
		p.legs.abandon(l, m, no.reason)
		return
	}
	c := p.edge.newClient(branch, method, requestKey(m), out, peer)
	if c == nil {
		refuse(noRoomLeft)
		p.legs.abandon(l, m, noRoomLeft.reason)
		return
	}
	c.leg, c.offer, c.contacts, c.inDialog = l, offer, contacts, m.ToTag() != nil
	p.watch(c)
}

// relaysNamed notes which relays the phone's SDP, in p.sdp, names for the m-lines
// of l.
func (p *pbxPhone) relaysNamed(l *leg, b *dialog, answer bool) *refusal {
	media := p.sdp.Media()
	relays := make([]Relay, len(media))
	for i := range media {
		if media[i].Port == 0 {
			continue
		}
		relay, ok := namedRelay(&media[i], p.side.cfg.Relay)
		if !ok || i >= maxMediaLines {
			p.count(foreignMedia.counter)
			return foreignMedia
		}
		relays[i] = relay
	}
	l.noteHold(&p.sdp.Description, up)
	for i, relay := range relays {
		if relay == nil {
			continue
		}
		if line := l.line(i); line.relay == nil || line.relayAt != media[i].RTPAddr() {
			if line.relay != nil {
				line.relay.SetRemote(netip.AddrPort{}, netip.AddrPort{})
			}
			line.relay, line.relayAt = relay, media[i].RTPAddr()
			line.connect(l)
		}
	}
	if answer {
		b.delayed = false
		l.answered()
	}
	return nil
}

func (p *pbxPhone) responseFromTunnel(m *sipmsg.Message) {
	s := p.edge.servers[requestKey(m)]
	if s == nil {
		p.count("sip.dropped.stray_response")
		return
	}
	status, l := m.StatusCode(), s.leg
	if no := p.responseSDPUp(s, l, m, status); no != nil {
		p.edge.refuseFor(s, no)
		if l != nil && l.answeredAt.IsZero() {
			p.legs.finish(l, no.reason)
		}
		return
	}
	if l != nil {
		if status < 300 {
			p.legs.dialogIn(l, m, down).noteContact(m)
		}
		p.legs.response(l, m, down)
	}
	if !redirects(status) {
		p.rewriteContacts(m, nil)
	}
	p.keepRecordRoutes(s, m)
	stripOutbound(m)
	if s.peer.reliable() {
		m.EnsureContentLength()
	}
	p.edge.respond(s, m, appendEdited(nil, m, p.side.counters))
}

func (p *pbxPhone) responseSDPUp(s *serverTx, l *leg, m *sipmsg.Message, status int) *refusal {
	if status >= 300 {
		if s.offer && l != nil {
			l.rejected()
		}
		return nil
	}
	has, no := p.sdp.find(m)
	switch {
	case no != nil:
		p.count(no.counter)
		return no
	case !has:
		return nil
	case l == nil || l.ended:
		p.count(noSuchCall.counter)
		return noSuchCall
	}
	b := p.legs.dialogIn(l, m, down)
	b.delayed = b.delayed || !s.offer
	return p.relaysNamed(l, b, s.offer)
}

// keepRecordRoutes removes from the response m what the PBX did not put into its
// request: the PBX makes its route set of it (RFC 3261 section 12.1.2).
func (p *pbxPhone) keepRecordRoutes(s *serverTx, m *sipmsg.Message) {
	if _, has := m.Header(sipmsg.RecordRoute); !has {
		return
	}
	own := make(map[string]bool)
	if s.routed {
		var req sipmsg.Message
		if req.Parse(s.request) != nil {
			return
		}
		for it := req.Values(sipmsg.RecordRoute); it.Next(); {
			own[string(it.Bytes())] = true
		}
	}
	m.RemoveValues(sipmsg.RecordRoute, func(at sipmsg.Values) bool { return !own[string(at.Bytes())] })
}

// noteContact keeps where the phone, which has sent m, wants the dialog's requests.
func (b *dialog) noteContact(m *sipmsg.Message) {
	if c := contactURI(m); c != "" {
		b.contact = c
	}
}
