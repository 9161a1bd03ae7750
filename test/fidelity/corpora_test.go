package fidelity

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// corpora is where messages that others wrote are kept beside the repository;
// they are no part of it.
const corpora = "../../../shared/corpora"

// TestCorpora puts every message of the corpora through as it is: requests from
// and to phones on UDP and TCP, responses as the answers to requests made for
// them.
func TestCorpora(t *testing.T) {
	dirs, _ := filepath.Glob(filepath.Join(corpora, "*"))
	if len(dirs) == 0 {
		t.Skip("no messages in ", corpora)
	}
	r := newRig(t)
	answers, replies := templates(t, "styles/pbx.txtar"), templates(t, "styles/phones.txtar")
	total := 0
	for _, dir := range dirs {
		names, all := readAll(t, filepath.Join(dir, "*"))
		corpus := filepath.Base(dir)
		total += len(names)
		for _, name := range names {
			v, known := verdicts[corpus][strings.TrimSuffix(name, filepath.Ext(name))]
			if !known && complete[corpus] {
				t.Errorf("no verdict about %s/%s", corpus, name)
			}
			for _, transport := range []string{"UDP", "TCP"} {
				for _, up := range []bool{true, false} {
					direction := map[bool]string{true: "up", false: "down"}[up]
					r.expect(t, fmt.Sprintf("%s/%s/%s/%s", transport, corpus, name, direction), func(t *testing.T) {
						ph := r.newPhone(t, transport)
						x := &exchange{rig: r, t: t, ph: ph, answers: answers, replies: replies}
						x.v = r.newCall(ph)
						x.register(contacts[0])
						x.through(all[name], up, v)
					})
				}
			}
		}
	}
	r.report(t)
	t.Logf("%d messages of the corpora", total)
}

// through puts a message of a corpus through in one direction.
func (x *exchange) through(in []byte, up bool, v verdict) {
	x.t.Helper()
	if !up {
		in = x.viaPBX(in)
	} else if x.ph.tcp != nil {
		if v.noEnd {
			return // a stream waits for the rest
		}
		if v.noLength {
			x.unframed(in)
			return
		}
		var next []byte
		if in, next = onStream(in); next != nil {
			x.two(in, next)
			return
		}
	}
	m, err := cut(in)
	switch {
	case v.code != 0 || err != nil:
		x.refused(in, up, v)
	case !m.isRequest():
		x.passResponse(in, up, v)
		return
	case up:
		x.finishUp(in, x.up(in))
	case x.ph.path.phoneURI(m.uri()) == "":
		code := 404
		if scheme, _, _ := strings.Cut(m.uri(), ":"); !strings.EqualFold(scheme, "sip") && !strings.EqualFold(scheme, "sips") {
			code = 416
		} else if m.method() == "OPTIONS" {
			code = 200 // a check whether the port is alive
		}
		x.refused(in, up, verdict{code: code})
	default:
		x.finishDown(in, x.down(in))
	}
	x.fence()
}

var viaLine = regexp.MustCompile(`(?mi)^(via|v)[ \t]*:`)

// viaPBX puts a Via of the PBX on top: the answer goes where that says.
func (x *exchange) viaPBX(in []byte) []byte {
	at := viaLine.FindIndex(in)
	if at == nil || bytes.HasPrefix(in, []byte("SIP/")) {
		return in
	}
	x.serial++
	via := fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK%d\r\n", x.pbxAt, 9000000+x.serial)
	return []byte(string(in[:at[0]]) + via + string(in[at[0]:]))
}

// onStream is the message without what lies behind its body, unless that is
// where the next one begins.
func onStream(in []byte) (first, next []byte) {
	m, err := cut(in)
	if err != nil {
		return in, nil
	}
	rest := bytes.TrimLeft(in[len(m.String()):], "\r\n")
	if n, err := cut(rest); err == nil {
		return in[:len(in)-len(rest)], []byte(n.String())
	}
	return []byte(m.String()), nil
}

// two sends two requests at once.
func (x *exchange) two(in, next []byte) {
	x.t.Helper()
	x.ph.send(x.t, append(bytes.Clone(in), next...))
	first, second := x.cameUp(in), x.cameUp(next)
	x.finishUp(in, first)
	x.finishUp(next, second)
	x.fence()
}

// unframed sends what cannot be cut out of a stream: it is answered, and the
// connection ends.
func (x *exchange) unframed(in []byte) {
	x.t.Helper()
	x.ph.send(x.t, in)
	p := x.ph.inbox.await(x.t, "400", func(_ packet, m *text) bool { return m.status() == 400 })
	x.isAnswer(in, p.b, x.ph.path)
}

