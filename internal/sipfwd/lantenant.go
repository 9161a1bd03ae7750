package sipfwd

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// Addresses of the LAN change hands: a phone gets another one from DHCP, and
// another phone gets its old one. A phone that says +sip.instance is known by it
// wherever it is. The others are known by where they are, so that each REGISTER
// for an address of record that its flow has not registered before raises the
// question: is it one more line of the device there, or another device? A call
// must never ring the wrong phone, so that in doubt it is another device, and the
// registrations of the one before are over as far as its flow goes.

// bootTime is within which a device registers its lines one after the other.
const bootTime = 30 * time.Second

// line is a registration that the PBX has granted, as all phones of the office see
// it. Guarded by the side's lock, never changed.
type line struct {
	phone   *lanPhone
	flow    *flow
	aor     string
	contact string
	device  string // see deviceOf
	callID  string // of the REGISTER
}

// lostLine is what a phone is told of a line that it does not have any more.
type lostLine struct {
	*line
	reason string
}

// tenant is what is known of the device behind a UDP flow, from the last REGISTER
// there that was granted.
type tenant struct {
	heard    time.Time // zero: none was
	link     string    // its hardware address, where that can be told
	agent    string
	instance string
	before   map[string]bool // addresses of record that other devices had there
}

// same says whether the registrant who is the same device, now.
func (t *tenant) same(who registrant, now time.Time) bool {
	switch {
	case who.proxied:
		return true // the device is a proxy of the office, with all its phones
	case t.link != "" && who.link != "" && t.link != who.link:
		return false
	case t.before[who.aor]:
		return true // it was taken for another one, and is there still
	case t.instance != "" && who.instance != "" && t.instance != who.instance:
		return false
	case t.agent != "" && who.agent != "" && t.agent != who.agent:
		return false
	case t.link != "" && t.link == who.link:
		return true
	}
	return now.Sub(t.heard) < bootTime
}

// registrant is what a REGISTER says of who sent it.
type registrant struct {
	aor, link, agent, instance string
	proxied                    bool
}

func (s *LANSide) registrantOf(f *flow, m *sipmsg.Message) registrant {
	who := registrant{
		aor: string(m.ToURI()), agent: clip([]byte(headerText(m, sipmsg.UserAgent)), 256),
		link: s.neighbour(f.remote.Addr()), proxied: isProxied(m),
	}
	if key := s.phoneKey(f, m); strings.HasPrefix(key, instancePrefix) {
		who.instance = key
	}
	return who
}

// isProxied says whether the request m has come through a proxy.
func isProxied(m *sipmsg.Message) bool {
	n := 0
	for it := m.Values(sipmsg.Via); it.Next(); {
		n++
	}
	return n > 1
}

func (s *LANSide) neighbour(a netip.Addr) string {
	if s.cfg.Neighbour == nil {
		return ""
	}
	return s.cfg.Neighbour(a)
}

// registers finds the phone that the REGISTER m is of, on the flow f of p. The
// flow that it returns is another one where the phone is not the device that f
// has led to so far; that one keeps f until the PBX has granted m.
func (s *LANSide) registers(f *flow, m *sipmsg.Message, p *lanPhone) (*lanPhone, *flow) {
	key := s.phoneKey(f, m)
	byInstance := strings.HasPrefix(key, instancePrefix)
	it := m.Values(sipmsg.Contact)
	if byInstance && key == p.key || !it.Next() || it.Addr().Star {
		return p, f
	}
	aor := string(m.ToURI())
	s.mu.Lock()
	known, questionable := s.lineOn(f, aor), f.sock != nil && !f.tenant.heard.IsZero()
	s.mu.Unlock()
	if known != nil && (!byInstance || known.phone.key == key) {
		return known.phone, f
	}
	if questionable {
		who := s.registrantOf(f, m)
		s.mu.Lock()
		same := f.tenant.same(who, time.Now())
		s.mu.Unlock()
		if !same {
			return s.newTenant(f, m, p, key)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case byInstance:
		p = s.phoneFor(key, f)
	case f.tenant.before[aor] && s.phones[key] != nil:
		p = s.phones[key]
	}
	if p != nil {
		s.link(f, p)
	}
	return p, f
}

// reconnected is the phone that has registered the address of record of the REGISTER
// m over a connection from the same host before: one without instance that has
// several lines, and may begin with another one each time it connects. It is called
// with mu held.
func (s *LANSide) reconnected(f *flow, m *sipmsg.Message) *lanPhone {
	if f.stream == nil || string(m.Method()) != "REGISTER" || strings.HasPrefix(s.phoneKey(f, m), instancePrefix) {
		return nil
	}
	for _, ln := range s.lines[string(m.ToURI())] {
		if ln.flow.reliable() && ln.flow.remote.Addr() == f.remote.Addr() && !strings.HasPrefix(ln.phone.key, instancePrefix) {
			return ln.phone
		}
	}
	return nil
}

// newTenant is the phone of the REGISTER m, which has f's address now, or wants to
// have it.
func (s *LANSide) newTenant(f *flow, m *sipmsg.Message, p *lanPhone, key string) (*lanPhone, *flow) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == p.key || !strings.HasPrefix(key, instancePrefix) {
		key = truncateKey(key + ":" + userOf(m.ToURI()))
	}
	q := s.phoneFor(key, f)
	if q == nil {
		return nil, f
	}
	for _, g := range q.flows {
		if g.sock != nil && g.key() == f.key() && g != f && !g.gone.Load() {
			return q, g
		}
	}
	g := f.renewed()
	s.note(g, q)
	return q, g
}

