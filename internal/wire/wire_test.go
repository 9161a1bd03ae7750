package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestCut cuts every frame at every byte: what is cut by the connection is an
// unexpected end, what is cut within a body is a typed error, and neither is a
// frame. Only frames whose last field takes the rest may still be whole.
func TestCut(t *testing.T) {
	for name, f := range samples() {
		whole := f.Append(nil)
		for n := range whole {
			_, _, _, err := ReadFrame(bytes.NewReader(whole[:n]), make([]byte, HeaderLen), MaxBody)
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if !errors.Is(err, want) {
				t.Errorf("%s cut at %d: %v", name, n, err)
			}
			if n < HeaderLen {
				continue
			}
			g, err := parse(Type(whole[0]), whole[HeaderLen:n])
			var typed *ParseError
			switch {
			case err == nil && strings.Contains("sip open-phone phone-state", name):
				if !bytes.Equal(g.Append(nil)[HeaderLen:], whole[HeaderLen:n]) {
					t.Errorf("%s cut at %d became something else", name, n)
				}
			case !errors.As(err, &typed):
				t.Errorf("%s cut at %d: %v", name, n, err)
			}
		}
		// One byte too many is as bad, but for those.
		if _, err := parse(Type(whole[0]), append(whole[HeaderLen:len(whole):len(whole)], 0)); err == nil && !strings.Contains("sip open-phone phone-state", name) {
			t.Errorf("%s with a byte behind it was taken", name)
		}
	}
}

func TestReadFrame(t *testing.T) {
	var stream []byte
	for range 3 {
		for _, f := range samples() {
			stream = f.Append(stream)
		}
		stream = SIP{Phone: 1, Message: bytes.Repeat([]byte("x"), MaxSIP)}.Append(stream)
	}
	r := iotest.OneByteReader(bytes.NewReader(stream))
	buf := make([]byte, HeaderLen)
	var again []byte
	for {
		kind, body, next, err := ReadFrame(r, buf, MaxBody)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		buf = next
		f, err := parse(kind, body)
		if err != nil {
			t.Fatal(err)
		}
		again = f.Append(again)
	}
	if !bytes.Equal(again, stream) {
		t.Error("what was read is not what was written")
	}
	// Too long is an error before the body is read or room made for it.
	_, _, next, err := ReadFrame(strings.NewReader("\x11\xff\xff\xff"), buf[:HeaderLen], MaxBody)
	if !errors.Is(err, ErrTooLong) || len(next) != HeaderLen {
		t.Errorf("%v, %d bytes", err, len(next))
	}
}

func TestLimits(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func() error
		want error
	}{
		{"largest SIP", func() error { _, err := ParseSIP(make([]byte, 4+MaxSIP)); return err }, nil},
		{"larger SIP", func() error { _, err := ParseSIP(make([]byte, 5+MaxSIP)); return err }, ErrTooLong},
		{"largest state", func() error { _, err := ParsePhoneState(make([]byte, 4+MaxState)); return err }, nil},
		{"larger state", func() error { _, err := ParsePhoneState(make([]byte, 5+MaxState)); return err }, ErrTooLong},
	} {
		if err := test.do(); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	// Texts are cut rather than refused.
	m, err := ParseBye(Bye{Text: strings.Repeat("x", 300)}.Append(nil)[HeaderLen:])
	if err != nil || len(m.Text) != MaxText {
		t.Errorf("%d bytes of text, %v", len(m.Text), err)
	}
}

