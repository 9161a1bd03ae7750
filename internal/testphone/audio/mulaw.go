package audio

import "math/bits"

// Parameters of the mu-law compander on a 14-bit magnitude (ITU-T G.711, table 2a).
const (
	muLawBias = 33
	muLawMax  = 8159 // largest magnitude, the bias included
)

// silence is the mu-law code of a zero sample.
const silence = 0xff

// EncodeMuLaw returns the G.711 mu-law code of a 16-bit linear sample. Samples are clipped to the
// 14 bits that the code covers.
func EncodeMuLaw(sample int16) byte {
	magnitude := int(sample) >> 2
	sign := byte(0x80)
	if magnitude < 0 {
		magnitude = -magnitude
		sign = 0
	}
	magnitude = min(magnitude, muLawMax-muLawBias) + muLawBias
	segment := bits.Len(uint(magnitude)) - 6
	step := magnitude >> (segment + 1) & 0x0f
	// The code is sent inverted; sign was chosen inverted already.
	return sign | ^byte(segment<<4|step)&0x7f
}

// DecodeMuLaw returns the 16-bit linear sample of a G.711 mu-law code.
func DecodeMuLaw(code byte) int16 {
	inverted := ^code
	segment := inverted >> 4 & 0x07
	step := int16(inverted & 0x0f)
	magnitude := ((2*step+muLawBias)<<segment - muLawBias) << 2
	if inverted&0x80 != 0 {
		return -magnitude
	}
	return magnitude
}
