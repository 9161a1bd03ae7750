package sipmsg

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// MaxSize is how many bytes a whole message may have: what fits into a datagram.
const MaxSize = 65535

const (
	minHeaders  = 24  // that the table of headers has room for at first
	keptHeaders = 512 // likewise, for the next message at most
)

// ErrKeepalive is found (errors.Is) in the error of [Message.Parse] for a
// datagram that holds nothing but line ends or zero bytes, and is returned by
// [Framer.Next] for a double CRLF (RFC 5626 section 3.5.1).
var ErrKeepalive = errors.New("sipmsg: keepalive")

// ParseError says why a message cannot be forwarded.
type ParseError struct {
	Reason string // constant text, fit for a counter's name or a log
	Offset int    // where, in bytes from the start of the message
	// Code is the status code of the response that fits, 400 or higher. It is 0
	// when the message cannot be answered: it is no request, or an ACK, or
	// lacks what a response is made from. When it is not 0, the start line and
	// the headers that a response copies can be read from the Message.
	Code int
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("sipmsg: %s at offset %d", e.Reason, e.Offset)
}

// Is makes the error of a keepalive match [ErrKeepalive].
func (e *ParseError) Is(target error) bool {
	return target == ErrKeepalive && e.Reason == reasonKeepalive
}

const reasonKeepalive = "keepalive"

// Parse reads b as one whole message: a datagram, or what [Framer.Next]
// returned. It forgets the message before and its edits. Line ends before the
// start line are skipped. The body ends where Content-Length says; without one
// it is the rest of b, and what lies behind it is cut off ([Message.Trimmed]).
//
// Parse keeps b: it must not change until the next Parse. The error is a
// [*ParseError].
func (m *Message) Parse(b []byte) error {
	m.reset()
	b = b[leadingEnds(b):]
	m.buf = b
	if isKeepalive(b) {
		m.buf = nil
		return &ParseError{Reason: reasonKeepalive}
	}
	pos, ok := m.parseStartLine()
	if ok {
		if pos, ok = m.parseFields(pos); ok {
			m.parseBody(pos)
		}
		m.parseRequired()
	}
	if len(m.buf) > MaxSize {
		m.fail("message too large", MaxSize, 513)
	}
	if m.fault.Reason == "" {
		return nil
	}
	fault := m.fault
	if !m.answerable() {
		fault.Code = 0
	}
	return &fault
}

// reset makes m empty but for the capacity of its tables.
func (m *Message) reset() {
	if cap(m.headers) > keptHeaders {
		m.headers = nil
	}
	*m = Message{
		headers:     slices.Grow(m.headers[:0], minHeaders),
		edits:       m.edits[:0],
		text:        m.text[:0],
		maxForwards: -1,
	}
}

// fail records a fault; the first one is the one that Parse returns.
func (m *Message) fail(reason string, offset, code int) {
	if m.fault.Reason == "" {
		m.fault = ParseError{Reason: reason, Offset: offset, Code: code}
	}
}

// leadingEnds returns how many bytes of line ends b begins with.
func leadingEnds(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == '\r' || b[n] == '\n') {
		n++
	}
	return n
}

