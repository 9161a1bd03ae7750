package audio

import (
	"slices"
	"time"
)

// Stats are the figures of a Stream from its start.
type Stats struct {
	Sent     uint64 // RTP packets sent
	Received uint64 // RTP packets taken
	// Lost counts the packets that are missing between the first and the last sequence number.
	Lost uint64
	// Early counts packets that came before SDP had named an address.
	Early uint64
	// Foreign counts packets that did not come from the address that SDP named, Malformed those that
	// are no RTP or no PCMU.
	Foreign, Malformed uint64
	// RTCPSent and RTCPReceived count RTCP packets.
	RTCPSent, RTCPReceived uint64
	// Jitter is the interarrival jitter of RFC 3550 section 6.4.1.
	Jitter time.Duration
	Delay  Delay
}

// Delay sums up the times that packets took. It is empty without a Stopwatch.
type Delay struct {
	Samples                int
	Median, P99, Max, Mean time.Duration
}

// maxDelaySamples bounds what a Stream keeps: 80 s of packets, of which the oldest go first.
const maxDelaySamples = 4096

// reception follows the sequence numbers and arrival times of one source, as in RFC 3550 appendix
// A.3 and A.8, without the probation: a Stream knows where its packets come from.
type reception struct {
	started    bool
	ssrc       uint32
	base, high uint32 // extended sequence numbers
	received   uint64
	lost       uint64 // by earlier sources
	transit    int64  // of the last packet, in timestamp units
	jitter     float64
	delays     []time.Duration
	oldest     int
}

func (r *reception) packet(ssrc uint32, sequence uint16, timestamp uint32, arrival time.Duration) {
	transit := int64(arrival*ClockRate/time.Second) - int64(timestamp)
	if !r.started || r.ssrc != ssrc {
		r.lost += r.missing()
		r.started, r.ssrc = true, ssrc
		r.base, r.high = uint32(sequence), uint32(sequence)
		r.received, r.transit = 1, transit
		return
	}
	r.received++
	if ahead := int16(sequence - uint16(r.high)); ahead > 0 {
		r.high += uint32(ahead)
	}
	// The timestamp is a 32-bit counter: only the difference modulo 2^32 has a meaning.
	difference := int64(int32(transit - r.transit))
	r.transit = transit
	r.jitter += (float64(max(difference, -difference)) - r.jitter) / 16
}

func (r *reception) missing() uint64 {
	if !r.started {
		return 0
	}
	expected := uint64(r.high-r.base) + 1
	// Duplicates may outnumber what is missing.
	return expected - min(expected, r.received)
}

func (r *reception) delay(d time.Duration) {
	if len(r.delays) < maxDelaySamples {
		r.delays = append(r.delays, d)
		return
	}
	r.delays[r.oldest] = d
	r.oldest = (r.oldest + 1) % maxDelaySamples
}

func summary(samples []time.Duration) Delay {
	if len(samples) == 0 {
		return Delay{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	var sum time.Duration
	for _, d := range sorted {
		sum += d
	}
	return Delay{
		Samples: len(sorted),
		Median:  sorted[len(sorted)/2],
		P99:     sorted[len(sorted)*99/100],
		Max:     sorted[len(sorted)-1],
		Mean:    sum / time.Duration(len(sorted)),
	}
}