// refused sends what goes no further, and checks how it is answered.
func (x *exchange) refused(in []byte, up bool, v verdict) {
	x.t.Helper()
	box, beyond := x.inbox, x.ph.inbox
	if up {
		box, beyond = beyond, box
		x.ph.send(x.t, in)
	} else {
		x.toPhone(x.t, x.ph, in)
	}
	if v.code < 0 {
		return // the fence shows that nothing has come
	}
	p := box.awaitBefore(x.t, beyond, fmt.Sprint(v.code), func(_ packet, m *text) bool { return m.status() == v.code })
	x.counts["refused"]++
	o, _ := cut(p.b)
	for _, h := range v.headers {
		if !strings.Contains(o.String(), "\r\n"+h+"\r\n") {
			x.t.Errorf("the answer has no %q: %q", h, p.b)
		}
	}
	from := *x.ph.path
	if !up {
		from.phone = x.pbxAt
	}
	x.isAnswer(in, p.b, &from)
	if m, err := cut(in); err == nil && m.method() == "INVITE" && m.index("call-id") >= 0 {
		ack := message("ACK "+asText(m.uri())+" SIP/2.0", "Via: "+asText(m.values("via")[0]), "From: "+asText(m.get("from")), "To: "+asText(o.get("to")),
			"Call-ID: "+asText(m.get("call-id")), "CSeq: "+strings.Fields(m.get("cseq"))[0]+" ACK", "Max-Forwards: 70", "Content-Length: 0").expand(x.t, nil, nil)
		if up {
			x.ph.send(x.t, ack)
		} else {
			x.toPhone(x.t, x.ph, ack)
		}
	}
}

// isAnswer checks that out has what a response to in has to copy (RFC 3261
// section 8.2.6.2).
func (x *exchange) isAnswer(in, out []byte, from *path) {
	x.t.Helper()
	m, err := cut(in)
	o, _ := cut(out)
	if err != nil {
		m, _ = cut(append(bytes.Clone(in), "\r\n"...))
	}
	if m == nil {
		return
	}
	m.received(from.phone)
	if got, want := strings.Join(o.values("via"), "\n"), strings.Join(m.values("via"), "\n"); got != want {
		x.t.Errorf("the answer has Via\n%q, want\n%q", got, want)
	}
	for _, name := range []string{"from", "call-id", "cseq"} {
		if o.get(name) != m.get(name) {
			x.t.Errorf("the answer has %s %q, want %q", name, o.get(name), m.get(name))
		}
	}
	if !strings.HasPrefix(o.get("to"), m.get("to")) || o.toTag() == "" && !strings.Contains(o.get("to"), "tag") {
		x.t.Errorf("the answer has To %q, want %q with a tag", o.get("to"), m.get("to"))
	}
}

// passResponse answers a request made for it with a message of a corpus.
func (x *exchange) passResponse(res []byte, up bool, v verdict) {
	x.t.Helper()
	m, _ := cut(res)
	req := x.requestFor(m, !up)
	x.inDialog = m.method() == "INVITE"
	var out []byte
	if up {
		out = x.down(req)
	} else {
		out = x.up(req)
	}
	o, _ := cut(out)
	res = withVias(res, o)
	pass := func() []byte {
		if up {
			return x.reply(res)
		}
		return x.answer(res, out)
	}
	switch {
	case v.dropped:
		if up {
			x.ph.send(x.t, res)
		} else {
			x.toPhone(x.t, x.ph, res)
		}
		x.counts["dropped"]++
		if m.method() == "INVITE" {
			x.refuse(up, req, out)
		} else if up {
			x.reply(x.respond(true, out, "200 OK", ""))
		} else {
			x.answer(x.respond(false, out, "200 OK", ""), out)
		}
	case m.method() == "INVITE" && m.status() < 300:
		came := pass()
		c, _ := cut(came)
		if up {
			x.down(x.inside(false, true, "ACK", came, ""))
		} else {
			x.up(x.inside(true, true, "ACK", came, "", route(c)...))
		}
		x.hangUp(came, !up)
	default:
		pass()
	}
	x.fence()
}

// requestFor is a request that the response m answers.
func (x *exchange) requestFor(m *text, up bool) []byte {
	x.t.Helper()
	method := m.method()
	seq := strings.Fields(m.get("cseq"))[0]
	if len(seq) > 9 {
		seq = "1"
	}
	to := cutAddress(m.get("to"))
	to.after, _, _ = strings.Cut(to.after, ";tag")
	lines := []string{method + " sip:600@{{domain}} SIP/2.0", "Via: SIP/2.0/{{transport}} {{addr}};branch={{branch}};rport", "Max-Forwards: 70",
		"From: " + asText(m.get("from")), "To: " + asText(to.String()), "Call-ID: " + asText(m.get("call-id")), "CSeq: " + seq + " " + method,
		"Contact: <sip:{{user}}@{{addr}}>", "Content-Length: {{length}}"}
	if !up {
		lines[0] = method + " {{target}} SIP/2.0"
	}
	if sdp := m.body; strings.Contains(sdp, "m=") {
		lines = append(lines, "Content-Type: application/sdp", "", "v=0", "o=- 1 1 IN IP4 {{ip}}", "s=-", "c=IN IP4 {{ip}}", "t=0 0")
		for l := range strings.Lines(sdp) {
			if strings.HasPrefix(l, "m=") {
				lines = append(lines, strings.TrimSpace(l))
			}
		}
	}
	return message(lines...).expand(x.t, x.vars(up), nil)
}

// withVias is the response res with the Vias of the request that was received.
func withVias(res []byte, req *text) []byte {
	m, err := cut(res)
	if err != nil {
		return res
	}
	behind := res[len(m.String()):]
	at := m.index("via")
	for i := len(m.fields) - 1; i >= 0; i-- {
		if m.fields[i].name == "via" {
			m.remove(i)
		}
	}
	vias := req.lines("via")
	for i := len(vias) - 1; i >= 0; i-- {
		m.insert(at, "Via", vias[i])
	}
	return append([]byte(m.String()), behind...)
}
