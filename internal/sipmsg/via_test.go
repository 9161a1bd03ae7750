package sipmsg

import (
	"fmt"
	"testing"
)

func TestVia(t *testing.T) {
	for _, c := range []struct {
		in, want string // transport host port branch received rport
	}{
		{"SIP/2.0/UDP pc33.example.com;branch=z9hG4bK87asdks7", "UDP pc33.example.com 0 z9hG4bK87asdks7 - -"},
		{"SIP/2.0/TCP 192.0.2.1:5070;rport;branch=z9;alias", "TCP 192.0.2.1 5070 z9 - 0"},
		{"SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255;branch=z;rport=5080",
			"UDP [2001:db8::9:1] 6050 z 2001:db8::9:255 5080"},
		{"SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255]", "UDP [2001:db8::9:1] 0 - [2001:db8::9:255] -"},
		{"SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw", "UDP 192.0.2.2 0 390skdjuw - -"},
		{"SIP / 2.0 / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8", "TCP spindle.example.com 0 z9hG4bK9ikj8 - -"},
		{"SIP/2.0/TLS host : 5061 ; Branch=A ; BRANCH=b", "TLS host 5061 A - -"},
		{"SIP/2.0/UDP host;received=1.1.1.1;received=2.2.2.2;rport=1;rport=2", "UDP host 0 - 1.1.1.1 1"},
		{"SIP/2.0/UDP host;;;branch=z", "UDP host 0 z - -"},
		{"SIP/2.0/UDP host:", "UDP host 0 - - -"},
		{"SIP/2.0/UDP host;rport=", "UDP host 0 - - 0"},
		{"SIP/2.0/UDP host;branch", "UDP host 0  - -"},
		{"sip/2.0/ws df7jal23ls0d.invalid;branch=z9hG4bK56sdasks", "ws df7jal23ls0d.invalid 0 z9hG4bK56sdasks - -"},
		{"SIP/2.0/UDP", ""},
		{"SIP/2.0/UDP ", ""},
		{"SIP/2.0/UDP;branch=z", ""},
		{"SIP/2.0 host", ""},
		{"SIP/2.0/UDP ;branch=z", ""},
		{"SIP/2.0/UDP [2001:db8::1;branch=z", ""},
		{"SIP/2.0/UDP 2001:db8::1;branch=z", ""},
		{"SIP/2.0/UDP host:0", ""},
		{"SIP/2.0/UDP host:65536", ""},
		{"SIP/2.0/UDP host:5060x", ""},
		{"SIP/2.0/UDP host;rport=99999", ""},
		{"SIP/2.0/UDP a b;branch=z", ""},
		{";branch=SIP/2.0/UDP host", ""},
		{"", ""},
	} {
		via, ok := parseVia([]byte(c.in), Span{0, len(c.in)})
		if ok != (c.want != "") {
			t.Errorf("%q: ok is %t", c.in, ok)
		}
		if !ok {
			continue
		}
		got := fmt.Sprintf("%s %s %d %s %s ", via.Transport, via.Host, via.Port, orDash(via.Branch), orDash(via.Received))
		if via.HasRPort {
			got += fmt.Sprint(via.RPort)
		} else {
			got += "-"
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.in, got, c.want)
		}
		if s := c.in[via.ParamsSpan.Start:via.ParamsSpan.End]; s != string(via.Params) {
			t.Errorf("%q: ParamsSpan %q, Params %q", c.in, s, via.Params)
		}
	}
}

func orDash(b []byte) string {
	if b == nil {
		return "-"
	}
	return string(b)
}
