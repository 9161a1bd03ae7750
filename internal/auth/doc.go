// Package auth proves to both ends of a new connection that the other one knows
// the tunnel password, before anything else is said on it. It holds the client's
// side ([Authenticate]), the server's ([Store.Verify]), the credential store of
// the server and the throttle of guesses.
//
// # Threat model
//
// The connection is TLS 1.3, so only its two ends read it, but the client may not
// know the server's key yet: the peer may be an impostor or relay to the true
// server. Therefore
//
//   - the proof is SPAKE2+ (RFC 9383): who does not know the password can test one
//     guess of it per attempt, on line, and takes nothing home to search with;
//   - it is bound to the connection by a [Binding] made of the TLS exporter: what
//     proves anything on one connection proves nothing on another;
//   - the stored verifiers are not the passwords. Who steals them must search for
//     the password with Argon2id to log in; until the search succeeds they can only
//     play the server;
//   - Argon2id runs on the client and where a credential is made, never on behalf
//     of somebody who has not logged in;
//   - a name that exists, one that does not and one that is being rotated look the
//     same: same frames, same lengths, same work, and a salt that is always derived
//     from the name and the secret of the store.
//
// A [Refusal] that arrives is worth no more than the TLS connection it came on: to a
// client that has not pinned the server's key it says that logging in did not
// work, not why. The longest wait that a client believes is [MaxRetryAfter].
//
// # Frames
//
// Integers are big-endian. A frame is
//
//	u16  length of what follows, 1 to 512
//	u8   type
//	...  body, its length fixed by the type but for Hello
//
// and a byte too many or too few anywhere is an error. Each end writes a frame
// with one Write and reads no byte beyond it, so that what follows Accept belongs
// to the next protocol.
//
//	type 1, Hello, client to server
//	   u8        n, 1 to 63
//	   n bytes   name of the credential: [a-z0-9][a-z0-9._-]{0,62}
//
//	type 2, Params, server to client, 25 bytes
//	   16 bytes  salt
//	   u32       Argon2id passes: a client accepts 2 to 10
//	   u32       Argon2id memory in KiB: a client accepts 19456 to 262144
//	   u8        Argon2id lanes: a client accepts 1 to 16
//
//	type 3, ShareP, client to server, 130 bytes
//	   65 bytes  shareP of run 0, an uncompressed point of P-256
//	   65 bytes  shareP of run 1
//
//	type 4, ShareV, server to client, 194 bytes
//	   65 bytes  shareV of run 0
//	   32 bytes  confirmV of run 0
//	   65 bytes  shareV of run 1
//	   32 bytes  confirmV of run 1
//
//	type 5, ConfirmP, client to server, 33 bytes
//	   u8        the run whose confirmV was right, 0 or 1
//	   32 bytes  confirmP of that run
//
//	type 6, Accept, server to client, empty
//
//	type 7, Refuse, either way, 4 bytes
//	   u16       code: 1 malformed, 2 credentials, 3 throttled, 4 proof,
//	             5 unavailable; others are for later versions
//	   u16       seconds to wait before the next attempt, 0 if not said
//
// # Exchange
//
//	client                           server
//	Hello              -->
//	                   <--           Params
//	ShareP             -->
//	                   <--           ShareV
//	ConfirmP           -->
//	                   <--           Accept
//
// Either end may send Refuse in place of its next frame, after which the exchange
// is over. A client none of whose runs is confirmed sends Refuse with code 4; the
// server answers Refuse with code 2 whether the name or the password was wrong. A
// frame that is malformed or out of turn is answered with code 1, any other Refuse
// not at all.
//
// # Runs
//
// A name has one or two live verifiers, so that a password can be replaced without
// a moment in which one of the offices is locked out. Run 0 is played with the
// newer verifier, run 1 with the older one; where there is none, with one of a
// password that nobody knows. The two are whole runs of RFC 9383 with randomness of
// their own and
//
//	suite       P256-SHA256-HKDF-SHA256-HMAC-SHA256
//	Context     "siptunnel/1" || Binding (32 bytes) || Hello || Params
//	            (the two frames whole, with their lengths)
//	idProver    the name
//	idVerifier  "tunneld"
//	w0s || w1s  Argon2id(len(pw) || pw || len(idProver) || idProver ||
//	            len(idVerifier) || idVerifier, salt, 80 bytes), lengths being
//	            64-bit little-endian as in RFC 9383 section 3.2
//	salt        of the server: the first 16 bytes of
//	            HMAC-SHA256(secret of the store, "salt" || 0x00 || name)
//
// K_shared is not used: what is authenticated is the TLS connection.
//
// # Limits
//
// A server reads at most 236 bytes before it accepts or refuses; the caller sets
// the deadline for all of it. One attempt costs the server two runs of three
// multiplications on the curve each.
package auth
