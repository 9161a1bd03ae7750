package sipfwd

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// inbound is a message that waits for its phone. b is the phone's own.
type inbound struct {
	flow *flow
	b    []byte
}

// lanPhone is a phone of the office. Its goroutine serve handles what the phone
// sends, in order; another one reads what the tunnel brings. Both hold mu while
// they work, as timers do.
type lanPhone struct {
	side  *LANSide
	key   string
	inbox chan inbound

	mu       sync.Mutex
	conn     net.PacketConn // nil until the tunnel has opened it
	edge     *edge
	legs     *legTable
	bindings map[string]*lanBinding // by Contact URI
	flow     *flow                  // heard last
	lastUsed time.Time
	closed   bool

	msg sipmsg.Message
	sdp sdp.Description
	out []byte // of one message, toward the tunnel
}

// lanBinding is a Contact of a phone that the PBX has accepted.
type lanBinding struct {
	info    PhoneInfo
	flow    *flow
	expires slot
}

func newLANPhone(s *LANSide, key string) *lanPhone {
	p := &lanPhone{
		side: s, key: key, inbox: make(chan inbound, phoneInbox),
		bindings: make(map[string]*lanBinding), lastUsed: time.Now(),
	}
	p.edge = newEdge(&p.mu, s.counters, p.timedOut)
	p.legs = newLegTable(p.edge, s.cfg.Events, p.releaseMedia)
	return p
}

// serve owns the phone from its first message to the end.
func (p *lanPhone) serve() {
	defer p.side.wg.Done()
	idle := time.NewTicker(phoneIdle)
	defer idle.Stop()
	for {
		select {
		case in := <-p.inbox:
			p.fromPhone(in.flow, in.b)
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
	p.mu.Lock()
	busy := len(p.bindings) > 0 || p.legs.count > 0 || len(p.edge.servers) > 0 || len(p.edge.clients) > 0 ||
		time.Since(p.lastUsed) < phoneIdle
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
	for _, b := range p.bindings {
		b.expires.stop()
	}
	if p.conn != nil {
		p.conn.Close()
	}
}

// open makes sure that the tunnel knows the phone.
func (p *lanPhone) open() bool {
	if p.conn != nil {
		return true
	}
	if p.closed {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	conn, err := p.side.cfg.Tunnel.OpenPhone(ctx, p.key)
	if err != nil {
		p.side.counters.Counter("sip.refused.phone_not_opened").Inc()
		return false
	}
	p.conn = conn
	p.side.wg.Add(1)
	go func() {
		defer p.side.wg.Done()
		p.readTunnel(conn)
	}()
	return true
}

func (p *lanPhone) readTunnel(conn net.PacketConn) {
	buf := make([]byte, maxMessage)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			p.mu.Lock()
			if p.conn == conn {
				p.conn = nil
			}
			p.mu.Unlock()
			return
		}
		p.fromTunnel(buf[:n])
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

// forward sends the edited message p.msg into the tunnel.
func (p *lanPhone) forward() {
	p.out = appendEdited(p.out[:0], &p.msg, p.side.counters)
	p.toTunnel(p.out)
}

// --- up: what the phone sends ------------------------------------------------

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
	if !m.IsRequest() {
		p.responseFromPhone(m)
		return
	}
	p.flow = f
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
		f.send(responseTo(m, 503, "Service Unavailable", randomHex(), "Retry-After", "10"))
		return
	}
	method := string(m.Method())
	if method == "OPTIONS" && p.addressedToUs(f, m.RequestURI()) && userOf(m.RequestURI()) == "" {
		p.edge.refuse(s, 200, "OK", "Accept", "application/sdp", "Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER")
		return
	}
	// A hang-up is kept for the moment when the connection is back: the PBX
	// would never hear of it otherwise. All else is told at once, so that the
	// phone can turn to its second server.
	if (!p.side.cfg.Tunnel.Up() && !(method == "BYE" && p.conn != nil)) || !p.open() {
		p.side.counters.Counter("sip.refused.tunnel_down").Inc()
		p.edge.refuse(s, 503, "Tunnel Down", "Retry-After", "10")
		return
	}
	if !p.trackRequest(s, f, m) {
		return
	}
	p.editRequestUp(f, m)
	p.forward()
}

// trackRequest notes the leg of s and puts our relays into its SDP. It reports
// false when the request has been refused.
func (p *lanPhone) trackRequest(s *serverTx, f *flow, m *sipmsg.Message) bool {
	if createsDialog(m) {
		if s.leg = p.legs.open(m, up); s.leg == nil {
			p.edge.refuse(s, 503, "Too Many Calls", "Retry-After", "10")
			return false
		}
	} else {
		s.leg = p.legs.find(m, up)
	}
	l := s.leg
	if l == nil {
		return true
	}
	l.flow = f
	if c := contactURI(m); c != nil {
		l.peerTarget = bytes.Clone(c)
	}
	p.legs.request(l, m, up)
	_, _, has, err := findSDP(m, &p.sdp)
	if err != nil {
		p.side.counters.Counter("sip.refused.malformed_sdp").Inc()
		p.edge.refuse(s, 488, "Malformed SDP")
		return false
	}
	if !has {
		return true
	}
	answer := string(m.Method()) == "PRACK" && l.delayed
	s.offer = !answer
	if !p.ensurePorts(l) {
		p.edge.refuse(s, 503, "No Media Port", "Retry-After", "5")
		return false
	}
	p.sdpUp(l, m, answer)
	return true
}

// sdpUp notes the phone's addresses and writes the relays' into m. p.sdp holds
// m's SDP.
func (p *lanPhone) sdpUp(l *leg, m *sipmsg.Message, answer bool) {
	if answer {
		l.delayed = false
	}
	l.peerSDP(&p.sdp, up, answer)
	p.rewriteSDP(l, m, MediaPort.PBX)
}

// sdpDown writes our LAN ports into m, which comes from the PBX.
func (p *lanPhone) sdpDown(l *leg, m *sipmsg.Message, answer bool) {
	l.noteHold(&p.sdp, down)
	if answer {
		l.delayed = false
		l.answered()
	}
	p.rewriteSDP(l, m, MediaPort.LAN)
}

// ensurePorts allocates a media port for every m-line of p.sdp that has none.
func (p *lanPhone) ensurePorts(l *leg) bool {
	for i, m := range p.sdp.Media() {
		if m.Port == 0 {
			continue
		}
		if i >= maxMediaLines {
			return false
		}
		line := l.line(i)
		if line.port != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), allocWait)
		port, err := p.side.cfg.Allocate(ctx)
		cancel()
		if err != nil {
			p.side.counters.Counter("sip.refused.no_media_port").Inc()
			return false
		}
		line.port = port
		line.connect(l)
	}
	return true
}

