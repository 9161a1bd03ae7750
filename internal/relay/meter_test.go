package relay

import (
	"testing"
	"time"

	"github.com/pion/rtp"
)

func rtpPacket(t testing.TB, h rtp.Header, payload ...byte) []byte {
	t.Helper()
	h.Version = 2
	b, err := (&rtp.Packet{Header: h, Payload: payload}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func observe(m *meter, packet []byte, at time.Duration) {
	m.pass(packet)
	m.measure(packet, at)
}

func TestMeterCountsEverythingButMeasuresRTPOnly(t *testing.T) {
	var m meter
	var bytes uint64
	for i, p := range [][]byte{
		{0}, // a keepalive
		[]byte("\x00\x01\x00\x00\x21\x12\xa4\x42------------"),   // STUN
		[]byte("\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00--"), // DTLS
		[]byte("\x81\xc9\x00\x07" + "--------------------"),      // RTCP RR, multiplexed
		[]byte("\x80\x00\x00\x01\x00"),                           // RTP, cut short
	} {
		observe(&m, p, time.Duration(i)*20*ms)
		bytes += uint64(len(p))
	}
	got := m.traffic()
	if want := (Traffic{Packets: 5, Bytes: bytes}); got != want {
		t.Errorf("traffic = %+v, want %+v", got, want)
	}
	if m.clock != 0 {
		t.Errorf("%d of them were taken for RTP", m.clock)
	}
}

func TestMeterReadsBehindCSRCsAndExtensions(t *testing.T) {
	var m meter
	for _, seq := range []uint16{1, 2, 4} {
		h := rtp.Header{SequenceNumber: seq, SSRC: 9, CSRC: []uint32{1, 2, 3}}
		if err := h.SetExtension(1, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
		observe(&m, rtpPacket(t, h, 1), 0)
	}
	// Announces 15 CSRCs and an extension, and has neither.
	observe(&m, []byte("\x9f\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00\x09"), 0)
	if got := m.traffic().Lost; got != 2 {
		t.Errorf("lost = %d, want 2", got)
	}
}

func TestMeterTellsStreamsApart(t *testing.T) {
	var m meter
	for seq := range uint16(100) {
		for ssrc := range uint32(maxStreams) {
			if seq%10 == 3 && ssrc == 1 {
				continue
			}
			observe(&m, rtpPacket(t, rtp.Header{SSRC: ssrc, SequenceNumber: seq + uint16(ssrc)*7000}), 0)
		}
	}
	if got := m.traffic(); got.Lost != 10 || got.Reordered != 0 || got.Duplicates != 0 {
		t.Errorf("lost, reordered, duplicates = %d, %d, %d, want 10, 0, 0", got.Lost, got.Reordered, got.Duplicates)
	}
}

func TestMeterRemembersStreamsThatEnded(t *testing.T) {
	var m meter
	const calls = 5 * maxStreams
	for ssrc := range uint32(calls) {
		for _, seq := range []uint16{1, 3, 3} {
			observe(&m, rtpPacket(t, rtp.Header{SSRC: ssrc, SequenceNumber: seq}), 0)
		}
	}
	if got := m.traffic(); got.Lost != calls || got.Duplicates != calls {
		t.Errorf("lost, duplicates = %d, %d, want %d each", got.Lost, got.Duplicates, calls)
	}
}

func TestMeterReportsJitterOfTheStreamHeardLast(t *testing.T) {
	var m meter
	for i := range 100 {
		sent := time.Duration(i) * 20 * ms
		at := sent + time.Duration(i%2)*16*ms
		observe(&m, rtpPacket(t, rtp.Header{SSRC: 1, SequenceNumber: uint16(i), Timestamp: ticks(sent, 8000)}), at)
	}
	near(t, m.traffic().Jitter, 0.016, ms)
	observe(&m, rtpPacket(t, rtp.Header{SSRC: 2}), 3*time.Second)
	if got := m.traffic().Jitter; got != 0 {
		t.Errorf("jitter of a new stream = %v, want 0", got)
	}
}

// FuzzMeter feeds packets, each led by its length. Whatever they are, each is
// counted, none allocates, and the figures stay possible.
func FuzzMeter(f *testing.F) {
	f.Add([]byte("\x0c\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x09\x0c\x80\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00\x09"))
	f.Add([]byte("\x0c\x9f\x6f\x00\x01\x00\x00\x00\x00\x00\x00\x00\x09"))
	f.Add([]byte("\x04\x81\xc9\x00\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m meter
		var packets, bytes uint64
		for at := time.Duration(0); len(b) > 0; at += 20 * ms {
			n := min(int(b[0]), len(b)-1)
			observe(&m, b[1:1+n], at)
			packets++
			bytes += uint64(n)
			b = b[1+n:]
		}
		got := m.traffic()
		if got.Packets != packets || got.Bytes != bytes {
			t.Fatalf("%d packets of %d bytes, want %d of %d", got.Packets, got.Bytes, packets, bytes)
		}
		if got.Reordered+got.Duplicates > packets || got.Lost > packets*maxDropout || got.Jitter < 0 || got.Jitter > maxTransitStep {
			t.Fatalf("impossible: %+v", got)
		}
	})
}

func BenchmarkMeter(b *testing.B) {
	var m meter
	packet := rtpPacket(b, rtp.Header{SSRC: 1}, make([]byte, 160)...)
	b.ReportAllocs()
	for i := range b.N {
		packet[2], packet[3] = byte(i>>8), byte(i)
		packet[6], packet[7] = byte(i>>8), byte(i)
		observe(&m, packet, time.Duration(i)*20*ms)
	}
}
