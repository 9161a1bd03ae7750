package fidelity

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// text is a message cut into pieces: put together again they are the message.
// It is as simple as possible, since it judges a parser.
type text struct {
	start  string // start line with its end
	fields []field
	empty  string // the line behind the header
	body   string
}

// field is a header field; name is the long one in lower case.
type field struct{ name, head, value, tail string }

const space = " \t\r\n"

var longNames = map[string]string{
	"b": "referred-by", "c": "content-type", "e": "content-encoding", "f": "from", "i": "call-id", "k": "supported",
	"l": "content-length", "m": "contact", "o": "event", "r": "refer-to", "s": "subject", "t": "to", "v": "via", "x": "session-expires",
}

// cut takes a message apart. What lies behind the body is not part of it.
func cut(b []byte) (*text, error) {
	s := strings.TrimLeft(string(b), "\r\n")
	m := new(text)
	var ok bool
	if m.start, s, ok = line(s); !ok {
		return nil, fmt.Errorf("no start line")
	}
	for {
		l, rest, ok := line(s)
		if !ok {
			return nil, fmt.Errorf("no end of the header")
		}
		s = rest
		if strings.Trim(l, "\r\n") == "" {
			m.empty = l
			break
		}
		for s != "" && (s[0] == ' ' || s[0] == '\t') {
			fold, rest, ok := line(s)
			if !ok {
				return nil, fmt.Errorf("no end of the header")
			}
			l, s = l+fold, rest
		}
		m.fields = append(m.fields, newField(l))
	}
	m.body = s
	if n, err := strconv.Atoi(m.get("content-length")); err == nil && n >= 0 && n <= len(s) {
		m.body = s[:n]
	}
	return m, nil
}

func line(s string) (l, rest string, ok bool) {
	n := strings.IndexByte(s, '\n') + 1
	return s[:n], s[n:], n > 0
}

func newField(l string) field {
	colon := strings.IndexByte(l, ':') + 1
	value := strings.Trim(l[colon:], space)
	at := colon + len(l[colon:]) - len(strings.TrimLeft(l[colon:], space))
	if value == "" {
		at = len(strings.TrimRight(l, space))
		at = max(at, colon)
	}
	name := strings.ToLower(strings.Trim(l[:max(colon-1, 0)], space))
	if long := longNames[name]; long != "" {
		name = long
	}
	return field{name: name, head: l[:at], value: value, tail: l[at+len(value):]}
}

func (m *text) String() string {
	var b strings.Builder
	b.WriteString(m.start)
	for _, f := range m.fields {
		b.WriteString(f.head + f.value + f.tail)
	}
	return b.String() + m.empty + m.body
}

// eol ends the lines of this message.
func (m *text) eol() string {
	if strings.HasSuffix(m.start, "\r\n") {
		return "\r\n"
	}
	return "\n"
}

func (m *text) index(name string) int {
	for i, f := range m.fields {
		if f.name == name {
			return i
		}
	}
	return -1
}

func (m *text) get(name string) string {
	if i := m.index(name); i >= 0 {
		return m.fields[i].value
	}
	return ""
}

// values are those of all headers of that name, commas taken as separators.
func (m *text) values(name string) []string {
	var all []string
	for _, f := range m.fields {
		if f.name == name {
			for _, s := range list(f.value) {
				all = append(all, f.value[s.from:s.to])
			}
		}
	}
	return all
}

// lines are the values of all headers of that name, a string for each line.
func (m *text) lines(name string) []string {
	var all []string
	for _, f := range m.fields {
		if f.name == name {
			all = append(all, f.value)
		}
	}
	return all
}

func (m *text) isRequest() bool { return !strings.HasPrefix(strings.ToUpper(m.start), "SIP/") }

func (m *text) status() int {
	if m.isRequest() || len(m.start) < 11 {
		return 0
	}
	n, _ := strconv.Atoi(m.start[8:11])
	return n
}

// method is the one of the start line, or for a response of the CSeq.
func (m *text) method() string {
	if m.isRequest() {
		return m.start[:strings.IndexByte(m.start, ' ')]
	}
	f := strings.Fields(m.get("cseq"))
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}

// uri is the Request-URI.
func (m *text) uri() string {
	s := strings.TrimRight(m.start, space)
	a, b := strings.IndexByte(s, ' '), strings.LastIndexByte(s, ' ')
	if a < 0 || b <= a {
		return ""
	}
	return s[a+1 : b]
}

func (m *text) setURI(uri string) {
	a := strings.IndexByte(m.start, ' ') + 1
	m.start = m.start[:a] + uri + m.start[a+len(m.uri()):]
}

// insert puts a header line before the i-th.
func (m *text) insert(i int, name, value string) {
	f := newField(name + ": " + value + m.eol())
	m.fields = append(m.fields[:i], append([]field{f}, m.fields[i:]...)...)
}

func (m *text) remove(i int) { m.fields = append(m.fields[:i], m.fields[i+1:]...) }

// belowVia is the index behind the last Via.
func (m *text) belowVia() int {
	at := 0
	for i, f := range m.fields {
		if f.name == "via" {
			at = i + 1
		}
	}
	return at
}

// --- values -------------------------------------------------------------

type span struct{ from, to int }

