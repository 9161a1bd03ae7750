package sipmsg

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// request returns an INVITE with the headers that none may lack, more header
// lines and a body.
func request(headers, body string) string {
	return "INVITE sip:b@example.net SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport\r\n" +
		"From: <sip:a@example.net>;tag=1\r\n" +
		"To: <sip:b@example.net>\r\n" +
		"Call-ID: 1@192.0.2.1\r\n" +
		"CSeq: 1 INVITE\r\n" +
		headers + "\r\n" + body
}

func mustParse(t testing.TB, m *Message, msg string) {
	t.Helper()
	if err := m.Parse([]byte(msg)); err != nil {
		t.Fatalf("%v in:\n%s", err, msg)
	}
}

func TestParseErrors(t *testing.T) {
	good := request("Max-Forwards: 70\r\nContent-Length: 2\r\n", "ab")
	swap := func(old, to string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q to replace", old)
		}
		return strings.Replace(good, old, to, 1)
	}
	for _, c := range []struct {
		name, msg, reason string
		code              int
	}{
		{"good", good, "", 0},
		{"line ends in front", "\r\n\n\r\n" + good, "", 0},
		{"empty", "", "keepalive", 0},
		{"crlf", "\r\n\r\n", "keepalive", 0},
		{"zeros", "\x00\x00\x00\x00", "keepalive", 0},
		{"no line", "INVITE sip:b SIP/2.0", "no start line", 0},
		{"text", "jaK\r\n\r\n", "no start line", 0},
		{"http", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no start line", 0},
		{"version", swap("SIP/2.0\r", "SIP/3.0\r"), "SIP version not supported", 505},
		{"version in any case", swap("SIP/2.0\r", "sip/2.0\r"), "", 0},
		{"white space behind", swap("SIP/2.0\r", "SIP/2.0 \t\r"), "", 0},
		{"two spaces", swap("INVITE sip", "INVITE  sip"), "malformed Request-URI", 400},
		{"space in URI", swap("example.net SIP", "example.net;x y SIP"), "malformed Request-URI", 400},
		{"tab in URI", swap("example.net SIP", "example.net;\tx SIP"), "malformed Request-URI", 400},
		{"brackets", swap("sip:b@example.net SIP", "<sip:b@example.net> SIP"), "malformed Request-URI", 400},
		{"no URI", swap("INVITE sip:b@example.net", "INVITE"), "malformed Request-URI", 400},
		{"space in front", " " + good, "malformed method", 0},
		{"method", swap("INVITE sip", "IN(VITE sip"), "malformed method", 400},
		{"strange method", strings.ReplaceAll(good, "INVITE", "!interesting-Method0123456789_*+`.%indeed'~"), "", 0},
		{"folded start line", swap("Via:", " Via:"), "folded start line", 400},
		{"no empty line", strings.TrimSuffix(swap("Content-Length: 2\r\n", ""), "\r\nab"), "no empty line behind the headers", 400},
		{"cut in a header", good[:len(good)-10], "no empty line behind the headers", 400},
		{"no Via", swap("Via:", "Vie:"), "no Via header", 0},
		{"no From", swap("From:", "Form:"), "no From header", 0},
		{"no To", swap("To:", "Too:"), "no To header", 0},
		{"no Call-ID", swap("Call-ID:", "Call_ID:"), "no Call-ID header", 0},
		{"no CSeq", swap("CSeq:", "CSec:"), "no CSeq header", 0},
		{"bad Via", swap("SIP/2.0/UDP", "SIP/2.0"), "malformed Via", 400},
		{"empty Via", swap("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport", ""), "malformed Via", 400},
		{"bad From", swap("<sip:a@example.net>", "<sip:a@example.net"), "malformed From", 400},
		{"star as To", swap("<sip:b@example.net>", "*"), "malformed To", 400},
		{"empty Call-ID", swap(" 1@192.0.2.1", ""), "malformed Call-ID", 400},
		{"CSeq text", swap("CSeq: 1", "CSeq: x"), "malformed CSeq", 400},
		{"CSeq alone", swap("CSeq: 1 INVITE", "CSeq: 1"), "malformed CSeq", 400},
		{"CSeq large", swap("CSeq: 1", "CSeq: 4294967296"), "malformed CSeq", 400},
		{"CSeq largest", swap("CSeq: 1", "CSeq: 4294967295"), "", 0},
		{"CSeq other", swap("CSeq: 1 INVITE", "CSeq: 1 OPTIONS"), "CSeq names another method", 400},
		{"two Call-IDs", swap("CSeq:", "i: 2\r\nCSeq:"), "more than one Call-ID header", 400},
		{"two CSeqs", swap("CSeq:", "cseq: 1 INVITE\r\nCSeq:"), "more than one CSeq header", 400},
		{"two Froms", swap("From:", "f: <sip:a@example.net>;tag=1\r\nFrom:"), "more than one From header", 400},
		{"two Tos", swap("To:", "t: <sip:a@example.net>\r\nTo:"), "more than one To header", 400},
		{"two lengths", swap("Content-Length", "l: 2\r\nContent-Length"), "more than one Content-Length header", 400},
		{"two Max-Forwards", swap("Max", "max-forwards: 1\r\nMax"), "more than one Max-Forwards header", 400},
		{"two types", swap("Max", "c: a/b\r\nContent-Type: a/b\r\nMax"), "more than one Content-Type header", 400},
		{"Max-Forwards text", swap("70", "seventy"), "malformed Max-Forwards", 400},
		{"Max-Forwards list", swap("70", "70, 70"), "malformed Max-Forwards", 400},
		{"Max-Forwards large", swap("70", "99999999999999999999"), "", 0},
		{"length large", swap("Content-Length: 2", "Content-Length: 3"), "body shorter than its Content-Length", 400},
		{"length huge", swap("Content-Length: 2", "Content-Length: 18446744073709551618"), "body shorter than its Content-Length", 400},
		{"length negative", swap("Content-Length: 2", "Content-Length: -1"), "malformed Content-Length", 400},
		{"length empty", swap("Content-Length: 2", "Content-Length:"), "malformed Content-Length", 400},
		{"length padded", swap("Content-Length: 2", "Content-Length:  002 "), "", 0},
		{"ACK", strings.ReplaceAll(swap("70", "x"), "INVITE", "ACK"), "malformed Max-Forwards", 0},
		{"response", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 200 OK"), "", 0},
		{"no reason", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 200 "), "", 0},
		{"no space", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 200"), "", 0},
		{"response bad", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 200 OK\r\nMax-Forwards: x"), "more than one Max-Forwards header", 0},
		{"code long", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 4294967301 x"), "malformed status code", 0},
		{"code small", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 099 x"), "malformed status code", 0},
		{"code large", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 700 x"), "malformed status code", 0},
		{"code text", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 2OO OK"), "malformed status code", 0},
		{"code short", swap("INVITE sip:b@example.net SIP/2.0", "SIP/2.0 20"), "malformed status line", 0},
		{"version of response", swap("INVITE sip:b@example.net SIP/2.0", "SIP/7.0 200 OK"), "malformed status line", 0},
		{"as many headers as there is room for", request(strings.Repeat("X:\r\n", 16_000), ""), "", 0},
		{"largest", request("", strings.Repeat("x", MaxSize-len(request("", "")))), "", 0},
		{"too large", request("", strings.Repeat("x", MaxSize+1-len(request("", "")))), "message too large", 513},
		{"CR in a header", swap("Max", "X: 1\rContact: <sip:a@b>\r\nMax"), "carriage return inside of a line", 400},
		{"CR before CRLF", swap("70\r\n", "70\r\r\n"), "carriage return inside of a line", 400},
		{"CR in a fold", swap("70\r\n", "70\r\nX:\r\n \r\n 1\r2\r\n"), "carriage return inside of a line", 400},
		{"CR in the start line", swap("SIP/2.0\r", "SIP/2.0\r\r"), "carriage return inside of a line", 400},
		{"CR before LF alone", swap("CSeq: 1 INVITE\r", "CSeq: 1 INVITE"), "", 0},
		{"CR in the body", swap("ab", "\ra"), "", 0},
		{"line without a colon", swap("Max", "what is this\r\nMax"), "", 0},
		{"name without a name", swap("Max", ": x\r\nMax"), "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m Message
			err := m.Parse([]byte(c.msg))
			if c.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var fault *ParseError
			if !errors.As(err, &fault) {
				t.Fatalf("error is %v, want %q", err, c.reason)
			}
			if fault.Reason != c.reason || fault.Code != c.code {
				t.Errorf("%q with code %d, want %q with %d", fault.Reason, fault.Code, c.reason, c.code)
			}
			if errors.Is(err, ErrKeepalive) != (c.reason == reasonKeepalive) {
				t.Errorf("errors.Is ErrKeepalive: %v", err)
			}
			if fault.Offset < 0 || fault.Offset > len(c.msg) {
				t.Errorf("offset %d of %d", fault.Offset, len(c.msg))
			}
			if fault.Code != 0 && (m.CallID() == nil || len(m.Method()) == 0) {
				t.Error("nothing to answer from")
			}
		})
	}
}

// TestFacts reads what a forwarder asks for out of every message of testdata.
func TestFacts(t *testing.T) {
	// method/status, CSeq, Call-ID, From tag, To tag, Via, Max-Forwards,
	// Expires, contacts, length of the body
	want := map[string]string{
		"3cx-options-qualify.sip":            "OPTIONS 1 OPTIONS|Zx8K3mVb1tQ0wE..|6a7b8c9d|-|UDP 203.0.113.10:5060 rport|70|-|1|0",
		"aastra-dect-register-star.sip":      "REGISTER 90 REGISTER|5c6d7e8f|b1a2|-|UDP 10.1.1.9:5060|70|0|*|0",
		"ack-2543-style.sip":                 "ACK 1 ACK|old@192.168.1.31|-|as1|UDP 192.168.1.31:5060|-|-|0|0",
		"asterisk-200-invite.sip":            "200 OK 2 INVITE|0_3158041257@192.168.10.21|1684907326|6f2a9c1e-7d3b-4f4a-9b1c-2d3e4f5a6b7c|UDP 203.0.113.10:6003 received=203.0.113.10 rport=6003|-|-|1|227",
		"asterisk-401-register.sip":          "401 Unauthorized 1 REGISTER|0_1190218867@192.168.10.21|2921420712|z9hG4bK1216417401|UDP 203.0.113.10:6003 received=203.0.113.10 rport=6003|-|-|0|0",
		"audiocodes-mp-reinvite-t38.sip":     "INVITE 2 INVITE|1540287015312202511532@10.9.8.7|1c1540287390|as2b1c0d9e|UDP 10.9.8.7:0|70|-|1|306",
		"baresip-invite-dtls.sip":            "INVITE 7300 INVITE|0f1e2d3c4b5a6978|2a1b0c9d8e7f6a5b|-|UDP [fd00::1:5]:54012 rport|70|-|1|448",
		"cisco-cp8841-refer.sip":             "REFER 102 REFER|00a2ee1c-5b3f0012-6d1a4b80-1f6c2e9d@192.168.2.8|00a2ee1c5b3f04d64e2f7a10-2d8f1b67|as0c8e7711|UDP 192.168.2.8:5060|70|-|1|0",
		"cisco-spa504g-bye-nolength.sip":     "BYE 103 BYE|7d2c1e9a-51e0b7c4@192.168.1.31|1f9f2a7c6f0e1d8ao0|as5c0a11e2|UDP 192.168.1.31:5060|70|-|0|0",
		"cisco-spa504g-register.sip":         "REGISTER 51004 REGISTER|1c3d5e7f-9a0b1c2d@192.168.1.31|9d1a3f6b2a7c0c6eo0|-|UDP 192.168.1.31:5060|70|-|1|0",
		"door-intercom-bare-lf.sip":          "INVITE 1 INVITE|door-1@192.168.1.99|44|-|UDP 192.168.1.99:5060|-|-|1|93",
		"fanvil-x6u-subscribe.sip":           "SUBSCRIBE 1 SUBSCRIBE|19310420781632@192.168.3.19|4012715226|-|UDP 192.168.3.19:5060 rport|70|60|1|0",
		"freeswitch-183-multipart.sip":       "183 Session Progress 1 INVITE|2f4d7e0b2a0c1f5c9f3d6f7a41c8e0d2|71D0EF2A-5A2E4E7B|y7e1Ba2KrQ3cD|UDP 203.0.113.10:6003 rport=6003|-|-|1|464",
		"freeswitch-200-register-folded.sip": "200 OK 1031 REGISTER|313633383735323634393438323137-6n8xw1w0m2yk|l8n0yx0v4q|BpgUe29cSvZSc|UDP 203.0.113.10:6004 rport=6004|-|-|2|0",
		"gigaset-n510-invite.sip":            "INVITE 1 INVITE|3141592653@192_168_178_40|1098215034|-|UDP 192.168.178.40:5060 rport|70|-|1|243",
		"grandstream-gxp2170-invite-tcp.sip": "INVITE 40 INVITE|1507862303-38117-7@BA.CA.A.BE|731904462|-|TCP 10.20.0.14:38117 rport|70|-|1|428",
		"kamailio-invite-two-hops.sip":       "INVITE 317 INVITE|8f7e6d5c-4b3a-2910-8f7e-6d5c4b3a2910@trunk.example.com|8sd7f6|-|UDP 203.0.113.10:5060|16|-|1|159",
		"linphone-desktop-invite-ice.sip":    "INVITE 20 INVITE|O5k8tQmVwS|Gx1FhWz0q|-|UDP 10.0.0.5:46127 rport|70|-|1|889",
		"microsip-invite.sip":                "INVITE 24417 INVITE|d9c8b7a6f5e44d3c2b1a0f9e8d7c6b5a|0a1b2c3d4e5f60718293a4b5c6d7e8f9|-|UDP 192.168.0.52:62113 rport|70|-|1|340",
		"microsip-register.sip":              "REGISTER 53215 REGISTER|64f0c1a2b3d44e5f8a9b0c1d2e3f4a5b|3b5a1c7de0f94a2c8d6e7f8091a2b3c4|-|UDP 192.168.0.52:62113 rport|70|300|1|0",
		"mitel-6867i-invite-compact.sip":     "INVITE 24281 INVITE|1f2c2a5e7b3d9c40|0b6b4e2d9f|-|UDP 10.1.1.6:5060|70|-|1|246",
		"polycom-vvx450-invite.sip":          "INVITE 1 INVITE|2f4d7e0b2a0c1f5c9f3d6f7a41c8e0d2|71D0EF2A-5A2E4E7B|-|UDP 192.168.1.77:0|70|-|1|507",
		"snom-d785-invite-srtp.sip":          "INVITE 1 INVITE|313633383735333231393138373839-xvhl0m9gq0d4|zr1p5kqexh|-|TLS 172.16.4.9:49153 rport|70|-|1|319",
		"snom-d785-register.sip":             "REGISTER 1031 REGISTER|313633383735323634393438323137-6n8xw1w0m2yk|l8n0yx0v4q|-|TLS 172.16.4.9:49153 rport|70|3600|1|0",
		"yealink-t46u-invite.sip":            "INVITE 1 INVITE|0_3158041257@192.168.10.21|1684907326|-|UDP 192.168.10.21:5060 rport|70|-|1|308",
		"yealink-t46u-register-auth.sip":     "REGISTER 2 REGISTER|0_1190218867@192.168.10.21|2921420712|-|UDP 192.168.10.21:5060 rport|70|3600|1|0",
		"zoiper5-register-tls.sip":           "REGISTER 1 REGISTER|qm9r1SxYvUeZ0WtAo2LpHg..|c1d2e3f4|-|TLS 192.168.0.60:40212 rport|70|60|1|0",
	}
	all := allTestdata(t)
	for name, msg := range all {
		var m Message
		if err := m.Parse(msg); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := facts(&m); got != want[name] {
			t.Errorf("%q: %q,", name, got)
		}
		if m.Trimmed() != 0 {
			t.Errorf("%s: %d bytes behind it", name, m.Trimmed())
		}
	}
	if len(all) != len(want) {
		t.Errorf("%d messages, %d expected", len(all), len(want))
	}
}

func facts(m *Message) string {
	var s strings.Builder
	if m.IsRequest() {
		s.Write(m.Method())
	} else {
		fmt.Fprintf(&s, "%d %s", m.StatusCode(), m.Reason())
	}
	seq, method := m.CSeq()
	fmt.Fprintf(&s, " %d %s|%s|%s|%s|", seq, method, m.CallID(), orDash(m.FromTag()), orDash(m.ToTag()))
	via, _ := m.TopVia()
	fmt.Fprintf(&s, "%s %s:%d", via.Transport, via.Host, via.Port)
	if via.Received != nil {
		fmt.Fprintf(&s, " received=%s", via.Received)
	}
	if via.HasRPort {
		s.WriteString(" rport")
		if via.RPort > 0 {
			fmt.Fprintf(&s, "=%d", via.RPort)
		}
	}
	for _, get := range []func() (int, bool){m.MaxForwards, m.Expires} {
		if n, ok := get(); ok {
			fmt.Fprintf(&s, "|%d", n)
		} else {
			s.WriteString("|-")
		}
	}
	contacts := "|0"
	for it, n := m.Values(Contact), 1; it.Next(); n++ {
		if contacts = fmt.Sprintf("|%d", n); it.Addr().Star {
			contacts = "|*"
		}
	}
	fmt.Fprintf(&s, "%s|%d", contacts, len(m.Body()))
	return s.String()
}

func TestGetters(t *testing.T) {
	var m Message
	mustParse(t, &m, "\r\n"+request("s: one\r\nX-Foo : 1\r\nx-foo: 2\r\nO: dialog\r\nExpires: 99999999999\r\nMax-Forwards: 300\r\nc: text/plain\r\nContent-Length: 2\r\n", "ab\r\n"))
	if got := string(m.RequestURI()); got != "sip:b@example.net" {
		t.Errorf("RequestURI %q", got)
	}
	if m.StatusCode() != 0 || len(m.Reason()) != 0 || !m.IsRequest() {
		t.Error("a request with a status")
	}
	for name, want := range map[string]string{"X-FOO": "1", "event": "dialog", "Subject": "", "S": "one", "cseq": "1 INVITE"} {
		if v, ok := m.NamedValue(name); string(v) != want || ok != (want != "") {
			t.Errorf("NamedValue(%s) = %q %t", name, v, ok)
		}
	}
	if n, ok := m.Expires(); n != 1<<31-1 || !ok {
		t.Errorf("Expires %d %t", n, ok)
	}
	if n, ok := m.MaxForwards(); n != 255 || !ok {
		t.Errorf("MaxForwards %d %t", n, ok)
	}
	if string(m.ContentType()) != "text/plain" || string(m.Body()) != "ab" || m.Trimmed() != 2 {
		t.Errorf("type %q body %q trimmed %d", m.ContentType(), m.Body(), m.Trimmed())
	}
	if string(m.FromURI()) != "sip:a@example.net" || string(m.ToURI()) != "sip:b@example.net" {
		t.Errorf("from %q to %q", m.FromURI(), m.ToURI())
	}
	if m.ToTag() != nil || string(m.FromTag()) != "1" {
		t.Errorf("tags %q %q", m.FromTag(), m.ToTag())
	}
	if v, ok := m.HeaderValue(Path); v == nil || len(v) != 0 || ok {
		t.Errorf("a Path that is not there: %q %t", v, ok)
	}

	mustParse(t, &m, strings.Replace(request("", ""), "INVITE sip:b@example.net SIP/2.0", "SIP/2.0 180  Es klingelt ", 1))
	if m.IsRequest() || m.StatusCode() != 180 || string(m.Reason()) != "Es klingelt" || string(m.Method()) != "INVITE" {
		t.Errorf("%d %q %q", m.StatusCode(), m.Reason(), m.Method())
	}
	if m.RequestURI() != nil || m.ContentType() != nil || m.Trimmed() != 0 {
		t.Error("something of the message before is left")
	}
	if _, ok := m.MaxForwards(); ok {
		t.Error("the Max-Forwards of the message before is left")
	}
	if _, ok := m.Expires(); ok {
		t.Error("the Expires of the message before is left")
	}
}
