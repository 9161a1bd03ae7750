package sipmsg

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

// corpora is where the torture messages of RFC 4475 and RFC 5118, and messages
// captured from phones, are kept beside the repository; they are no part of it.
const corpora = "../../../shared/corpora"

// verdict is what a forwarder makes of a torture message. Without a reason it is
// forwarded as it is; uri is what ParseURI says of its Request-URI.
type verdict struct {
	name    string
	reason  string
	code    int
	uri     uriVerdict
	trimmed int
	why     string // the RFC's intent, and what differs here
}

type uriVerdict uint8

const (
	uriNone  uriVerdict = iota // a response, or refused
	uriSIP                     // sip or sips, well formed
	uriOther                   // another scheme
	uriBad                     // sip or sips, malformed: for the caller to refuse
)

var rfc4475 = []verdict{
	// 3.1.1 valid messages
	{name: "wsinv", uri: uriSIP, why: "white space, folds, escapes, unknown headers and parameters"},
	{name: "intmeth", uri: uriSIP, why: "every character that a method, a user and a token may have; NUL in a quoted string"},
	{name: "esc01", uri: uriSIP, why: "escapes are not looked into"},
	{name: "escnull", uri: uriSIP, why: "%00 in users is two other characters here"},
	{name: "esc02", uri: uriSIP, why: "% in a method is no escape"},
	{name: "lwsdisp", uri: uriSIP, why: "no space between display name and bracket"},
	{name: "longreq", uri: uriSIP, why: "long values in every place"},
	{name: "dblreq", uri: uriSIP, trimmed: 450, why: "a second request behind the first is cut off (section 18.3)"},
	{name: "semiuri", uri: uriSIP, why: "a semicolon in the user part"},
	{name: "transports", uri: uriSIP, why: "unknown transports in Via"},
	{name: "mpart01", uri: uriSIP, why: "a multipart body with a binary part, zero bytes included"},
	{name: "unreason", why: "a reason phrase beyond ASCII"},
	{name: "noreason", why: "no reason phrase"},
	// 3.1.2 invalid messages
	{name: "badinv01", uri: uriSIP, why: "empty parameters and values behind a good hop: not needed here, 400 in the RFC"},
	{name: "clerr", reason: "body shorter than its Content-Length", code: 400},
	{name: "ncl", reason: "malformed Content-Length", code: 400, why: "negative"},
	{name: "scalar02", reason: "malformed CSeq", code: 400, why: "36893488147419103232"},
	{name: "scalarlg", reason: "malformed CSeq", why: "a response: dropped"},
	{name: "quotbal", reason: "malformed To", code: 400, why: "the quote never ends"},
	{name: "ltgtruri", reason: "malformed Request-URI", code: 400},
	{name: "lwsruri", reason: "malformed Request-URI", code: 400},
	{name: "lwsstart", reason: "malformed Request-URI", code: 400, why: "two spaces: the URI begins with one"},
	{name: "trws", uri: uriSIP, why: "spaces behind the version: the RFC lets an element accept them"},
	{name: "escruri", uri: uriSIP, why: "a URI in the user part is the callee's business"},
	{name: "baddate", uri: uriSIP, why: "a Date that is not GMT: not needed here"},
	{name: "regbadct", uri: uriSIP, why: "a Contact with headers and without brackets: the registrar's business"},
	{name: "badaspec", uri: uriSIP, why: "white space inside of brackets: read over"},
	{name: "baddn", reason: "no empty line behind the headers", code: 400, why: "the comma in the display name would pass; this copy lacks its last line end"},
	{name: "badvers", reason: "SIP version not supported", code: 505},
	{name: "mismatch01", reason: "CSeq names another method", code: 400},
	{name: "mismatch02", reason: "CSeq names another method", code: 400, why: "the RFC allows 501 as well"},
	{name: "bigcode", reason: "malformed status code", why: "dropped"},
	// 3.2 transaction layer
	{name: "badbranch", uri: uriSIP, why: "a branch that is only the cookie: the transaction layer's business"},
	// 3.3 application layer
	{name: "insuf", reason: "no From header", why: "nothing to make a response from"},
	{name: "unkscm", uri: uriOther},
	{name: "novelsc", uri: uriOther},
	{name: "unksm2", uri: uriSIP, why: "other schemes in To, From and Contact"},
	{name: "bext01", uri: uriSIP, why: "Require and Proxy-Require are for the caller"},
	{name: "invut", uri: uriSIP, why: "an unknown type of body"},
	{name: "regaut01", uri: uriSIP, why: "an unknown scheme of authorization"},
	{name: "multi01", reason: "more than one CSeq header", code: 400},
	{name: "mcl01", reason: "more than one Content-Length header", code: 400},
	{name: "bcast", why: "a broadcast address in a Via below ours"},
	{name: "zeromf", uri: uriSIP, why: "the caller answers 483"},
	{name: "cparam01", uri: uriSIP},
	{name: "cparam02", uri: uriSIP},
	{name: "regescrt", uri: uriSIP, why: "escaped headers in a Contact"},
	{name: "sdp01", uri: uriSIP, why: "an Accept that leaves nothing: the callee's business"},
	// 3.4 backward compatibility
	{name: "inv2543", uri: uriSIP, why: "no branch, no Max-Forwards, no tag, no Content-Length"},
}

