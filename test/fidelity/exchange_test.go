package fidelity

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// exchange sends one message of the corpora or of testdata through, with what
// must go before and behind it.
type exchange struct {
	*rig
	t  *testing.T
	ph *phone
	v  vars // of the dialog

	answers  []template // of the PBX, in turn
	replies  []template // of the phone
	contact  string     // the phone's latest in the dialog
	recorded []string   // Record-Route of the PBX in its latest request
	inDialog bool
}

// same fails when a message that has come out is not what the model makes of
// what went in.
func (x *exchange) same(what string, in, out []byte, want string, err error) {
	x.t.Helper()
	if err == nil {
		err = x.freshBranch(out)
	}
	if err != nil || want != string(out) {
		x.t.Fatalf("%s: %v\nsent:     %q\nreceived: %q\nwant:     %q\n%s", what, err, in, out, want, firstDifference(want, string(out)))
	}
	x.counts[what+" "+x.ph.path.transport]++
}

func firstDifference(want, got string) string {
	n := 0
	for n < len(want) && n < len(got) && want[n] == got[n] {
		n++
	}
	clip := func(s string) string { return s[max(n-40, 0):min(n+80, len(s))] }
	return fmt.Sprintf("differs at byte %d: got %q, want %q", n, clip(got), clip(want))
}

// freshBranch checks that the branch on top of a request was not used before;
// ACK and CANCEL that share theirs never come here.
func (x *exchange) freshBranch(out []byte) error {
	m, err := cut(out)
	if err != nil || !m.isRequest() || m.method() == "CANCEL" || len(m.values("via")) == 0 {
		return err
	}
	b, _ := param(afterSentBy(m.values("via")[0]), "branch")
	if x.branch[b.value] {
		return fmt.Errorf("branch %q is not new", b.value)
	}
	x.branch[b.value] = true
	return nil
}

// newCall makes new names for a call.
func (r *rig) newCall(ph *phone) vars {
	r.serial++
	n := strconv.Itoa(r.serial)
	return vars{
		"call": "c" + n, "phonetag": "pt" + n, "pbxtag": "bt" + n, "user": ph.name,
		"proxy": ph.path.proxy.String(), "domain": domain, "pbx": r.pbxAt.String(),
	}
}

// vars are what a message of one side says.
func (x *exchange) vars(up bool) vars {
	x.serial++
	v := x.v.with(vars{"branch": "z9hG4bK" + strconv.Itoa(1000000+x.serial)})
	if up {
		v["tag"], v["peer"], v["addr"], v["target"] = v["phonetag"], v["pbxtag"], x.ph.path.phone.String(), "sip:600@"+x.pbxAt.String()
		v["ip"], v["port"] = x.ph.path.phone.Addr().String(), strconv.Itoa(int(x.ph.path.phone.Port()))
	} else {
		v["tag"], v["peer"], v["addr"], v["target"] = v["pbxtag"], v["phonetag"], x.pbxAt.String(), x.ph.known
		v["ip"], v["port"] = x.pbxAt.Addr().String(), strconv.Itoa(int(x.pbxAt.Port()))
	}
	v["transport"] = x.transportOf(up)
	return v
}

func callID(b []byte) string {
	m, err := cut(b)
	if err != nil {
		return ""
	}
	return m.get("call-id")
}

// atPBX waits for a message of the phone.
func (x *exchange) atPBX(in []byte, what string) []byte {
	x.t.Helper()
	p := x.inbox.await(x.t, what, func(p packet, m *text) bool { return m.get("call-id") == callID(in) })
	if !x.ph.path.port.IsValid() {
		x.ph.path.port = p.from
	}
	if p.from != x.ph.path.port {
		x.t.Fatalf("%s came from %v, not from the phone's port %v", what, p.from, x.ph.path.port)
	}
	return p.b
}

func (x *exchange) atPhone(in []byte, what string) []byte {
	x.t.Helper()
	return x.ph.inbox.await(x.t, what, func(_ packet, m *text) bool { return m.get("call-id") == callID(in) }).b
}

