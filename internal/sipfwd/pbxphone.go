package sipfwd

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

var (
	errSessionOver   = errors.New("the session is over")
	errTooManyPhones = errors.New("too many phones in this session")
)

// pbxPhone is a phone of a session as the PBX sees it: a user agent at a port
// of its own. The port's reader, the tunnel's reader and timers hold mu while
// they work.
type pbxPhone struct {
	side *PBXSide
	id   uint32
	key  string
	port *phonePort

	mu       sync.Mutex
	edge     *edge
	legs     *legTable
	bindings []*pbxBinding
	ended    bool // the session is over: answer 480

	msg sipmsg.Message
	sdp sdp.Description
	out []byte // of one message, toward the tunnel
}

func newPBXPhone(s *PBXSide, id uint32, key string) *pbxPhone {
	p := &pbxPhone{side: s, id: id, key: key}
	p.edge = newEdge(&p.mu, s.counters, p.timedOut)
	p.legs = newLegTable(p.edge, s.cfg.Events, p.releaseMedia)
	return p
}

func (p *pbxPhone) count(name string) { p.side.counters.Counter(name).Inc() }

func (p *pbxPhone) toTunnel(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if p.ended {
		p.count("sip.dropped.tunnel_down")
		return
	}
	p.side.cfg.Send(p.id, msg)
}

func (p *pbxPhone) forward() {
	p.out = appendEdited(p.out[:0], &p.msg, p.side.counters)
	p.toTunnel(p.out)
}

// pbx is where requests of the phone go, whatever they say.
func (p *pbxPhone) pbx() pbxHop { return pbxHop{p.port, p.side.cfg.PBX} }

func (p *pbxPhone) via() string { return "SIP/2.0/UDP " + p.port.addr.String() }

// --- up: what the tunnel brings ----------------------------------------------

func (p *pbxPhone) fromTunnel(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.count("sip.refused.malformed")
		if res := badRequest(m, err); res != nil {
			p.toTunnel(res)
		}
		return
	}
	if !m.IsRequest() {
		p.responseFromTunnel(m)
		return
	}
	if string(m.Method()) == "CANCEL" {
		if c := p.edge.findUp(methodKey(m, "INVITE")); c != nil {
			p.edge.cancelClient(c, cancelFor(c, m))
		} else {
			p.count("sip.dropped.stray_cancel")
		}
		return
	}
	p.requestFromTunnel(m)
}

func (p *pbxPhone) requestFromTunnel(m *sipmsg.Message) {
	method := string(m.Method())
	refuse := func(status int, reason string, headers ...string) {
		if method != "ACK" {
			p.toTunnel(responseTo(m, status, reason, randomHex(), headers...))
		}
	}
	n, has := m.MaxForwards()
	switch {
	case !has:
		m.SetMaxForwards(70)
	case n == 0:
		p.count("sip.refused.too_many_hops")
		refuse(483, "Too Many Hops")
		return
	default:
		m.SetMaxForwards(n - 1)
	}
	l := p.legs.find(m, up)
	if createsDialog(m) {
		if l = p.legs.open(m, up); l == nil {
			refuse(503, "Too Many Calls", "Retry-After", "10")
			return
		}
	}
	offer := false
	if l != nil {
		p.legs.request(l, m, up)
		p.noteContact(l, m)
		ok, isOffer := p.requestSDPUp(l, m)
		if !ok {
			refuse(488, "Not Acceptable Here", "Warning", `399 tunneld "SDP names an address that is not a relay of this session"`)
			if m.ToTag() == nil && l.info.Answered.IsZero() {
				p.legs.drop(l, "SDP refused")
			}
			return
		}
		offer = isOffer
	}
	if method == "REGISTER" {
		p.registering(m)
	}
	upKey := requestKey(m)
	p.rewriteContacts(m)
	stripOutbound(m)
	branch := newBranch()
	m.PushVia([]byte(p.via() + ";branch=" + branch))
	out := appendEdited(nil, m, p.side.counters)
	if method == "ACK" {
		p.pbx().send(out)
		return
	}
	c := p.edge.newClient(branch, method, upKey, out, p.pbx())
	if c == nil {
		refuse(503, "Service Unavailable", "Retry-After", "10")
		return
	}
	c.leg, c.offer = l, offer
}

// requestSDPUp checks the SDP of a request of the phone and notes its relays.
func (p *pbxPhone) requestSDPUp(l *leg, m *sipmsg.Message) (ok, offer bool) {
	_, _, has, err := findSDP(m, &p.sdp)
	if err != nil {
		p.count("sip.refused.malformed_sdp")
		return false, false
	}
	if !has {
		return true, false
	}
	method := string(m.Method())
	answer := method == "ACK" || method == "PRACK" && l.delayed
	return p.relaysNamed(l, answer), !answer
}

