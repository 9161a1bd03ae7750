package sipfwd

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// Messages that the proxy itself originates are built with sipgo. Values that
// belong to a peer (Via, From, To, Call-ID, CSeq, Route) are handed to it as
// raw header text, so that they come back byte for byte as the peer sent them.

// ownResponse answers request, which has been parsed before. toTag is added
// when the request's To has none; empty means that the response takes none, as
// 100 does. headers are name, value pairs.
func ownResponse(request []byte, status int, reason, toTag string, headers ...string) []byte {
	var m sipmsg.Message
	// What was added to its Via may have made it too large, and no less readable.
	if m.Parse(request) != nil && len(request) <= sipmsg.MaxSize {
		return nil
	}
	return responseTo(&m, status, reason, toTag, headers...)
}

func responseTo(m *sipmsg.Message, status int, reason, toTag string, headers ...string) []byte {
	res := sip.NewResponse(status, reason)
	for _, h := range m.Headers() {
		if h.Kind == sipmsg.Via {
			res.AppendHeader(sip.NewHeader("Via", string(m.Text(h.Value))))
		}
	}
	copyHeader(res, m, sipmsg.From, "From")
	to, _ := m.HeaderValue(sipmsg.To)
	value := string(to)
	if m.ToTag() == nil && toTag != "" {
		value += ";tag=" + toTag
	}
	res.AppendHeader(sip.NewHeader("To", value))
	copyHeader(res, m, sipmsg.CallID, "Call-ID")
	copyHeader(res, m, sipmsg.CSeq, "CSeq")
	for i := 0; i+1 < len(headers); i += 2 {
		res.AppendHeader(sip.NewHeader(headers[i], headers[i+1]))
	}
	res.AppendHeader(sip.NewHeader("Content-Length", "0"))
	return []byte(res.String())
}

type headerAppender interface{ AppendHeader(sip.Header) }

func copyHeader(dst headerAppender, m *sipmsg.Message, k sipmsg.Kind, name string) {
	if v, ok := m.HeaderValue(k); ok {
		dst.AppendHeader(sip.NewHeader(name, string(v)))
	}
}

// ownACK acknowledges response, a final response other than 2xx to the INVITE
// invite as we sent it, RFC 3261 section 17.1.1.3.
func ownACK(invite []byte, response *sipmsg.Message) []byte {
	to, _ := response.HeaderValue(sipmsg.To)
	return hopRequest("ACK", invite, string(to))
}

// ownCancel cancels the INVITE invite as we sent it, RFC 3261 section 9.1.
func ownCancel(invite []byte) []byte { return hopRequest("CANCEL", invite, "") }

// hopRequest builds a request that belongs to the transaction of invite. An
// empty to means the INVITE's own.
func hopRequest(method string, invite []byte, to string) []byte {
	var m sipmsg.Message
	if m.Parse(invite) != nil {
		return nil
	}
	via, _ := m.TopVia()
	req := sip.NewRequest(sip.RequestMethod(method), sip.Uri{})
	req.AppendHeader(sip.NewHeader("Via", string(m.Text(via.Value))))
	req.AppendHeader(sip.NewHeader("Max-Forwards", "70"))
	copyHeader(req, &m, sipmsg.From, "From")
	if to == "" {
		copyHeader(req, &m, sipmsg.To, "To")
	} else {
		req.AppendHeader(sip.NewHeader("To", to))
	}
	copyHeader(req, &m, sipmsg.CallID, "Call-ID")
	seq, _ := m.CSeq()
	req.AppendHeader(sip.NewHeader("CSeq", strconv.FormatUint(uint64(seq), 10)+" "+method))
	for _, h := range m.Headers() {
		if h.Kind == sipmsg.Route {
			req.AppendHeader(sip.NewHeader("Route", string(m.Text(h.Value))))
		}
	}
	return printRequest(req, string(m.RequestURI()))
}