// lineOn is the line of aor on f. It is called with mu held.
func (s *LANSide) lineOn(f *flow, aor string) *line {
	for _, ln := range s.lines[aor] {
		if ln.flow == f {
			return ln
		}
	}
	return nil
}

// settle notes the line ln, which was granted to a device that calls itself agent,
// in the place of old, which may be nil. It is called with the lock of ln's phone
// held.
func (s *LANSide) settle(ln, old *line, agent string) {
	f := ln.flow
	link := s.neighbour(f.remote.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.sock != nil {
		s.takeOver(f, ln.phone)
		f.tenant.heard, f.tenant.agent = time.Now(), agent
		if link != "" {
			f.tenant.link = link
		}
		f.tenant.instance = ""
		if strings.HasPrefix(ln.phone.key, instancePrefix) {
			f.tenant.instance = ln.phone.key
		}
	}
	s.unsettle(old)
	for _, other := range slices.Clone(s.lines[ln.aor]) {
		if other.phone != ln.phone && ln.replaces(other) {
			s.lose(other, "moved to "+f.String())
		}
	}
	s.lines[ln.aor] = append(s.lines[ln.aor], ln)
}

// replaces says whether ln is the registration other of the same address of
// record, with which the same device was known as another phone.
func (ln *line) replaces(other *line) bool {
	switch {
	case ln.flow == other.flow || ln.callID == other.callID: // RFC 3261 section 10.2: one Call-ID, one user agent
		return true
	case ln.device != "" || other.device != "":
		return ln.device == other.device
	}
	return ln.flow.sock != nil && other.flow.sock != nil && ln.flow.tenant.link != "" &&
		ln.flow.tenant.link == other.flow.tenant.link && ln.flow.remote.Port() == other.flow.remote.Port()
}

// takeOver makes f the flow of its address, and p's, if it is not. Whoever was
// there before is reachable there no more. It is called with mu held.
func (s *LANSide) takeOver(f *flow, p *lanPhone) {
	old := s.flows[f.key()]
	if old == f || f.gone.Load() {
		return
	}
	if old != nil {
		s.counters.Counter("sip.moved.address_taken").Inc()
		old.gone.Store(true)
		f.tenant.before = old.tenant.before
		if f.tenant.before == nil || len(f.tenant.before) > maxBindings {
			f.tenant.before = make(map[string]bool)
		}
		for aor, lines := range s.lines {
			for _, ln := range slices.Clone(lines) {
				if ln.flow == old {
					f.tenant.before[aor] = true
					s.lose(ln, "another phone has its address")
				}
			}
		}
		for _, q := range slices.Clone(old.phones) {
			s.leave(old, q)
		}
	}
	s.link(f, p)
}

// lose takes a line away from its phone. It is called with mu held.
func (s *LANSide) lose(ln *line, reason string) {
	s.unsettle(ln)
	ln.phone.lost = append(ln.phone.lost, lostLine{ln, reason})
	ln.phone.nudge()
}

// unsettle forgets a line, which may be nil. It is called with mu held.
func (s *LANSide) unsettle(ln *line) {
	if ln == nil {
		return
	}
	lines := slices.DeleteFunc(s.lines[ln.aor], func(other *line) bool { return other == ln })
	if len(lines) == 0 {
		delete(s.lines, ln.aor)
		return
	}
	s.lines[ln.aor] = lines
}

// letGo ends what the phone cannot have any more.
func (p *lanPhone) letGo() {
	p.side.mu.Lock()
	lost := p.lost
	p.lost = nil
	p.side.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ln := range lost {
		if b := p.bindings[ln.contact]; b != nil && b.line == ln.line {
			p.unbind(ln.contact, ln.reason)
		}
		if p.flow == ln.flow && !p.registeredOn(ln.flow) {
			p.flow = nil
		}
		if ln.flow.gone.Load() {
			p.answerForGone(ln.flow)
		}
	}
}

func (p *lanPhone) registeredOn(f *flow) bool {
	for _, b := range p.bindings {
		if b.flow == f {
			return true
		}
	}
	return false
}

// answerForGone answers the PBX for the phone that was at f: who is there now must
// not be asked.
func (p *lanPhone) answerForGone(f *flow) {
	for _, c := range p.edge.clients {
		if c.peer == hop(f) && c.status < 200 && c.key.method != "CANCEL" {
			p.side.counters.Counter(notConnected.counter).Inc()
			p.edge.dropClient(c)
			answerInstead(c, notConnected, p.toTunnel, p.legs)
		}
	}
}
