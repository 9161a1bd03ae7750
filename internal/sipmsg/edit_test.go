package sipmsg

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// editCase is a message, what is done to it, and what comes out. The lines of
// both are without their CR.
type editCase struct {
	name string
	in   string
	do   func(m *Message)
	want string
}

func (c editCase) run(t *testing.T) {
	t.Helper()
	crlf := strings.NewReplacer("\r\n", "\r\n", "\n", "\r\n")
	in, want := crlf.Replace(c.in), crlf.Replace(c.want)
	var m Message
	mustParse(t, &m, in)
	c.do(&m)
	got := string(m.AppendTo([]byte("before ")))
	if err := m.Err(); err != nil {
		t.Fatal(err)
	}
	got, ok := strings.CutPrefix(got, "before ")
	if !ok {
		t.Fatal("AppendTo lost what stood before")
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again := string(m.AppendTo(nil)); again != got {
		t.Errorf("the second time it is\n%s", again)
	}
	if string(m.Bytes()) != in {
		t.Error("the received bytes changed")
	}
	m.ResetEdits()
	if string(m.AppendTo(nil)) != in {
		t.Error("edits left after ResetEdits")
	}
}

const head = `INVITE sip:b@example.net SIP/2.0
`

const tail = `f: <sip:a@example.net>;tag=1
T : <sip:b@example.net>
CALL-ID: 1
CSeq: 1 INVITE

`

func TestEditVia(t *testing.T) {
	const one = "Via: SIP/2.0/UDP h1;branch=1\n"
	pop := func(m *Message) { m.PopVia() }
	for _, c := range []editCase{
		{"push", head + "X: 1\n" + one + tail, func(m *Message) { m.PushVia([]byte("SIP/2.0/UDP me;branch=2")) },
			head + "X: 1\nVia: SIP/2.0/UDP me;branch=2\n" + one + tail},
		{"push twice", head + one + tail, func(m *Message) { m.PushVia([]byte("a")); m.PushVia([]byte("b")) },
			head + "Via: b\nVia: a\n" + one + tail},
		{"pop line", head + one + "v: SIP/2.0/UDP h2\n" + tail, pop, head + "v: SIP/2.0/UDP h2\n" + tail},
		{"pop first of list", head + "Via: SIP/2.0/UDP h1;branch=1 , SIP/2.0/UDP h2\n" + tail, pop,
			head + "Via: SIP/2.0/UDP h2\n" + tail},
		{"pop folded", head + "Via: SIP/2.0/UDP h1;branch=1,\n SIP/2.0/UDP h2\n" + tail, pop,
			head + "Via: SIP/2.0/UDP h2\n" + tail},
		{"pop two", head + "Via: SIP/2.0/UDP h1,SIP/2.0/UDP h2, SIP/2.0/UDP h3\n" + tail,
			func(m *Message) { m.PopVia(); m.PopVia() }, head + "Via: SIP/2.0/UDP h3\n" + tail},
		{"pop all and one more", head + "Via: SIP/2.0/UDP h1,SIP/2.0/UDP h2\nX: 1\nVia: SIP/2.0/UDP h3\n" + tail,
			func(m *Message) { m.PopVia(); m.PopVia(); m.PopVia(); m.PopVia() }, head + "X: 1\n" + tail},
		{"pop and push", head + one + tail, func(m *Message) { m.PopVia(); m.PushVia([]byte("new")) },
			head + "Via: new\n" + tail},
		{"push and pop", head + one + tail, func(m *Message) { m.PushVia([]byte("new")); m.PopVia() },
			head + "Via: new\n" + tail},
	} {
		t.Run(c.name, c.run)
	}
}

func TestSetViaReceived(t *testing.T) {
	for _, c := range []struct{ name, via, addr, want string }{
		{"same", "192.0.2.1:5060;branch=1", "192.0.2.1:5060", "192.0.2.1:5060;branch=1"},
		{"same address, other port", "192.0.2.1:5060;branch=1", "192.0.2.1:99", "192.0.2.1:5060;branch=1"},
		{"differs", "192.0.2.1:5060;branch=1", "198.51.100.7:99", "192.0.2.1:5060;branch=1;received=198.51.100.7"},
		{"name", "phone.local;branch=1", "198.51.100.7:99", "phone.local;branch=1;received=198.51.100.7"},
		{"rport", "192.0.2.1;rport;branch=1", "192.0.2.1:99", "192.0.2.1;rport=99;branch=1;received=192.0.2.1"},
		{"rport last", "192.0.2.1;branch=1;rport", "192.0.2.1:99", "192.0.2.1;branch=1;rport=99;received=192.0.2.1"},
		{"rport equals", "192.0.2.1;rport=;branch=1", "192.0.2.1:99", "192.0.2.1;rport=99;branch=1;received=192.0.2.1"},
		{"rport lies", "192.0.2.1;rport=5060 ;branch=1", "192.0.2.1:99", "192.0.2.1;rport=99 ;branch=1;received=192.0.2.1"},
		{"received lies", "192.0.2.1;received=10.0.0.1;branch=1", "192.0.2.1:99", "192.0.2.1;received=192.0.2.1;branch=1"},
		{"received empty", "192.0.2.1;received;branch=1", "192.0.2.1:99", "192.0.2.1;received=192.0.2.1;branch=1"},
		{"rport first", "192.0.2.1 ; rport ; branch=1", "192.0.2.1:99", "192.0.2.1 ; rport=99 ; branch=1;received=192.0.2.1"},
		{"IPv6 same", "[2001:DB8:0::1]:5060;branch=1", "[2001:db8::1]:99", "[2001:DB8:0::1]:5060;branch=1"},
		{"IPv6 differs", "[2001:db8::1];branch=1", "[2001:db8::2]:99", "[2001:db8::1];branch=1;received=2001:db8::2"},
		{"IPv6 zone", "[fe80::1];branch=1", "[fe80::1%eth0]:99", "[fe80::1];branch=1"},
		{"mapped", "192.0.2.1;branch=1", "[::ffff:192.0.2.1]:99", "192.0.2.1;branch=1"},
		{"mapped host", "[::ffff:192.0.2.1];branch=1", "192.0.2.1:99", "[::ffff:192.0.2.1];branch=1"},
		{"no parameters", "192.0.2.1", "198.51.100.7:99", "192.0.2.1;received=198.51.100.7"},
		{"not the next hop", "192.0.2.1;branch=1 , SIP/2.0/UDP h2;rport", "198.51.100.7:99",
			"192.0.2.1;branch=1;received=198.51.100.7 , SIP/2.0/UDP h2;rport"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := netip.MustParseAddrPort(c.addr)
			editCase{
				in:   head + "Via: SIP/2.0/UDP " + c.via + "\n" + tail,
				do:   func(m *Message) { m.SetViaReceived(src.Addr(), src.Port()) },
				want: head + "Via: SIP/2.0/UDP " + c.want + "\n" + tail,
			}.run(t)
		})
	}
	t.Run("noted and popped", editCase{
		in:   head + "Via: SIP/2.0/UDP h1;rport, SIP/2.0/UDP h2\n" + tail,
		do:   func(m *Message) { m.SetViaReceived(netip.MustParseAddr("192.0.2.1"), 1); m.PopVia() },
		want: head + "Via: SIP/2.0/UDP h2\n" + tail,
	}.run)
}

