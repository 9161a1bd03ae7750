package sipfwd

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
	"github.com/siptunnel/siptunnel/internal/sipmsg/iptext"
)

// Rules that both halves share.

// appendEdited appends m with its edits to dst. Edits that exclude each other
// are a fault of ours that must not put half a message on the wire.
func appendEdited(dst []byte, m *sipmsg.Message, counters *counter.Set) []byte {
	if m.Err() != nil {
		counters.Counter("sip.dropped.edit_conflict").Inc()
		return dst
	}
	return m.AppendTo(dst)
}

// forTunnel is appendEdited for the tunnel, which carries messages up to
// maxMessage: one that our edits have made larger is nothing.
func forTunnel(dst []byte, m *sipmsg.Message, counters *counter.Set) []byte {
	out := appendEdited(dst, m, counters)
	if len(out) > maxMessage {
		counters.Counter(tooLarge.counter).Inc()
		return out[:0]
	}
	return out
}

// countRepairs counts what was put right in m, as it was received, because it could not
// be forwarded otherwise: bytes behind the body of a datagram, which the next hop might
// take for another message, are cut off (RFC 3261 section 18.3).
func countRepairs(m *sipmsg.Message, counters *counter.Set) {
	if m.Trimmed() > 0 {
		counters.Counter("sip.repaired.bytes_behind_body").Inc()
	}
}

// oneHopLess is RFC 3261 section 16.3 item 3 and section 16.6 step 3. It reports
// false for the request m when that must go no further.
func oneHopLess(m *sipmsg.Message) bool {
	n, has := m.MaxForwards()
	if !has {
		n = 71
	}
	if n > 0 {
		m.SetMaxForwards(n - 1)
	}
	return n > 0
}

// replyAddr is where the responses to a request go whose topmost Via is via and
// that came from from over UDP: back there, whether the sender asks for it with
// rport (RFC 3581) or not, since all but a few send from the socket that they
// listen on, and behind a NAT nothing else reaches them. The few name their own
// address and another port in the Via without rport, and listen at that one alone
// (RFC 3261 section 18.2.2).
func replyAddr(via sipmsg.ViaParm, from netip.AddrPort) netip.AddrPort {
	host, isIP := iptext.Parse(via.Host)
	if via.HasRPort || !isIP || host.Unmap() != from.Addr().WithZone("") {
		return from
	}
	port := via.Port
	if port == 0 {
		port = 5060
	}
	return netip.AddrPortFrom(from.Addr(), uint16(port))
}

// createsDialog says whether the request m may begin a dialog.
func createsDialog(m *sipmsg.Message) bool {
	if m.ToTag() != nil {
		return false
	}
	switch string(m.Method()) {
	case "INVITE", "SUBSCRIBE", "REFER", "NOTIFY":
		return true
	}
	return false
}

// recordsRoute says whether the phone builds a route set from the request m. A
// NOTIFY may come before the response to its SUBSCRIBE (RFC 6665 section 4.1.2.4)
// and has a To tag then.
func recordsRoute(m *sipmsg.Message) bool {
	return createsDialog(m) || string(m.Method()) == "NOTIFY"
}

// answerTo is the response that tells why the request m is refused. m has no
// edits but those of its Via.
func answerTo(m *sipmsg.Message, no *refusal) []byte {
	return ownResponse(m.AppendTo(nil), no.status, no.reason, randomHex(), no.headers...)
}

// stripOutbound removes what would let one side address the other around the
// tunnel: RFC 3327, RFC 3608, RFC 5626, RFC 5627.
func stripOutbound(m *sipmsg.Message) {
	m.RemoveAll(sipmsg.Path)
	m.RemoveAll(sipmsg.ServiceRoute)
	for _, k := range []sipmsg.Kind{sipmsg.Supported, sipmsg.Require} {
		m.RemoveOptionTag(k, "outbound", "path", "gruu")
	}
}

