// Package quality says how a call sounds, and where on its way it was made to sound
// like that. The way is cut into legs, each in one direction; see Name. Each is judged
// as if it were the only one: what was lost or delayed before it is not its fault.
//
// The estimate is the E-model of ITU-T G.107 with the impairments of codecs of G.113
// appendix I. It knows nothing of echo, levels or what the phones do to the sound. What
// it is for is to compare legs, not microphones.
//
// The package knows figures, and nothing of where they come from. Everything in it is
// safe for concurrent use.
package quality
