package sipfwd

import (
	"bytes"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// editRequestUp makes the edits that the office half makes to every request of
// a phone: see the table in ARCHITECTURE.md.
func (p *lanPhone) editRequestUp(f *flow, m *sipmsg.Message) {
	if p.addressedToUs(f, m.RequestURI()) {
		if uri := p.inDomain(m.RequestURI()); uri != nil {
			m.SetRequestURI(uri)
		}
	}
	p.stripOwnRoutes(f, m)
	for _, k := range []sipmsg.Kind{sipmsg.ReferTo, sipmsg.ReferredBy} {
		it := m.Values(k)
		for it.Next() {
			a := it.Addr()
			if p.addressedToUs(f, a.URI) {
				if uri := p.inDomain(a.URI); uri != nil {
					m.Replace(a.URISpan, uri)
				}
			}
		}
	}
	stripOutbound(m)
}

// addressedToUs says whether uri names this proxy by an address that the phone on
// f may know: the one that it uses, or another one of this machine, which it has
// used in another network. The port may be another one than that of f: a phone over TLS asks
// a registrar that it knows by address alone.
func (p *lanPhone) addressedToUs(f *flow, uri []byte) bool {
	u, ok := sipmsg.ParseURI(uri)
	if !ok {
		return false
	}
	a, err := netip.ParseAddr(string(bytes.Trim(u.Host, "[]")))
	if err != nil || a != f.local.Addr() && a != f.at && a != p.side.cfg.LANAddress && !p.side.nearby.own(a) {
		return false
	}
	port := u.Port
	if port == 0 {
		port = defaultPort(u)
	}
	return port == int(f.local.Port()) || p.side.listensOn(port)
}

// defaultPort is the port of a URI that names none, RFC 3261 section 19.1.2.
func defaultPort(u sipmsg.URI) int {
	if v, _ := u.Param("transport"); bytes.EqualFold(v, []byte("tls")) || bytes.EqualFold(u.Scheme, []byte("sips")) {
		return 5061
	}
	return 5060
}

// inDomain is uri with the PBX's domain in place of our own address, nil while
// the domain is unknown.
func (p *lanPhone) inDomain(uri []byte) []byte {
	domain := p.side.cfg.Tunnel.Domain()
	u, ok := sipmsg.ParseURI(uri)
	if !ok || domain == "" {
		return nil
	}
	behind := len(u.Params)
	if u.Headers != nil {
		behind += len("?") + len(u.Headers)
	}
	out := append(append([]byte(nil), u.Scheme...), ':')
	if len(u.User) > 0 {
		out = append(append(out, u.User...), '@')
	}
	return append(append(out, domain...), uri[len(uri)-behind:]...)
}

// stripOwnRoutes removes the leading Route entries that name us, RFC 3261
// section 16.4. A name on top of a request that begins a dialog is ours too: it
// is the phone's outbound proxy, and here the request has come.
func (p *lanPhone) stripOwnRoutes(f *flow, m *sipmsg.Message) {
	leading, first := true, m.ToTag() == nil
	m.RemoveValues(sipmsg.Route, func(at sipmsg.Values) bool {
		uri := at.Addr().URI
		leading = leading && (p.addressedToUs(f, uri) || first && p.isOtherName(uri))
		first = false
		return leading
	})
}

// isOtherName says whether uri has a name for its host that is not the PBX's
// domain.
func (p *lanPhone) isOtherName(uri []byte) bool {
	u, ok := sipmsg.ParseURI(uri)
	if !ok || bytes.EqualFold(u.Host, []byte(p.side.cfg.Tunnel.Domain())) {
		return false
	}
	_, err := netip.ParseAddr(string(bytes.Trim(u.Host, "[]")))
	return err != nil
}

// removeOwnRecordRoute hides us from the PBX, which could not send to a LAN
// address.
func (p *lanPhone) removeOwnRecordRoute(f *flow, m *sipmsg.Message) {
	m.RemoveValues(sipmsg.RecordRoute, func(at sipmsg.Values) bool { return p.addressedToUs(f, at.Addr().URI) })
}

// rewriteSDP points the m-lines of p.sdp, which is m's, to the side of our
// media ports that where selects. Media over TCP, such as MSRP, is refused toward
// both, RFC 3264 section 5.1: the tunnel has no relays for it, and its address
// as it stands would be a third one.
func (p *lanPhone) rewriteSDP(l *leg, m *sipmsg.Message, where func(MediaPort) netip.AddrPort) {
	body := p.sdp.Rewrite(nil, func(i int, media sdp.Media) (sdp.Target, bool) {
		if !media.OverUDP() {
			p.side.counters.Counter("sip.edited.media_not_over_udp").Inc()
			return sdp.Target{Refused: true}, true
		}
		if i >= len(l.lines) || l.lines[i].port == nil {
			return sdp.Target{}, false
		}
		if media.PortCount != 1 {
			p.side.counters.Counter("sip.edited.range_of_ports").Inc()
		}
		port := l.lines[i].port
		at := where(port)
		return sdp.Target{
			RTP: at, RTCP: netip.AddrPortFrom(at.Addr(), at.Port()+1),
			Translated: port.LAN().Addr().Is4() != port.PBX().Addr().Is4(),
		}, true
	})
	m.SetBody(p.sdp.start, p.sdp.end, body)
}

// registered notes what the 2xx m to the REGISTER of s on f granted.
func (p *lanPhone) registered(s *serverTx, f *flow, m *sipmsg.Message) {
	aor := string(m.ToURI())
	granted := make(map[string]time.Duration)
	it := m.Values(sipmsg.Contact)
	for it.Next() {
		if a := it.Addr(); !a.Star && !isOtherScheme(a.URI) {
			granted[string(a.URI)] = grantedExpiry(m, a)
		}
	}
	var req sipmsg.Message
	if req.Parse(s.request) != nil {
		return
	}
	agent := headerText(&req, sipmsg.UserAgent)
	star := false
	for it := req.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		star = star || a.Star
		uri := string(a.URI)
		if life, ok := granted[uri]; ok && life > 0 {
			p.bind(a, aor, agent, string(m.CallID()), f, life)
		} else {
			p.unbind(uri, "unregistered")
		}
	}
	if star {
		for uri, b := range p.bindings {
			if _, still := granted[uri]; !still && b.info.AOR == aor {
				p.unbind(uri, "unregistered")
			}
		}
	}
}

