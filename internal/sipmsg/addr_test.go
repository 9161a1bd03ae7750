package sipmsg

import (
	"fmt"
	"strings"
	"testing"
)

func TestAddr(t *testing.T) {
	for _, c := range []struct {
		in                   string
		display, uri, params string
		ok                   bool
	}{
		{"<sip:a@b>", "", "sip:a@b", "", true},
		{"<sip:a@b>;tag=1", "", "sip:a@b", ";tag=1", true},
		{"<sip:a@b;transport=tcp>;tag=1", "", "sip:a@b;transport=tcp", ";tag=1", true},
		{"sip:a@b;tag=1", "", "sip:a@b", ";tag=1", true},
		{"sip:a@b", "", "sip:a@b", "", true},
		{"sip:a@b  ;  tag  =  1", "", "sip:a@b", ";  tag  =  1", true},
		{`"A. G. Bell" <sip:agb@bell>;tag=a48s`, `"A. G. Bell"`, "sip:agb@bell", ";tag=a48s", true},
		{`"a, <b> ; \"c\" \\" <sip:a@b>;x="<,;>"`, `"a, <b> ; \"c\" \\"`, "sip:a@b", `;x="<,;>"`, true},
		{"caller<sip:a@b>;tag=1", "caller", "sip:a@b", ";tag=1", true},
		{"Bell, Alexander <sip:a@b>", "Bell, Alexander", "sip:a@b", "", true},
		{"< sip:a@b >", "", "sip:a@b", "", true},
		{"<sip:a@b>\r\n ;tag=1", "", "sip:a@b", ";tag=1", true},
		{"\xff\xfe <sip:\xff@b>", "\xff\xfe", "sip:\xff@b", "", true},
		{`<sip:"quoted"@b>`, "", `sip:"quoted"@b`, "", true},
		{"<tel:+49301234;phone-context=x>", "", "tel:+49301234;phone-context=x", "", true},
		{"<urn:service:sos>", "", "urn:service:sos", "", true},
		{"*", "", "", "", true},
		{`"open <sip:a@b>`, "", "", "", false},
		{"<sip:a@b", "", "", "", false},
		{"<>", "", "", "", false},
		{"a@b", "", "", "", false},
		{"sip:a@b x", "", "", "", false},
		{";tag=1", "", "", "", false},
	} {
		a, ok := parseAddr([]byte(c.in), Span{0, len(c.in)})
		if ok != c.ok || ok && (string(a.Display) != c.display || string(a.URI) != c.uri || string(a.Params) != c.params) {
			t.Errorf("%q: display %q uri %q params %q %t, want %q %q %q %t",
				c.in, a.Display, a.URI, a.Params, ok, c.display, c.uri, c.params, c.ok)
		}
		if !ok {
			if a.URI != nil {
				t.Errorf("%q: URI %q of what is no address", c.in, a.URI)
			}
			continue
		}
		if got := c.in[a.URISpan.Start:a.URISpan.End]; got != c.uri {
			t.Errorf("%q: URISpan is %q", c.in, got)
		}
		if got := c.in[a.ParamsSpan.Start:a.ParamsSpan.End]; got != c.params {
			t.Errorf("%q: ParamsSpan is %q", c.in, got)
		}
		if a.Star != (c.in == "*") || a.Bracket != strings.Contains(c.in, "<") {
			t.Errorf("%q: star %t bracket %t", c.in, a.Star, a.Bracket)
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		headers string
		want    []string
	}{
		{"Contact: <sip:a@b>\r\n", []string{"<sip:a@b>"}},
		{"Contact: <sip:a@b>, <sip:c@d>;q=1\r\n", []string{"<sip:a@b>", "<sip:c@d>;q=1"}},
		{"Contact: <sip:a@b>\r\nX: 1\r\nm: <sip:c@d>\r\n", []string{"<sip:a@b>", "<sip:c@d>"}},
		{"Contact: <sip:a@b>,\r\n <sip:c@d>\r\n", []string{"<sip:a@b>", "<sip:c@d>"}},
		{"Contact: \"a, b\" <sip:a,b@c>,sip:d@e\r\n", []string{`"a, b" <sip:a,b@c>`, "sip:d@e"}},
		{"Contact: ,, <sip:a@b> ,\t,\r\nContact: \r\nContact:,\r\n", []string{"<sip:a@b>"}},
		{"Contact: \"never closed <sip:a@b>, <sip:c@d>\r\nContact: <sip:e@f>\r\n",
			[]string{`"never closed <sip:a@b>, <sip:c@d>`, "<sip:e@f>"}},
		{"Contact: <sip:a@b, <sip:c@d\r\n", []string{"<sip:a@b, <sip:c@d"}},
		{"Contact: \"quote \\\" and slash \\\\\" <sip:a@b>,<sip:c@d>\r\n",
			[]string{`"quote \" and slash \\" <sip:a@b>`, "<sip:c@d>"}},
		{"", nil},
	} {
		var m Message
		mustParse(t, &m, request(c.headers, ""))
		var got []string
		for it := m.Values(Contact); it.Next(); {
			if string(it.Bytes()) != string(m.Text(it.Span())) {
				t.Errorf("%q: Bytes %q, Span %q", c.headers, it.Bytes(), m.Text(it.Span()))
			}
			got = append(got, string(it.Bytes()))
		}
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
			t.Errorf("%q: %q, want %q", c.headers, got, c.want)
		}
	}
}

func TestParam(t *testing.T) {
	const list = ` ;a;b=;c=1; D = "x;y\"z" ;;e=a=b;c=2;f`
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"a", "", true}, {"b", "", true}, {"c", "1", true}, {"d", `"x;y\"z"`, true},
		{"e", "a=b", true}, {"F", "", true}, {"x", "", false}, {"", "", false}, {"y", "", false},
	} {
		if v, ok := Param([]byte(list), c.name); string(v) != c.value || ok != c.ok {
			t.Errorf("%s: %q %t, want %q %t", c.name, v, ok, c.value, c.ok)
		}
	}
	var got []string
	for rest := []byte(list); ; {
		name, value, next, ok := CutParam(rest)
		if !ok {
			break
		}
		got = append(got, string(name)+"|"+string(value))
		rest = next
	}
	if s := strings.Join(got, " "); s != `a| b| c|1 D|"x;y\"z" e|a=b c|2 f|` {
		t.Errorf("CutParam: %s", s)
	}
	for _, s := range []string{"", ";", " ; ;; ", `;a="open`, ";=x"} {
		for rest, n := []byte(s), 0; ; n++ {
			_, _, next, ok := CutParam(rest)
			if !ok {
				break
			}
			if rest = next; n > len(s) {
				t.Fatalf("%q has no end", s)
			}
		}
	}
}