func TestRemoveValue(t *testing.T) {
	const via = "Via: SIP/2.0/UDP h1\n"
	remove := func(values ...string) func(m *Message) {
		return func(m *Message) {
			for _, v := range values {
				for it := m.Values(Contact); it.Next(); {
					if string(it.Bytes()) == v {
						m.RemoveValue(Contact, it.Span())
					}
				}
			}
		}
	}
	const list = "Contact: <sip:a@1>, <sip:b@2>;q=1 ,<sip:c@3>\n"
	for _, c := range []editCase{
		{"first", head + via + list + tail, remove("<sip:a@1>"), head + via + "Contact: <sip:b@2>;q=1 ,<sip:c@3>\n" + tail},
		{"middle", head + via + list + tail, remove("<sip:b@2>;q=1"), head + via + "Contact: <sip:a@1>, <sip:c@3>\n" + tail},
		{"last", head + via + list + tail, remove("<sip:c@3>"), head + via + "Contact: <sip:a@1>, <sip:b@2>;q=1\n" + tail},
		{"first two", head + via + list + tail, remove("<sip:a@1>", "<sip:b@2>;q=1"), head + via + "Contact: <sip:c@3>\n" + tail},
		{"second and first", head + via + list + tail, remove("<sip:b@2>;q=1", "<sip:a@1>"), head + via + "Contact: <sip:c@3>\n" + tail},
		{"last two", head + via + list + tail, remove("<sip:b@2>;q=1", "<sip:c@3>"), head + via + "Contact: <sip:a@1>\n" + tail},
		{"third and second", head + via + list + tail, remove("<sip:c@3>", "<sip:b@2>;q=1"), head + via + "Contact: <sip:a@1>\n" + tail},
		{"outer", head + via + list + tail, remove("<sip:c@3>", "<sip:a@1>"), head + via + "Contact: <sip:b@2>;q=1\n" + tail},
		{"all", head + via + list + tail, remove("<sip:b@2>;q=1", "<sip:a@1>", "<sip:c@3>"), head + via + tail},
		{"all, backwards", head + via + list + tail, remove("<sip:c@3>", "<sip:b@2>;q=1", "<sip:a@1>"), head + via + tail},
		{"twice", head + via + list + tail, remove("<sip:a@1>", "<sip:a@1>"), head + via + "Contact: <sip:b@2>;q=1 ,<sip:c@3>\n" + tail},
		{"over lines", head + via + list + "X: 1\nm: <sip:a@1>\n" + tail, remove("<sip:a@1>"),
			head + via + "Contact: <sip:b@2>;q=1 ,<sip:c@3>\nX: 1\n" + tail},
		{"empty elements", head + via + "Contact: ,<sip:a@1>,, <sip:b@2>,\n" + tail, remove("<sip:a@1>"),
			head + via + "Contact: ,<sip:b@2>,\n" + tail},
		{"folds", head + via + "Contact: <sip:a@1>,\n <sip:b@2>,\n\t<sip:c@3>\n" + tail, remove("<sip:b@2>"),
			head + via + "Contact: <sip:a@1>,\n <sip:c@3>\n" + tail},
		{"after an edit inside", head + via + list + tail, func(m *Message) {
			for it := m.Values(Contact); it.Next(); {
				m.SetURI(it.Addr(), []byte("sip:x@y"))
			}
			remove("<sip:b@2>;q=1")(m)
		}, head + via + "Contact: <sip:x@y>, <sip:x@y>\n" + tail},
		{"RemoveAll", head + list + "X: 1\nm: *\n" + via + tail, func(m *Message) { m.RemoveAll(Contact); m.RemoveAll(Contact) },
			head + "X: 1\n" + via + tail},
		{"RemoveAll after others", head + via + list + tail, func(m *Message) {
			remove("<sip:b@2>;q=1")(m)
			m.RemoveAll(Contact)
		}, head + via + tail},
		{"RemoveAll of Other", head + via + "X: 1\n" + tail, func(m *Message) { m.RemoveAll(Other) }, head + via + "X: 1\n" + tail},
		{"RemoveHeader", head + via + "X: 1\n 2\nY: 3\n" + tail, func(m *Message) { m.RemoveHeader(m.Headers()[1]) },
			head + via + "Y: 3\n" + tail},
	} {
		t.Run(c.name, c.run)
	}
}

