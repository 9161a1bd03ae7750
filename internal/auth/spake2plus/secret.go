package spake2plus

import (
	"encoding/binary"
	"fmt"
	"io"

	"filippo.io/nistec"
)

// Sizes in bytes.
const (
	// PBKDFSize is the output length asked of the password's key derivation
	// function: w0s and w1s of RFC 9383 section 3.2.
	PBKDFSize = 2 * wideSize
	// ShareSize is the length of shareP and shareV, uncompressed points.
	ShareSize = 65
	// ConfirmSize is the length of confirmP and confirmV.
	ConfirmSize = 32
	// RecordSize is the length of an encoded Record: w0, then L uncompressed.
	RecordSize = 32 + ShareSize
)

// PBKDFInput returns the input of the password's key derivation function,
// len(pw) || pw || len(idProver) || idProver || len(idVerifier) || idVerifier
// (RFC 9383 section 3.2). It holds the password: the caller clears it.
func PBKDFInput(password, prover, verifier []byte) []byte {
	b := make([]byte, 0, 3*8+len(password)+len(prover)+len(verifier))
	b = appendField(b, password)
	b = appendField(b, prover)
	return appendField(b, verifier)
}

// Secret is what the prover knows, w0 and w1 of RFC 9383. The zero value is not
// usable; [NewSecret] makes one. It prints as a placeholder.
type Secret struct{ w0, w1 scalar }

// NewSecret makes a Secret from the PBKDFSize bytes that the password's key
// derivation function gave. They are not retained; the caller clears them.
// The error is ErrScalar when either half is zero modulo the group order.
func NewSecret(pbkdf []byte) (*Secret, error) {
	if len(pbkdf) != PBKDFSize {
		return nil, fmt.Errorf("%w: %d bytes of key derivation output, want %d", ErrScalar, len(pbkdf), PBKDFSize)
	}
	s := &Secret{
		w0: reduce((*[wideSize]byte)(pbkdf[:wideSize])),
		w1: reduce((*[wideSize]byte)(pbkdf[wideSize:])),
	}
	if !s.w0.valid() || !s.w1.valid() {
		return nil, ErrScalar
	}
	return s, nil
}

// Record returns what a verifier keeps of the secret.
func (s *Secret) Record() *Record {
	return newRecord(&s.w0, baseMult(&s.w1))
}

// Format keeps the secret out of whatever prints it.
func (*Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// Record is what the verifier knows, w0 and L of RFC 9383. It lets its holder
// search for the password and play the verifier, so it is kept as a secret too.
// The zero value is not usable. It prints as a placeholder.
type Record struct {
	w0 scalar
	l  *nistec.P256Point
	// w0*M negated and w0*N: constant for the record, so that a run costs the
	// verifier three multiplications instead of five.
	negW0M, w0N *nistec.P256Point
}

func newRecord(w0 *scalar, l *nistec.P256Point) *Record {
	negW0M := mult(w0, pointM())
	return &Record{w0: *w0, l: l, negW0M: negW0M.Negate(negW0M), w0N: mult(w0, pointN())}
}

// ParseRecord decodes what [Record.Bytes] gave. The error is ErrScalar when w0 is
// zero or not reduced, ErrShare when L is not a point of the curve.
func ParseRecord(b []byte) (*Record, error) {
	if len(b) != RecordSize {
		return nil, fmt.Errorf("%w: record of %d bytes, want %d", ErrShare, len(b), RecordSize)
	}
	w0 := scalar(b[:32])
	if !w0.valid() {
		return nil, ErrScalar
	}
	l, err := parseShare(b[32:])
	if err != nil {
		return nil, err
	}
	return newRecord(&w0, l), nil
}

// RandomRecord returns the record of a password that nobody knows. A verifier
// that runs against it does the work of a real one and never accepts.
func RandomRecord(random io.Reader) (*Record, error) {
	var s Secret
	var err error
	if s.w0, err = randomScalar(random); err != nil {
		return nil, err
	}
	if s.w1, err = randomScalar(random); err != nil {
		return nil, err
	}
	return s.Record(), nil
}

// Bytes encodes the record: w0 (32 bytes, big-endian), then L (65 bytes,
// uncompressed).
func (r *Record) Bytes() []byte {
	return append(append(make([]byte, 0, RecordSize), r.w0[:]...), r.l.Bytes()...)
}

// Format keeps the record out of whatever prints it.
func (*Record) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[record]") }

// appendField appends b with its length in front, in the eight bytes,
// least significant first, that RFC 9383 section 3.3 asks for.
func appendField(dst, b []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(len(b)))
	return append(dst, b...)
}