// up sends a request of the phone and returns what the PBX got.
func (x *exchange) up(in []byte) []byte {
	x.t.Helper()
	x.ph.send(x.t, in)
	return x.cameUp(in)
}

func (x *exchange) cameUp(in []byte) []byte {
	x.t.Helper()
	out := x.atPBX(in, "request at the PBX")
	want, err := x.ph.path.requestUp(in, out)
	x.same("request up", in, out, want, err)
	x.noteContact(in)
	return out
}

// noteContact remembers where the phone wants the requests of the dialog.
func (x *exchange) noteContact(in []byte) {
	m, err := cut(in)
	if err != nil || m.method() == "REGISTER" || m.status() >= 300 {
		return
	}
	if v := m.values("contact"); len(v) > 0 && v[0] != "*" {
		x.contact = cutAddress(v[0]).uri
	}
}

// down sends a request of the PBX and returns what the phone got.
func (x *exchange) down(in []byte) []byte {
	x.t.Helper()
	x.toPhone(x.t, x.ph, in)
	out := x.atPhone(in, "request at the phone")
	m, _ := cut(in)
	x.recorded = m.values("record-route")
	uri := x.ph.path.phoneURI(m.uri())
	if x.inDialog && x.contact != "" && m.toTag() != "" {
		uri = x.contact
	}
	want, err := x.ph.path.requestDown(in, out, uri)
	x.same("request down", in, out, want, err)
	return out
}

// answer sends a response of the PBX to req, the request that it got.
func (x *exchange) answer(in, req []byte) []byte {
	x.t.Helper()
	x.toPhone(x.t, x.ph, in)
	out := x.atPhone(in, "response at the phone")
	q, _ := cut(req)
	creates := q.toTag() == "" && strings.Contains(" INVITE SUBSCRIBE REFER NOTIFY ", " "+q.method()+" ")
	want, err := x.ph.path.responseDown(in, out, creates)
	x.same("response down", in, out, want, err)
	return out
}

// reply sends a response of the phone.
func (x *exchange) reply(in []byte) []byte {
	x.t.Helper()
	x.ph.send(x.t, in)
	out := x.atPBX(in, "response at the PBX")
	want, err := x.ph.path.responseUp(in, out, x.recorded)
	x.same("response up", in, out, want, err)
	x.noteContact(in)
	return out
}

// respond makes the response of one side to req, the request that it got: in
// the manner of the next maker in turn.
func (x *exchange) respond(up bool, req []byte, status, body string) []byte {
	x.t.Helper()
	styles := x.answers
	if up {
		styles = x.replies
	}
	x.serial++
	tp := styles[x.serial%len(styles)]
	return x.respondAs(tp, up, req, status, body)
}

func (x *exchange) respondAs(tp template, up bool, req []byte, status, body string) []byte {
	x.t.Helper()
	q, err := cut(req)
	if err != nil {
		x.t.Fatal(err)
	}
	v := x.vars(up).with(vars{
		"status": status, "from": q.get("from"), "to": q.get("to"), "callid": q.get("call-id"), "cseq": q.get("cseq"),
	})
	for _, name := range []string{"from", "to", "callid", "cseq"} {
		v[name] = asText(v[name])
	}
	if q.toTag() == "" {
		v["to"] += ";tag=" + v["tag"]
	}
	if body == "" {
		tp.text = dropLines(tp.text, "{{type}}")
	}
	contact := "<sip:600@{{addr}}>"
	if up {
		contact = "<sip:{{user}}@{{addr}}>"
	}
	if q.method() == "REGISTER" {
		contact = "{{contacts}};expires=300"
	}
	tp.text = strings.ReplaceAll(tp.text, "{{contact}}", contact)
	v["type"] = "application/sdp"
	return append(tp.withBody(body).expand(x.t, v, q), body...)
}

// withBody gives a template the length of a body that comes behind it, unless it
// has one of its own.
func (tp template) withBody(body string) template {
	if _, own, _ := strings.Cut(tp.text, "\n\n"); own != "" {
		return tp
	}
	tp.text = strings.ReplaceAll(tp.text, "{{length}}", strconv.Itoa(len(body)))
	return tp
}

