package spake2plus

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"io"

	"filippo.io/nistec"
)

// Errors of a run.
var (
	// ErrShare is the error for a share that is no point of the curve, that is
	// the identity, or that cancels the password's blinding.
	ErrShare = errors.New("spake2plus: the peer's share is not valid")
	// ErrScalar is the error for a w0 or w1 that is zero or not reduced.
	ErrScalar = errors.New("spake2plus: not a valid scalar")
	// ErrConfirm is the error for a key confirmation that does not match: the
	// peer does not know the password, or was told another context.
	ErrConfirm = errors.New("spake2plus: the peer's confirmation does not match")
	// ErrState is the error for a step out of order or after the end of a run.
	ErrState = errors.New("spake2plus: the run has ended or this is not its next step")
)

// Identities are the inputs of a run that both sides must agree on without
// sending them. The slices are read during the run and not changed.
type Identities struct {
	Context          []byte // what the run is for, and the channel it belongs to
	Prover, Verifier []byte // idProver and idVerifier of RFC 9383
}

// Prover is the side that knows the password. The zero value is not usable.
type Prover struct {
	secret *Secret // nil once the run is over
	ids    Identities
	x      scalar
	w0N    *nistec.P256Point
	share  [ShareSize]byte
}

// NewProver begins a run.
func NewProver(random io.Reader, s *Secret, ids Identities) (*Prover, error) {
	p := &Prover{secret: s, ids: ids, w0N: mult(&s.w0, pointN())}
	var err error
	if p.x, err = randomScalar(random); err != nil {
		return nil, err
	}
	// X = x*P + w0*M, which is the identity for one x of 2^256.
	X := sum(baseMult(&p.x), mult(&s.w0, pointM()))
	if X.IsInfinity() == 1 {
		return nil, ErrShare
	}
	copy(p.share[:], X.Bytes())
	return p, nil
}

// Share returns shareP.
func (p *Prover) Share() [ShareSize]byte { return p.share }

// Finish checks the verifier's answer and returns confirmP. On error nothing
// may be sent that depends on the password: the run is over.
func (p *Prover) Finish(shareV, confirmV []byte) (confirmP [ConfirmSize]byte, err error) {
	if p.secret == nil {
		return confirmP, ErrState
	}
	s := p.secret
	p.secret = nil
	Y, err := parseShare(shareV)
	if err != nil {
		return confirmP, err
	}
	// y*P. The group has prime order and x and w1 are not zero, so Z and V are
	// the identity exactly when this is.
	yP := sum(Y, nistec.NewP256Point().Negate(p.w0N))
	if yP.IsInfinity() == 1 {
		return confirmP, ErrShare
	}
	Z, V := mult(&p.x, yP), mult(&s.w1, yP)
	k, err := newKeys(transcript(&p.ids, p.share[:], shareV, Z, V, &s.w0))
	if err != nil {
		return confirmP, err
	}
	if want := mac(k.confirmV, p.share[:]); !hmac.Equal(want[:], confirmV) {
		return confirmP, ErrConfirm
	}
	return mac(k.confirmP, shareV), nil
}

// Verifier is the side that holds the password's Record. The zero value is not
// usable.
type Verifier struct {
	record *Record // nil once Respond was called
	ids    Identities
	y      scalar
	want   [ConfirmSize]byte // confirmP, once Respond succeeded
	ready  bool              // Respond succeeded, Finish was not called
}

// NewVerifier begins a run.
func NewVerifier(random io.Reader, r *Record, ids Identities) (*Verifier, error) {
	y, err := randomScalar(random)
	if err != nil {
		return nil, err
	}
	return &Verifier{record: r, ids: ids, y: y}, nil
}

// Respond takes shareP and returns shareV and confirmV.
func (v *Verifier) Respond(shareP []byte) (shareV [ShareSize]byte, confirmV [ConfirmSize]byte, err error) {
	if v.record == nil {
		return shareV, confirmV, ErrState
	}
	r := v.record
	v.record = nil
	X, err := parseShare(shareP)
	if err != nil {
		return shareV, confirmV, err
	}
	xP := sum(X, r.negW0M)
	Y := sum(baseMult(&v.y), r.w0N)
	if xP.IsInfinity() == 1 || Y.IsInfinity() == 1 {
		return shareV, confirmV, ErrShare
	}
	copy(shareV[:], Y.Bytes())
	Z, V := mult(&v.y, xP), mult(&v.y, r.l)
	k, err := newKeys(transcript(&v.ids, shareP, shareV[:], Z, V, &r.w0))
	if err != nil {
		return [ShareSize]byte{}, confirmV, err
	}
	v.want, v.ready = mac(k.confirmP, shareV[:]), true
	return shareV, mac(k.confirmV, shareP), nil
}

// Finish checks confirmP. A nil error is the proof that the peer knows the
// password.
func (v *Verifier) Finish(confirmP []byte) error {
	if !v.ready {
		return ErrState
	}
	v.ready = false
	if !hmac.Equal(v.want[:], confirmP) {
		return ErrConfirm
	}
	return nil
}

// transcript returns TT of RFC 9383 section 3.3.
func transcript(ids *Identities, shareP, shareV []byte, Z, V *nistec.P256Point, w0 *scalar) []byte {
	tt := make([]byte, 0, 10*8+6*ShareSize+len(w0)+len(ids.Context)+len(ids.Prover)+len(ids.Verifier))
	tt = appendField(tt, ids.Context)
	tt = appendField(tt, ids.Prover)
	tt = appendField(tt, ids.Verifier)
	tt = appendField(tt, []byte(encodedM))
	tt = appendField(tt, []byte(encodedN))
	tt = appendField(tt, shareP)
	tt = appendField(tt, shareV)
	tt = appendField(tt, Z.Bytes())
	tt = appendField(tt, V.Bytes())
	return appendField(tt, w0[:])
}

// keys are K_main, K_confirmP and K_confirmV of RFC 9383 section 3.4.
type keys struct{ main, confirmP, confirmV []byte }

func newKeys(tt []byte) (keys, error) {
	main := sha256.Sum256(tt)
	clear(tt)
	confirm, err := hkdf.Key(sha256.New, main[:], nil, "ConfirmationKeys", 2*ConfirmSize)
	if err != nil {
		return keys{}, err
	}
	return keys{main[:], confirm[:ConfirmSize], confirm[ConfirmSize:]}, nil
}

// mac is the suite's MAC, HMAC-SHA256.
func mac(key, message []byte) [ConfirmSize]byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return [ConfirmSize]byte(h.Sum(nil))
}