// relaysNamed notes which relays the phone's SDP, in p.sdp, names for the m-lines
// of l. It refuses SDP that names anything else: nobody may use the tunnel to
// send a PBX's media to a third address.
func (p *pbxPhone) relaysNamed(l *leg, answer bool) bool {
	media := p.sdp.Media()
	relays := make([]Relay, len(media))
	for i, m := range media {
		if m.Port == 0 {
			continue
		}
		at := m.RTPAddr()
		if at.IsValid() && at.Addr().IsUnspecified() {
			continue // hold, RFC 2543 style
		}
		relay, ok := p.side.cfg.Relay(at)
		if i >= maxMediaLines || !ok || !ownRTCP(at, m.RTCPAddr()) {
			p.count("sip.refused.foreign_media_address")
			return false
		}
		relays[i] = relay
	}
	l.noteHold(&p.sdp, up)
	for i, relay := range relays {
		if line := l.line(i); relay != nil && (line.relay == nil || line.relayAt != media[i].RTPAddr()) {
			if line.relay != nil {
				line.relay.SetRemote(netip.AddrPort{}, netip.AddrPort{})
			}
			line.relay, line.relayAt = relay, media[i].RTPAddr()
			line.connect(l)
		}
	}
	if answer {
		l.delayed = false
		l.answered()
	}
	return true
}

// ownRTCP says whether rtcp belongs to the relay at rtp.
func ownRTCP(rtp, rtcp netip.AddrPort) bool {
	return !rtcp.IsValid() || rtcp.Addr() == rtp.Addr() && (rtcp.Port() == rtp.Port() || rtcp.Port() == rtp.Port()+1)
}

func (p *pbxPhone) responseFromTunnel(m *sipmsg.Message) {
	s := p.edge.servers[requestKey(m)]
	if s == nil {
		p.count("sip.dropped.stray_response")
		return
	}
	status := m.StatusCode()
	if l := s.leg; l != nil {
		if status < 300 {
			p.noteContact(l, m)
		}
		if !p.responseSDPUp(s, l, m, status) {
			p.edge.refuse(s, 488, "Not Acceptable Here")
			p.legs.finish(l, "SDP refused")
			return
		}
		p.legs.response(l, m, down)
	}
	if status/100 != 3 {
		p.rewriteContacts(m)
	}
	stripOutbound(m)
	p.edge.respond(s, status, appendEdited(nil, m, p.side.counters))
}

func (p *pbxPhone) responseSDPUp(s *serverTx, l *leg, m *sipmsg.Message, status int) bool {
	if status >= 300 {
		if s.offer {
			l.rejected()
		}
		return true
	}
	_, _, has, err := findSDP(m, &p.sdp)
	if err != nil {
		p.count("sip.refused.malformed_sdp")
		return false
	}
	if !has {
		return true
	}
	l.delayed = l.delayed || !s.offer
	return p.relaysNamed(l, s.offer)
}

// noteContact keeps where the phone wants the dialog's requests.
func (p *pbxPhone) noteContact(l *leg, m *sipmsg.Message) {
	if c := contactURI(m); c != nil {
		l.contact = bytes.Clone(c)
	}
}

// timedOut answers the phone for a PBX that does not.
func (p *pbxPhone) timedOut(c *clientTx) {
	p.count("sip.timeout.pbx")
	answerTimeout(c, p.toTunnel, p.legs)
}

// --- down: what the PBX sends --------------------------------------------------

func (p *pbxPhone) fromPBX(from netip.AddrPort, b []byte) {
	if len(bytes.Trim(b, "\r\n\x00 ")) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := &p.msg
	if err := m.Parse(b); err != nil {
		p.count("sip.refused.malformed")
		if res := badRequest(m, err); res != nil {
			pbxHop{p.port, from}.send(res)
		}
		return
	}
	if !m.IsRequest() {
		p.responseFromPBX(m)
		return
	}
	switch string(m.Method()) {
	case "ACK":
		p.ackFromPBX(m)
	case "CANCEL":
		p.cancelFromPBX(from, m)
	default:
		if !p.edge.retransmission(m) {
			p.requestFromPBX(from, m)
		}
	}
}

// replyTo is where responses to the request m go, RFC 3261 section 18.2.2 and
// RFC 3581.
func replyTo(from netip.AddrPort, m *sipmsg.Message) netip.AddrPort {
	via, _ := m.TopVia()
	if via.HasRPort {
		return from
	}
	port := via.Port
	if port == 0 {
		port = 5060
	}
	return netip.AddrPortFrom(from.Addr(), uint16(port))
}

