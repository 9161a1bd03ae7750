package sipfwd

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxBindings  = 1024      // of one phone: a gateway has many
	maxContacts  = 200       // of one REGISTER
	maxKept      = 8 << 10   // bytes that the client keeps for a phone
	maxStateful  = 64        // bindings that are worth trying to fit in there
	lineParam    = "st-line" // tells apart Contacts of one phone that have the same user
	maxURILength = 1024
	longestLife  = 7 * 24 * time.Hour // of a registration
)

// pbxBinding ties the URI that the PBX knows, user@port, to the Contact URI of
// the phone. Exported fields are the phone's state as the client keeps it.
type pbxBinding struct {
	URI     string    `json:"uri"`            // the phone's own, byte for byte
	User    string    `json:"user"`           // of both URIs
	Line    int       `json:"line,omitempty"` // 0, or the value of lineParam
	AOR     string    `json:"aor"`
	Agent   string    `json:"agent,omitempty"`
	Device  string    `json:"device,omitempty"` // see deviceOf
	Expires time.Time `json:"expires"`          // zero: provisional, no 2xx yet

	expiry slot
	callID string // of the REGISTER that was granted
}

// restore takes over the state that the client kept. It is the client's word:
// what it can do is to say which of its own phone's Contacts a request to this
// port means.
func (p *pbxPhone) restore(state []byte) {
	var kept []pbxBinding // values, since the client may have put a null there
	if len(state) == 0 {
		return
	}
	if json.Unmarshal(state, &kept) != nil {
		p.count("sip.dropped.bad_state")
		return
	}
	for i := range kept {
		b := &kept[i]
		_, ok := sipmsg.ParseURI([]byte(b.URI))
		life := time.Until(b.Expires)
		if !ok || len(b.URI) > maxURILength || strings.ContainsAny(b.URI, "\r\n<>\" ") || life <= 0 || len(p.bindings) >= maxBindings {
			continue
		}
		life = min(life, longestLife)
		b.Expires = time.Now().Add(life)
		p.add(b)
		p.keep(b, life)
		delete(p.former, b.User)
	}
}

// add is the beginning of a binding, which may be what makes its address of
// record reachable.
func (p *pbxPhone) add(b *pbxBinding) {
	isNew := !b.Expires.IsZero() && !p.reachable(b.AOR)
	p.bindings = append(p.bindings, b)
	if isNew {
		p.side.cfg.Events.PhoneRegistered(p.info(b))
	}
}

// reachable says whether the PBX has granted a binding of aor.
func (p *pbxPhone) reachable(aor string) bool {
	return slices.ContainsFunc(p.bindings, func(b *pbxBinding) bool { return b.AOR == aor && !b.Expires.IsZero() })
}

// saveState gives the client the granted bindings to keep, the freshest when it
// cannot keep them all.
func (p *pbxPhone) saveState() {
	if p.side.cfg.SaveState == nil {
		return
	}
	granted := p.grantedBindings()
	if len(granted) > maxStateful {
		slices.SortFunc(granted, func(a, b *pbxBinding) int { return b.Expires.Compare(a.Expires) })
		granted = granted[:maxStateful]
	}
	for {
		state, err := json.Marshal(granted)
		if err != nil {
			return
		}
		if len(state) <= maxKept {
			p.side.cfg.SaveState(p.id, state)
			return
		}
		granted = granted[:len(granted)/2]
	}
}

func (p *pbxPhone) grantedBindings() []*pbxBinding {
	var granted []*pbxBinding
	for _, b := range p.bindings {
		if !b.Expires.IsZero() {
			granted = append(granted, b)
		}
	}
	return granted
}

// granted is the state of a phone whose session another one takes over, nil when
// that is over already.
func (p *pbxPhone) granted() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || len(p.bindings) == 0 {
		return nil
	}
	state, err := json.Marshal(p.grantedBindings())
	if err != nil {
		return nil
	}
	return state
}

// keep lets b end after life, and some time for a refresh that is late.
func (p *pbxPhone) keep(b *pbxBinding, life time.Duration) {
	p.edge.arm(&b.expiry, life+legLinger, func() {
		p.drop(b, "registration expired")
		p.saveState()
	})
}

func (p *pbxPhone) drop(b *pbxBinding, reason string) {
	b.expiry.stop()
	i := slices.Index(p.bindings, b)
	if i < 0 {
		return
	}
	p.bindings = slices.Delete(p.bindings, i, i+1)
	if !b.Expires.IsZero() && !p.reachable(b.AOR) {
		p.side.cfg.Events.PhoneGone(p.info(b), reason)
	}
}

