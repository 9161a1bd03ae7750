package pcap

import (
	"bytes"
	"strconv"
	"strings"
)

// A Message is what one packet shows of a SIP message: its head, and its body as far as it was in the packet.
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
	m, _ := p.sip(p.Payload)
	return m, m != nil
}

// Messages returns the SIP messages that begin in the packet: a TCP segment that begins with one may hold others behind it.
func (p *Packet) Messages() []*Message {
	if p.Protocol != TCP {
		if m, ok := p.SIP(); ok {
			return []*Message{m}
		}
		return nil
	}
	var all []*Message
	for rest := p.Payload; len(rest) > 0; {
		var m *Message
		if m, rest = p.sip(rest); m == nil {
			break
		}
		all = append(all, m)
	}
	return all
}

// sip returns the message that the text begins with, nil if there is none, and what follows it.
func (p *Packet) sip(text []byte) (*Message, []byte) {
	head, body, _ := bytes.Cut(text, []byte("\r\n\r\n"))
	startLine, headers, _ := strings.Cut(string(head), "\r\n")
	m := &Message{Packet: p, StartLine: startLine, head: headers, Body: body}
	var rest []byte
	if length, err := strconv.Atoi(m.Header("Content-Length")); err == nil && length >= 0 && length < len(body) {
		m.Body, rest = body[:length], body[length:]
	}
	if code, ok := strings.CutPrefix(startLine, "SIP/2.0 "); ok {
		code, _, _ = strings.Cut(code, " ")
		status, err := strconv.Atoi(code)
		if err != nil {
			return nil, nil
		}
		m.Status = status
		return m, rest
	}
	method, _, ok := strings.Cut(startLine, " ")
	if !ok || !strings.HasSuffix(startLine, " SIP/2.0") {
		return nil, nil
	}
	m.Method = method
	return m, rest
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