func isKeepalive(b []byte) bool {
	for _, c := range b {
		if c != 0 && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

// lineEnd returns the offset behind the line that begins at b[i] and the length
// of its line end; next is -1 when no line end follows.
func lineEnd(b []byte, i int) (next, ends int) {
	n := bytes.IndexByte(b[i:], '\n')
	if n < 0 {
		return -1, 0
	}
	if n > 0 && b[i+n-1] == '\r' {
		return i + n + 1, 2
	}
	return i + n + 1, 1
}

// parseStartLine reads the start line and returns the offset behind it. ok is
// false when what follows is not worth reading.
func (m *Message) parseStartLine() (next int, ok bool) {
	next, ends := lineEnd(m.buf, 0)
	if next < 0 {
		m.fail("no start line", 0, 0)
		return 0, false
	}
	m.eol = Span{next - ends, next}
	line := Span{0, next}
	for line.End > 0 && isLWS(m.buf[line.End-1]) {
		line.End--
	}
	if s := m.Text(line); len(s) >= 4 && equalFold(s[:4], "SIP/") {
		return next, m.parseStatusLine(line)
	}
	return next, m.parseRequestLine(line)
}

const sipVersion = "SIP/2.0"

// parseStatusLine reads "SIP/2.0 200 OK". The reason may be empty, with or
// without the space before it.
func (m *Message) parseStatusLine(line Span) (ok bool) {
	s := m.Text(line) // begins at offset 0, as all that is read here
	n := len(sipVersion)
	if len(s) < n+4 || !equalFold(s[:n], sipVersion) || s[n] != ' ' {
		m.fail("malformed status line", 0, 0)
		return false
	}
	code, ok := parseUint(s[n+1:n+4], 699)
	if !ok || code < 100 || code > 699 || len(s) > n+4 && s[n+4] != ' ' {
		m.fail("malformed status code", n+1, 0)
		return false
	}
	m.status = int(code)
	m.reason = trim(m.buf, Span{n + 4, line.End})
	return true
}

// parseRequestLine reads "INVITE sip:a@b SIP/2.0". A line without a version of
// SIP at its end is no start line at all.
func (m *Message) parseRequestLine(line Span) (ok bool) {
	s := m.Text(line)
	last := bytes.LastIndexByte(s, ' ')
	if last < 0 || len(s)-last < 5 || !equalFold(s[last+1:last+5], "SIP/") {
		m.fail("no start line", 0, 0)
		return false
	}
	m.request = true
	sp := bytes.IndexByte(s, ' ')
	m.method = Span{0, sp}
	if !isToken(s[:sp]) {
		m.fail("malformed method", 0, 400)
	}
	m.requestURI = Span{sp + 1, max(last, sp+1)}
	uri := m.Text(m.requestURI)
	if len(uri) == 0 || uri[0] == '<' || hasLWS(uri) {
		m.fail("malformed Request-URI", sp+1, 400)
	}
	if !equalFold(s[last+1:], sipVersion) {
		m.fail("SIP version not supported", last+1, 505)
	}
	return true
}

func hasLWS(b []byte) bool {
	for _, c := range b {
		if isLWS(c) {
			return true
		}
	}
	return false
}

// parseFields reads the header fields at m.buf[pos:] and returns the offset of
// the body. ok is false when the body cannot be told.
func (m *Message) parseFields(pos int) (body int, ok bool) {
	m.fields = Span{pos, pos}
	returns := m.eol.Len() - 1 // carriage returns that end a line
	for {
		h, next, n := scanField(m.buf, pos)
		returns += n
		if next < 0 {
			m.fail("no empty line behind the headers", len(m.buf), 400)
			return 0, false
		}
		if h.Line.Empty() {
			m.fields.End = pos
			m.checkReturns(m.buf[:next], returns)
			return next, true
		}
		if isLWS(m.buf[pos]) && len(m.headers) == 0 {
			m.fail("folded start line", pos, 400)
		}
		m.headers = append(m.headers, h)
		if h.Kind != Other {
			m.index(h)
		}
		pos = next
		m.fields.End = pos
	}
}

// checkReturns refuses a carriage return that is no part of a line end. Some
// take it for one, so that what is text here would be a header, or the end of
// the headers, there.
func (m *Message) checkReturns(head []byte, ends int) {
	if bytes.Count(head, []byte{'\r'}) == ends {
		return
	}
	for i, c := range head {
		if c == '\r' && head[i+1] != '\n' { // a line end is the last of head
			m.fail("carriage return inside of a line", i, 400)
			return
		}
	}
}

// index notes where the last header read is, and refuses the second of a kind
// of which two readers might take different ones.
func (m *Message) index(h Header) {
	n := int32(len(m.headers))
	if m.first[h.Kind] == 0 {
		m.first[h.Kind] = n
	} else {
		switch h.Kind {
		case CallID, CSeq, From, To, ContentLength, ContentType, MaxForwards:
			m.fail("more than one "+h.Kind.String()+" header", h.Line.Start, 400)
		}
	}
	m.last[h.Kind] = n
}

// scanField reads the header field that begins at b[pos], folds included. next
// is the offset behind it, or -1 when its end is not there; returns is how many
// of its line ends are CRLF. For the empty line behind the headers, Line is
// empty.
func scanField(b []byte, pos int) (h Header, next, returns int) {
	next, ends := lineEnd(b, pos)
	if next < 0 {
		return h, -1, 0
	}
	returns = ends - 1
	if next-ends == pos {
		return h, next, returns
	}
	for next < len(b) && (b[next] == ' ' || b[next] == '\t') {
		if next, ends = lineEnd(b, next); next < 0 {
			return h, -1, 0
		}
		returns += ends - 1
	}
	h.Line = Span{pos, next}
	if n := bytes.IndexByte(b[pos:next], ':'); n >= 0 {
		h.Name = trim(b, Span{pos, pos + n})
		h.Value = trim(b, Span{pos + n + 1, next})
		h.Kind = kindOf(b[h.Name.Start:h.Name.End])
	} else {
		h.Value = trim(b, h.Line)
		h.Name = Span{h.Value.Start, h.Value.Start}
	}
	return h, next, returns
}

// parseBody finds the end of the body that begins at m.buf[pos] and cuts off
// what lies behind it.
func (m *Message) parseBody(pos int) {
	m.body = Span{pos, len(m.buf)}
	h, ok := m.Header(ContentLength)
	if !ok {
		return
	}
	n, ok := parseUint(m.Text(h.Value), MaxSize)
	switch {
	case !ok:
		m.fail("malformed Content-Length", h.Value.Start, 400)
	case int(n) > m.body.Len():
		m.fail("body shorter than its Content-Length", h.Value.Start, 400)
	default:
		m.body.End = pos + int(n)
		m.trimmed = len(m.buf) - m.body.End
		m.buf = m.buf[:m.body.End]
	}
}

// parseRequired reads the headers that no message may lack (RFC 3261 section
// 8.1.1; Max-Forwards was not there in RFC 2543, so it may be absent).
func (m *Message) parseRequired() {
	for _, k := range [...]Kind{Via, From, To, CallID, CSeq} {
		if m.first[k] == 0 {
			m.fail("no "+k.String()+" header", m.fields.End, 400)
		}
	}
	m.parseVia()
	m.from, m.fromTag = m.parseParty(From)
	m.to, m.toTag = m.parseParty(To)
	if h, ok := m.Header(CallID); ok && h.Value.Empty() {
		m.fail("malformed Call-ID", h.Value.Start, 400)
	}
	m.parseCSeq()
	if h, ok := m.Header(MaxForwards); ok {
		n, ok := parseUint(m.Text(h.Value), 255)
		if !ok {
			m.fail("malformed Max-Forwards", h.Value.Start, 400)
		}
		m.maxForwards = int(min(n, 255))
	}
}

func (m *Message) parseVia() {
	h, ok := m.Header(Via)
	if !ok {
		return
	}
	if it := m.Values(Via); it.Next() {
		if m.via, m.viaOK = it.Via(); m.viaOK {
			return
		}
	}
	m.fail("malformed Via", h.Value.Start, 400)
}

func (m *Message) parseParty(k Kind) (a Addr, tag []byte) {
	h, ok := m.Header(k)
	if !ok {
		return a, nil
	}
	if a, ok = parseAddr(m.buf, h.Value); !ok || a.Star {
		m.fail("malformed "+k.String(), h.Value.Start, 400)
		return a, nil
	}
	tag, _ = Param(a.Params, "tag")
	return a, tag
}

func (m *Message) parseCSeq() {
	h, ok := m.Header(CSeq)
	if !ok {
		return
	}
	i := h.Value.Start
	for i < h.Value.End && !isLWS(m.buf[i]) {
		i++
	}
	n, ok := parseUint(m.buf[h.Value.Start:i], 1<<32-1)
	m.cseqMethod = trim(m.buf, Span{i, h.Value.End})
	method := m.Text(m.cseqMethod)
	if !ok || n > 1<<32-1 || !isToken(method) {
		m.fail("malformed CSeq", h.Value.Start, 400)
		return
	}
	m.cseq = uint32(n)
	if m.request && !bytes.Equal(method, m.Text(m.method)) {
		m.fail("CSeq names another method", m.cseqMethod.Start, 400)
	}
}

// answerable reports whether a response to the message can be made: it is a
// request that takes one, and has what a response copies (RFC 3261 section
// 8.2.6.2).
func (m *Message) answerable() bool {
	if !m.request || m.method.Empty() || string(m.Text(m.method)) == "ACK" {
		return false
	}
	for _, k := range [...]Kind{Via, From, To, CallID, CSeq} {
		if m.first[k] == 0 {
			return false
		}
	}
	return true
}