// registering makes provisional bindings for the Contacts of the REGISTER m, so
// that they can be told apart and found when the PBX is quicker with a request
// than with its 2xx. It returns the bindings that m means by their URIs.
func (p *pbxPhone) registering(m *sipmsg.Message) map[string]*pbxBinding {
	means := make(map[string]*pbxBinding)
	for it := m.Values(sipmsg.Contact); it.Next(); {
		if a := it.Addr(); p.bindingOf(a.URI) != nil {
			means[string(a.URI)] = p.bindingOf(a.URI)
		}
	}
	for it := m.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		u, ok := sipmsg.ParseURI(a.URI)
		if a.Star || !ok || len(a.URI) > maxURILength {
			continue
		}
		b := means[string(a.URI)]
		if b == nil {
			b = p.movedTo(a, u, string(m.ToURI()), means)
		}
		if b == nil {
			b = p.provisional(a, u, m.ToURI())
		}
		if b.Expires.IsZero() {
			p.edge.arm(&b.expiry, txTimeout, func() { p.drop(b, "not registered") })
		}
		means[string(a.URI)] = b
	}
	return means
}

func (p *pbxPhone) provisional(a sipmsg.Addr, u sipmsg.URI, aor []byte) *pbxBinding {
	if len(p.bindings) >= maxBindings {
		p.count("sip.dropped.too_many_bindings")
		oldest := slices.MinFunc(p.bindings, func(a, b *pbxBinding) int { return a.Expires.Compare(b.Expires) })
		p.former.add(oldest.User, oldest.Expires)
		p.drop(oldest, "replaced")
	}
	b := &pbxBinding{URI: string(a.URI), User: string(u.User), AOR: clip(aor, maxURILength), Device: deviceOf(a)}
	b.Line = p.freeLine(b.User)
	p.add(b)
	return b
}

// freeLine is the lowest line that no binding with that user has.
func (p *pbxPhone) freeLine(user string) int {
	used := make([]bool, len(p.bindings)+1)
	for _, b := range p.bindings {
		if b.User == user && b.Line >= 0 && b.Line < len(used) {
			used[b.Line] = true
		}
	}
	return slices.Index(used, false)
}

// movedTo is the binding whose place the Contact a takes, nil when there is
// none: a phone over TCP or TLS names another port after each connect, and the PBX
// would ring all that it had in the last hour.
func (p *pbxPhone) movedTo(a sipmsg.Addr, u sipmsg.URI, aor string, means map[string]*pbxBinding) *pbxBinding {
	for _, b := range p.bindings {
		if b.User != string(u.User) || b.AOR != aor || means[b.URI] != nil {
			continue
		}
		old, ok := sipmsg.ParseURI([]byte(b.URI))
		sameHost := ok && overStream(old) && overStream(u) && bytes.Equal(old.Host, u.Host)
		if device := deviceOf(a); device == b.Device && (device != "" || sameHost) {
			return b
		}
	}
	return nil
}

// overStream says whether u is reached over TCP or TLS.
func overStream(u sipmsg.URI) bool {
	v, _ := u.Param("transport")
	return bytes.EqualFold(v, []byte("tcp")) || bytes.EqualFold(v, []byte("tls")) || bytes.EqualFold(u.Scheme, []byte("sips"))
}

// deviceOf is what tells that a Contact is of the same device, and the same one
// of its flows, as another (RFC 5626 section 4.1); empty when it does not say.
func deviceOf(a sipmsg.Addr) string {
	instance, ok := sipmsg.Param(a.Params, "+sip.instance")
	if !ok {
		return ""
	}
	flow, _ := sipmsg.Param(a.Params, "reg-id")
	return clip(append(append(bytes.Clone(instance), ';'), flow...), 256)
}

func clip(b []byte, n int) string { return string(b[:min(len(b), n)]) }

// registered commits what the final response m to the REGISTER of c granted and
// gives the phone its own Contacts back.
func (p *pbxPhone) registered(c *clientTx, m *sipmsg.Message, status int) {
	if status >= 300 {
		// A challenge keeps the provisional bindings for the next attempt.
		return
	}
	var req sipmsg.Message
	if req.Parse(c.request) != nil {
		return
	}
	for uri, b := range c.contacts {
		b.URI = uri
	}
	agent, _ := req.HeaderValue(sipmsg.UserAgent)
	granted := make(map[*pbxBinding]time.Duration)
	for it := m.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		if b := p.bindingAt(a.URI); b != nil {
			granted[b] = grantedExpiry(m, a)
			replaceURI(m, a, []byte(b.URI))
		}
	}
	for b, life := range granted {
		if life > 0 {
			p.grant(b, clip(m.ToURI(), maxURILength), clip(agent, 256), life)
		}
	}
	for _, b := range c.contacts {
		if granted[b] > 0 { // and not what else the PBX lists
			b.callID = clip(m.CallID(), maxLegHeaders)
			p.forgetRebooted(b)
		}
	}
	star := false
	for it := req.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		star = star || a.Star
		if b := p.bindingAt(a.URI); b != nil && granted[b] == 0 {
			p.drop(b, "unregistered")
		}
	}
	if star {
		for _, b := range slices.Clone(p.bindings) {
			if granted[b] == 0 && b.AOR == clip(m.ToURI(), maxURILength) {
				p.drop(b, "unregistered")
			}
		}
	}
	p.saveState()
}

