package sipmsg

import "strings"

// Header is one header field. Line covers it whole, with its folds and its line
// end; Value has no white space at its ends. A line without a colon has no Name
// and is all Value.
type Header struct {
	Kind              Kind
	Line, Name, Value Span
}

// Message is one SIP message and the edits to be made to it. The zero value is
// ready; a Message is meant to be used again, so that its tables need not be
// allocated again. It keeps the bytes given to [Message.Parse] until the next
// Parse and hands out slices of them; it never writes to them. It is not safe
// for concurrent use.
type Message struct {
	buf     []byte // the message, without what stood before and behind it
	headers []Header
	first   [numKinds]int32 // index+1 of the first header of the kind
	last    [numKinds]int32 // index+1 of the last
	eol     Span            // the end of the start line, the model for lines added
	fields  Span            // all header lines, without the empty line
	body    Span
	trimmed int
	fault   ParseError // the first fault found; none while Reason is ""

	request    bool
	method     Span // of the start line
	requestURI Span
	reason     Span
	status     int

	from, to    Addr
	fromTag     []byte
	toTag       []byte
	cseq        uint32
	cseqMethod  Span
	via         ViaParm
	viaOK       bool
	maxForwards int // -1 when absent

	edits      []edit // by offset
	text       []byte // what the edits write
	conflict   error
	wantLength bool
}

// Bytes returns the message as received: from its start line to the end of its
// body. Every [Span] counts from its first byte.
func (m *Message) Bytes() []byte { return m.buf }

// Trimmed returns how many bytes of the datagram lay behind the message. They
// are no part of it (RFC 3261 section 18.3).
func (m *Message) Trimmed() int { return m.trimmed }

// Text returns the received bytes at s.
func (m *Message) Text(s Span) []byte { return m.buf[s.Start:s.End] }

// IsRequest reports whether the message is a request.
func (m *Message) IsRequest() bool { return m.request }

// Method returns the method: of the start line for a request, of the CSeq for
// a response.
func (m *Message) Method() []byte {
	if m.request {
		return m.Text(m.method)
	}
	return m.Text(m.cseqMethod)
}

// RequestURI returns the Request-URI; nil for a response.
func (m *Message) RequestURI() []byte {
	if !m.request {
		return nil
	}
	return m.Text(m.requestURI)
}

// StatusCode returns the status code, 100 to 699; 0 for a request.
func (m *Message) StatusCode() int { return m.status }

// Reason returns the reason phrase of a response; it may be empty.
func (m *Message) Reason() []byte { return m.Text(m.reason) }

// Headers returns all header fields in the order of the message. The slice
// belongs to m and is good until the next Parse.
func (m *Message) Headers() []Header { return m.headers }

// firstOf returns the index of the first header of that kind, or how many
// headers there are.
func (m *Message) firstOf(k Kind) int {
	if i := m.first[k]; i > 0 {
		return int(i) - 1
	}
	return len(m.headers)
}

// HeaderValue returns the value of the first header of that kind.
func (m *Message) HeaderValue(k Kind) (value []byte, ok bool) {
	h, ok := m.Header(k)
	return m.Text(h.Value), ok
}

// Header returns the first header of that kind.
func (m *Message) Header(k Kind) (h Header, ok bool) {
	i := m.first[k]
	if i == 0 {
		return Header{}, false
	}
	return m.headers[i-1], true
}

// NamedValue returns the value of the first header with that name, in any case.
// The compact form of a name that [Kind] knows is found too.
func (m *Message) NamedValue(name string) (value []byte, ok bool) {
	for k := Other + 1; k < numKinds; k++ {
		if strings.EqualFold(name, kindNames[k].long) {
			return m.HeaderValue(k)
		}
	}
	for i := range m.headers {
		if h := &m.headers[i]; equalFold(m.Text(h.Name), name) {
			return m.Text(h.Value), true
		}
	}
	return nil, false
}

// CallID returns the Call-ID.
func (m *Message) CallID() []byte {
	v, _ := m.HeaderValue(CallID)
	return v
}

// CSeq returns the number and the method of the CSeq.
func (m *Message) CSeq() (seq uint32, method []byte) { return m.cseq, m.Text(m.cseqMethod) }

// From returns the From header as an address.
func (m *Message) From() Addr { return m.from }

// To returns the To header as an address.
func (m *Message) To() Addr { return m.to }

// FromURI returns the URI of the From header.
func (m *Message) FromURI() []byte { return m.from.URI }

// ToURI returns the URI of the To header.
func (m *Message) ToURI() []byte { return m.to.URI }

// FromTag returns the tag of the From header, nil when it has none.
func (m *Message) FromTag() []byte { return m.fromTag }

// ToTag returns the tag of the To header, nil when it has none.
func (m *Message) ToTag() []byte { return m.toTag }

// MaxForwards returns the value of the Max-Forwards header, at most 255; ok is
// false when there is none.
func (m *Message) MaxForwards() (n int, ok bool) { return max(m.maxForwards, 0), m.maxForwards >= 0 }

// Expires returns the value of the Expires header in seconds; ok is false when
// it is absent or not a number. Values above 2^31-1 are reported as that.
func (m *Message) Expires() (n int, ok bool) {
	v, _ := m.HeaderValue(Expires)
	return ParseSeconds(v)
}

// ParseSeconds reads a number of seconds, as in an Expires header or an
// "expires" parameter. Values above 2^31-1 are reported as that.
func ParseSeconds(b []byte) (n int, ok bool) {
	v, ok := parseUint(b, maxSeconds)
	return int(min(v, maxSeconds)), ok
}

const maxSeconds = 1<<31 - 1

// ContentType returns the value of the Content-Type header, nil when there is
// none.
func (m *Message) ContentType() []byte {
	if m.first[ContentType] == 0 {
		return nil
	}
	v, _ := m.HeaderValue(ContentType)
	return v
}

// Body returns the body.
func (m *Message) Body() []byte { return m.Text(m.body) }

// TopVia returns the topmost Via hop; ok is false when there is none that can
// be read, which Parse refuses.
func (m *Message) TopVia() (via ViaParm, ok bool) { return m.via, m.viaOK }