func (p *pbxPhone) requestFromPBX(from netip.AddrPort, m *sipmsg.Message) {
	peer := pbxHop{p.port, replyTo(from, m)}
	s := p.edge.newServer(m, peer)
	if s == nil {
		peer.send(responseTo(m, 503, "Service Unavailable", randomHex(), "Retry-After", "10"))
		return
	}
	if p.ended {
		p.count("sip.refused.session_over")
		p.edge.refuse(s, 480, "Office Not Connected")
		return
	}
	l := p.legs.find(m, down)
	uri, ok := p.phoneURI(l, m)
	if !ok {
		if string(m.Method()) == "OPTIONS" && userOf(m.RequestURI()) == "" {
			p.edge.refuse(s, 200, "OK", "Accept", "application/sdp")
			return
		}
		p.count("sip.refused.no_such_phone")
		p.edge.refuse(s, 404, "No Such Phone")
		return
	}
	if createsDialog(m) {
		if l = p.legs.open(m, down); l == nil {
			p.edge.refuse(s, 503, "Too Many Calls", "Retry-After", "10")
			return
		}
	}
	s.leg = l
	if l != nil {
		p.notePeer(l, m)
		p.legs.request(l, m, down)
		_, _, has, err := findSDP(m, &p.sdp)
		if err != nil {
			p.count("sip.refused.malformed_sdp")
			p.edge.refuse(s, 488, "Malformed SDP")
			return
		}
		if has {
			answer := string(m.Method()) == "PRACK" && l.delayed
			s.offer = !answer
			p.sdpDown(l, answer)
		}
	}
	m.SetViaReceived(from.Addr(), from.Port())
	m.SetRequestURI(uri)
	stripOutbound(m)
	p.forward()
}

func (p *pbxPhone) sdpDown(l *leg, answer bool) {
	if answer {
		l.delayed = false
	}
	l.peerSDP(&p.sdp, down, answer)
}

// notePeer keeps what a BYE of our own to the PBX would need.
func (p *pbxPhone) notePeer(l *leg, m *sipmsg.Message) {
	if !l.isCall {
		return
	}
	if c := contactURI(m); c != nil {
		l.peerTarget = bytes.Clone(c)
	}
	if l.routes == nil && (m.IsRequest() || m.StatusCode() >= 200) {
		l.routes = recordRoutes(m, !m.IsRequest())
	}
}

func (p *pbxPhone) ackFromPBX(m *sipmsg.Message) {
	if p.edge.ack(m) || p.ended {
		return
	}
	l := p.legs.find(m, down)
	uri, ok := p.phoneURI(l, m)
	if !ok {
		p.count("sip.dropped.no_such_phone")
		return
	}
	if l != nil {
		if _, _, has, err := findSDP(m, &p.sdp); err == nil && has {
			p.sdpDown(l, true)
		}
	}
	m.SetRequestURI(uri)
	p.forward()
}

func (p *pbxPhone) cancelFromPBX(from netip.AddrPort, m *sipmsg.Message) {
	peer := pbxHop{p.port, replyTo(from, m)}
	s := p.edge.servers[methodKey(m, "INVITE")]
	if s == nil {
		peer.send(responseTo(m, 481, "Call/Transaction Does Not Exist", randomHex()))
		return
	}
	peer.send(responseTo(m, 200, "OK", randomHex()))
	if s.status >= 200 || s.cancel {
		return
	}
	s.cancel = true
	m.SetViaReceived(from.Addr(), from.Port())
	p.forward()
}

func (p *pbxPhone) responseFromPBX(m *sipmsg.Message) {
	c := p.edge.findClient(m)
	if c == nil {
		p.count("sip.dropped.stray_response")
		return
	}
	if !p.edge.response(c, m) || p.ended {
		return
	}
	status := m.StatusCode()
	if l := c.leg; l != nil {
		if status < 300 {
			p.notePeer(l, m)
		}
		p.legs.response(l, m, up)
		if _, _, has, err := findSDP(m, &p.sdp); err == nil && has && status < 300 {
			p.sdpDown(l, c.offer)
			l.delayed = l.delayed || !c.offer
		}
	}
	if c.key.method == "REGISTER" && status >= 200 {
		p.registered(c, m, status)
	}
	m.PopVia()
	stripOutbound(m)
	p.forward()
}

// end is the end of the session for this phone: calls are ended toward the PBX,
// and whatever it sends from now on is answered 480.
func (p *pbxPhone) end(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	for _, s := range p.edge.servers {
		if s.status < 200 {
			p.edge.refuse(s, 480, "Office Not Connected")
		}
	}
	for _, c := range p.edge.clients {
		if c.invite && c.status < 200 {
			p.edge.cancelClient(c, ownCancel(c.request))
		}
	}
	for _, l := range p.legs.all() {
		if l.isCall && !l.ended && !l.info.Answered.IsZero() && l.peerTarget != nil {
			b := l.bye(up, p.via(), `SIP;cause=503;text="Tunnel lost"`)
			p.edge.newClient(b.branch, "BYE", txKey{}, b.message(), p.pbx())
		}
		p.legs.drop(l, reason)
	}
	p.ended = true
	life := txTimeout
	for _, b := range p.bindings {
		b.expiry.stop()
		life = max(life, time.Until(b.Expires)+legLinger)
		p.side.cfg.Events.PhoneGone(p.info(b), reason)
	}
	p.port.release(p, life)
}

// releaseMedia stops the relays of a leg that is over; the client frees them.
func (p *pbxPhone) releaseMedia(l *leg) {
	for _, line := range l.lines {
		if line.relay != nil {
			line.relay.SetRemote(netip.AddrPort{}, netip.AddrPort{})
			line.relay = nil
		}
	}
}
