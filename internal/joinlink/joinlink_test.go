package joinlink

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const testPin = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"

func valid() map[string]Link {
	return map[string]Link{
		"siptunnel://default:k7wd-3nqx@pbx.example.com:5090#" + testPin: {"pbx.example.com:5090", "default", "k7wd-3nqx", testPin},
		"siptunnel://office-berlin:s@192.0.2.1:443":                     {"192.0.2.1:443", "office-berlin", "s", ""},
		"siptunnel://a:s@[2001:db8::1]:5090#" + testPin:                 {"[2001:db8::1]:5090", "a", "s", testPin},
		"siptunnel://a.b_c-9:p%40ss%3Aw%2Frd%20%23%25@h:1":              {"h:1", "a.b_c-9", "p@ss:w/rd #%", ""},
		"siptunnel://a:%C3%BC%E2%82%AC@h.:65535":                        {"h.:65535", "a", "\u00fc\u20ac", ""},
		"siptunnel://a:x%2By%2526@1and1.example:1":                      {"1and1.example:1", "a", "x+y%26", ""},
	}
}

func TestParse(t *testing.T) {
	for text, want := range valid() {
		for _, around := range []string{"%s", " %s", "%s\n", "\r\n\t %s \r\n"} {
			got, err := Parse(fmt.Sprintf(around, text))
			if err != nil || got != want {
				t.Errorf("%q: %#v, %v", text, got, err)
			}
		}
		if got := want.Reveal(); got != text {
			t.Errorf("Reveal: %s, want %s", got, text)
		}
	}
	tolerated := map[string]string{
		"SIPTunnel://a:s@h:1":         "s",
		"siptunnel://a:x+y&z=1@h:1":   "x+y&z=1",
		"siptunnel://a:%6b%6B@h:1":    "kk",
		"siptunnel://a:\u00fc@h:1":    "\u00fc",
		"siptunnel://a:!$'()*,;~@h:1": "!$'()*,;~",
	}
	for text, secret := range tolerated {
		if got, err := Parse(text); err != nil || got.Secret != secret {
			t.Errorf("%s: secret %q, %v", text, got.Secret, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const rest = "siptunnel://a:hunter2hunter2@h:1"
	tests := map[string]string{ // link to part
		"":                                                    "link",
		"siptunnel:":                                          "link",
		"siptunnel:a:s@h:1":                                   "link",
		"https://a:s@h:1":                                     "link",
		"siptunnel://":                                        "link",
		"siptunnel://h:1":                                     "link",
		"siptunnel://a:s@h:1 x":                               "server",
		"siptunnel://@h:1":                                    "name",
		"siptunnel://:s@h:1":                                  "name",
		"siptunnel://A:s@h:1":                                 "name",
		"siptunnel://%61:s@h:1":                               "name",
		"siptunnel://-a:s@h:1":                                "name",
		"siptunnel://a/b:s@h:1":                               "name",
		"siptunnel://a@h:1":                                   "secret",
		"siptunnel://a:@h:1":                                  "secret",
		"siptunnel://a:s:s@h:1":                               "secret",
		"siptunnel://a:s/s@h:1":                               "secret",
		"siptunnel://a:s?s@h:1":                               "secret",
		"siptunnel://a:s s@h:1":                               "secret",
		"siptunnel://a:%@h:1":                                 "secret",
		"siptunnel://a:%4@h:1":                                "secret",
		"siptunnel://a:%zz@h:1":                               "secret",
		"siptunnel://a:%00@h:1":                               "secret",
		"siptunnel://a:x%0A@h:1":                              "secret",
		"siptunnel://a:%FF@h:1":                               "secret",
		"siptunnel://a:[hidden]@h:1":                          "secret",
		"siptunnel://a:s@":                                    "server",
		"siptunnel://a:s@h":                                   "server",
		"siptunnel://a:s@h:":                                  "server",
		"siptunnel://a:s@h:0":                                 "server",
		"siptunnel://a:s@h:65536":                             "server",
		"siptunnel://a:s@h:05090":                             "server",
		"siptunnel://a:s@h:+1":                                "server",
		"siptunnel://a:s@h:sip":                               "server",
		"siptunnel://a:s@:1":                                  "server",
		"siptunnel://a:s@h/:1":                                "server",
		"siptunnel://a:s@h:1/":                                "server",
		"siptunnel://a:s@h:1?x":                               "server",
		"siptunnel://a:s@x@h:1":                               "server",
		"siptunnel://a:s@-h:1":                                "server",
		"siptunnel://a:s@h..i:1":                              "server",
		"siptunnel://a:s@h_i:1":                               "server",
		"siptunnel://a:s@999.1.1.1:1":                         "server",
		"siptunnel://a:s@1.2.3:1":                             "server",
		"siptunnel://a:s@2001:db8::1:1":                       "server",
		"siptunnel://a:s@[2001:db8::1]":                       "server",
		"siptunnel://a:s@[fe80::1%25e]:1":                     "server",
		"siptunnel://a:s@[192.0.2.1]:1":                       "server",
		"siptunnel://a:s@[::1:1":                              "server",
		"siptunnel://a:s@\u00fc.de:1":                         "server",
		"siptunnel://a:s@" + strings.Repeat("a", 64) + ":1":   "server",
		"siptunnel://a:s@" + strings.Repeat("a.", 127) + ":1": "server",
		rest + "#":                                            "pin",
		rest + "#" + testPin[1:]:                              "pin",
		rest + "#" + testPin + "A":                            "pin",
		rest + "#" + testPin + "=":                            "pin",
		rest + "#" + testPin + "#x":                           "pin",
		rest + "#" + testPin[:42] + "V":                       "pin", // unused bits set
		rest + "#" + testPin[:42] + "\n":                      "pin",
		rest + "#" + strings.Repeat("+", 43):                  "pin",
		rest + "#" + testPin[:20] + "\n" + testPin[21:]:       "pin",
		"siptunnel://a:" + strings.Repeat("s", maxSecret+1) + "@h:1": "secret",
		"siptunnel://a:" + strings.Repeat("s", maxLink) + "@h:1":     "link",
	}
	for text, part := range tests {
		l, err := Parse(text)
		var e *Error
		if !errors.As(err, &e) || e.Part != part || l != (Link{}) {
			t.Errorf("%q: %v, want an error about the %s", text, err, part)
		} else if strings.Contains(e.Error(), "hunter2") {
			t.Errorf("%q: the error has the secret: %v", text, e)
		}
	}
}

func TestNothingPrints(t *testing.T) {
	l := Link{"h:1", "a", "hunter2hunter2", testPin}
	want := "siptunnel://a:[hidden]@h:1#" + testPin
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, l); got != want {
			t.Errorf("%s: %s", verb, got)
		}
	}
	if got := fmt.Sprintf("%v %+v", []Link{l}, struct{ L *Link }{&l}); strings.Contains(got, "hunter2") {
		t.Error(got)
	}
	if b, err := json.Marshal(l); err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("%s, %v", b, err)
	}
	if _, err := Parse(l.String()); err == nil {
		t.Error("the placeholder was taken for a secret")
	}
}

func FuzzParse(f *testing.F) {
	for text := range valid() {
		f.Add(text)
	}
	f.Add("siptunnel://a:s@[::1%25x]:1#")
	f.Add("siptunnel://a:%zz@h:1")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error %T", err)
			}
			return
		}
		again, err := Parse(l.Reveal())
		if err != nil || again != l {
			t.Fatalf("%q gives %s, which gives %s, %v", text, l.Reveal(), again.Reveal(), err)
		}
		if _, err := Parse(l.String()); err == nil {
			t.Fatalf("%s was parsed", l)
		}
	})
}
