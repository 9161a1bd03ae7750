//go:build linux

package peers

import (
	"embed"
	"fmt"
	"strings"
	"text/template"
)

//go:embed scenarios/calls/*.xml
var callScenarios embed.FS

// render makes SIPp's scenario of the part's template. A file of scenarios/calls has a template for each role, and what the
// templates have beside SIPp's own elements and keywords are the words of the function below, most of them the head of a
// message, which ends after the last header but those of a body.
func (p *Part) render() (string, error) {
	tmpl, err := template.New(p.Scenario).Funcs(p.words()).ParseFS(callScenarios, "scenarios/calls/"+p.Scenario+".xml")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"ISO-8859-1\" ?>\n<!DOCTYPE scenario SYSTEM \"sipp.dtd\">\n")
	fmt.Fprintf(&b, "<scenario name=\"%s %s\">\n", p.Scenario, p.Role)
	if err := tmpl.ExecuteTemplate(&b, string(p.Role), p); err != nil {
		return "", err
	}
	// SIPp takes a variable that is never read for a mistake.
	var kept []string
	for _, name := range []string{"remote", "target", "called", "via", "rr", "cseq"} {
		if strings.Contains(b.String(), fmt.Sprintf("assign_to=%q", name)) {
			kept = append(kept, name)
		}
	}
	if len(kept) > 0 {
		fmt.Fprintf(&b, "<Reference variables=%q/>\n", strings.Join(kept, ","))
	}
	b.WriteString("</scenario>\n")
	return b.String(), nil
}

func (p *Part) words() template.FuncMap {
	return template.FuncMap{
		"step": p.step, // wait for Step

		"invite":  p.invite,  // N: head of the INVITE with CSeq N that begins the call
		"nack":    p.nack,    // N: ACK of a final response to it that is no 2xx
		"cancel":  p.cancel,  // N: CANCEL of it
		"called":  p.called,  // receive it
		"answer":  p.answer,  // STATUS REASON: head of a response to it; a third word makes a To tag of its own
		"request": p.request, // METHOD N: head of a request in the dialog
		"ack":     p.ack,     // N: head of the ACK of a 2xx
		"renack":  p.renack,  // N: ACK of a final response to an INVITE in the dialog that is no 2xx
		"reply":   p.reply,   // STATUS REASON: head of a response to the request received last
		"heard":   p.heard,   // METHOD: receive a request in the dialog that late is to answer, of a callee
		"late":    p.late,    // STATUS REASON: head of a response to it
		"trying":  p.trying,  // receive 100, perhaps
		"makes":   p.makes,   // STATUS: receive a response that makes the dialog

		"empty":   p.empty,   // there is no body
		"sdp":     p.sdp,     // a body of SDP follows
		"session": p.session, // N: SDP with version N, without media
		"audio":   p.audio,   // N: SDP with version N, with one m-line

		// Whole steps.
		"calls":     p.calls,
		"tries":     p.tries,
		"rings":     p.rings,
		"answers":   p.answers,
		"acks":      p.acks,      // N
		"acked":     p.acked,     //
		"reinvites": p.reinvites, // N: with version N of its SDP
		"accepts":   p.accepts,   // N: with version N of its SDP
		"hangsup":   p.hangsup,   // N
		"hungup":    p.hungup,
	}
}

const (
	number   = "sip:[number]@[domain]"
	localURI = `"P. Hone \"[user]\"" <sip:[user]@[domain]>`
	contact  = "Contact: <sip:[user]@[local_ip]:[local_port];transport=[transport]>\n"
	// Headers that no proxy knows, written as no proxy would.
	oddHeaders = "User-Agent: SIPp  as ([user]) ;v=1\nx-oDd :a,,\"b\\\"\" ;c= d\n"
)

// head is that of a request.
func (p *Part) head(method, uri, to string, n int, branch string) string {
	from := localURI + ";tag=[pid]-caller"
	if p.Role != Caller {
		from = "[$called];tag=[pid]-" + string(p.Role)
	}
	return fmt.Sprintf("%s %s SIP/2.0\nVia: SIP/2.0/[transport] [local_ip]:[local_port];branch=%s;rport\n"+
		"From: %s\n%s\nCall-ID: [call_id]\nCSeq: %d %s\nMax-Forwards: 70\n", method, uri, branch, from, to, n, method)
}

// branch is that of a request, and of the CANCEL and ACK that belong to the transaction of an INVITE.
func (p *Part) branch(n int) string { return fmt.Sprintf("z9hG4bK-[pid]-%s-%d", p.Role, n) }

func (p *Part) first(method string, n int) string {
	return p.head(method, number, "To: <"+number+">", n, p.branch(n))
}

func (p *Part) inDialog(method string, n int, branch string) string {
	return p.head(method, "[$target]", "To: [$remote]", n, branch) + "[routes]\n"
}

func (p *Part) invite(n int) string { return p.first("INVITE", n) + contact + oddHeaders }
func (p *Part) cancel(n int) string { return p.first("CANCEL", n) + p.empty() }
func (p *Part) nack(n int) string {
	return once(p.head("ACK", number, "[last_To:]", n, p.branch(n)) + p.empty())
}
func (p *Part) request(method string, n int) string {
	return p.inDialog(method, n, p.branch(n)) + contact + oddHeaders
}
func (p *Part) ack(n int) string    { return p.inDialog("ACK", n, "[branch]") + oddHeaders }
func (p *Part) renack(n int) string { return once(p.inDialog("ACK", n, p.branch(n)) + p.empty()) }