// cancelFor makes of m, a CANCEL out of the tunnel, the one that cancels c: it
// keeps what the peer added, such as Reason (RFC 3326).
func cancelFor(c *clientTx, m *sipmsg.Message) []byte {
	var invite sipmsg.Message
	if invite.Parse(c.request) != nil {
		return ownCancel(c.request)
	}
	own, _ := invite.TopVia()
	theirs, _ := m.TopVia()
	m.Replace(theirs.Value, invite.Text(own.Value))
	m.SetRequestURI(invite.RequestURI())
	if routes := routeSet(&invite); routes != routeSet(m) {
		m.RemoveAll(sipmsg.Route)
		if routes != "" {
			m.AddAfter(sipmsg.Route, "Route", []byte(routes))
		}
	}
	if c.peer.reliable() {
		m.EnsureContentLength()
	}
	return m.AppendTo(nil)
}

// routeSet are the Route values of m.
func routeSet(m *sipmsg.Message) string {
	var routes []string
	for it := m.Values(sipmsg.Route); it.Next(); {
		routes = append(routes, string(it.Bytes()))
	}
	return strings.Join(routes, ", ")
}

// answerCancel is the response to the CANCEL m, which means the transaction s,
// nil when there is none. m has no edits but those of its Via.
func answerCancel(m *sipmsg.Message, s *serverTx) []byte {
	if s == nil {
		return answerTo(m, noSuchInvite)
	}
	return ownResponse(m.AppendTo(nil), 200, "OK", randomHex())
}

// answerTimeout gives up c, whose SIP peer owes an answer. Other requests than
// INVITE get no 408 from a proxy, RFC 4320 section 4.1.
func answerTimeout(c *clientTx, toTunnel func([]byte), legs *legTable) {
	if !c.invite {
		toTunnel = func([]byte) {}
	}
	answerInstead(c, requestTimeout, toTunnel, legs)
}

// answerInstead sends into the tunnel the answer that the SIP peer of c owes,
// and ends a leg that only waited for it.
func answerInstead(c *clientTx, no *refusal, toTunnel func([]byte), legs *legTable) {
	if c.up != (txKey{}) {
		var m sipmsg.Message
		if m.Parse(c.request) == nil {
			m.PopVia()
			toTunnel(answerTo(&m, no))
		}
	}
	if l := c.leg; l != nil && (c.key.method == "BYE" || c.invite && l.answeredAt.IsZero()) {
		legs.finish(l, "no answer to "+c.key.method)
	}
}

// grantedExpiry is how long the 2xx m to a REGISTER lets the contact a live,
// RFC 3261 section 10.2.4.
func grantedExpiry(m *sipmsg.Message, a sipmsg.Addr) time.Duration {
	seconds := 3600
	if n, ok := m.Expires(); ok {
		seconds = n
	}
	if v, ok := sipmsg.Param(a.Params, "expires"); ok {
		if n, ok := sipmsg.ParseSeconds(v); ok {
			seconds = n
		}
	}
	return min(time.Duration(seconds)*time.Second, longestLife)
}

// redirects says whether the Contacts of a response are other places to try, and
// not the sender's own (RFC 3261 sections 21.3 and 21.4.23).
func redirects(status int) bool { return status/100 == 3 || status == 485 }

// isOtherScheme says whether uri has a scheme (RFC 3986 section 3.1) that is
// neither sip nor sips.
func isOtherScheme(uri []byte) bool {
	scheme, _, ok := bytes.Cut(bytes.ToLower(uri), []byte(":"))
	if !ok || len(scheme) == 0 || scheme[0] < 'a' || scheme[0] > 'z' {
		return false
	}
	for _, c := range scheme {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return string(scheme) != "sip" && string(scheme) != "sips"
}

func userOf(uri []byte) string {
	u, _ := sipmsg.ParseURI(uri)
	return string(u.User)
}
