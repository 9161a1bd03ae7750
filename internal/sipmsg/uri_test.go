package sipmsg

import (
	"fmt"
	"testing"
)

func TestParseURI(t *testing.T) {
	for _, c := range []struct {
		in, want string // scheme user host port params headers
	}{
		{"sip:alice@atlanta.example.com", "sip alice atlanta.example.com 0  "},
		{"SIPS:alice:secret@atlanta.example.com:5061;transport=tcp?subject=x&y=z",
			"SIPS alice:secret atlanta.example.com 5061 ;transport=tcp subject=x&y=z"},
		{"sip:192.0.2.1", "sip - 192.0.2.1 0  "},
		{"sip:[2001:db8::10]:5070", "sip - [2001:db8::10] 5070  "},
		{"sip:[2001:db8::10:5070]", "sip - [2001:db8::10:5070] 0  "},
		{"sip:user@[2001:db8::10];lr", "sip user [2001:db8::10] 0 ;lr "},
		{"sip:user;par=u%40example.net@example.com", "sip user;par=u%40example.net example.com 0  "},
		{"sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com",
			"sip 1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it) example.com 0  "},
		{"sip:sips%3Auser%40example.com@example.net", "sip sips%3Auser%40example.com example.net 0  "},
		{"sip:*97@pbx", "sip *97 pbx 0  "},
		{"sip:@pbx", "sip  pbx 0  "},
		{"sip:a@pbx?Replaces=1@2%3Bto-tag%3D3", "sip a pbx 0  Replaces=1@2%3Bto-tag%3D3"},
		{"sip:a@under_score.example:", "sip a under_score.example 0  "},
		{"sip:a@b:5060;x=1;lr", "sip a b 5060 ;x=1;lr "},
		{"sip:", ""},
		{"sip:a@", ""},
		{"sip:;lr", ""},
		{"sip", ""},
		{":a@b", ""},
		{"<sip:a@b>", ""},
		{"sip:a@b:0", ""},
		{"sip:a@b:65536", ""},
		{"sip:a@b:5060x", ""},
		{"sip:a@b c", ""},
		{"sip:2001:db8::10", ""},
		{"sip:[2001:db8::10", ""},
		{"sip:[::1]x", ""},
		{"sip:a@b>", ""},
		{"tel:+4930123456", ""},
		{"nobodyKnowsThisScheme:totallyopaquecontent", ""},
	} {
		u, ok := ParseURI([]byte(c.in))
		if ok != (c.want != "") {
			t.Errorf("%q: ok is %t: %+v", c.in, ok, u)
		}
		if !ok {
			continue
		}
		got := fmt.Sprintf("%s %s %s %d %s %s", u.Scheme, orDash(u.User), u.Host, u.Port, u.Params, u.Headers)
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
	if u, ok := ParseURI([]byte("tel:+4930123456")); ok || string(u.Scheme) != "tel" {
		t.Errorf("tel: scheme %q, %t", u.Scheme, ok)
	}
	u, _ := ParseURI([]byte("sips:a@b;Transport=TCP;lr"))
	if v, ok := u.Param("transport"); !ok || string(v) != "TCP" || !u.Secure() {
		t.Errorf("transport is %q %t, secure %t", v, ok, u.Secure())
	}
}
