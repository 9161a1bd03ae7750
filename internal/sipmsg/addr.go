package sipmsg

import "bytes"

// Addr is one value of a header that holds addresses: From, To, Contact, Route,
// Record-Route, Path, Refer-To and others (name-addr or addr-spec with
// parameters, RFC 3261 section 20.10). Its slices lie in the received bytes.
type Addr struct {
	Star       bool   // the "*" of a Contact
	Bracket    bool   // the URI stands between angle brackets
	Display    []byte // display name as it stands, quotes included
	URI        []byte // nil when the value is neither an address nor "*"
	Params     []byte // header parameters from the first semicolon on
	Value      Span   // the whole value, without the commas around it
	URISpan    Span   // URI, without the brackets
	ParamsSpan Span   // Params; empty at the end of the value when there are none
}

// parseAddr reads the value v, which is trimmed of white space. ok is false
// when it holds no address; Value is set all the same.
func parseAddr(b []byte, v Span) (a Addr, ok bool) {
	a.Value = v
	a.ParamsSpan = Span{v.End, v.End}
	if v.Len() == 1 && b[v.Start] == '*' {
		a.Star = true
		a.URISpan = Span{v.Start, v.Start}
		return a, true
	}
	open := indexBracket(b, v)
	var rest int
	if open >= 0 {
		n := bytes.IndexByte(b[open:v.End], '>')
		if n < 0 {
			return a, false
		}
		rest = open + n + 1
		a.Bracket = true
		a.URISpan = trim(b, Span{open + 1, rest - 1})
		d := trim(b, Span{v.Start, open})
		a.Display = b[d.Start:d.End]
	} else {
		rest = v.Start
		a.URISpan = v
	}
	if n := bytes.IndexByte(b[rest:v.End], ';'); n >= 0 {
		a.ParamsSpan.Start = rest + n
		if !a.Bracket {
			a.URISpan = trim(b, Span{v.Start, rest + n})
		}
	}
	a.Params = b[a.ParamsSpan.Start:a.ParamsSpan.End]
	uri := b[a.URISpan.Start:a.URISpan.End]
	if len(uri) == 0 || bytes.IndexByte(uri, ':') < 0 || !a.Bracket && (hasLWS(uri) || bytes.IndexByte(uri, 0x22) >= 0) {
		return a, false
	}
	a.URI = uri
	return a, true
}

// indexBracket returns the offset of the angle bracket that opens the URI of
// the value v, or -1 when none does.
func indexBracket(b []byte, v Span) int {
	for i := v.Start; i < v.End; i++ {
		switch b[i] {
		case '<':
			return i
		case '"':
			if i = skipQuoted(b, i, v.End); i < 0 {
				return -1
			}
			i--
		}
	}
	return -1
}

// Values walks the comma-separated values of all headers of one kind, from the
// topmost to the last, over several lines:
//
//	for it := m.Values(sipmsg.Contact); it.Next(); {
//		a := it.Addr()
//	}
//
// Empty list elements are skipped. Edits do not show. It is meant for headers
// whose grammar is a list; a comma elsewhere (Authorization, Date) is not a
// separator.
type Values struct {
	m      *Message
	kind   Kind
	header int // index of the next header to look at
	pos    int // offset behind the current value, in the header before it
	end    int
	value  Span
}

// Values returns a walk over the values of the headers of that kind.
func (m *Message) Values(k Kind) Values { return Values{m: m, kind: k, header: m.firstOf(k)} }

// Next moves to the next value and reports whether there is one.
func (it *Values) Next() bool {
	for {
		for it.pos < it.end {
			comma := indexComma(it.m.buf, it.pos, it.end)
			it.value = trim(it.m.buf, Span{it.pos, comma})
			it.pos = comma + 1
			if !it.value.Empty() {
				return true
			}
		}
		for it.header < len(it.m.headers) && it.m.headers[it.header].Kind != it.kind {
			it.header++
		}
		if it.header >= len(it.m.headers) {
			return false
		}
		v := it.m.headers[it.header].Value
		it.pos, it.end = v.Start, v.End
		it.header++
	}
}

// Span returns where the current value is.
func (it *Values) Span() Span { return it.value }

// Bytes returns the current value.
func (it *Values) Bytes() []byte { return it.m.buf[it.value.Start:it.value.End] }

// Addr returns the current value as an address. Its URI is nil when the value
// is none.
func (it *Values) Addr() Addr {
	a, _ := parseAddr(it.m.buf, it.value)
	return a
}

// Via returns the current value as a Via hop; ok is false when it is none.
func (it *Values) Via() (via ViaParm, ok bool) { return parseVia(it.m.buf, it.value) }
