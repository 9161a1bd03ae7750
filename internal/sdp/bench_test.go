package sdp

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
)

// TestNoAllocations shows that a reused Description and destination allocate
// nothing.
func TestNoAllocations(t *testing.T) {
	var d Description
	var dst []byte
	for _, b := range descriptions(t) {
		run := func() {
			if err := d.Parse(b); err != nil {
				t.Fatal(err)
			}
			for _, m := range d.Media() {
				if m.RTPAddr() == m.RTCPAddr() && m.Port != 0 && !m.RTCPMux && m.Addr.IsValid() {
					t.Fatal("the two ports are one")
				}
			}
			dst = d.Rewrite(dst[:0], func(i int, _ Media) (Target, bool) { return relays[i%len(relays)], true })
		}
		run() // the tables grow
		if n := testing.AllocsPerRun(20, run); n != 0 {
			t.Errorf("%v allocations for %q", n, b)
		}
	}
	contentType := []byte(`multipart/mixed;boundary="b1"`)
	body := []byte("--b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b1--\r\n")
	found := 0
	if n := testing.AllocsPerRun(20, func() {
		Find(contentType, body)
		for start := range All(contentType, body) {
			found += start
		}
	}); n != 0 || found == 0 {
		t.Errorf("%v allocations while finding", n)
	}
}

// benchmarkDescription returns the description of a desk phone's INVITE.
func benchmarkDescription(b *testing.B) []byte {
	msg, err := os.ReadFile("../sipmsg/testdata/yealink-t46u-invite.sip")
	if err != nil {
		b.Fatal(err)
	}
	_, body, _ := bytes.Cut(msg, []byte("\r\n\r\n"))
	return body
}

func BenchmarkParse(b *testing.B) {
	in := benchmarkDescription(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	var d Description
	for b.Loop() {
		if err := d.Parse(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseAndRewrite(b *testing.B) {
	in := benchmarkDescription(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	to := Target{RTP: netip.MustParseAddrPort("198.51.100.1:50000")}
	var d Description
	var dst []byte
	for b.Loop() {
		if err := d.Parse(in); err != nil {
			b.Fatal(err)
		}
		dst = d.Rewrite(dst[:0], func(int, Media) (Target, bool) { return to, true })
	}
	if !bytes.Contains(dst, []byte("198.51.100.1")) {
		b.Fatalf("%q", dst)
	}
}