// bind notes that the PBX knows the Contact a of the phone on f.
func (p *lanPhone) bind(a sipmsg.Addr, aor, agent, callID string, f *flow, life time.Duration) {
	uri := string(a.URI)
	b := p.bindings[uri]
	isNew := !p.reachable(aor)
	if b == nil {
		p.makeRoom()
		b = new(lanBinding)
		p.bindings[uri] = b
	}
	p.side.cfg.Changed(b.flow != f)
	b.flow, b.device = f, deviceOf(a)
	old := b.line
	b.line = &line{phone: p, flow: f, aor: aor, contact: uri, device: b.device, callID: clip([]byte(callID), maxLegHeaders)}
	p.side.settle(b.line, old, clip([]byte(agent), 256))
	p.known = true
	b.info = PhoneInfo{
		Key: p.key, AOR: aor, Contact: uri, Source: f.String(),
		UserAgent: agent, Expires: time.Now().Add(life),
	}
	p.edge.arm(&b.expires, life+legLinger, func() { p.unbind(uri, "registration expired") })
	if isNew {
		p.side.cfg.Events.PhoneRegistered(b.info)
	}
	for other, old := range p.bindings {
		if other != uri && old.info.AOR == aor && (old.flow.gone.Load() || b.device != "" && old.device == b.device) {
			p.unbind(other, "moved")
		}
	}
}

// makeRoom ends the binding that would end first, should the PBX have granted more
// than are kept.
func (p *lanPhone) makeRoom() {
	if len(p.bindings) < maxBindings {
		return
	}
	first := ""
	for uri, b := range p.bindings {
		if first == "" || b.info.Expires.Before(p.bindings[first].info.Expires) {
			first = uri
		}
	}
	p.side.counters.Counter("sip.dropped.too_many_bindings").Inc()
	p.unbind(first, "replaced")
}

func (p *lanPhone) reachable(aor string) bool {
	for _, b := range p.bindings {
		if b.info.AOR == aor {
			return true
		}
	}
	return false
}

func (p *lanPhone) unbind(uri, reason string) {
	b := p.bindings[uri]
	if b == nil {
		return
	}
	b.expires.stop()
	p.side.mu.Lock()
	p.side.unsettle(b.line)
	p.side.mu.Unlock()
	delete(p.bindings, uri)
	p.side.cfg.Changed(true)
	if !p.reachable(b.info.AOR) {
		p.side.cfg.Events.PhoneGone(b.info, reason)
	}
}

func (p *lanPhone) infos() []PhoneInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	infos := make([]PhoneInfo, 0, len(p.bindings))
	for _, b := range p.bindings {
		infos = append(infos, b.info)
	}
	return infos
}
