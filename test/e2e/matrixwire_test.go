//go:build e2e

package e2e

import (
	"bytes"
	"net/netip"
	"strconv"
	"sync"

	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// A sipWire is the SIP in a capture, sorted by Call-ID. Over TCP a message may share a segment with another, or need several.
type sipWire struct {
	mu      sync.Mutex
	next    int // packet of the capture
	streams map[[2]netip.AddrPort]*segments
	calls   map[string][]*pcap.Message
}

// segments is what has come of a TCP stream and is no whole message yet.
type segments struct {
	sequence uint32 // of what comes next
	text     []byte
}

// of returns the messages of a call so far.
func (w *sipWire) of(packets []*pcap.Packet, callID string) []*pcap.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls, w.streams = map[string][]*pcap.Message{}, map[[2]netip.AddrPort]*segments{}
	}
	for ; w.next < len(packets); w.next++ {
		switch p := packets[w.next]; {
		case p.Protocol == pcap.TCP && len(p.Payload) > 0:
			w.segment(p)
		case p.Protocol == pcap.UDP:
			w.add(p)
		}
	}
	return w.calls[callID]
}

func (w *sipWire) add(p *pcap.Packet) {
	if m, ok := p.SIP(); ok {
		id := m.Header("Call-ID")
		w.calls[id] = append(w.calls[id], m)
	}
}

// segment adds a segment to its stream, unless it has come before: on a link of the lab they keep their order.
func (w *sipWire) segment(p *pcap.Packet) {
	key := [2]netip.AddrPort{p.Src, p.Dst}
	s := w.streams[key]
	if s == nil {
		s = &segments{sequence: p.Sequence}
		w.streams[key] = s
	}
	seen := int32(s.sequence - p.Sequence)
	if seen < 0 || int(seen) >= len(p.Payload) {
		return
	}
	s.text = append(s.text, p.Payload[seen:]...)
	s.sequence = p.Sequence + uint32(len(p.Payload))
	for {
		head := bytes.Index(s.text, []byte("\r\n\r\n"))
		if head < 0 {
			return
		}
		whole := *p
		whole.Payload = s.text[:head+4]
		length := 0
		if m, ok := whole.SIP(); ok {
			length, _ = strconv.Atoi(m.Header("Content-Length"))
		}
		if len(s.text) < head+4+length {
			return
		}
		whole.Payload = s.text[: head+4+length : head+4+length]
		s.text = s.text[head+4+length:]
		w.add(&whole)
	}
}
