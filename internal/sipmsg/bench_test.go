package sipmsg

import (
	"bytes"
	"net/netip"
	"testing"
)

// forwarder makes the edits of a request that goes up, as the proxy beside the
// PBX does.
type forwarder struct {
	hop, contact, requestURI, sdp []byte
	source                        netip.AddrPort
}

func newForwarder() forwarder {
	return forwarder{
		hop:        []byte("SIP/2.0/UDP 203.0.113.10:6003;branch=z9hG4bKt-4f2e1d0c;rport"),
		contact:    []byte("sip:101@203.0.113.10:6003"),
		requestURI: []byte("sip:200@203.0.113.10:5060"),
		sdp:        bytes.Repeat([]byte("a=rtpmap:0 PCMU/8000\r\n"), 20),
		source:     netip.MustParseAddrPort("192.168.10.21:5060"),
	}
}

func (f *forwarder) forward(m *Message, dst []byte) []byte {
	m.SetViaReceived(f.source.Addr(), f.source.Port())
	m.PushVia(f.hop)
	if n, ok := m.MaxForwards(); ok {
		m.SetMaxForwards(n - 1)
	} else {
		m.SetMaxForwards(70)
	}
	m.SetRequestURI(f.requestURI)
	for it := m.Values(Contact); it.Next(); {
		a := it.Addr()
		m.SetURI(a, f.contact)
		m.RemoveParam(a.ParamsSpan, "reg-id")
	}
	m.RemoveAll(Path)
	for _, k := range [...]Kind{Supported, Require} {
		m.RemoveOptionTag(k, "outbound", "path", "gruu")
	}
	if body := m.Body(); len(body) > 0 {
		m.SetBody(0, len(body), f.sdp)
	}
	m.EnsureContentLength()
	return m.AppendTo(dst)
}

func BenchmarkParseInvite(b *testing.B) {
	msg := readTestdata(b, "yealink-t46u-invite.sip")
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	var m Message
	for b.Loop() {
		if err := m.Parse(msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkForwardInvite(b *testing.B) {
	msg := readTestdata(b, "yealink-t46u-invite.sip")
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	f := newForwarder()
	var m Message
	var dst []byte
	for b.Loop() {
		if err := m.Parse(msg); err != nil {
			b.Fatal(err)
		}
		dst = f.forward(&m, dst[:0])
	}
}

func BenchmarkForwardRegister(b *testing.B) {
	msg := readTestdata(b, "snom-d785-register.sip")
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	f := newForwarder()
	var m Message
	var dst []byte
	for b.Loop() {
		if err := m.Parse(msg); err != nil {
			b.Fatal(err)
		}
		dst = f.forward(&m, dst[:0])
	}
}

func BenchmarkFramer(b *testing.B) {
	msg := readTestdata(b, "yealink-t46u-invite.sip")
	stream := &repeater{data: bytes.Repeat(msg, 8)}
	f := NewFramer(stream)
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

// repeater is a stream of the same bytes without an end.
type repeater struct {
	data []byte
	pos  int
}

func (r *repeater) Read(b []byte) (int, error) {
	n := copy(b, r.data[r.pos:])
	r.pos = (r.pos + n) % len(r.data)
	return n, nil
}
