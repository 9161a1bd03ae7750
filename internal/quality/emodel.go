package quality

import "time"

// Constants of the E-model.
const (
	// bestRating is R with all of G.107's default values, before what a packet network
	// does.
	bestRating = 93.2
	// packetTime is how long a packet's sound takes to be spoken: 20 ms in most calls.
	packetTime = 20 * time.Millisecond
	// bufferFactor is by how many times the mean jitter a phone's buffer delays what it
	// plays, so that little comes too late for it.
	bufferFactor = 2
)

// A Codec is what the E-model knows about a codec.
type Codec struct {
	Name string
	// Impairment is Ie, Robustness Bpl of G.113 appendix I.
	Impairment, Robustness float64
}

// Assumed is for a codec that is not known: G.711, by far the most common, with
// concealment of losses.
func Assumed() Codec { return Codec{"G.711 assumed", 0, 25.1} }

// CodecOf returns the codec of a payload type (RFC 3551 section 6) and a clock rate in
// Hz, 0 when that is not known. SDP says what a payload type from 96 on means, which is
// not known here, but for its clock rate. It says false when the payload is not, or may
// not be, speech.
func CodecOf(payloadType uint8, clockRate uint32) (Codec, bool) {
	switch payloadType {
	case 0, 8:
		return Codec{"G.711", 0, 25.1}, true
	case 2:
		return Codec{"G.726", 7, 10}, true // Bpl: G.113 has none
	case 3:
		return Codec{"GSM", 20, 10}, true // the same
	case 4:
		return Codec{"G.723.1", 15, 16.1}, true
	case 9:
		return Codec{"G.722", 0, 25.1}, true // on the scale of narrow band it is at least what G.711 is
	case 15:
		return Codec{"G.728", 7, 10}, true // Bpl: G.113 has none
	case 18:
		return Codec{"G.729", 11, 19}, true
	case 13: // nothing but comfort noise
		return Codec{}, false
	}
	switch {
	case payloadType < 24:
		return Assumed(), true
	case payloadType < 96, clockRate == 0, clockRate == 90000: // video, or not assigned, or not known yet
		return Codec{}, false
	}
	return Assumed(), true
}

// Rating is R of G.107, 0 to 100: loss is the share of packets that are lost at random,
// rtt the round trip, jitter the mean.
func (c Codec) Rating(loss float64, rtt, jitter time.Duration) float64 {
	rating := bestRating - delayImpairment(rtt, jitter) - c.Impairment - c.lossImpairment(loss)
	return min(max(rating, 0), 100)
}

// lossImpairment is what loss adds to the codec's own impairment (G.107 section 7.5).
func (c Codec) lossImpairment(loss float64) float64 {
	percent := 100 * min(max(loss, 0), 1)
	return (95 - c.Impairment) * percent / (percent + c.Robustness)
}

// delayImpairment is Id in the simpler form of Cole and Rosenbluth (2001), by the
// delay from mouth to ear.
func delayImpairment(rtt, jitter time.Duration) float64 {
	delay := (packetTime + rtt/2 + bufferFactor*jitter).Seconds() * 1000
	return 0.024*delay + 0.11*max(delay-177.3, 0)
}

// MOS is a rating as the mean opinion of listeners, 1 to 4.5 (G.107 annex B).
func MOS(rating float64) float64 {
	switch {
	case rating <= 0:
		return 1
	case rating >= 100:
		return 4.5
	}
	return max(1, 1+0.035*rating+rating*(rating-60)*(100-rating)*7e-6)
}