// list finds the values between the commas that are in neither quotes nor
// angle brackets.
func list(s string) []span {
	var all []span
	from := 0
	add := func(to int) {
		v := s[from:to]
		l := from + len(v) - len(strings.TrimLeft(v, space))
		if v = strings.Trim(v, space); v != "" {
			all = append(all, span{l, l + len(v)})
		}
		from = to + 1
	}
	walk(s, func(i int, c byte, quoted, bracket bool) {
		if c == ',' && !quoted && !bracket {
			add(i)
		}
	})
	add(len(s))
	return all
}

func walk(s string, f func(i int, c byte, quoted, bracket bool)) {
	quoted, bracket := false, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quoted && c == '\\':
			i++
			continue
		case c == '"' && !bracket:
			quoted = !quoted
		case c == '<' && !quoted:
			bracket = true
		case c == '>' && !quoted:
			bracket = false
		}
		f(i, c, quoted, bracket)
	}
}

// without removes the values for which drop is true, each with a comma.
func without(s string, drop func(v string) bool) string {
	var out strings.Builder
	values := list(s)
	kept, next := -1, -1 // end of what is kept and copied; where the gap began
	pos := 0
	for _, v := range values {
		if drop(s[v.from:v.to]) {
			if next < 0 {
				next = v.from
			}
			continue
		}
		if next >= 0 {
			out.WriteString(s[pos:next])
			pos = v.from
			next = -1
		}
		kept = v.to
	}
	if next < 0 {
		return out.String() + s[pos:]
	}
	if kept < 0 {
		return ""
	}
	return out.String() + s[pos:kept] + s[values[len(values)-1].to:]
}

// dropValues does so in all headers of that name; a header without values goes.
func (m *text) dropValues(name string, drop func(v string) bool) {
	for i := 0; i < len(m.fields); i++ {
		f := &m.fields[i]
		if f.name != name || len(list(f.value)) == 0 {
			continue
		}
		if f.value = without(f.value, drop); f.value == "" {
			m.remove(i)
			i--
		}
	}
}

// parameter is ";name=value"; all runs from the semicolon to the next one.
type parameter struct {
	all         span
	name, value string
	nameEnd     int
	valueAt     span
}

// parameters reads s, which begins with the first semicolon.
func parameters(s string) []parameter {
	var all []parameter
	from := -1
	add := func(to int) {
		if from < 0 {
			return
		}
		p := parameter{all: span{from, to}}
		inner := s[from+1 : to]
		name, value, _ := strings.Cut(inner, "=")
		p.name = strings.ToLower(strings.Trim(name, space))
		p.nameEnd = from + 1 + len(strings.TrimRight(name, space))
		if strings.Contains(inner, "=") {
			at := from + 1 + len(name) + 1
			p.value = strings.Trim(value, space)
			at += len(value) - len(strings.TrimLeft(value, space))
			p.valueAt = span{at, at + len(p.value)}
		}
		if p.name != "" {
			all = append(all, p)
		}
	}
	walk(s, func(i int, c byte, quoted, _ bool) {
		if c == ';' && !quoted {
			add(i)
			from = i
		}
	})
	add(len(s))
	return all
}

func param(s, name string) (parameter, bool) {
	for _, p := range parameters(s) {
		if p.name == name {
			return p, true
		}
	}
	return parameter{}, false
}

// dropParams removes parameters from a list that begins with a semicolon.
func dropParams(s string, names ...string) string {
	all := parameters(s)
	for i := len(all) - 1; i >= 0; i-- {
		for _, n := range names {
			if all[i].name == n {
				s = s[:all[i].all.from] + s[all[i].all.to:]
				break
			}
		}
	}
	return s
}

// address is a value of Contact, Route, Refer-To and the like: before + uri +
// after is the value; params begin in after.
type address struct {
	before, uri, after string
	bracket            bool
}

func cutAddress(v string) address {
	open := -1
	walk(v, func(i int, c byte, quoted, bracket bool) {
		if c == '<' && !quoted && open < 0 {
			open = i
		}
	})
	if open >= 0 {
		if end := strings.IndexByte(v[open:], '>'); end >= 0 {
			uri := strings.Trim(v[open+1:open+end], space)
			at := open + 1 + strings.Index(v[open+1:], uri)
			return address{v[:at], uri, v[at+len(uri):], true}
		}
	}
	uri, _, _ := strings.Cut(v, ";")
	uri = strings.Trim(uri, space)
	return address{"", uri, v[len(uri):], false}
}

func (a address) String() string { return a.before + a.uri + a.after }

var uriForm = regexp.MustCompile(`(?is)^(sips?):(?:([^@]*)@)?(\[[^\]]*\]|[^:;?\[\]]+)(?::(\d+))?((?:;[^?]*)?)((?:\?.*)?)$`)

// sipURI is a sip or sips URI in its parts.
type sipURI struct {
	scheme, user, host, port, params, headers string
	hasUser                                   bool
}

func cutURI(s string) (u sipURI, ok bool) {
	p := uriForm.FindStringSubmatch(s)
	if p == nil {
		return u, false
	}
	return sipURI{p[1], p[2], p[3], p[4], p[5], p[6], strings.Contains(s, "@") && p[2] != ""}, true
}
