package fidelity

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// path is the way of one phone's messages through the programs, and what the
// table of edits needs to know of it.
type path struct {
	transport string         // "UDP" or "TCP"
	phone     netip.AddrPort // where the phone sends from
	proxy     netip.AddrPort // where it sends to
	port      netip.AddrPort // the phone as the PBX sees it; zero until it was seen
	pbx       netip.AddrPort
	domain    string
	relays    *relays
	contacts  []binding // that the phone has registered
}

// binding is a Contact of the phone, byte for byte, and as the PBX knows it.
type binding struct {
	aor, own, user, known string
	line                  int
}

func (p *path) lineOf(uri string) int {
	for _, b := range p.contacts {
		if b.own == uri {
			return b.line
		}
	}
	return 0
}

var (
	tokens     = regexp.MustCompile(`^z9hG4bK[0-9A-Za-z.!%*_+'~-]{8,64}$`)
	sentByForm = regexp.MustCompile(`(?is)^SIP\s*/\s*2\.0\s*/\s*\S+\s+(\[[^\]]*\]|[^:;\s]+)`)
)

// ownVia is the hop that a program pushes: all of it is known but the branch,
// which is taken from out.
func ownVia(out *text, transport string, at netip.AddrPort) string {
	branch := ""
	if v := out.values("via"); len(v) > 0 {
		if p, ok := param(afterSentBy(v[0]), "branch"); ok {
			branch = p.value
		}
	}
	if !tokens.MatchString(branch) {
		branch = "<a branch>"
	}
	return "SIP/2.0/" + transport + " " + at.String() + ";branch=" + branch
}

func afterSentBy(hop string) string {
	if i := strings.IndexByte(hop, ';'); i >= 0 {
		return hop[i:]
	}
	return ""
}

// received notes in the topmost hop where the request came from: RFC 3261
// section 18.2.1, RFC 3581 section 4.
func (m *text) received(from netip.AddrPort) {
	i := m.index("via")
	if i < 0 || len(list(m.fields[i].value)) == 0 {
		return
	}
	f := &m.fields[i]
	at := list(f.value)[0]
	hop := f.value[at.from:at.to]
	host := ""
	if p := sentByForm.FindStringSubmatch(hop); p != nil {
		host = strings.Trim(p[1], "[]")
	}
	params := afterSentBy(hop)
	head := hop[:len(hop)-len(params)]
	_, rport := param(params, "rport")
	if p, has := param(params, "received"); has {
		params = params[:p.valueAt.from] + from.Addr().String() + params[p.valueAt.to:]
	} else if rport || host != from.Addr().String() {
		params += ";received=" + from.Addr().String()
	}
	if p, has := param(params, "rport"); has {
		port := strconv.Itoa(int(from.Port()))
		if p.valueAt.to > 0 {
			params = params[:p.valueAt.from] + port + params[p.valueAt.to:]
		} else {
			params = params[:p.nameEnd] + "=" + port + params[p.nameEnd:]
		}
	}
	f.value = f.value[:at.from] + head + params + f.value[at.to:]
}

func (m *text) pushVia(hop string) { m.insert(max(m.index("via"), 0), "Via", hop) }

func (m *text) popVia() {
	first := true
	m.dropValues("via", func(string) bool {
		was := first
		first = false
		return was
	})
}

func (m *text) oneHopLess() {
	i := m.index("max-forwards")
	if i < 0 {
		m.insert(m.belowVia(), "Max-Forwards", "70")
	} else if n, err := strconv.Atoi(m.fields[i].value); err == nil {
		m.fields[i].value = strconv.Itoa(min(n, 255) - 1)
	}
}

// noOutbound removes what would lead around the tunnel.
func (m *text) noOutbound() {
	for i := len(m.fields) - 1; i >= 0; i-- {
		if n := m.fields[i].name; n == "path" || n == "service-route" {
			m.remove(i)
		}
	}
	for _, name := range []string{"supported", "require"} {
		m.dropValues(name, func(v string) bool {
			return strings.EqualFold(v, "outbound") || strings.EqualFold(v, "path") || strings.EqualFold(v, "gruu")
		})
	}
}

// lengthFollows sets the Content-Length after the body has been edited.
func (m *text) lengthFollows(before int) {
	if i := m.index("content-length"); i >= 0 && len(m.body) != before {
		m.fields[i].value = strconv.Itoa(len(m.body))
	}
}

// lengthOnStream: a message on a stream cannot do without.
func (m *text) lengthOnStream(transport string) {
	if transport == "TCP" && m.index("content-length") < 0 {
		m.insert(len(m.fields), "Content-Length", strconv.Itoa(len(m.body)))
	}
}

// namesProxy says whether a URI names tunnelproxy by the address that the
// phone knows.
func (p *path) namesProxy(uri string) bool {
	u, ok := cutURI(uri)
	port := u.port
	if port == "" {
		port = "5060"
	}
	return ok && u.host == p.proxy.Addr().String() && port == strconv.Itoa(int(p.proxy.Port()))
}

