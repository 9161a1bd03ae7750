package fidelity

import (
	"strconv"
	"strings"
	"testing"
)

// run puts a message of testdata through.
func (x *exchange) run(tp template) {
	x.t.Helper()
	switch {
	case tp.isResponse():
		x.runResponse(tp)
	case tp.firstMethod() == "CANCEL":
		x.runCancel(tp)
	default:
		x.runRequest(tp)
	}
}

func (x *exchange) runRequest(tp template) {
	x.t.Helper()
	method := tp.firstMethod()
	var call []byte // the response that established the dialog
	begins := tp.up != tp.has("callee")
	if tp.inDialog() {
		call = x.prologue(method, begins)
	}
	in := tp.expand(x.t, x.vars(tp.up), nil)
	if tp.up {
		x.finishUp(in, x.up(in))
	} else {
		x.finishDown(in, x.down(in))
	}
	if call != nil && method != "INVITE" && method != "BYE" && !subscribes(method) {
		x.hangUp(call, begins)
	}
}

func subscribes(method string) bool { return method == "SUBSCRIBE" || method == "NOTIFY" }

// prologue establishes the dialog that a request needs, begun by the phone or
// by the PBX, and returns the response that did.
func (x *exchange) prologue(method string, byPhone bool) []byte {
	x.t.Helper()
	x.inDialog = true
	first, status := "INVITE", "200 OK"
	if subscribes(method) {
		first, status = "SUBSCRIBE", "202 Accepted"
		if method == "NOTIFY" {
			byPhone = !byPhone // who notifies was subscribed to
		}
	}
	in := x.first(first, byPhone, first == "INVITE")
	if byPhone {
		out := x.up(in)
		ok := x.answer(x.respond(false, out, status, x.answerIn(out, false)), out)
		if first == "INVITE" {
			o, _ := cut(ok)
			x.up(x.inside(true, true, "ACK", ok, "", route(o)...))
		}
		return ok
	}
	out := x.down(in)
	ok := x.reply(x.respond(true, out, status, x.answerIn(out, true)))
	if first == "INVITE" {
		x.down(x.inside(false, true, "ACK", ok, ""))
	}
	return ok
}

// answerIn is the answer to the offer in a request, if any.
func (x *exchange) answerIn(req []byte, up bool) string {
	offer := sdpIn(req)
	host := x.pbxAt.Addr().String()
	if up {
		host = x.ph.path.phone.Addr().String()
	}
	if offer == "" {
		return ""
	}
	return answerTo(offer, host)
}

// first is a plain request that begins something.
func (x *exchange) first(method string, up, offer bool) []byte {
	x.t.Helper()
	lines := []string{method + " sip:600@{{domain}} SIP/2.0", "Via: SIP/2.0/" + x.transportOf(up) + " {{addr}};branch={{branch}};rport",
		"Max-Forwards: 70", "From: <sip:{{user}}@{{domain}}>;tag={{tag}}", "To: <sip:600@{{domain}}>", "Call-ID: {{call}}",
		"CSeq: 1 " + method, "Contact: <sip:{{user}}@{{addr}}>"}
	if !up {
		lines[0] = method + " {{target}} SIP/2.0"
	}
	if subscribes(method) {
		lines = append(lines, "Event: dialog", "Expires: 600")
	}
	lines = append(lines, "Content-Length: {{length}}")
	if offer {
		lines = append(lines, "Content-Type: application/sdp", "", "v=0", "o=- 1 1 IN IP4 {{ip}}", "s=-", "c=IN IP4 {{ip}}", "t=0 0",
			"m=audio 17000 RTP/AVP 8 0", "a=rtpmap:8 PCMA/8000", "a=rtpmap:0 PCMU/8000", "m=video 17002 RTP/AVP 99", "a=rtpmap:99 H264/90000")
	}
	return message(lines...).expand(x.t, x.vars(up), nil)
}

// runResponse sends the request that the response of testdata answers before.
func (x *exchange) runResponse(tp template) {
	x.t.Helper()
	x.inDialog = tp.method == "INVITE"
	in := x.first(tp.method, !tp.up, tp.method == "INVITE" && !tp.has("offer"))
	var out, came []byte
	if tp.up {
		out = x.down(in)
		came = x.reply(x.respondAs(tp, true, out, "", ""))
	} else {
		out = x.up(in)
		if tp.method == "REGISTER" {
			x.ph.path.register(in, out)
		}
		came = x.answer(x.respondAs(tp, false, out, "", ""), out)
	}
	m, _ := cut(came)
	switch {
	case m.status() < 200:
		x.refuse(tp.up, in, out)
	case tp.method != "INVITE":
	case m.status() < 300:
		body := ""
		if tp.has("offer") {
			body = answerTo(sdpIn(came), "127.0.0.1")
		}
		if tp.up {
			x.down(x.inside(false, true, "ACK", came, body))
		} else {
			x.up(x.inside(true, true, "ACK", came, body, route(m)...))
		}
		x.hangUp(came, !tp.up)
	default:
		x.acknowledge(tp.up, in, out, came)
	}
}

// refuse ends an INVITE that rings: in as it was sent, out as it came; by the
// phone, or by the PBX.
func (x *exchange) refuse(byPhone bool, in, out []byte) {
	x.t.Helper()
	res := x.respond(byPhone, out, "486 Busy Here", "")
	if byPhone {
		res = x.reply(res)
	} else {
		res = x.answer(res, out)
	}
	x.acknowledge(byPhone, in, out, res)
}