func status(code int, reason string) string { return fmt.Sprintf("SIP/2.0 %d %s\n", code, reason) }

// answer is made of what called has kept, since other messages may have come in between.
func (p *Part) answer(code int, reason string, tag ...string) string {
	return status(code, reason) + "[$via]\nFrom: [$remote]\nTo: [$called];tag=[pid]-" + strings.Join(append(tag, string(p.Role)), "-") +
		"\nCall-ID: [call_id]\nCSeq: [$cseq]\n[$rr]\n" + contact + oddHeaders
}

func (p *Part) reply(code int, reason string) string {
	return status(code, reason) + "[last_Via:]\n[last_From:]\n[last_To:]\n[last_Call-ID:]\n[last_CSeq:]\n[last_Record-Route:]\n" +
		contact + oddHeaders
}

func (p *Part) heard(method string) string {
	return fmt.Sprintf(`<recv request="%s"><action>`, method) + value("cseq", "CSeq") + all("via", "Via") + "</action></recv>"
}

func (p *Part) late(code int, reason string) string {
	return status(code, reason) + "[$via]\nFrom: [$remote]\nTo: [$called];tag=[pid]-" + string(p.Role) +
		"\nCall-ID: [call_id]\nCSeq: [$cseq]\n" + contact + oddHeaders
}

// all keeps all lines of a header that stand together.
func all(into, header string) string {
	const lines = `%[1]s:[[:print:]]*([[:cntrl:]]+%[1]s:[[:print:]]*)*`
	return fmt.Sprintf(`<ereg regexp="`+lines+`" search_in="msg" assign_to="%[2]s"/>`, header, into)
}

func (p *Part) called() string {
	return `<recv request="INVITE" rrs="true"><action>` + value("remote", "From") + target + value("called", "To") + value("cseq", "CSeq") +
		all("via", "Via") + all("rr", "Record-Route") + "</action></recv>"
}

// target keeps the URI in Contact: SIPp's own [next_url] stays what it was when another dialog begins.
const target = `<ereg regexp="sip:[^>]*" search_in="hdr" header="Contact:" assign_to="target"/>`

func value(into, header string) string {
	return fmt.Sprintf(`<ereg regexp="[^ ].*" search_in="hdr" header="%s:" assign_to="%s"/>`, header, into)
}

func (p *Part) makes(code int) string {
	return fmt.Sprintf(`<recv response="%d" rrs="true"><action>%s</action></recv>`, code, value("remote", "To")+target)
}

func (p *Part) trying() string { return `<recv response="100" optional="true"/>` }

// step cannot be taken by a player over TCP, which has one connection and listens for nothing else.
func (p *Part) step() string {
	if p.Transport == "udp" {
		return `<recv request="STEP"/>`
	}
	return `<pause milliseconds="300"/>`
}

func (p *Part) empty() string { return "Content-Length: 0\n\n" }
func (p *Part) sdp() string   { return "Content-Type: application/sdp\nContent-Length: [len]\n\n" }

func (p *Part) session(n int) string {
	return fmt.Sprintf("v=0\no=- [pid] %d IN [address]\ns=a call\nc=IN [address]\nt=0 0\n", n)
}

func (p *Part) audio(n int) string {
	return p.session(n) + "m=audio [media0] RTP/AVP 0 101\na=rtpmap:0 PCMU/8000\na=rtpmap:101 telephone-event/8000\na=fmtp:101 0-16\n"
}

func once(message string) string { return "<send><![CDATA[\n" + message + "]]></send>" }

// repeated is sent until the next message comes. Nothing is lost here, but on a busy machine SIPp would be too early, and take
// what comes twice for the next message.
func repeated(message string) string {
	return "<send retrans=\"4000\"><![CDATA[\n" + message + "]]></send>"
}

func (p *Part) calls() string     { return repeated(p.invite(1)+p.sdp()+p.audio(1)) + p.trying() }
func (p *Part) tries() string     { return once(p.answer(100, "Trying") + p.empty()) }
func (p *Part) rings() string     { return once(p.answer(180, "Ringing") + p.empty()) }
func (p *Part) answers() string   { return repeated(p.answer(200, "OK") + p.sdp() + p.audio(1)) }
func (p *Part) acks(n int) string { return once(p.ack(n) + p.empty()) }
func (p *Part) acked() string     { return `<recv request="ACK"/>` }
func (p *Part) reinvites(n int) string {
	return repeated(p.request("INVITE", n)+p.sdp()+p.audio(n)) + p.trying()
}
func (p *Part) accepts(n int) string { return repeated(p.reply(200, "OK") + p.sdp() + p.audio(n)) }
func (p *Part) hangsup(n int) string {
	return repeated(p.request("BYE", n)+p.empty()) + `<recv response="200"/>`
}
func (p *Part) hungup() string { return `<recv request="BYE"/>` + once(p.reply(200, "OK")+p.empty()) }