// inDomain is uri with the PBX's domain for the address of tunnelproxy.
func (p *path) inDomain(uri string) string {
	u, _ := cutURI(uri)
	s := u.scheme + ":"
	if u.hasUser {
		s += u.user + "@"
	}
	return s + p.domain + u.params + u.headers
}

// requestUp is what the PBX gets when the phone sends in; out is what it got.
func (p *path) requestUp(in, out []byte) (string, error) {
	m, o, err := cutBoth(in, out)
	if err != nil {
		return "", err
	}
	if p.namesProxy(m.uri()) {
		m.setURI(p.inDomain(m.uri()))
	}
	m.received(p.phone)
	m.routeUp(p)
	for _, name := range []string{"refer-to", "referred-by"} {
		m.eachAddress(name, func(a *address) {
			if p.namesProxy(a.uri) {
				a.uri = p.inDomain(a.uri)
			}
		})
	}
	m.noOutbound()
	p.contactUp(m)
	m.dropValues("record-route", func(string) bool { return true })
	m.oneHopLess()
	m.pushVia(ownVia(o, "UDP", p.port))
	err = p.relays.edit(m, o, p.relays.tunneld, p.phone.String()+m.get("call-id")+" up")
	return m.String(), err
}

// routeUp removes the leading Route entries that name tunnelproxy, by the name
// that the phone may have for it too.
func (m *text) routeUp(p *path) {
	leading, first := true, m.toTag() == ""
	m.dropValues("route", func(v string) bool {
		uri := cutAddress(v).uri
		leading = leading && (p.namesProxy(uri) || first && p.otherName(uri))
		first = false
		return leading
	})
}

// otherName says whether a URI has a name for its host that is not the PBX's.
func (p *path) otherName(uri string) bool {
	u, ok := cutURI(uri)
	if !ok || strings.EqualFold(u.host, p.domain) {
		return false
	}
	_, err := netip.ParseAddr(strings.Trim(u.host, "[]"))
	return err != nil
}

// eachAddress edits the values of all headers of that name.
func (m *text) eachAddress(name string, edit func(a *address)) {
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != name {
			continue
		}
		values := list(f.value)
		for j := len(values) - 1; j >= 0; j-- {
			v := values[j]
			a := cutAddress(f.value[v.from:v.to])
			edit(&a)
			f.value = f.value[:v.from] + a.String() + f.value[v.to:]
		}
	}
}

// contactUp puts the phone's port into its Contacts.
func (p *path) contactUp(m *text) {
	seen := make(map[string]int) // by user, of the Contacts above
	lines := make(map[string]int)
	registers := m.isRequest() && m.method() == "REGISTER"
	if registers {
		for _, v := range m.values("contact") {
			uri := cutAddress(v).uri
			if u, ok := cutURI(uri); ok {
				if _, again := lines[uri]; !again {
					lines[uri] = seen[u.user]
					seen[u.user]++
				}
			}
		}
	}
	m.dropValues("contact", func(v string) bool {
		_, ok := cutURI(cutAddress(v).uri)
		return !ok && v != "*" && !registers
	})
	m.eachAddress("contact", func(a *address) {
		u, ok := cutURI(a.uri)
		if !ok {
			return // "*", or another scheme
		}
		uri := "sip:"
		if u.hasUser {
			uri += u.user + "@"
		}
		uri += p.port.String() + dropParams(u.params, "transport", "alias")
		n := max(lines[a.uri], p.lineOf(a.uri))
		if n > 0 {
			uri += ";st-line=" + strconv.Itoa(n)
		}
		a.uri = uri + u.headers
		if !a.bracket && strings.ContainsAny(a.uri, ";?,") {
			a.before, a.after = a.before+"<", ">"+a.after
		}
		if i := strings.IndexByte(a.after, ';'); i >= 0 {
			a.after = a.after[:i] + dropParams(a.after[i:], "reg-id")
		}
	})
}

// requestDown is what the phone gets when the PBX sends in; uri is the phone's
// own URI, which is put in place of what the PBX asked for.
func (p *path) requestDown(in, out []byte, uri string) (string, error) {
	m, o, err := cutBoth(in, out)
	if err != nil {
		return "", err
	}
	method := m.method()
	creates := m.toTag() == ""
	m.setURI(uri)
	m.received(p.pbx)
	m.noOutbound()
	switch method {
	case "INVITE", "SUBSCRIBE", "REFER":
		if creates {
			m.recordRoute(p)
		}
	case "NOTIFY":
		m.recordRoute(p)
	}
	m.oneHopLess()
	m.pushVia(ownVia(o, p.transport, p.proxy))
	err = p.relays.edit(m, o, p.relays.tunnelproxy, p.phone.String()+m.get("call-id")+" down")
	m.lengthOnStream(p.transport)
	return m.String(), err
}

func (p *path) ownRecordRoute() string {
	if p.transport == "TCP" {
		return "<sip:" + p.proxy.String() + ";transport=tcp;lr>"
	}
	return "<sip:" + p.proxy.String() + ";lr>"
}

