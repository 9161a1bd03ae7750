package wire

import (
	"bytes"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// recordSample is a record and the payload behind its head.
type recordSample struct {
	Record
	payload string
}

// recordSamples has one record of each type and form. Their bytes are under
// testdata/records and in PROTOCOL.md.
func recordSamples() map[string]recordSample {
	rtp := "\x80\x08\x12\x34\x00\x00\x56\x78\xca\xfe\xba\xbeaudio"
	return map[string]recordSample{
		"compressed":        {Record{Type: RecordCompressed, Context: 5, Slot: 1, Number: 6, Length: Implied}, "audio"},
		"compressed-wide":   {Record{Type: RecordCompressed, Context: 1000, Slot: 0, Number: 127, Length: Implied}, "audio"},
		"compressed-length": {Record{Type: RecordCompressed, Context: 5, Slot: 1, Number: 6, Length: 5}, "audio"},
		"compressed-long":   {Record{Type: RecordCompressed, Context: 1000, Slot: 1, Number: 6, Length: 5}, "audio"},
		"packet":            {Record{Type: RecordPacket, Channel: 7, Number: 0x0102, Length: 8}, "DTLS 1.2"},
		"packet-rtcp":       {Record{Type: RecordPacketRTCP, RTCP: true, Channel: 70_000, Number: 3, Length: 4}, "rtcp"},
		"anchor":            {Record{Type: RecordAnchor, Context: 5, Slot: 1, Stride: 160, Usual: 5, Channel: 7, Number: 0x0103, Length: 17}, rtp},
		"delta":             {Record{Type: RecordDelta, Context: 5, Slot: 1, Number: 0x0105, Length: Implied}, "audio"},
		"delta-full": {Record{
			Type: RecordDelta, Context: 5, Slot: 1, Anchor: true, SetUsual: true, Number: 0x0106,
			HasByte: true, Byte: 0x88, Sequence: 0xffff, Timestamp: 8000, Length: 3,
		}, "dtx"},
		"fragment":    {Record{Type: RecordFragment, Channel: 7, Number: 0x0107, Total: 1212, Offset: 1208, Length: 4}, "tail"},
		"ack":         {Record{Type: RecordAck, Context: 5, Slot: 1, Number: 0x0106}, ""},
		"ack-unknown": {Record{Type: RecordAck, Context: 200, Unknown: true}, ""},
		"probe":       {Record{Type: RecordProbe, ID: 0x0a0b0c0d, Time: 1_000_000}, ""},
		"reply":       {Record{Type: RecordReply, ID: 0x0a0b0c0d, Time: 1_000_000}, ""},
		"report":      {Record{Type: RecordReport, Highest: 100_000, Received: 99_500, Delay: 1500}, ""},
		"protected":   {Record{Type: RecordProtected}, ""},
		"close":       {Record{Type: RecordClose, Code: 1}, ""},
		"padding":     {Record{Type: RecordPadding, Length: 3}, "\x00\x00\x00"},
	}
}

func TestRecordVectors(t *testing.T) {
	for name, sample := range recordSamples() {
		want := readVector(t, "testdata", "records", name+".hex")
		got := append(sample.Append([]byte("x")), sample.payload...)[1:]
		if !bytes.Equal(got, want) {
			t.Errorf("%s: wrote\n%x, want\n%x", name, got, want)
		}
		var r Record
		n, err := ParseRecord(want, &r)
		if err != nil || string(want[n:]) != sample.payload {
			t.Errorf("%s: head of %d bytes of %d, %v", name, n, len(want), err)
		}
		if r.Type == RecordFragmentRTCP || r.Type == RecordPacketRTCP {
			r.RTCP = true
		}
		if !reflect.DeepEqual(r, sample.Record) {
			t.Errorf("%s: parsed to\n%+v, want\n%+v", name, r, sample.Record)
		}
	}
}

// TestCutRecord cuts every record at every byte: what is cut in its head, or in a
// payload whose length it has, is a typed error.
func TestCutRecord(t *testing.T) {
	for name, sample := range recordSamples() {
		whole := append(sample.Append(nil), sample.payload...)
		least := len(whole)
		if sample.Length == Implied {
			least -= len(sample.payload)
		}
		if sample.Type == RecordPadding {
			least = 1
		}
		for n := 1; n < least; n++ {
			var r Record
			var typed *ParseError
			if _, err := ParseRecord(whole[:n:n], &r); !errors.As(err, &typed) || !errors.Is(err, ErrTruncated) {
				t.Errorf("%s cut at %d: %v", name, n, err)
			}
		}
	}
}

func TestBadRecords(t *testing.T) {
	cases := []struct {
		name, digits, field string
		reason              error
	}{
		{"unknown type", "ee", "type", ErrValue},
		{"last type", "ff", "type", ErrValue},
		{"wide form of a short context", "c07f01", "context", ErrValue},
		{"long form of a short context", "e43f0100", "context", ErrValue},
		{"context too large", "e4a0000100", "context", ErrValue},
		{"varint too long", "e0800700010161", "channel", ErrValue},
		{"varint of another form", "e0e10000000700010161", "channel", ErrValue},
		{"varint beyond 32 bits", "e0f00000000700010161", "channel", ErrValue},
		{"no packet", "e007000100", "length", ErrValue},
		{"packet too long", "e007000188010000", "length", ErrTooLong},
		{"anchor too short", "e2050000a00507000103010203", "length", ErrValue},
		{"flags of an anchor", "e2050200a0050700010c800812340000567800000001", "flags", ErrValue},
		{"flags of an ack", "e705040102", "flags", ErrValue},
		{"flags of a delta", "e305010102", "flags", ErrValue},
		{"usual length without an anchor", "e305020102", "flags", ErrValue},
		{"offset of nothing", "e3051001020000", "sequence", ErrValue},
		{"timestamp of nothing", "e30508010200000000", "timestamp", ErrValue},
		{"piece beyond its packet", "e50701020402036162", "length", ErrTruncated},
		{"piece across the end", "e507010204020361626364", "offset", ErrValue},
	}
	for _, c := range cases {
		var r Record
		_, err := ParseRecord(readHex(t, c.digits), &r)
		var typed *ParseError
		if !errors.As(err, &typed) || typed.Field != c.field || !errors.Is(err, c.reason) {
			t.Errorf("%s: %v, want field %s, %v", c.name, err, c.field, c.reason)
		}
	}
}

func TestDatagramHeader(t *testing.T) {
	h := DatagramHeader{Phase: true, Connection: 0xa1b2c3d4, Counter: 0x010203}
	b := make([]byte, DatagramHeaderLen+DatagramTagLen)
	h.Put(b)
	if want := readVector(t, "testdata", "records", "datagram-header.hex"); !bytes.Equal(b[:DatagramHeaderLen], want) {
		t.Errorf("wrote %x, want %x", b[:DatagramHeaderLen], want)
	}
	if got, ok := ParseDatagramHeader(b); !ok || got != h {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, bad := range [][]byte{nil, b[:DatagramHeaderLen+DatagramTagLen-1], make([]byte, MaxDatagram+1), {0x0a, 30: 0}, {0x80, 30: 0}, {0x00, 30: 0}} {
		if _, ok := ParseDatagramHeader(bad); ok {
			t.Errorf("% x was taken", bad)
		}
	}
}

func TestVarint(t *testing.T) {
	for v, want := range map[uint32]string{
		0: "00", 127: "7f", 128: "8080", 16383: "bfff", 16384: "c0004000", 1<<29 - 1: "dfffffff", 1 << 29: "e020000000", 1<<32 - 1: "e0ffffffff",
	} {
		b := appendVarint(nil, v)
		if !bytes.Equal(b, readHex(t, want)) || varintLen(v) != len(b) {
			t.Errorf("%d is %x, want %s", v, b, want)
		}
		if got, n := parseVarint(append(b, 0xff)); got != v || n != len(b) {
			t.Errorf("%x is %d in %d bytes", b, got, n)
		}
		for n := range b {
			if _, n := parseVarint(b[:n]); n != 0 {
				t.Errorf("%x cut is %d bytes", b, n)
			}
		}
	}
}

// FuzzRecord reads records from anything. What is taken must come out again byte
// for byte.
func FuzzRecord(f *testing.F) {
	for _, sample := range recordSamples() {
		f.Add(append(sample.Append(nil), sample.payload...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			var r Record
			n, err := ParseRecord(b, &r)
			var typed *ParseError
			if err != nil {
				if !errors.As(err, &typed) {
					t.Errorf("%v", err)
				}
				return
			}
			if again := r.Append(nil); !bytes.Equal(again, b[:n]) {
				t.Fatalf("% x became % x", b[:n], again)
			}
			n += max(r.Length, 0)
			if n > len(b) {
				t.Fatalf("a record of %d bytes in %d", n, len(b))
			}
			b = b[n:]
		}
	})
}

func TestRecordNoAllocations(t *testing.T) {
	var r Record
	b := make([]byte, 0, 100)
	for name, sample := range recordSamples() {
		whole := append(sample.Append(nil), sample.payload...)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := ParseRecord(whole, &r); err != nil {
				t.Error(err)
			}
			b = r.Append(b[:0])
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestRecordLengths checks the constants that packers rely on.
func TestRecordLengths(t *testing.T) {
	worst := map[string]int{}
	note := func(kind string, n int) { worst[kind] = max(worst[kind], n) }
	for _, context := range []uint16{0, 127, 128, MaxContexts - 1} {
		for _, channel := range []uint32{0, 1<<32 - 1} {
			r := Record{Context: context, Channel: channel, Length: MaxMedia, Usual: MaxMedia, Total: MaxMedia, Offset: MaxMedia - 1}
			for _, kind := range []RecordType{RecordPacket, RecordAnchor} {
				r.Type = kind
				note("packet", len(r.Append(nil)))
			}
			r.Type = RecordFragment
			note("fragment", len(r.Append(nil)))
			r.HasByte, r.Sequence, r.Timestamp = true, 1, 1
			for _, kind := range []RecordType{RecordCompressed, RecordDelta} {
				r.Type = kind
				note("compressed", len(r.Append(nil)))
			}
			for _, kind := range []RecordType{RecordAck, RecordProbe, RecordReply, RecordReport, RecordClose, RecordProtected} {
				r.Type = kind
				note("feedback", len(r.Append(nil)))
			}
		}
	}
	for kind, limit := range map[string]int{"packet": MaxPacketRecord, "fragment": MaxFragment, "compressed": MaxCompressed, "feedback": MaxFeedback} {
		if worst[kind] != limit {
			t.Errorf("%s: %d bytes, the constant says %d", kind, worst[kind], limit)
		}
	}
}

func TestRecordSamplesAreComplete(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "records", "*.hex"))
	if err != nil {
		t.Fatal(err)
	}
	samples := recordSamples()
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".hex")
		if _, ok := samples[name]; !ok && name != "datagram-header" {
			t.Errorf("%s is no sample", path)
		}
	}
}
