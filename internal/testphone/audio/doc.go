// Package audio is the media half of the test phone and of the embedded PBX: G.711 mu-law tones, a
// detector that says how much of what arrives is the expected tone, and a Stream that sends and
// receives RTP on an even/odd pair of UDP ports with 20 ms pacing.
//
// It is written for measuring, not for listening: there is no jitter buffer, no concealment and one
// codec. What it adds instead are the checks that a test needs. A Stream takes packets only from
// the one address that SDP named, counts everything else, and a Stopwatch that is shared by the
// streams of one process tells how long each packet was on its way.
package audio

import "time"

// Constants of RTP audio with PCMU (RFC 3551 sections 4.5.14 and 6): the static payload type 0, one
// octet per sample.
const (
	ClockRate   = 8000 // samples per second
	PayloadType = 0    // PCMU
	// FrameDuration is the packetisation time that Streams use and SDP announces.
	FrameDuration = 20 * time.Millisecond
	// FrameSize is the number of samples, and so of payload octets, in one packet.
	FrameSize = int(ClockRate * FrameDuration / time.Second)
)