// ackFromPhone forwards the ACK of a 2xx; the others end here.
func (p *lanPhone) ackFromPhone(f *flow, m *sipmsg.Message) {
	if p.edge.ack(m) || p.conn == nil {
		return
	}
	if l := p.legs.find(m, up); l != nil {
		l.flow = f
		if _, _, has, err := findSDP(m, &p.sdp); err != nil {
			p.side.counters.Counter("sip.dropped.malformed_sdp").Inc()
			return
		} else if has && p.ensurePorts(l) {
			p.sdpUp(l, m, true)
		}
	}
	p.editRequestUp(f, m)
	p.forward()
}

// cancelFromPhone answers a CANCEL, which is hop by hop, and sends one on.
func (p *lanPhone) cancelFromPhone(f *flow, m *sipmsg.Message) {
	s := p.edge.servers[methodKey(m, "INVITE")]
	if s == nil {
		f.send(responseTo(m, 481, "Call/Transaction Does Not Exist", randomHex()))
		return
	}
	f.send(responseTo(m, 200, "OK", randomHex()))
	if s.status >= 200 || s.cancel {
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
	if !p.edge.response(c, m) {
		return
	}
	if l := c.leg; l != nil {
		if contact := contactURI(m); contact != nil {
			l.peerTarget = bytes.Clone(contact)
		}
		p.legs.response(l, m, down)
		if _, _, has, err := findSDP(m, &p.sdp); err == nil && has && p.ensurePorts(l) {
			p.sdpUp(l, m, c.offer)
			l.delayed = l.delayed || !c.offer
		}
	}
	m.PopVia()
	p.removeOwnRecordRoute(m)
	stripOutbound(m)
	p.forward()
}

// timedOut answers the PBX for a phone that does not. Other requests than
// INVITE get no 408 from a proxy, RFC 4320 section 4.1.
func (p *lanPhone) timedOut(c *clientTx) { answerTimeout(c, p.toTunnel, p.legs) }

// --- down: what the tunnel brings --------------------------------------------

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
	upKey := requestKey(m)
	l := p.legs.find(m, down)
	if createsDialog(m) {
		l = p.legs.open(m, down)
		if l == nil {
			p.toTunnel(responseTo(m, 503, "Too Many Calls", randomHex(), "Retry-After", "10"))
			return
		}
	}
	f := p.route(l, m)
	if f == nil {
		p.side.counters.Counter("sip.refused.flow_gone").Inc()
		p.toTunnel(responseTo(m, 480, "Phone Not Connected", randomHex()))
		p.dropNewLeg(l, m, "phone not connected")
		return
	}
	if n, ok := m.MaxForwards(); ok {
		if n == 0 {
			p.toTunnel(responseTo(m, 483, "Too Many Hops", randomHex()))
			p.dropNewLeg(l, m, "too many hops")
			return
		}
		m.SetMaxForwards(n - 1)
	}
	offer := false
	if l != nil {
		l.flow = f
		p.legs.request(l, m, down)
		_, _, has, err := findSDP(m, &p.sdp)
		if err != nil || has && !p.ensurePorts(l) {
			p.toTunnel(responseTo(m, 488, "Not Acceptable Here", randomHex()))
			p.dropNewLeg(l, m, "no media port")
			return
		}
		if has {
			answer := string(m.Method()) == "PRACK" && l.delayed
			offer = !answer
			p.sdpDown(l, m, answer)
		}
	}
	if recordsRoute(m) {
		m.AddBefore(sipmsg.RecordRoute, "Record-Route", f.recordRoute())
	}
	branch := newBranch()
	m.PushVia([]byte(f.via() + ";branch=" + branch))
	method := string(m.Method())
	if f.reliable() {
		m.EnsureContentLength()
	}
	c := p.edge.newClient(branch, method, upKey, appendEdited(nil, m, p.side.counters), f)
	if c != nil {
		c.leg, c.offer = l, offer
	}
}