// The trimmed messages of RFC 5118 have a Content-Length that was not counted
// with the line ends that they have here.
var rfc5118 = []verdict{
	{name: "ipv6-good", uri: uriSIP},
	{name: "ipv6-bad", uri: uriBad, why: "an address without brackets: 400 is for who needs the Request-URI"},
	{name: "port-ambiguous", uri: uriSIP, why: "all of it is the address"},
	{name: "port-unambiguous", uri: uriSIP},
	{name: "via-received-param-with-delim", uri: uriSIP, why: "both forms of received are read"},
	{name: "via-received-param-no-delim", uri: uriSIP},
	{name: "ipv6-in-sdp", uri: uriSIP, trimmed: 10},
	{name: "mult-ip-in-header", uri: uriSIP},
	{name: "mult-ip-in-sdp", uri: uriSIP, trimmed: 8},
	{name: "ipv4-mapped-ipv6", uri: uriSIP, trimmed: 9},
	{name: "ipv6-bug-abnf-3-colons", uri: uriSIP, why: "RFC 5118 section 4.10 asks to be liberal"},
	{name: "ipv6-correct-abnf-2-colons", uri: uriSIP},
}

func TestTorture(t *testing.T) {
	for _, set := range []struct {
		name     string
		verdicts []verdict
	}{{"rfc4475", rfc4475}, {"rfc5118", rfc5118}} {
		t.Run(set.name, func(t *testing.T) {
			all := readAll(t, filepath.Join(corpora, set.name, "*.dat"))
			if len(all) == 0 {
				t.Skip("no messages in ", filepath.Join(corpora, set.name))
			}
			for _, v := range set.verdicts {
				msg, ok := all[v.name+".dat"]
				if !ok {
					t.Errorf("no %s", v.name)
					continue
				}
				delete(all, v.name+".dat")
				t.Run(v.name, func(t *testing.T) { v.check(t, msg) })
			}
			for name := range all {
				t.Errorf("no verdict about %s", name)
			}
		})
	}
}

func (v verdict) check(t *testing.T, msg []byte) {
	t.Helper()
	var m Message
	err := m.Parse(msg)
	var fault *ParseError
	if errors.As(err, &fault) {
		if fault.Reason != v.reason || fault.Code != v.code {
			t.Errorf("%q with code %d, want %q with %d", fault.Reason, fault.Code, v.reason, v.code)
		}
		return
	}
	if v.reason != "" {
		t.Fatalf("accepted, want %q", v.reason)
	}
	if m.Trimmed() != v.trimmed {
		t.Errorf("%d bytes behind it, want %d", m.Trimmed(), v.trimmed)
	}
	uri := uriNone
	if m.IsRequest() {
		switch u, ok := ParseURI(m.RequestURI()); {
		case ok:
			uri = uriSIP
		case equalFold(u.Scheme, "sip") || equalFold(u.Scheme, "sips"):
			uri = uriBad
		default:
			uri = uriOther
		}
	}
	if uri != v.uri {
		t.Errorf("Request-URI %q: verdict %d, want %d", m.RequestURI(), uri, v.uri)
	}
	if !bytes.Equal(m.AppendTo(nil), msg[:len(msg)-v.trimmed]) {
		t.Error("forwarded with changes")
	}
}

// TestPhones forwards what real phones sent. Some of the copies are damaged:
// their line ends were counted otherwise, or their end is missing.
func TestPhones(t *testing.T) {
	damaged := map[string]string{
		"npm-200ok.sip":                   "body shorter than its Content-Length",
		"npm-invite-compact.sip":          "body shorter than its Content-Length",
		"npm-invite-tls.sip":              "body shorter than its Content-Length",
		"npm-invite.sip":                  "body shorter than its Content-Length",
		"npm-siprec.sip":                  "body shorter than its Content-Length",
		"npm-siprec2.sip":                 "body shorter than its Content-Length",
		"npm-siprec3.sip":                 "body shorter than its Content-Length",
		"npm-options-carriage-return.sip": "no empty line behind the headers",
	}
	all := readAll(t, filepath.Join(corpora, "sip-phones", "*.sip"))
	if len(all) == 0 {
		t.Skip("no messages in ", filepath.Join(corpora, "sip-phones"))
	}
	for name, msg := range all {
		var m Message
		err := m.Parse(msg)
		var fault *ParseError
		if errors.As(err, &fault) {
			if fault.Reason != damaged[name] {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if damaged[name] != "" {
			t.Errorf("%s was accepted", name)
		}
		if !bytes.Equal(m.AppendTo(nil), msg) {
			t.Errorf("%s was forwarded with changes", name)
		}
		f := newForwarder()
		f.forward(&m, nil)
		if err := m.Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
