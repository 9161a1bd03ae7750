package sipmsg

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/siptunnel/siptunnel/internal/sipmsg/iptext"
)

// SetRequestURI replaces the Request-URI of a request. A later call supersedes
// an earlier one.
func (m *Message) SetRequestURI(uri []byte) {
	if m.request && len(uri) > 0 {
		m.set(m.requestURI, uri)
	}
}

// SetURI replaces the URI of an address of this message. An address that had no
// angle brackets gets them: parameters of the new URI would else become
// parameters of the header. A later call for the same address supersedes an
// earlier one.
func (m *Message) SetURI(a Addr, uri []byte) {
	if !m.valid(a.URISpan) || a.URISpan.Empty() {
		return
	}
	if a.Bracket {
		m.set(a.URISpan, uri)
		return
	}
	e := edit{start: a.URISpan.Start, end: a.URISpan.End, from: len(m.text)}
	m.text = append(m.text, '<')
	m.text = append(m.text, uri...)
	m.text = append(m.text, '>')
	e.to = len(m.text)
	m.supersede(e)
}

// RemoveParam removes the parameter with that name, with its semicolon, from
// the list at params ([Addr.ParamsSpan], [ViaParm.ParamsSpan]); all of them when
// there are several. It reports whether there was one.
func (m *Message) RemoveParam(params Span, name string) bool {
	found := false
	for i := params.Start; ; {
		p, ok := nextParam(m.buf, i, params.End)
		if !ok {
			return found
		}
		i = p.Span.End
		if equalFold(m.Text(p.Name), name) {
			m.remove(p.Span)
			found = true
		}
	}
}

// PushVia adds a Via header with this hop above the first one, and above the
// hops pushed before.
func (m *Message) PushVia(hop []byte) {
	at := m.fields.Start
	if h, ok := m.Header(Via); ok {
		at = h.Line.Start
	}
	m.addLine(at, Via.String(), hop, true)
}

// PopVia removes the topmost received Via hop that is not removed yet, with its
// line when it was the only one on it.
func (m *Message) PopVia() {
	for it := m.Values(Via); it.Next(); {
		if s := it.Span(); !m.removed(s) {
			m.RemoveValue(Via, s)
			return
		}
	}
}

// SetViaReceived notes in the topmost received Via hop where the request came
// from: the received parameter when the address differs from the one in sent-by,
// when that is a name, or when the hop has an rport or a received already (RFC
// 3261 section 18.2.1, RFC 3581 section 4); and the port as the value of its
// rport parameter when it has one.
func (m *Message) SetViaReceived(addr netip.Addr, port uint16) {
	if !m.viaOK {
		return
	}
	addr = addr.Unmap().WithZone("")
	var buf [64]byte
	// First, for it may be the last parameter, behind which received is added.
	if rport, has := findParam(m.buf, m.via.ParamsSpan, "rport"); has {
		m.setParam(rport, strconv.AppendUint(buf[:0], uint64(port), 10))
	}
	host, isIP := iptext.Parse(m.via.Host)
	received, has := findParam(m.buf, m.via.ParamsSpan, "received")
	switch {
	case has:
		m.setParam(received, addr.AppendTo(buf[:0]))
	case m.via.HasRPort || !isIP || host.Unmap() != addr:
		m.Insert(m.via.Value.End, addr.AppendTo(append(buf[:0], ";received="...)))
	}
}

// setParam gives a parameter a value.
func (m *Message) setParam(p param, value []byte) {
	switch {
	case !p.Value.Empty():
		m.set(p.Value, value)
	case p.Value.Start > p.Name.End: // the equals sign is there
		m.Insert(p.Value.Start, value)
	default:
		e := edit{start: p.Name.End, end: p.Name.End, from: len(m.text)}
		m.text = append(append(m.text, '='), value...)
		e.to = len(m.text)
		m.record(e, false)
	}
}

// RemoveValue removes one value of the comma-separated list of the headers of
// that kind, with a comma; the whole line when no value is left on it. v is a
// span that [Values.Span] returned for that kind. Any number of values may be
// removed, in any order; where several go, [Message.RemoveValues] looks at each
// value once.
func (m *Message) RemoveValue(k Kind, v Span) {
	i := m.headerAround(k, v)
	if i < 0 {
		m.refuse(errNoValue)
		return
	}
	m.removeFrom(&m.headers[i], func(at Values) bool { return at.value == v })
}

// RemoveValues removes, as [Message.RemoveValue] does, all values of the headers
// of that kind for which drop returns true. It is called once for each that is
// not removed yet, in their order, and must not edit m.
func (m *Message) RemoveValues(k Kind, drop func(at Values) bool) {
	for i := m.firstOf(k); i < len(m.headers); i++ {
		if m.headers[i].Kind == k {
			m.removeFrom(&m.headers[i], drop)
		}
	}
}

