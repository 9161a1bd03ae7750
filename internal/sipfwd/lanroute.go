package sipfwd

import (
	"slices"
	"strings"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// Proxies of the office between a phone and this one, as a small PBX is one. They
// record their routes as all do, and the phone's requests must pass them to its
// end; but the PBX beside tunneld could not reach their addresses. So it does not
// hear of them: the route toward the phone is kept here, and put back into what the
// PBX sends in the dialog; what the phone's half of the route set needs is put back
// into responses.

// noteProxies keeps the route toward the phone that m, a request of the phone's that
// may create a dialog, records.
func (l *leg) noteProxies(m *sipmsg.Message) {
	if m.ToTag() == nil && viaProxies(m) {
		l.first.routes = recordRoutes(m, false)
	}
}

// viaProxies says whether the request m has passed proxies: a phone that records a
// route itself does so by mistake.
func viaProxies(m *sipmsg.Message) bool {
	hops := 0
	for it := m.Values(sipmsg.Via); hops < 2 && it.Next(); {
		hops++
	}
	return hops == 2
}

// noteProxiesIn keeps the route toward the phone that m, a response of the phone to
// a request on f, records: the entries above our own.
func (p *lanPhone) noteProxiesIn(l *leg, b *dialog, f *flow, m *sipmsg.Message) {
	status := m.StatusCode()
	if status <= 100 || status >= 300 || m.ToTag() == nil || l.key.initiator != down || status < 200 && b.routes != nil {
		return
	}
	var routes []string
	length := 0
	for it := m.Values(sipmsg.RecordRoute); it.Next() && length <= maxLegHeaders; {
		if a := it.Addr(); p.addressedToUs(f, a.URI) {
			slices.Reverse(routes)
			b.routes = routes
			return
		}
		length += len(it.Bytes())
		routes = append(routes, string(it.Bytes()))
	}
}

// throughProxies has m, a request of the PBX in a dialog of l, take the way that
// the office's proxies have recorded.
func (l *leg) throughProxies(m *sipmsg.Message) {
	if l == nil || m.ToTag() == nil {
		return
	}
	if b := l.dialogOf(m, down); len(b.routes) > 0 {
		m.AddBefore(sipmsg.Route, "Route", []byte(strings.Join(b.routes, ", ")))
	}
}

// recordProxies adds to m, a response to the request of s on f that may create a
// dialog, ourselves and the proxies of the office that the request has passed.
func (f *flow) recordProxies(s *serverTx, m *sipmsg.Message) {
	m.AddAfter(sipmsg.RecordRoute, "Record-Route", f.recordRoute(s.secure))
	var req sipmsg.Message
	if !s.routed || req.Parse(s.request) != nil || !viaProxies(&req) {
		return
	}
	for _, route := range recordRoutes(&req, false) {
		m.AddAfter(sipmsg.RecordRoute, "Record-Route", []byte(route))
	}
}
