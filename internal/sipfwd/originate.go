package sipfwd

import (
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
	if m.Parse(request) != nil {
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

// bye ends a dialog in the name of one of its parties, RFC 3261 section 15.1.1:
// the tunnel is gone for good and the other party would never hear of it.
type bye struct {
	from, to  string // From and To values, with tags
	callID    string
	cseq      uint32
	target    string   // the remote target
	routes    []string // the route set, first hop first
	viaSentBy string   // "SIP/2.0/UDP host:port"
	branch    string
	reason    string // Reason header, RFC 3326
}

func (b bye) message() []byte {
	req := sip.NewRequest(sip.BYE, sip.Uri{})
	req.AppendHeader(sip.NewHeader("Via", b.viaSentBy+";branch="+b.branch))
	req.AppendHeader(sip.NewHeader("Max-Forwards", "70"))
	req.AppendHeader(sip.NewHeader("From", b.from))
	req.AppendHeader(sip.NewHeader("To", b.to))
	req.AppendHeader(sip.NewHeader("Call-ID", b.callID))
	req.AppendHeader(sip.NewHeader("CSeq", strconv.FormatUint(uint64(b.cseq), 10)+" BYE"))
	for _, r := range b.routes {
		req.AppendHeader(sip.NewHeader("Route", r))
	}
	if b.reason != "" {
		req.AppendHeader(sip.NewHeader("Reason", b.reason))
	}
	return printRequest(req, b.target)
}

// recordRoutes are the Record-Route values of m in their order, or reversed.
func recordRoutes(m *sipmsg.Message, reversed bool) []string {
	var routes []string
	it := m.Values(sipmsg.RecordRoute)
	for it.Next() {
		routes = append(routes, string(m.Text(it.Addr().Value)))
	}
	if reversed {
		slices.Reverse(routes)
	}
	return routes
}