// acknowledge checks the ACK that the program beside the refusing party sends
// for the response res to out, and sends the caller's own, which ends at once.
func (x *exchange) acknowledge(byPhone bool, in, out, res []byte) {
	x.t.Helper()
	o, _ := cut(out)
	isACK := func(m *text) bool {
		return m.isRequest() && m.method() == "ACK" && m.get("call-id") == o.get("call-id")
	}
	var p packet
	if byPhone {
		p = x.ph.inbox.await(x.t, "ACK at the phone", func(_ packet, m *text) bool { return isACK(m) })
	} else {
		p = x.inbox.await(x.t, "ACK at the PBX", func(_ packet, m *text) bool { return isACK(m) })
	}
	a, _ := cut(p.b)
	r, _ := cut(res)
	if got, want := a.lines("via"), o.values("via")[:1]; len(got) != 1 || got[0] != want[0] {
		x.t.Errorf("the ACK has Via %q, want %q", got, want)
	}
	if a.uri() != o.uri() || a.get("from") != o.get("from") || a.get("to") != r.get("to") ||
		strings.Fields(a.get("cseq"))[0] != strings.Fields(o.get("cseq"))[0] {
		x.t.Errorf("the ACK is not that of %q:\n%q", out, p.b)
	}
	i, _ := cut(in)
	own := message("ACK "+asText(i.uri())+" SIP/2.0", "Via: "+asText(i.values("via")[0]), "From: "+asText(i.get("from")), "To: "+asText(r.get("to")),
		"Call-ID: "+asText(i.get("call-id")), "CSeq: "+strings.Fields(i.get("cseq"))[0]+" ACK", "Max-Forwards: 70", "Content-Length: 0").expand(x.t, nil, nil)
	if byPhone {
		x.toPhone(x.t, x.ph, own)
	} else {
		x.ph.send(x.t, own)
	}
}

// runCancel cancels an INVITE that rings.
func (x *exchange) runCancel(tp template) {
	x.t.Helper()
	x.inDialog = true
	in := x.first("INVITE", tp.up, true)
	i, _ := cut(in)
	b, _ := param(afterSentBy(i.values("via")[0]), "branch")
	v := x.vars(tp.up).with(vars{
		"reqbranch": b.value, "from": i.get("from"), "to": i.get("to"), "callid": i.get("call-id"), "uri": i.uri(),
		"cseq": strings.Fields(i.get("cseq"))[0],
	})
	cancel := tp.expand(x.t, v, nil)
	is := func(method string, status int) func(_ packet, m *text) bool {
		return func(_ packet, m *text) bool {
			return m.get("call-id") == i.get("call-id") && m.method() == method && m.status() == status
		}
	}
	if tp.up {
		out := x.up(in)
		x.answer(x.respond(false, out, "180 Ringing", ""), out)
		x.ph.send(x.t, cancel)
		x.ph.inbox.await(x.t, "200 to the CANCEL", is("CANCEL", 200))
		p := x.inbox.await(x.t, "CANCEL at the PBX", is("CANCEL", 0))
		want, err := x.ph.path.cancel(cancel, out, true)
		x.same("request up", cancel, p.b, want, err)
		x.toPhone(x.t, x.ph, x.respond(false, p.b, "200 OK", ""))
		res := x.answer(x.respond(false, out, "487 Request Terminated", ""), out)
		x.acknowledge(false, in, out, res)
		return
	}
	out := x.down(in)
	x.reply(x.respond(true, out, "180 Ringing", ""))
	x.toPhone(x.t, x.ph, cancel)
	x.inbox.await(x.t, "200 to the CANCEL", is("CANCEL", 200))
	p := x.ph.inbox.await(x.t, "CANCEL at the phone", is("CANCEL", 0))
	want, err := x.ph.path.cancel(cancel, out, false)
	x.same("request down", cancel, p.b, want, err)
	x.ph.send(x.t, x.respond(true, p.b, "200 OK", ""))
	res := x.reply(x.respond(true, out, "487 Request Terminated", ""))
	x.acknowledge(true, in, out, res)
}

// cancel is the CANCEL that comes out for in when the INVITE came out as
// invite: hop by hop, it has that one's URI and topmost Via (RFC 3261 section
// 9.1), and else what the canceller wrote.
func (p *path) cancel(in, invite []byte, up bool) (string, error) {
	m, i, err := cutBoth(in, invite)
	if err != nil {
		return "", err
	}
	m.setURI(i.uri())
	m.fields[m.index("via")].value = i.values("via")[0]
	if up {
		m.routeUp(p)
	}
	m.noOutbound()
	if !up {
		m.lengthOnStream(p.transport)
	}
	return m.String(), nil
}

// The Contacts by which phones register, in the manner of several makers.
var contacts = []string{
	"<sip:{{user}}@{{addr}}>",
	`"Desk" <sip:{{user}}@{{addr}};transport=TRANSPORT;line=q8w3>;reg-id=1;q=1.0;audio`,
	`<sip:{{user}}@{{addr}};ob;transport=TRANSPORT>;+sip.instance="<urn:uuid:00000000-0000-1000-8000-NUMBER>";reg-id=1`,
	"<sip:{{user}}@{{addr}};x-a=b>;+x=\"y\"",
}

// pool are registered phones, which take turns.
func (r *rig) pool(t *testing.T, transport string, answers, replies []template) []*phone {
	t.Helper()
	var phones []*phone
	for i, c := range contacts {
		ph := r.newPhone(t, transport)
		c = strings.ReplaceAll(c, "TRANSPORT", strings.ToLower(transport))
		c = strings.ReplaceAll(c, "NUMBER", strconv.Itoa(100000000000+i+10*len(transport)))
		x := &exchange{rig: r, t: t, ph: ph, answers: answers, replies: replies}
		x.register(c)
		x.fence()
		phones = append(phones, ph)
	}
	return phones
}