func TestMedia(t *testing.T) {
	rtp := Media{7, false, []byte("rtp packet")}.Append(nil)
	rtcp := Media{0xfffffffe, true, []byte("rtcp")}.Append(nil)
	if want := readVector(t, "testdata", "frames", "media-rtp.hex"); !bytes.Equal(rtp, want) {
		t.Errorf("% x", rtp)
	}
	if want := readVector(t, "testdata", "frames", "media-rtcp.hex"); !bytes.Equal(rtcp, want) {
		t.Errorf("% x", rtcp)
	}
	mark := AppendMediaMark(nil, 0x0102030405)
	if want := readVector(t, "testdata", "frames", "media-mark.hex"); !bytes.Equal(mark, want) {
		t.Errorf("% x", mark)
	}
	for n := range mark {
		if _, rest, ok := NextMediaMark(mark[:n]); ok || len(rest) != n {
			t.Errorf("a mark cut at %d was taken", n)
		}
		if m, _, err := NextMedia(mark[:n]); m.Packet != nil || err != nil {
			t.Errorf("a mark cut at %d: packet % x, %v", n, m.Packet, err)
		}
	}
	if after, rest, ok := NextMediaMark(append(mark, rtp...)); !ok || after != 0x0102030405 || !bytes.Equal(rest, rtp) {
		t.Errorf("%t %#x % x", ok, after, rest)
	}
	if _, rest, ok := NextMediaMark(rtp); ok || !bytes.Equal(rest, rtp) {
		t.Error("a packet was taken for a mark")
	}
	stream := append(rtp, rtcp...)
	for n := range stream {
		rest := stream[:n]
		count := 0
		for {
			m, next, err := NextMedia(rest)
			if err != nil {
				t.Fatal(err)
			}
			if m.Packet == nil {
				break
			}
			count, rest = count+1, next
		}
		if want := btoi(n >= len(rtp)); count != want {
			t.Errorf("cut at %d: %d packets, want %d", n, count, want)
		}
	}
	m, rest, err := NextMedia(stream)
	if m.Channel != 7 || m.RTCP || string(m.Packet) != "rtp packet" || err != nil {
		t.Errorf("%+v %v", m, err)
	}
	m, rest, err = NextMedia(rest)
	if m.Channel != 0xfffffffe || !m.RTCP || string(m.Packet) != "rtcp" || len(rest) != 0 || err != nil {
		t.Errorf("%+v %d left, %v", m, len(rest), err)
	}
	for _, bad := range []struct {
		b    string
		want error
	}{{"\x00\x00 a whole mark", ErrValue}, {"\x80\x00x", ErrValue}, {"\x08\x01", ErrTooLong}, {"\xff\xff", ErrTooLong}} {
		if _, _, err := NextMedia([]byte(bad.b)); !errors.Is(err, bad.want) {
			t.Errorf("% x: %v", bad.b, err)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestAllocations holds the hot paths to none: media both ways, and SIP into a
// buffer that is there.
func TestAllocations(t *testing.T) {
	packet := make([]byte, 172)
	message := make([]byte, 800)
	buf := make([]byte, 0, 4096)
	body := SIP{Phone: 1, Message: message}.Append(nil)[HeaderLen:]
	for name, f := range map[string]func(){
		"Media.Append": func() { Media{1, true, packet}.Append(buf) },
		"NextMedia":    func() { NextMedia(Media{1, true, packet}.Append(buf)) },
		"marks":        func() { NextMediaMark(AppendMediaMark(buf, 1)) },
		"SIP.Append":   func() { SIP{Phone: 1, Message: message}.Append(buf) },
		"ParseSIP":     func() { ParseSIP(body) },
		"Ack.Append":   func() { Ack{Received: 1}.Append(buf) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestNames(t *testing.T) {
	for _, f := range samples() {
		if kind := Type(f.Append(nil)[0]); strings.HasPrefix(kind.String(), "type ") {
			t.Errorf("%d has no name", kind)
		}
	}
	if got := Type(0x7f).String(); got != "type 127" {
		t.Error(got)
	}
	if got := Code(999).String(); got != "unknown reason" {
		t.Error(got)
	}
	if got := (&ParseError{"Attach", "epoch", ErrTruncated}).Error(); got != "wire: Attach: field epoch is truncated" {
		t.Error(got)
	}
}
