package sipmsg

import (
	"bytes"
	"io"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// seeds adds every message that there is.
func seeds(f *testing.F, add func(msg []byte)) {
	f.Helper()
	for _, msg := range allTestdata(f) {
		add(msg)
	}
	for _, set := range []string{"rfc4475/*.dat", "rfc5118/*.dat", "sip-phones/*.sip"} {
		for _, msg := range readAll(f, filepath.Join(corpora, set)) {
			add(msg)
		}
	}
}

// FuzzParse: what is accepted is forwarded as it is, its spans tile it, and a
// second reader reads the same out of it.
func FuzzParse(f *testing.F) {
	seeds(f, func(msg []byte) { f.Add(msg) })
	f.Fuzz(func(t *testing.T, msg []byte) {
		kept := bytes.Clone(msg)
		var m Message
		err := m.Parse(msg)
		read(&m)
		newForwarder().forwardQuietly(&m)
		if !bytes.Equal(msg, kept) {
			t.Fatal("the received bytes changed")
		}
		if err != nil {
			return
		}
		m.ResetEdits()
		if !bytes.Equal(m.AppendTo(nil), m.Bytes()) {
			t.Fatal("changed without edits")
		}
		if lead := len(msg) - m.Trimmed() - len(m.Bytes()); lead < 0 || strings.Trim(string(msg[:lead]), "\r\n") != "" ||
			!bytes.Equal(msg[lead:len(msg)-m.Trimmed()], m.Bytes()) {
			t.Fatal("the message is not in the datagram")
		}
		checkTiles(t, &m)
		checkReference(t, &m)
		var again Message
		if err := again.Parse(m.Bytes()); err != nil || facts(&again) != facts(&m) {
			t.Fatalf("read again: %v\n%s\n%s", err, facts(&m), facts(&again))
		}
	})
}

// forwardQuietly edits a message that may be no good; it must not panic.
func (f forwarder) forwardQuietly(m *Message) { f.forward(m, nil) }

// checkTiles checks that start line, header lines, empty line and body lie
// behind one another without a gap.
func checkTiles(t *testing.T, m *Message) {
	t.Helper()
	pos := m.eol.End
	for _, h := range m.Headers() {
		if h.Line.Start != pos || !h.Line.contains(h.Name) || !h.Line.contains(h.Value) {
			t.Fatalf("header %+v at %d", h, pos)
		}
		if h.Name.End > h.Value.Start || trim(m.buf, h.Value) != h.Value {
			t.Fatalf("header %+v: %q %q", h, m.Text(h.Name), m.Text(h.Value))
		}
		pos = h.Line.End
	}
	if gap := string(m.buf[pos:m.body.Start]); gap != "\n" && gap != "\r\n" || m.body.End != len(m.buf) {
		t.Fatalf("%q between headers and body %+v of %d", gap, m.body, len(m.buf))
	}
}

func checkReference(t *testing.T, m *Message) {
	t.Helper()
	_, fields, body := refParse(string(m.Bytes()))
	if body != string(m.Body()) {
		t.Fatalf("body %q, want %q", m.Body(), body)
	}
	if len(fields) != len(m.Headers()) {
		t.Fatalf("%d headers, want %d", len(m.Headers()), len(fields))
	}
	for i, h := range m.Headers() {
		want := fields[i]
		if name, value := string(m.Text(h.Name)), string(m.Text(h.Value)); name != want.name || value != want.value {
			t.Fatalf("header %q: %q, want %q: %q", name, value, want.name, want.value)
		}
		if name := refName(want.name); h.Kind != Other && refLower(h.Kind.String()) != name ||
			h.Kind == Other && kindOf([]byte(name)) != Other {
			t.Fatalf("%q is %v", want.name, h.Kind)
		}
	}
	for k := Other + 1; k < numKinds; k++ {
		if got, want := valuesOf(m, k), refValues(fields, refLower(k.String())); !slices.Equal(got, want) {
			t.Fatalf("values of %v: %q, want %q", k, got, want)
		}
	}
}

// valuesOf returns all values of a kind.
func valuesOf(m *Message, k Kind) (values []string) {
	for it := m.Values(k); it.Next(); {
		values = append(values, string(it.Bytes()))
	}
	return values
}

// FuzzEdits makes edits that a program of bytes names, and checks against a
// model of lists of values that exactly these show.
func FuzzEdits(f *testing.F) {
	programs := [][]byte{
		{0, 0, 1, 0, 7, 0, 10, 0, 8, 0}, {1, 0, 1, 0, 0, 0, 1, 0}, {2, 0, 2, 1, 2, 8, 2, 9}, {3, 1, 5, 1, 6, 1, 2, 1},
		{4, 0, 4, 1, 4, 2, 4, 3, 9, 0}, {13, 0, 1, 0, 11, 0, 12, 0, 2, 1}, {5, 2, 6, 2, 6, 3, 5, 3, 8, 7}, {11, 1, 11, 1, 3, 1},
	}
	n := 0
	seeds(f, func(msg []byte) {
		f.Add(msg, programs[n%len(programs)])
		n++
	})
	f.Fuzz(func(t *testing.T, msg, program []byte) {
		var m Message
		if m.Parse(msg) != nil {
			return
		}
		e := newEditor(&m)
		for ; len(program) >= 2 && len(program) < 64; program = program[2:] {
			e.step(program[0], int(program[1]))
		}
		out := m.AppendTo(nil)
		if err := m.Err(); err != nil {
			t.Fatalf("%v after %v", err, e.log)
		}
		e.check(t, string(out))
	})
}

// editor does edits to a message and to a model of it.
type editor struct {
	m        *Message
	values   map[Kind][]string // of the kinds that are edited, as they are to come out
	pushed   int
	before   map[Kind]int // lines added above, so far
	removed  map[Span]bool
	touched  map[Kind]bool
	pointed  bool // parameters of the top Via were set
	changed  bool // Contacts were changed inside
	body     string
	bodySet  bool
	maxFwd   int
	uri      string
	log      []string
	original []refField
}

var editedKinds = []Kind{Via, Contact, RecordRoute, Supported, Require, Route}

func newEditor(m *Message) *editor {
	e := &editor{m: m, values: map[Kind][]string{}, before: map[Kind]int{}, removed: map[Span]bool{}, touched: map[Kind]bool{}, maxFwd: -1}
	_, e.original, e.body = refParse(string(m.Bytes()))
	for _, k := range editedKinds {
		e.values[k] = valuesOf(m, k)
	}
	return e
}

// spans returns the values of a kind that are still there.
func (e *editor) spans(k Kind) (spans []Span) {
	for it := e.m.Values(k); it.Next(); {
		if s := it.Span(); !e.removed[s] {
			spans = append(spans, s)
		}
	}
	return spans
}

func (e *editor) step(op byte, arg int) {
	k := editedKinds[1+arg%(len(editedKinds)-1)]
	switch op % 14 {
	case 0:
		e.log, e.touched[Via] = append(e.log, "push"), true
		e.m.PushVia([]byte("SIP/2.0/UDP pushed"))
		e.values[Via] = slices.Insert(e.values[Via], 0, "SIP/2.0/UDP pushed")
		e.pushed++
	case 1:
		e.log, e.touched[Via] = append(e.log, "pop"), true
		e.m.PopVia()
		if spans := e.spans(Via); len(spans) > 0 {
			e.removed[spans[0]] = true
			e.values[Via] = slices.Delete(e.values[Via], e.pushed, e.pushed+1)
		}
	case 2:
		if spans := e.spans(k); len(spans) > 0 {
			e.log, e.touched[k] = append(e.log, "remove "+k.String()), true
			i := arg / 8 % len(spans)
			e.m.RemoveValue(k, spans[i])
			e.removed[spans[i]] = true
			at := e.before[k] + i
			e.values[k] = slices.Delete(e.values[k], at, at+1)
		}
	case 3:
		e.log, e.touched[k] = append(e.log, "remove all "+k.String()), true
		spans := e.spans(k)
		e.m.RemoveAll(k)
		for _, s := range spans {
			e.removed[s] = true
		}
		e.values[k] = slices.Delete(e.values[k], e.before[k], e.before[k]+len(spans))
	case 4:
		e.removeTag(arg)
	case 5, 6:
		e.addLine(k, op%14 == 5)
	case 7:
		e.log, e.touched[MaxForwards] = append(e.log, "max-forwards"), true
		if _, ok := e.m.Header(MaxForwards); ok || e.maxFwd < 0 {
			e.m.SetMaxForwards(arg)
			e.maxFwd = arg
		}
	case 8:
		if n := len(e.m.Body()); !e.bodySet {
			e.log, e.bodySet = append(e.log, "body"), true
			from := arg % (n + 1)
			e.m.SetBody(from, n, []byte("<new>"))
			e.body = e.body[:from] + "<new>"
			e.touched[ContentLength] = true
		}
	case 9:
		e.log, e.touched[ContentLength] = append(e.log, "length"), true
		e.m.EnsureContentLength()
	case 10:
		e.m.SetRequestURI([]byte("sip:new@uri"))
		e.uri = "sip:new@uri"
	default:
		e.change(op%14, arg)
	}
}

func (e *editor) removeTag(arg int) {
	k, tag := []Kind{Supported, Require}[arg%2], []string{"path", "outbound", "timer", "100rel"}[arg/2%4]
	e.log, e.touched[k] = append(e.log, "tag "+tag), true
	e.m.RemoveOptionTag(k, tag)
	for _, s := range e.spans(k) {
		if refLower(string(e.m.Text(s))) == tag {
			e.removed[s] = true
		}
	}
	e.values[k] = slices.DeleteFunc(e.values[k], func(v string) bool { return refLower(v) == tag })
}

func (e *editor) addLine(k Kind, above bool) {
	e.log, e.touched[k] = append(e.log, "add "+k.String()), true
	const value = "<sip:added@line>"
	_, there := e.m.Header(k)
	switch {
	case above && there:
		e.m.AddBefore(k, k.String(), []byte(value))
		e.values[k] = slices.Insert(e.values[k], e.before[k], value)
		e.before[k]++
	case above:
		e.m.AddBefore(k, k.String(), []byte(value))
		e.values[k] = append(e.values[k], value)
	default:
		e.m.AddAfter(k, k.String(), []byte(value))
		e.values[k] = append(e.values[k], value)
	}
}

// change edits inside of values; only that it breaks nothing else is checked
// for these kinds.
func (e *editor) change(op byte, arg int) {
	switch spans := e.spans(Contact); {
	case op == 13 && len(e.spans(Via)) > 0 && !e.pointed:
		if top, _ := e.m.TopVia(); !e.removed[top.Value] {
			e.m.SetViaReceived(netip.MustParseAddr("198.51.100.9"), uint16(arg))
			e.pointed = true
		}
	case len(spans) > 0:
		a, _ := parseAddr(e.m.Bytes(), spans[arg%len(spans)])
		if e.touched[Contact] = true; op == 11 {
			e.m.SetURI(a, []byte("sip:changed@uri;x"))
		} else {
			e.m.RemoveParam(a.ParamsSpan, "expires")
			e.m.RemoveParam(a.ParamsSpan, "reg-id")
		}
		e.log = append(e.log, "change")
		e.changed = true
	}
}

// check compares the edited message with the model.
func (e *editor) check(t *testing.T, out string) {
	t.Helper()
	start, fields, body := refParse(out)
	if body != e.body {
		t.Fatalf("%v: body %q, want %q", e.log, body, e.body)
	}
	if e.m.IsRequest() && e.uri != "" && strings.Fields(start)[1] != e.uri {
		t.Fatalf("%v: start line %q", e.log, start)
	}
	for k, want := range e.values {
		got := refValues(fields, refLower(k.String()))
		if k == Via && e.pointed || k == Contact && e.changed {
			if len(got) != len(want) {
				t.Fatalf("%v: %v is %q, want as many as %q", e.log, k, got, want)
			}
			continue
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v: %v is %q, want %q", e.log, k, got, want)
		}
	}
	untouched := func(f refField) bool {
		k := kindOf([]byte(f.name))
		return k == Other || !e.touched[k] && (k != Via || !e.pointed)
	}
	if got, want := filter(fields, untouched), filter(e.original, untouched); !slices.Equal(got, want) {
		t.Fatalf("%v: the headers left alone are\n%q, want\n%q", e.log, got, want)
	}
	var length Message
	if err := length.Parse([]byte(out)); err == nil && length.Trimmed() != 0 {
		t.Fatalf("%v: Content-Length %d too small", e.log, length.Trimmed())
	} else if err != nil && len(e.values[Via]) > 0 &&
		!strings.Contains(err.Error(), "too large") && !strings.Contains(err.Error(), "malformed Via") {
		t.Fatalf("%v: %v", e.log, err)
	}
}

func filter(fields []refField, keep func(refField) bool) (kept []refField) {
	for _, f := range fields {
		if keep(f) {
			kept = append(kept, f)
		}
	}
	return kept
}

// FuzzFramer: however a stream is cut into segments, the same comes out, and
// what comes out is what went in, but for line ends between messages.
func FuzzFramer(f *testing.F) {
	var all []byte
	seeds(f, func(msg []byte) {
		f.Add(msg, byte(7))
		all = append(append(all, msg...), "\r\n\r\n"...)
	})
	f.Add(all[:min(len(all), 60000)], byte(200))
	f.Add([]byte("A\r\nl:70000\r\n\r\nB\n\n\r\n\r\n"), byte(1))
	f.Fuzz(func(t *testing.T, stream []byte, size byte) {
		whole := framed(bytes.NewReader(stream))
		if cut := framed(&pieces{stream, int(size) + 1}); !sameStrings(whole, cut) {
			t.Fatalf("%q in pieces of %d, %q at once", cut, int(size)+1, whole)
		}
		rest := string(stream)
		for _, msg := range whole {
			if msg == "ping" {
				continue
			}
			if rest = strings.TrimLeft(rest, "\r\n"); !strings.HasPrefix(rest, msg) {
				break // an error: what follows is not known
			}
			rest = rest[len(msg):]
			var m Message
			if m.Parse([]byte(msg)) == nil && m.Trimmed() != 0 {
				t.Fatalf("Parse cuts %d bytes off %q", m.Trimmed(), msg)
			}
		}
	})
}

// pieces is a reader that gives at most n bytes at a time.
type pieces struct {
	data []byte
	n    int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(p.n, len(b))], p.data)
	p.data = p.data[n:]
	return n, nil
}