// recordRoute adds tunnelproxy on top.
func (m *text) recordRoute(p *path) {
	at := m.index("record-route")
	if at < 0 {
		at = m.belowVia()
	}
	m.insert(at, "Record-Route", p.ownRecordRoute())
}

func (m *text) toTag() string {
	a := cutAddress(m.get("to"))
	if i := strings.IndexByte(a.after, ';'); i >= 0 {
		if t, ok := param(a.after[i:], "tag"); ok {
			return t.value
		}
	}
	return ""
}

// phoneURI is the Request-URI that the phone gets for what the PBX asked for,
// outside of dialogs: that of the binding, or of the only one with the user
// that was asked for. It is "" when there is none.
func (p *path) phoneURI(asked string) string {
	for _, b := range p.contacts {
		if b.known == asked {
			return b.own
		}
	}
	u, ok := cutURI(asked)
	if !ok {
		return ""
	}
	for _, b := range p.contacts {
		if own, _ := cutURI(b.own); own.user == u.user && b.line == 0 {
			return b.own
		}
	}
	if len(p.contacts) != 1 || !u.hasUser {
		return ""
	}
	own, _ := cutURI(p.contacts[0].own)
	s := own.scheme + ":" + u.user + "@" + own.host
	if own.port != "" {
		s += ":" + own.port
	}
	return s + own.params + own.headers
}

// responseUp is what the PBX gets when the phone answers with in; recorded are
// the Record-Route values that it put into its request.
func (p *path) responseUp(in, out []byte, recorded []string) (string, error) {
	m, o, err := cutBoth(in, out)
	if err != nil {
		return "", err
	}
	m.popVia()
	m.dropValues("record-route", func(v string) bool { return !slices.Contains(recorded, v) })
	m.noOutbound()
	if m.status()/100 != 3 && m.status() != 485 {
		p.contactUp(m)
	}
	if m.status() < 300 {
		err = p.relays.edit(m, o, p.relays.tunneld, p.phone.String()+m.get("call-id")+" up")
	}
	return m.String(), err
}

// responseDown is what the phone gets when the PBX answers with in; creates
// says that the request could create a dialog.
func (p *path) responseDown(in, out []byte, creates bool) (string, error) {
	m, o, err := cutBoth(in, out)
	if err != nil {
		return "", err
	}
	m.popVia()
	m.noOutbound()
	if m.method() == "REGISTER" && m.status()/100 == 2 {
		p.contactDown(m)
	}
	if creates && m.status() > 100 && m.status() < 300 {
		at := m.belowVia()
		for i, f := range m.fields {
			if f.name == "record-route" {
				at = i + 1
			}
		}
		m.insert(at, "Record-Route", p.ownRecordRoute())
	}
	if m.status() < 300 {
		err = p.relays.edit(m, o, p.relays.tunnelproxy, p.phone.String()+m.get("call-id")+" down")
	}
	m.lengthOnStream(p.transport)
	return m.String(), err
}

// contactDown gives the phone its own Contacts back.
func (p *path) contactDown(m *text) {
	m.eachAddress("contact", func(a *address) {
		u, ok := cutURI(a.uri)
		if !ok || u.host+":"+u.port != p.port.String() {
			return
		}
		line := 0
		if l, has := param(u.params, "st-line"); has {
			line, _ = strconv.Atoi(l.value)
		}
		for _, b := range p.contacts {
			if b.user == u.user && b.line == line {
				a.uri = b.own
				if !a.bracket && strings.ContainsAny(a.uri, ";?,") {
					a.before, a.after = a.before+"<", ">"+a.after
				}
			}
		}
	})
}

// register notes what the phone's REGISTER in, which the PBX got as out, binds.
// Other addresses of record keep their bindings.
func (p *path) register(in, out []byte) {
	m, o, err := cutBoth(in, out)
	if err != nil {
		return
	}
	aor := cutAddress(m.get("to")).uri
	p.contacts = slices.DeleteFunc(p.contacts, func(b binding) bool { return b.aor == aor })
	known := o.values("contact")
	for i, v := range m.values("contact") {
		u, ok := cutURI(cutAddress(v).uri)
		if !ok || i >= len(known) {
			continue
		}
		b := binding{aor: aor, own: cutAddress(v).uri, user: u.user, known: cutAddress(known[i]).uri}
		if k, ok := cutURI(b.known); ok {
			if l, has := param(k.params, "st-line"); has {
				b.line, _ = strconv.Atoi(l.value)
			}
		}
		p.contacts = append(p.contacts, b)
	}
}

func cutBoth(in, out []byte) (m, o *text, err error) {
	if m, err = cut(in); err != nil {
		return nil, nil, fmt.Errorf("what was sent: %w", err)
	}
	if m.String() != string(in) && !strings.HasPrefix(strings.TrimLeft(string(in), "\r\n"), m.String()) {
		return nil, nil, fmt.Errorf("the model lost bytes: %q", m.String())
	}
	if o, err = cut(out); err != nil {
		return nil, nil, fmt.Errorf("what was received: %w", err)
	}
	return m, o, nil
}