// printRequest renders req with uri, a peer's URI that must not be changed, as
// the Request-URI.
func printRequest(req *sip.Request, uri string) []byte {
	var b strings.Builder
	b.WriteString(string(req.Method) + " " + uri + " SIP/2.0\r\n")
	for _, h := range req.Headers() {
		b.WriteString(h.String() + "\r\n")
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	return []byte(b.String())
}

// dialogRequest is a request within a dialog, in the name of one of its parties:
// the tunnel is gone for good and the other party would never hear of it.
type dialogRequest struct {
	method   string // BYE, or the ACK of a 2xx that comes too late
	from, to string // From and To values, with tags
	callID   string
	cseq     uint32
	target   string   // the remote target
	routes   []string // the route set, first hop first
	via      string   // "SIP/2.0/UDP host:port;branch=..."
	reason   string   // Reason header, RFC 3326
}

func (r dialogRequest) message() []byte {
	req := sip.NewRequest(sip.RequestMethod(r.method), sip.Uri{})
	req.AppendHeader(sip.NewHeader("Via", r.via))
	req.AppendHeader(sip.NewHeader("Max-Forwards", "70"))
	req.AppendHeader(sip.NewHeader("From", r.from))
	req.AppendHeader(sip.NewHeader("To", r.to))
	req.AppendHeader(sip.NewHeader("Call-ID", r.callID))
	req.AppendHeader(sip.NewHeader("CSeq", strconv.FormatUint(uint64(r.cseq), 10)+" "+r.method))
	for _, route := range r.routes {
		req.AppendHeader(sip.NewHeader("Route", route))
	}
	if r.reason != "" {
		req.AppendHeader(sip.NewHeader("Reason", r.reason))
	}
	return printRequest(req, r.target)
}

// sendBye ends the dialogs of l toward the SIP peer of this half, in the name of
// sender. A peer of whom too little is known is left to its own timers.
func (e *edge) sendBye(l *leg, sender direction, viaSentBy, reason string, to hop) {
	for _, b := range l.dialogs {
		if b.peerTarget == "" || b.from == "" {
			continue
		}
		branch := newBranch()
		r := dialogRequest{
			method: "BYE", from: b.from, to: b.to, callID: l.key.callID, cseq: l.seq[boolIndex(sender)] + 1,
			target: b.peerTarget, routes: b.routes, via: viaSentBy + ";branch=" + branch, reason: reason,
		}
		if sender != l.key.initiator {
			r.from, r.to = r.to, r.from
		}
		e.newClient(branch, "BYE", txKey{}, r.message(), to)
	}
}

// endLateCall answers a 2xx that came when nobody waits for it any more: the
// callee believes in a call until it is told (RFC 3261 section 13.2.2.4, 15).
// routes is the route set toward it.
func (e *edge) endLateCall(c *clientTx, ok *sipmsg.Message, viaSentBy string, routes []string) {
	target := contactURI(ok)
	if target == "" {
		return
	}
	seq, _ := ok.CSeq()
	r := dialogRequest{
		method: "ACK", from: headerText(ok, sipmsg.From), to: headerText(ok, sipmsg.To), callID: string(ok.CallID()), cseq: seq,
		target: target, routes: routes, via: viaSentBy + ";branch=" + newBranch(),
	}
	c.peer.send(r.message())
	branch := newBranch()
	r.method, r.cseq, r.via, r.reason = "BYE", seq+1, viaSentBy+";branch="+branch, `SIP;cause=503;text="Tunnel lost"`
	e.newClient(branch, "BYE", txKey{}, r.message(), c.peer)
}

// orphaned says that a 2xx to c comes too late: its call has been given up, or
// made by way of another target.
func (c *clientTx) orphaned(ok *sipmsg.Message) bool {
	if !c.invite || ok.StatusCode()/100 != 2 {
		return false
	}
	return c.left || c.leg != nil && c.leg.ended && c.leg.answeredAt.IsZero()
}

// recordRoutes are the Record-Route values of m in their order, or reversed.
func recordRoutes(m *sipmsg.Message, reversed bool) []string {
	var routes []string
	length := 0
	for it := m.Values(sipmsg.RecordRoute); it.Next() && length <= maxLegHeaders; {
		length += len(it.Bytes())
		routes = append(routes, string(it.Bytes()))
	}
	if reversed {
		slices.Reverse(routes)
	}
	return routes
}

// statelessTag begins the To tag of what is answered without a transaction, so
// that the ACK that comes for it is known to end here (RFC 3261 section 16.11).
const statelessTag = "stateless-"

// badRequest is the response to a request from the peer at from that Parse
// refused with err, nil when it cannot or must not be answered. The zero from
// says that the peer's Via needs nothing noted.
func badRequest(m *sipmsg.Message, err error, from netip.AddrPort) []byte {
	var pe *sipmsg.ParseError
	if !errors.As(err, &pe) || pe.Code == 0 || !m.IsRequest() || string(m.Method()) == "ACK" {
		return nil
	}
	if from.IsValid() {
		m.SetViaReceived(from.Addr(), from.Port())
		var noted sipmsg.Message
		_ = noted.Parse(m.AppendTo(nil)) // it is as bad as before, and as readable
		if noted.IsRequest() {
			return responseTo(&noted, pe.Code, pe.Reason, statelessTag+randomHex())
		}
	}
	return responseTo(m, pe.Code, pe.Reason, statelessTag+randomHex())
}

// unknownExtensions are those option tags of the request m's Proxy-Require that
// this proxy does not know (RFC 3261 section 16.3 item 5). It knows gin, with
// which a small PBX registers all of its numbers at once (RFC 6140): nothing but
// its Contact, and the Path that is not there, concerns a proxy. ok is false
// without any.
func unknownExtensions(m *sipmsg.Message) (tags string, ok bool) {
	for it := m.Values(sipmsg.ProxyRequire); it.Next(); {
		if strings.EqualFold(string(it.Bytes()), "gin") {
			continue
		}
		if ok {
			tags += ", "
		}
		tags += string(it.Bytes())
		ok = true
	}
	return tags, ok
}
