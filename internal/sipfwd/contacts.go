package sipfwd

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// checkContacts says why the REGISTER m goes no further: it has a Contact that could
// not be bound, without which it would mean something else, a mere query at worst; or
// more of them than are worth the work.
func checkContacts(m *sipmsg.Message) *refusal {
	n := 0
	for it := m.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		if _, ok := sipmsg.ParseURI(a.URI); !ok && !a.Star && !isOtherScheme(a.URI) {
			return badContact
		}
		if n++; n > maxContacts {
			return tooManyContacts
		}
	}
	return nil
}

// rewriteContacts puts this phone's port into the Contacts of m, a message of
// the phone: the PBX must find the phone at an address that it can reach.
// registering are the bindings that a REGISTER means, by the phone's own URIs.
func (p *pbxPhone) rewriteContacts(m *sipmsg.Message, registering map[string]*pbxBinding) {
	m.RemoveValues(sipmsg.Contact, func(at sipmsg.Values) bool {
		a := at.Addr()
		if a.Star || registering != nil && isOtherScheme(a.URI) {
			return false // the latter is a binding of another kind (RFC 3261 section 10.2.1), which leads nobody to a SIP address
		}
		_, ok := sipmsg.ParseURI(a.URI)
		if !ok { // the PBX may read it another way, and go there
			p.count("sip.repaired.contact_removed")
		}
		return !ok
	})
	for it := m.Values(sipmsg.Contact); it.Next(); {
		a := it.Addr()
		u, ok := sipmsg.ParseURI(a.URI)
		if !ok || a.Star {
			continue
		}
		uri := append([]byte("sip:"), u.User...)
		if len(u.User) > 0 {
			uri = append(uri, '@')
		}
		uri = append(uri, p.port.addr.String()...)
		uri = appendParams(uri, u.Params, "transport", "alias", lineParam)
		if t := p.transport(); t != "UDP" {
			uri = append(uri, ";transport="+strings.ToLower(t)...)
		}
		b := registering[string(a.URI)]
		if b == nil {
			b = p.bindingOf(a.URI)
		}
		if b != nil && b.Line != 0 {
			uri = append(uri, ";"+lineParam+"="+strconv.Itoa(b.Line)...)
		}
		if len(u.Headers) > 0 {
			uri = append(append(uri, '?'), u.Headers...)
		}
		if replaceURI(m, a, uri) {
			p.count("sip.repaired.contact_brackets")
		}
		m.RemoveParam(a.ParamsSpan, "reg-id")
	}
}

// replaceURI puts uri in the place of a's. Angle brackets are added only where a
// parameter of the URI would else become one of the header (RFC 3261 section
// 20.10), which it reports.
func replaceURI(m *sipmsg.Message, a sipmsg.Addr, uri []byte) (bracketed bool) {
	if a.Bracket || bytes.ContainsAny(uri, ";?,") {
		m.SetURI(a, uri)
		return !a.Bracket
	}
	m.Replace(a.URISpan, uri)
	return false
}

// appendParams appends the URI parameters params to dst, as they stand, but those
// named in without.
func appendParams(dst, params []byte, without ...string) []byte {
	for {
		name, _, rest, ok := sipmsg.CutParam(params)
		if !ok {
			return dst
		}
		if !slices.ContainsFunc(without, func(d string) bool { return strings.EqualFold(d, string(name)) }) {
			dst = append(dst, params[:len(params)-len(rest)]...)
		}
		params = rest
	}
}