// forgetRebooted drops what the phone of b had before a reboot, where it has made
// up another user for its Contact and has no instance to tell: one registration
// with another Call-ID of the same address of record from the same host and port.
// The PBX has it still, and would ring the phone twice.
func (p *pbxPhone) forgetRebooted(b *pbxBinding) {
	now, _ := sipmsg.ParseURI([]byte(b.URI))
	for _, old := range slices.Clone(p.bindings) {
		if old == b || old.AOR != b.AOR || old.Device+b.Device != "" || old.callID == "" || old.callID == b.callID {
			continue
		}
		if u, ok := sipmsg.ParseURI([]byte(old.URI)); ok && bytes.Equal(u.Host, now.Host) && u.Port == now.Port {
			p.former.add(old.User, old.Expires)
			p.drop(old, "registered anew")
		}
	}
}

func (p *pbxPhone) grant(b *pbxBinding, aor, agent string, life time.Duration) {
	isNew := !p.reachable(aor)
	b.AOR, b.Agent, b.Expires = aor, agent, time.Now().Add(life)
	delete(p.former, b.User)
	p.keep(b, life)
	if isNew {
		p.side.cfg.Events.PhoneRegistered(p.info(b))
	}
}

// bindingOf finds a binding by the phone's own URI.
func (p *pbxPhone) bindingOf(uri []byte) *pbxBinding {
	for _, b := range p.bindings {
		if b.URI == string(uri) {
			return b
		}
	}
	return nil
}

func (p *pbxPhone) bindingFor(user string, line int) *pbxBinding {
	for _, b := range p.bindings {
		if b.User == user && b.Line == line {
			return b
		}
	}
	return nil
}

// bindingAt finds the binding that uri, a URI at this phone's port, means.
func (p *pbxPhone) bindingAt(uri []byte) *pbxBinding {
	u, ok := sipmsg.ParseURI(uri)
	if !ok || u.Port != int(p.port.addr.Port()) ||
		string(bytes.Trim(u.Host, "[]")) != p.port.addr.Addr().String() {
		return nil
	}
	return p.bindingFor(string(u.User), lineOf(u))
}

func lineOf(u sipmsg.URI) int {
	v, _ := sipmsg.Param(u.Params, lineParam)
	n, _ := strconv.Atoi(string(v))
	return n
}

// phoneURI is the Request-URI for the request m of the PBX: the phone's own
// Contact, byte for byte. In a dialog that is the dialog's latest, else that of
// the binding, else that of the port's only binding with the user that was
// asked for.
func (p *pbxPhone) phoneURI(l *leg, m *sipmsg.Message) ([]byte, bool) {
	if l != nil && m.ToTag() != nil {
		if b := l.dialogOf(m, down); b.contact != "" {
			return []byte(b.contact), true
		}
	}
	u, ok := sipmsg.ParseURI(m.RequestURI())
	if b := p.bindingFor(string(u.User), lineOf(u)); ok && b != nil {
		return []byte(b.URI), true
	}
	if p.trunk != "" {
		return m.RequestURI(), true // the LAN side knows where to
	}
	if !ok {
		return nil, false
	}
	b := p.catchAll()
	if b == nil || len(u.User) == 0 || p.former.has(string(u.User)) {
		return nil, false
	}
	own, _ := sipmsg.ParseURI([]byte(b.URI))
	return atUser(own, u.User), true
}

// catchAll is the binding that takes requests for users of which there is none:
// the only one of the port, or that of all numbers of a small PBX, which has no
// user (RFC 6140). It is nil when there is neither.
func (p *pbxPhone) catchAll() *pbxBinding {
	if b := p.bindingFor("", 0); b != nil || len(p.bindings) != 1 {
		return b
	}
	return p.bindings[0]
}

// atUser is the URI u with another user. That a Contact stands for many numbers
// is no part of the URI of one of them (RFC 6140 section 7.1.1).
func atUser(u sipmsg.URI, user []byte) []byte {
	uri := append(append([]byte(nil), u.Scheme...), ':')
	uri = append(append(uri, user...), '@')
	uri = append(append(uri, u.Host...), portSuffix(u.Port)...)
	uri = appendParams(uri, u.Params, "bnc")
	if len(u.Headers) > 0 {
		uri = append(append(uri, '?'), u.Headers...)
	}
	return uri
}

func (p *pbxPhone) info(b *pbxBinding) PhoneInfo {
	return PhoneInfo{
		Key: p.key, AOR: b.AOR, Contact: b.URI, UserAgent: b.Agent,
		Port: p.port.addr.Port(), Address: p.port.addr.String(), Expires: b.Expires,
	}
}

func (p *pbxPhone) infos() []PhoneInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	infos := make([]PhoneInfo, 0, len(p.bindings))
	for _, b := range p.bindings {
		if !b.Expires.IsZero() {
			infos = append(infos, p.info(b))
		}
	}
	return infos
}
