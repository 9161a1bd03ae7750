package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
)

// capture is a pcap stream with one frame.
func capture(frame []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, 1700000000)
	b = binary.LittleEndian.AppendUint32(b, 250000)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	return append(b, frame...)
}

// udp is an Ethernet frame with an IPv4 UDP packet from 192.0.2.1:5060 to 192.0.2.2:5062, padded as short frames are.
func udp(payload string) []byte {
	b := append(make([]byte, 12), 0x08, 0x00)
	b = append(b, 0x45, 0, 0, byte(28+len(payload)), 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2)
	b = append(b, 0x13, 0xc4, 0x13, 0xc6, 0, byte(8+len(payload)), 0, 0)
	return append(append(b, payload...), 0, 0, 0, 0)
}

func TestDSCP(t *testing.T) {
	four := udp("payload")
	four[15] = 46<<2 | 3
	six := append(make([]byte, 12), 0x86, 0xdd, 0x60|46>>2, 46<<6&0xff|3<<4|0xf, 0xff, 0xff, 0, 0, 59, 1)
	six = append(six, make([]byte, 32)...)
	for name, frame := range map[string][]byte{"IPv4": four, "IPv6": six} {
		p := &Packet{}
		if p.decode(frame); p.DSCP != 46 {
			t.Errorf("%s: DSCP %d", name, p.DSCP)
		}
		// The same without a link layer.
		stream := capture(frame[14:])
		stream[20] = 101
		r, err := NewReader(bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := r.Next(); err != nil || raw.DSCP != 46 || raw.Src != p.Src {
			t.Errorf("%s alone: %v, %v", name, raw, err)
		}
	}
}

func TestReader(t *testing.T) {
	stream := capture(udp("payload"))
	r, err := NewReader(bytes.NewReader(stream))
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddrPort("192.0.2.1:5060"), netip.MustParseAddrPort("192.0.2.2:5062")
	if p.Protocol != UDP || p.Src != src || p.Dst != dst || string(p.Payload) != "payload" || p.Time.UnixMilli() != 1700000000250 {
		t.Errorf("got %v with %q at %v", p, p.Payload, p.Time)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
	for cut := range stream {
		r, err := NewReader(bytes.NewReader(stream[:cut]))
		if err == nil {
			_, err = r.Next()
		} else if !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v, want ErrFormat", cut, err)
		}
		if err == nil {
			t.Errorf("cut at %d: no error", cut)
		}
	}
}

func TestDecodeCutFrames(t *testing.T) {
	frame := udp("payload")
	for cut := range frame {
		new(Packet).decode(frame[:cut]) // must not panic
	}
}

func TestSIP(t *testing.T) {
	p := &Packet{Protocol: UDP, Payload: []byte("INVITE sip:b@example.com SIP/2.0\r\nCSeq: 7 INVITE\r\n\r\nv=0\r\nc=IN IP4 192.0.2.1\r\n")}
	m, ok := p.SIP()
	if !ok || m.Method != "INVITE" || m.CSeqMethod() != "INVITE" || len(m.SDP('c')) != 1 || m.SDP('c')[0] != "IN IP4 192.0.2.1" {
		t.Errorf("request: %v %+v", ok, m)
	}
	p.Payload = []byte("SIP/2.0 200 OK\r\ncseq: 7 INVITE\r\n\r\n")
	if m, ok := p.SIP(); !ok || m.Status != 200 || m.CSeqMethod() != "INVITE" {
		t.Errorf("response: %v %+v", ok, m)
	}
	for _, payload := range []string{"", "\r\n\r\n", "garbage", "HTTP/1.1 200 OK\r\n\r\n", "SIP/2.0 x y\r\n\r\n"} {
		p.Payload = []byte(payload)
		if m, ok := p.SIP(); ok {
			t.Errorf("%q passes for SIP: %+v", payload, m)
		}
	}
}

func TestStreams(t *testing.T) {
	packet := func(sequence uint16, ssrc uint32, payload string) *Packet {
		b := binary.BigEndian.AppendUint16([]byte{0x80, 0}, sequence)
		b = binary.BigEndian.AppendUint32(b, 160*uint32(sequence))
		b = binary.BigEndian.AppendUint32(b, ssrc)
		return &Packet{Protocol: UDP, Payload: append(b, payload...)}
	}
	rtcp := packet(0, 1, "report")
	rtcp.Payload[1] = 200
	streams := Streams([]*Packet{packet(65535, 1, "a"), packet(0, 1, "b"), packet(9, 2, "x"), packet(3, 1, "d"), packet(1, 1, "c"), rtcp})
	if len(streams) != 2 || string(streams[0].Payload(0)) != "abcd" || streams[0].Lost() != 1 || streams[1].Lost() != 0 {
		t.Errorf("got %d streams: %+v", len(streams), streams)
	}
}

func TestMessagesOfOneSegment(t *testing.T) {
	text := "SIP/2.0 202 Accepted\r\nCSeq: 1 REFER\r\nContent-Length: 0\r\n\r\n" +
		"NOTIFY sip:a@b SIP/2.0\r\nCSeq: 2 NOTIFY\r\nContent-Length: 4\r\n\r\nbody" + "BYE sip:a@b SIP/2.0\r\nCSeq: 3 B"
	p := &Packet{Protocol: TCP, Payload: []byte(text)}
	all := p.Messages()
	if len(all) != 3 || all[0].Status != 202 || all[1].Method != "NOTIFY" || string(all[1].Body) != "body" || all[2].Method != "BYE" {
		t.Errorf("%d messages: %v", len(all), all)
	}
}

// TestAbout reads what an error of ICMP is about, over either IP.
func TestAbout(t *testing.T) {
	udp := []byte{0x13, 0xe2, 0x9c, 0x40, 0, 8, 0, 0} // 5090 > 40000
	header4 := append([]byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}, 192, 0, 2, 1, 192, 0, 2, 2)
	header6 := append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, append(net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8::2")...)...)
	for _, test := range []struct {
		protocol Protocol
		kind     byte
		quoted   []byte
		src, dst string
	}{
		{ICMP, 3, append(header4, udp...), "192.0.2.1:5090", "192.0.2.2:40000"},
		{ICMPv6, 1, append(header6, udp...), "[2001:db8::1]:5090", "[2001:db8::2]:40000"},
		{ICMP, 8, append(header4, udp...), "", ""},
		{ICMPv6, 2, append(header6, udp...), "", ""},
		{ICMPv6, 1, header6[:39], "", ""},
		{ICMP, 3, header4, "", ""},
	} {
		p := &Packet{Protocol: test.protocol, Payload: append([]byte{test.kind, 0, 0, 0, 0, 0, 0, 0}, test.quoted...)}
		src, dst, ok := p.About()
		if ok != (test.src != "") || ok && (src.String() != test.src || dst.String() != test.dst) {
			t.Errorf("%v of kind %d: %v > %v, %t", test.protocol, test.kind, src, dst, ok)
		}
	}
}
