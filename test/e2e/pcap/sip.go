package pcap

import (
	"bytes"
	"strconv"
	"strings"
)

// A Message is what one packet shows of a SIP message: its head, and its body as far as it was in the packet. A message behind it
// in the same segment is not seen.
type Message struct {
	*Packet
	StartLine string
	Method    string // of a request, else empty
	Status    int    // of a response, else 0
	head      string
	Body      []byte
}

// SIP tells whether the packet starts a SIP message, and returns that message.
func (p *Packet) SIP() (*Message, bool) {
	if p.Protocol != TCP && p.Protocol != UDP {
		return nil, false
	}
	head, body, _ := bytes.Cut(p.Payload, []byte("\r\n\r\n"))
	startLine, headers, _ := strings.Cut(string(head), "\r\n")
	m := &Message{Packet: p, StartLine: startLine, head: headers, Body: body}
	if length, err := strconv.Atoi(m.Header("Content-Length")); err == nil && length >= 0 && length < len(body) {
		m.Body = body[:length]
	}
	if rest, ok := strings.CutPrefix(startLine, "SIP/2.0 "); ok {
		code, _, _ := strings.Cut(rest, " ")
		status, err := strconv.Atoi(code)
		m.Status = status
		return m, err == nil
	}
	method, _, ok := strings.Cut(startLine, " ")
	m.Method = method
	return m, ok && strings.HasSuffix(startLine, " SIP/2.0")
}

// Header returns the value of the first header of that name, in its long form, without regard to case.
func (m *Message) Header(name string) string {
	for line := range strings.SplitSeq(m.head, "\r\n") {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimSpace(key), name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Lines returns the lines of the header, each as it is, without its CRLF.
func (m *Message) Lines() []string { return strings.Split(m.head, "\r\n") }

// CSeqMethod returns the method of the transaction that the message belongs to.
func (m *Message) CSeqMethod() string {
	_, method, _ := strings.Cut(m.Header("CSeq"), " ")
	return strings.TrimSpace(method)
}

// SDP returns the values of all lines of that type ('c', 'm', 'a') in the body.
func (m *Message) SDP(kind byte) []string {
	var values []string
	for line := range strings.SplitSeq(string(m.Body), "\r\n") {
		if len(line) > 2 && line[0] == kind && line[1] == '=' {
			values = append(values, line[2:])
		}
	}
	return values
}