// dropNewLeg forgets a leg whose first request went nowhere.
func (p *lanPhone) dropNewLeg(l *leg, m *sipmsg.Message, reason string) {
	if l != nil && m.ToTag() == nil && l.info.Answered.IsZero() {
		p.legs.drop(l, reason)
	}
}

// route chooses the flow for a request to the phone: its dialog's, that of the
// binding that the Request-URI names, else where the phone was heard last.
// Never where a Contact points.
func (p *lanPhone) route(l *leg, m *sipmsg.Message) *flow {
	if l != nil && l.flow != nil && !l.flow.gone.Load() {
		return l.flow
	}
	if b := p.bindings[string(m.RequestURI())]; b != nil && !b.flow.gone.Load() {
		return b.flow
	}
	if p.flow != nil && !p.flow.gone.Load() {
		return p.flow
	}
	return nil
}

func (p *lanPhone) ackFromTunnel(m *sipmsg.Message) {
	l := p.legs.find(m, down)
	f := p.route(l, m)
	if f == nil {
		p.side.counters.Counter("sip.dropped.flow_gone").Inc()
		return
	}
	if l != nil {
		if _, _, has, err := findSDP(m, &p.sdp); err == nil && has && p.ensurePorts(l) {
			p.sdpDown(l, m, true)
		}
	}
	if n, ok := m.MaxForwards(); ok && n > 0 {
		m.SetMaxForwards(n - 1)
	}
	m.PushVia([]byte(f.via() + ";branch=" + newBranch()))
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
	p.edge.cancelClient(c, cancelFor(c, m))
}

func (p *lanPhone) responseFromTunnel(m *sipmsg.Message) {
	s := p.edge.servers[requestKey(m)]
	if s == nil {
		p.strayResponse(m)
		return
	}
	status := m.StatusCode()
	if l := s.leg; l != nil {
		p.legs.response(l, m, up)
		p.responseSDPDown(s, l, m, status)
	}
	f := s.peer.(*flow)
	if status/100 == 2 && s.key.method == "REGISTER" {
		p.registered(f, m)
	}
	if status > 100 && status < 300 && m.ToTag() != nil && s.initial() {
		m.AddAfter(sipmsg.RecordRoute, "Record-Route", f.recordRoute())
	}
	stripOutbound(m)
	if f.reliable() {
		m.EnsureContentLength()
	}
	p.edge.respond(s, status, appendEdited(nil, m, p.side.counters))
}

func (p *lanPhone) responseSDPDown(s *serverTx, l *leg, m *sipmsg.Message, status int) {
	if status >= 300 {
		if s.offer {
			l.rejected()
		}
		return
	}
	if _, _, has, err := findSDP(m, &p.sdp); err == nil && has && p.ensurePorts(l) {
		p.sdpDown(l, m, s.offer)
		l.delayed = l.delayed || !s.offer
	}
}

// strayResponse forwards a 2xx to an INVITE whose transaction is over: the call
// exists and only the phone can end it. All else is dropped.
func (p *lanPhone) strayResponse(m *sipmsg.Message) {
	if m.StatusCode()/100 != 2 || string(m.Method()) != "INVITE" || p.flow == nil || p.flow.gone.Load() {
		p.side.counters.Counter("sip.dropped.stray_response").Inc()
		return
	}
	p.flow.send(appendEdited(nil, m, p.side.counters))
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
			p.edge.cancelClient(c, ownCancel(c.request))
		}
	}
	for _, l := range p.legs.all() {
		if l.isCall && !l.ended && !l.info.Answered.IsZero() && l.peerTarget != nil {
			if f := l.flow; f != nil && !f.gone.Load() {
				b := l.bye(down, f.via(), `SIP;cause=503;text="Tunnel lost"`)
				p.edge.newClient(b.branch, "BYE", txKey{}, b.message(), f)
			}
		}
		p.legs.drop(l, "tunnel lost: "+reason.Error())
	}
}

// releaseMedia closes the media ports of a leg that is over.
func (p *lanPhone) releaseMedia(l *leg) {
	for _, line := range l.lines {
		if line.port != nil {
			line.port.Close()
			line.port = nil
		}
	}
}