func TestRemoveOptionTag(t *testing.T) {
	const via = "Via: SIP/2.0/UDP h1\n"
	strip := func(m *Message) {
		for _, tag := range []string{"outbound", "path", "gruu"} {
			m.RemoveOptionTag(Supported, tag)
		}
	}
	for _, c := range []struct{ in, want string }{
		{"Supported: replaces, path, timer, eventlist\n", "Supported: replaces, timer, eventlist\n"},
		{"k: path\n", ""},
		{"Supported: path, outbound,gruu\n", ""},
		{"Supported: outbound, path\nX: 1\nSupported: timer, GRUU\n", "X: 1\nSupported: timer\n"},
		{"Supported: gruu, timer, path, 100rel, outbound\n", "Supported: timer, 100rel\n"},
		{"Supported: timer,path,gruu,outbound\n", "Supported: timer\n"},
		{"Supported: pathology\n", "Supported: pathology\n"},
		{"Supported:\n", "Supported:\n"},
		{"Supported: path, path, timer\n", "Supported: timer\n"},
		{"Require: path\n", "Require: path\n"},
	} {
		t.Run(c.in, editCase{in: head + via + c.in + tail, do: strip, want: head + via + c.want + tail}.run)
	}
}

func TestEditHeaders(t *testing.T) {
	const via = "v: SIP/2.0/UDP h1\n"
	contact := func(m *Message) Addr {
		it := m.Values(Contact)
		it.Next()
		return it.Addr()
	}
	for _, c := range []editCase{
		{"nothing", head + via + tail, func(*Message) {}, head + via + tail},
		{"Request-URI", head + via + tail, func(m *Message) {
			m.SetRequestURI([]byte("sip:c@d"))
			m.SetRequestURI([]byte("sip:long@example.com;x"))
		},
			"INVITE sip:long@example.com;x SIP/2.0\n" + via + tail},
		{"Request-URI of a response", "SIP/2.0 200 OK\n" + via + tail, func(m *Message) { m.SetRequestURI([]byte("sip:c@d")) },
			"SIP/2.0 200 OK\n" + via + tail},
		{"Max-Forwards", head + via + "Max-Forwards:  70 \n" + tail, func(m *Message) { m.SetMaxForwards(70); m.SetMaxForwards(69) },
			head + via + "Max-Forwards:  69 \n" + tail},
		{"Max-Forwards added", head + via + "X: 1\n" + via + tail, func(m *Message) { m.SetMaxForwards(70) },
			head + via + "X: 1\n" + via + "Max-Forwards: 70\n" + tail},
		{"add before", head + via + "X: 1\nRecord-Route: <sip:a>\nRecord-Route: <sip:b>\n" + tail,
			func(m *Message) { m.AddBefore(RecordRoute, "Record-Route", []byte("<sip:me>")) },
			head + via + "X: 1\nRecord-Route: <sip:me>\nRecord-Route: <sip:a>\nRecord-Route: <sip:b>\n" + tail},
		{"add after", head + via + "Record-Route: <sip:a>\nX: 1\nRecord-Route: <sip:b>\n" + tail,
			func(m *Message) { m.AddAfter(RecordRoute, "Record-Route", []byte("<sip:me>")) },
			head + via + "Record-Route: <sip:a>\nX: 1\nRecord-Route: <sip:b>\nRecord-Route: <sip:me>\n" + tail},
		{"add where there is none", head + via + tail, func(m *Message) {
			m.AddBefore(RecordRoute, "Record-Route", []byte("<sip:1>"))
			m.AddAfter(Contact, "Contact", []byte("<sip:2>"))
			m.PushVia([]byte("0"))
		}, head + "Via: 0\n" + via + "Record-Route: <sip:1>\nContact: <sip:2>\n" + tail},
		{"add in place of those removed", head + via + "m: <sip:a@b>\n" + tail, func(m *Message) {
			m.RemoveAll(Contact)
			m.AddBefore(Contact, "Contact", []byte("<sip:c@d>"))
		}, head + via + "Contact: <sip:c@d>\n" + tail},
		{"URI in brackets", head + via + "Contact: \"a\" < sip:a@b;x=1 > ;q=1\n" + tail, func(m *Message) {
			m.SetURI(contact(m), []byte("sip:0@0"))
			m.SetURI(contact(m), []byte("sip:c@d;transport=tcp"))
		}, head + via + "Contact: \"a\" < sip:c@d;transport=tcp > ;q=1\n" + tail},
		{"URI without brackets", head + via + "Contact: sip:a@b;q=1\n" + tail, func(m *Message) {
			m.SetURI(contact(m), []byte("sip:0@0"))
			m.SetURI(contact(m), []byte("sip:c@d;transport=tcp"))
		}, head + via + "Contact: <sip:c@d;transport=tcp>;q=1\n" + tail},
		{"URI emptied and set", head + via + "Contact: <sip:a@b>\n" + tail, func(m *Message) {
			m.SetURI(contact(m), nil)
			m.SetURI(contact(m), []byte("sip:c@d"))
		}, head + via + "Contact: <sip:c@d>\n" + tail},
		{"URI of a star", head + via + "Contact: *\n" + tail, func(m *Message) { m.SetURI(contact(m), []byte("sip:c@d")) },
			head + via + "Contact: *\n" + tail},
		{"parameters", head + via + "Contact: <sip:a@b;reg-id=7> ;reg-id=1; +sip.instance=\"<x;reg-id=2>\" ;REG-ID ; ob\n" + tail,
			func(m *Message) {
				if !m.RemoveParam(contact(m).ParamsSpan, "reg-id") || m.RemoveParam(contact(m).ParamsSpan, "alias") {
					panic("RemoveParam")
				}
			}, head + via + "Contact: <sip:a@b;reg-id=7> ; +sip.instance=\"<x;reg-id=2>\" ; ob\n" + tail},
		{"all parameters", head + via + "Contact: <sip:a@b>;a;b=1;a=2\n" + tail,
			func(m *Message) {
				m.RemoveParam(contact(m).ParamsSpan, "a")
				m.RemoveParam(contact(m).ParamsSpan, "b")
			}, head + via + "Contact: <sip:a@b>\n" + tail},
		{"Replace, Insert, Delete", head + via + "X: abcdef\n" + tail, func(m *Message) {
			at := m.Headers()[1].Value.Start
			m.Insert(at+2, []byte("1"))
			m.Replace(Span{at + 2, at + 4}, []byte("CD"))
			m.Insert(at+2, []byte("2"))
			m.Delete(Span{at + 4, at + 6})
			m.Insert(at, []byte("<"))
			m.Replace(Span{at + 6, at + 6}, []byte(">"))
			m.Insert(at, nil)
			m.Delete(Span{at, at})
			m.Replace(Span{at, at + 1}, nil)
		}, head + via + "X: <b12CD>\n" + tail},
		{"delete what was replaced", head + via + "X: abcdef\n" + tail, func(m *Message) {
			at := m.Headers()[1].Value.Start
			m.Replace(Span{at + 1, at + 2}, []byte("B"))
			m.Insert(at+3, []byte("x"))
			m.Delete(Span{at, at + 2})
			m.Delete(Span{at + 1, at + 4})
			m.Delete(Span{at + 2, at + 3})
		}, head + via + "X: ef\n" + tail},
	} {
		t.Run(c.name, c.run)
	}
	t.Run("line ends of the message", func(t *testing.T) {
		var m Message
		mustParse(t, &m, strings.ReplaceAll(head+via+tail, "\r", ""))
		m.SetMaxForwards(5)
		m.PushVia([]byte("x"))
		m.EnsureContentLength()
		want := head + "Via: x\n" + via + "Max-Forwards: 5\n" + strings.TrimSuffix(tail, "\n") + "Content-Length: 0\n\n"
		if got := string(m.AppendTo(nil)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestEditBody(t *testing.T) {
	const via = "Via: SIP/2.0/UDP h1\n"
	body := func(length string) string { return head + via + length + tail }
	for _, c := range []editCase{
		{"length follows", body("Content-Length: 6\n") + "abcdef", func(m *Message) { m.SetBody(2, 4, []byte("1234567")) },
			body("Content-Length: 11\n") + "ab1234567ef"},
		{"compact and padded", body("l:   006 \n") + "abcdef", func(m *Message) { m.SetBody(0, 6, nil) }, body("l:   0 \n")},
		{"same length stays", body("l:   006 \n") + "abcdef", func(m *Message) { m.SetBody(0, 6, []byte("ABCDEF")) }, body("l:   006 \n") + "ABCDEF"},
		{"several", body("Content-Length: 6\n") + "abcdef", func(m *Message) {
			m.SetBody(4, 6, []byte("56!"))
			m.SetBody(0, 1, []byte("00"))
			m.SetBody(6, 6, []byte("end"))
		}, body("Content-Length: 11\n") + "00bcd56!end"},
		{"none on a datagram", body("") + "abcdef", func(m *Message) { m.SetBody(0, 3, nil) }, body("") + "def"},
		{"none, wanted", body("") + "abcdef", func(m *Message) { m.SetBody(0, 3, nil); m.EnsureContentLength(); m.EnsureContentLength() },
			strings.TrimSuffix(body(""), "\n") + "Content-Length: 3\n\ndef"},
		{"there, wanted", body("l: 06\n") + "abcdef", func(m *Message) { m.EnsureContentLength() }, body("l: 06\n") + "abcdef"},
		{"no body, wanted", body(""), func(m *Message) { m.EnsureContentLength() },
			strings.TrimSuffix(body(""), "\n") + "Content-Length: 0\n\n"},
		{"a body where there was none", body("Content-Length: 0\n"), func(m *Message) { m.SetBody(0, 0, []byte("new")) },
			body("Content-Length: 3\n") + "new"},
		{"header removed, wanted", body("Content-Length: 6\n") + "abcdef", func(m *Message) { m.RemoveAll(ContentLength); m.EnsureContentLength() },
			strings.TrimSuffix(body(""), "\n") + "Content-Length: 6\n\nabcdef"},
		{"header removed", body("Content-Length: 6\n") + "abcdef", func(m *Message) { m.RemoveAll(ContentLength); m.SetBody(0, 6, nil) }, body("")},
	} {
		t.Run(c.name, c.run)
	}
}

func TestEditConflicts(t *testing.T) {
	in := request("Content-Length: 2\r\n", "ab")
	for name, do := range map[string]func(m *Message){
		"insert inside of a replacement":  func(m *Message) { m.Replace(Span{2, 6}, []byte("x")); m.Insert(4, []byte("y")) },
		"replacement around an insertion": func(m *Message) { m.Insert(4, []byte("y")); m.Replace(Span{2, 6}, []byte("x")) },
		"same bytes twice":                func(m *Message) { m.Replace(Span{2, 6}, []byte("x")); m.Replace(Span{2, 6}, []byte("y")) },
		"overlap":                         func(m *Message) { m.Replace(Span{2, 6}, []byte("x")); m.Replace(Span{5, 8}, []byte("y")) },
		"overlap from the left":           func(m *Message) { m.Replace(Span{5, 8}, []byte("x")); m.Replace(Span{2, 6}, []byte("y")) },
		"replacement of what is deleted":  func(m *Message) { m.Delete(Span{2, 6}); m.Replace(Span{3, 4}, []byte("y")) },
		"half of a replacement deleted":   func(m *Message) { m.Replace(Span{2, 6}, []byte("x")); m.Delete(Span{4, 8}) },
		"insert inside of what is deleted": func(m *Message) {
			m.Delete(Span{2, 6})
			m.Insert(3, []byte("y"))
		},
		"before the message":  func(m *Message) { m.Insert(-1, []byte("y")) },
		"behind the message":  func(m *Message) { m.Insert(len(in)+1, []byte("y")) },
		"backwards":           func(m *Message) { m.Delete(Span{5, 4}) },
		"before the body":     func(m *Message) { m.SetBody(-1, 1, nil) },
		"behind the body":     func(m *Message) { m.SetBody(0, 3, nil) },
		"value of nothing":    func(m *Message) { m.RemoveValue(Contact, Span{0, 5}) },
		"value of other kind": func(m *Message) { m.RemoveValue(Contact, m.From().Value) },
		"length by hand": func(m *Message) {
			h, _ := m.Header(ContentLength)
			m.Replace(Span{h.Line.Start, h.Line.End}, []byte("l: 2\r\n"))
			m.SetBody(0, 2, nil)
		},
		"too many": func(m *Message) {
			for range maxEdits + 1 {
				m.Insert(3, []byte("y"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var m Message
			mustParse(t, &m, in)
			do(&m)
			if got := m.AppendTo([]byte("x")); string(got) != "x" {
				t.Errorf("appended %q", got)
			}
			if err := m.Err(); !errors.Is(err, ErrEdit) {
				t.Errorf("Err is %v", err)
			}
			m.ResetEdits()
			if got := m.AppendTo(nil); string(got) != in || m.Err() != nil {
				t.Errorf("after ResetEdits: %v %q", m.Err(), got)
			}
			do(&m)
			mustParse(t, &m, in)
			if got := m.AppendTo(nil); string(got) != in || m.Err() != nil {
				t.Errorf("after Parse: %v %q", m.Err(), got)
			}
		})
	}
}

// TestEditsCopy shows that what is given to the edits may change at once.
func TestEditsCopy(t *testing.T) {
	var m Message
	mustParse(t, &m, request("Content-Length: 2\r\n", "ab"))
	b := []byte("sip:first@x")
	m.SetRequestURI(b)
	m.PushVia(b)
	m.SetBody(0, 2, b)
	m.Insert(0, b)
	m.SetURI(m.From(), b)
	m.AddAfter(Contact, "Contact", b)
	copy(b, "clobbered..")
	got := string(m.AppendTo(nil))
	if strings.Contains(got, "clobbered") || strings.Count(got, "sip:first@x") != 6 {
		t.Error(got)
	}
}

// TestLongListsAreCheap: what removes many values looks at each of them once, or a
// single message would keep a proxy busy for a minute.
func TestLongListsAreCheap(t *testing.T) {
	const head = "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@b>\r\nTo: <sip:a@b>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n"
	for _, list := range []string{strings.Repeat("path,", 12_800), strings.Repeat("path,x,", 9_100)} {
		var m Message
		if err := m.Parse([]byte(head + "Supported: " + list + "\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		m.RemoveOptionTag(Supported, "outbound", "path", "gruu")
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("removing from %.12s... took %v", list, d)
		}
		calls := 0
		m.ResetEdits()
		m.RemoveValues(Supported, func(Values) bool { calls++; return true })
		if want := strings.Count(list, ","); calls != want {
			t.Errorf("%d values were asked for, want %d", calls, want)
		}
		if got := string(m.AppendTo(nil)); got != head+"\r\n" {
			t.Errorf("got %.200q", got)
		}
	}
}