// removeFrom does so in one header.
func (m *Message) removeFrom(h *Header, drop func(at Values) bool) {
	it := Values{m: m, header: len(m.headers), pos: h.Value.Start, end: h.Value.End}
	gap := Span{-1, -1} // values to go since the last one that stays
	kept := -1          // the end of that one
	goes := false       // a value that was not removed before
	for it.Next() {
		was := m.removed(it.value)
		if was || drop(it) {
			goes = goes || !was
			if gap.Start < 0 {
				gap.Start = it.value.Start
			}
			gap.End = it.value.End
			continue
		}
		if gap.Start >= 0 {
			m.remove(Span{gap.Start, it.value.Start})
			gap.Start = -1
		}
		kept = it.value.End
	}
	switch {
	case gap.Start < 0:
	case kept >= 0:
		m.remove(Span{kept, gap.End})
	case goes:
		m.remove(h.Line)
	}
}

// headerAround returns the index of the header of that kind that holds v, -1
// when none does.
func (m *Message) headerAround(k Kind, v Span) int {
	for i := m.firstOf(k); i < len(m.headers); i++ {
		if h := &m.headers[i]; h.Kind == k && h.Value.contains(v) && !v.Empty() {
			return i
		}
	}
	return -1
}

// RemoveAll removes all headers of that kind, which is not [Other].
func (m *Message) RemoveAll(k Kind) {
	for i := m.firstOf(k); i < len(m.headers); i++ {
		if m.headers[i].Kind == k {
			m.remove(m.headers[i].Line)
		}
	}
}

// RemoveHeader removes the line of one header.
func (m *Message) RemoveHeader(h Header) {
	if m.valid(h.Line) {
		m.remove(h.Line)
	}
}

// RemoveOptionTag removes option tags from all headers of that kind
// (Supported, Require, Proxy-Require), in any case. A header without any left is
// removed whole.
func (m *Message) RemoveOptionTag(k Kind, tags ...string) {
	m.RemoveValues(k, func(at Values) bool {
		for _, tag := range tags {
			if equalFold(at.Bytes(), tag) {
				return true
			}
		}
		return false
	})
}

// AddBefore adds a header line above the first header of that kind, or below
// the last Via when there is none.
func (m *Message) AddBefore(k Kind, name string, value []byte) {
	if h, ok := m.Header(k); ok {
		m.addLine(h.Line.Start, name, value, false)
	} else {
		m.addLine(m.belowVia(), name, value, false)
	}
}

// AddAfter adds a header line below the last header of that kind, or below the
// last Via when there is none.
func (m *Message) AddAfter(k Kind, name string, value []byte) {
	at := m.belowVia()
	if i := m.last[k]; i > 0 {
		at = m.headers[i-1].Line.End
	}
	m.addLine(at, name, value, false)
}

// belowVia returns the offset behind the last Via header.
func (m *Message) belowVia() int {
	if i := m.last[Via]; i > 0 {
		return m.headers[i-1].Line.End
	}
	return m.fields.Start
}

// addLine inserts a header line that ends as the start line does.
func (m *Message) addLine(at int, name string, value []byte, above bool) {
	e := edit{start: at, end: at, from: len(m.text)}
	m.appendLine(name, value)
	e.to = len(m.text)
	m.record(e, above)
}

func (m *Message) appendLine(name string, value []byte) {
	m.text = append(m.text, name...)
	m.text = append(m.text, ": "...)
	m.text = append(m.text, value...)
	m.text = append(m.text, m.Text(m.eol)...)
}

// SetMaxForwards sets the value of the Max-Forwards header, where a later call
// supersedes an earlier one. Without one, the call adds it below the last Via.
func (m *Message) SetMaxForwards(n int) {
	var buf [20]byte
	text := strconv.AppendInt(buf[:0], int64(n), 10)
	if h, ok := m.Header(MaxForwards); ok {
		m.set(h.Value, text)
	} else {
		m.AddBefore(MaxForwards, MaxForwards.String(), text)
	}
}

// SetBody replaces the bytes [start, end) of the body, counted in
// [Message.Body], by with, which is copied. The Content-Length follows.
func (m *Message) SetBody(start, end int, with []byte) {
	if start < 0 {
		m.refuse(errOutside)
		return
	}
	m.Replace(Span{m.body.Start + start, m.body.Start + end}, with)
}

// EnsureContentLength adds a Content-Length when there is none, as a message on
// a stream needs it.
func (m *Message) EnsureContentLength() { m.wantLength = true }

// placeLength records the edit that makes the Content-Length fit the body as it
// is after the edits.
func (m *Message) placeLength() {
	delta := 0
	m.edits = slices.DeleteFunc(m.edits, func(e edit) bool { return e.length })
	for i := range m.edits {
		if e := &m.edits[i]; e.start >= m.body.Start && m.body.Start > 0 {
			delta += e.to - e.from - (e.end - e.start)
		}
	}
	h, ok := m.Header(ContentLength)
	ok = ok && !m.removed(h.Line)
	if ok && delta == 0 || !ok && !m.wantLength {
		return
	}
	var buf [20]byte
	n := strconv.AppendInt(buf[:0], int64(m.body.Len()+delta), 10)
	e := edit{start: m.fields.End, end: m.fields.End, from: len(m.text), length: true}
	if ok {
		e.start, e.end = h.Value.Start, h.Value.End
		m.text = append(m.text, n...)
	} else {
		m.appendLine(ContentLength.String(), n)
	}
	e.to = len(m.text)
	m.record(e, false)
}