func dropLines(s, mark string) string {
	var b strings.Builder
	for l := range strings.Lines(s) {
		if !strings.Contains(l, mark) {
			b.WriteString(l)
		}
	}
	return b.String()
}

// sdpIn is the session description of a message, or "".
func sdpIn(b []byte) string {
	m, err := cut(b)
	if err != nil {
		return ""
	}
	from, to, ok := findSDP(m.get("content-type"), m.body)
	if !ok {
		return ""
	}
	return m.body[from:to]
}

// route are the Route lines that a phone makes of the response m.
func route(m *text) []string {
	var lines []string
	for _, v := range m.values("record-route") {
		lines = append([]string{"Route: " + v}, lines...)
	}
	return lines
}

// inside is a request in the dialog that the response res belongs to; first
// says that its sender sent the first request too.
func (x *exchange) inside(up, first bool, method string, res []byte, body string, more ...string) []byte {
	x.t.Helper()
	a, _ := cut(res)
	from, to := a.get("from"), a.get("to")
	if !first {
		from, to = to, from
	}
	x.serial++
	seq := strconv.Itoa(80000 + x.serial)
	if method == "ACK" {
		seq = strings.Fields(a.get("cseq"))[0]
	}
	lines := []string{method + " {{target}} SIP/2.0", "Via: SIP/2.0/" + x.transportOf(up) + " {{addr}};branch={{branch}};rport"}
	lines = append(lines, more...)
	lines = append(lines, "From: "+from, "To: "+to, "Call-ID: "+a.get("call-id"), "CSeq: "+seq+" "+method, "Max-Forwards: 70")
	if body != "" {
		lines = append(lines, "Content-Type: application/sdp")
	}
	lines = append(lines, "Content-Length: "+strconv.Itoa(len(body)))
	for i := range lines {
		lines[i] = asText(lines[i])
	}
	return append(message(lines...).expand(x.t, x.vars(up), nil), body...)
}

// asText makes bytes of a message what a template has for them.
func asText(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), `\x`, `\x5cx`)
}

func (x *exchange) transportOf(up bool) string {
	if up {
		return x.ph.path.transport
	}
	return "UDP"
}

// finishUp answers a request of the phone, in as it was sent and out as the PBX
// got it, in the manner that its method asks for.
func (x *exchange) finishUp(in, out []byte) {
	x.t.Helper()
	m, _ := cut(out)
	switch {
	case m.method() == "ACK" || m.method() == "CANCEL":
	case m.method() == "INVITE":
		x.callUp(in, out)
	case m.method() == "REGISTER":
		x.ph.path.register(in, out)
		x.answer(x.respond(false, out, "200 OK", ""), out)
	case m.method() == "PRACK" || m.method() == "UPDATE":
		body := ""
		if offer := sdpIn(out); offer != "" {
			body = answerTo(offer, x.pbxAt.Addr().String())
		}
		x.answer(x.respond(false, out, "200 OK", body), out)
	default:
		x.answer(x.respond(false, out, x.finalStatus(m.method()), ""), out)
	}
}

func (x *exchange) finalStatus(method string) string {
	switch method {
	case "REFER", "SUBSCRIBE":
		return "202 Accepted"
	}
	return []string{"200 OK", "200 OK", "403 Forbidden", "404 Not Found"}[x.serial%4]
}

// callUp answers an INVITE of the phone, acknowledges, and hangs up.
func (x *exchange) callUp(in, out []byte) {
	x.t.Helper()
	m, _ := cut(out)
	offer := sdpIn(out)
	body := answerTo(offer, x.pbxAt.Addr().String())
	if offer == "" {
		body = answerTo("m=audio 4000 RTP/AVP 8\r\n", x.pbxAt.Addr().String())
	}
	x.inDialog = true
	if m.toTag() == "" {
		early := ""
		if offer != "" {
			early = body
		}
		x.answer(x.respond(false, out, "183 Session Progress", early), out)
	}
	ok := x.answer(x.respond(false, out, "200 OK", body), out)
	o, _ := cut(ok)
	ackBody := ""
	if offer == "" {
		ackBody = answerTo(sdpIn(ok), x.ph.path.phone.Addr().String())
	}
	x.up(x.inside(true, true, "ACK", ok, ackBody, route(o)...))
	x.hangUp(ok, true)
}

