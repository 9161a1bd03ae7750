// Package spake2plus is SPAKE2+ (RFC 9383) with the ciphersuite
// P256-SHA256-HKDF-SHA256-HMAC-SHA256, as a state machine over byte slices: it
// knows no socket, no clock and no password. Randomness is handed in.
//
// The prover knows a password, from which a memory-hard function made a
// [Secret]; the verifier holds a [Record] of it, which does not let its thief
// play the prover without searching for the password. One run:
//
//	prover                                     verifier
//	NewProver, Share        -- shareP -->      NewVerifier
//	                        <-- shareV,        Respond
//	Finish                      confirmV --
//	                        -- confirmP -->    Finish
//
// A nil error from [Prover.Finish] proves to the prover that the peer holds the
// Record, a nil error from [Verifier.Finish] proves to the verifier that the
// peer holds the Secret. Any error ends the run: a Prover or Verifier is good
// for one run and answers [ErrState] after it.
//
// K_shared of RFC 9383 is not derived. The runs made with this package
// authenticate a channel that exists already: whoever uses it puts a unique
// name of that channel into [Identities.Context].
//
// Arithmetic on secrets takes a time that does not depend on them: the curve is
// filippo.io/nistec, the reduction modulo the group order is in this package.
// What a peer sent is public and treated as such.
//
// Values of this package are not safe for concurrent use, except that a Secret
// and a Record are immutable and may be shared.
package spake2plus