// hangUp is a BYE of the PBX; called says that the phone began the dialog.
func (x *exchange) hangUp(res []byte, called bool) {
	x.t.Helper()
	bye := x.down(x.inside(false, !called, "BYE", res, ""))
	x.reply(x.respond(true, bye, "200 OK", ""))
}

// finishDown answers a request of the PBX, in as it was sent and out as the
// phone got it.
func (x *exchange) finishDown(in, out []byte) {
	x.t.Helper()
	m, _ := cut(out)
	switch m.method() {
	case "ACK", "CANCEL":
	case "INVITE":
		x.callDown(in, out)
	case "PRACK", "UPDATE":
		body := ""
		if offer := sdpIn(out); offer != "" {
			body = answerTo(offer, x.ph.path.phone.Addr().String())
		}
		x.reply(x.respond(true, out, "200 OK", body))
	default:
		x.reply(x.respond(true, out, x.finalStatus(m.method()), ""))
	}
}

// callDown answers an INVITE of the PBX; the PBX acknowledges and hangs up.
func (x *exchange) callDown(in, out []byte) {
	x.t.Helper()
	m, _ := cut(out)
	offer := sdpIn(out)
	body := answerTo(offer, x.ph.path.phone.Addr().String())
	if offer == "" {
		body = answerTo("m=audio 4000 RTP/AVP 8\r\n", x.ph.path.phone.Addr().String())
	}
	x.inDialog = true
	if m.toTag() == "" {
		x.reply(x.respond(true, out, "180 Ringing", ""))
	}
	ok := x.reply(x.respond(true, out, "200 OK", body))
	ackBody := ""
	if offer == "" {
		ackBody = answerTo(sdpIn(ok), x.pbxAt.Addr().String())
	}
	x.down(x.inside(false, true, "ACK", ok, ackBody))
	x.hangUp(ok, false)
}

// register makes the phone known to the PBX by this Contact.
func (x *exchange) register(contact string) {
	x.t.Helper()
	call := x.v
	x.v = x.newCall(x.ph)
	in := message("REGISTER sip:{{domain}} SIP/2.0", "Via: SIP/2.0/"+x.ph.path.transport+" {{addr}};branch={{branch}};rport",
		"Max-Forwards: 70", "From: <sip:{{user}}@{{domain}}>;tag={{tag}}", "To: <sip:{{user}}@{{domain}}>", "Call-ID: {{call}}",
		"CSeq: 1 REGISTER", "Contact: "+contact, "Expires: 600", "Content-Length: 0").expand(x.t, x.vars(true), nil)
	out := x.up(in)
	x.finishUp(in, out)
	o, _ := cut(out)
	x.ph.known = cutAddress(o.values("contact")[0]).uri
	x.v = call
}

// fence shows that nothing else is under way: what is sent last has come out,
// and nothing that was not waited for before it.
func (x *exchange) fence() {
	x.t.Helper()
	call := x.v
	x.v = x.newCall(x.ph)
	in := message("OPTIONS sip:{{domain}} SIP/2.0", "Via: SIP/2.0/"+x.ph.path.transport+" {{addr}};branch={{branch}}", "Max-Forwards: 70",
		"From: <sip:{{user}}@{{domain}}>;tag={{tag}}", "To: <sip:{{domain}}>", "Call-ID: {{call}}", "CSeq: 1 OPTIONS", "Content-Length: 0",
	).expand(x.t, x.vars(true), nil)
	out := x.up(in)
	x.answer(x.respond(false, out, "200 OK", ""), out)
	x.v = call
	if s := x.inbox.strays(); s != "" {
		x.t.Errorf("the PBX got more than it should: %s", s)
	}
	if s := x.ph.inbox.strays(); s != "" {
		x.t.Errorf("the phone got more than it should: %s", s)
	}
}
