package spake2plus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// scalar is an integer modulo the order of P-256, big-endian, reduced.
type scalar [32]byte

// wideSize is the length of one half of the PBKDF's output: the 32 bytes of the
// order and 8 more, which make the bias of a reduction modulo the order less
// than 2^-64 (RFC 9383 section 3.2).
const wideSize = 40

// order is the order of P-256, least significant limb first (FIPS 186-4 D.1.2.3).
var order = [4]uint64{
	0xf3b9cac2fc632551, 0xbce6faada7179e84, 0xffffffffffffffff, 0xffffffff00000000,
}

// reduce returns the big-endian integer wide modulo the order, in a time that
// does not depend on it.
func reduce(wide *[wideSize]byte) scalar {
	var r, m [5]uint64
	for i := range r {
		r[i] = binary.BigEndian.Uint64(wide[wideSize-8*(i+1):])
	}
	// The order's top bit is set, so wide < 2 * (order << 64): at each of the
	// 65 shifts one conditional subtraction is enough.
	copy(m[1:], order[:])
	for range 65 {
		var t [5]uint64
		var borrow uint64
		for i := range t {
			t[i], borrow = bits.Sub64(r[i], m[i], borrow)
		}
		keep := -borrow // all ones when r < m
		for i := range r {
			r[i] = r[i]&keep | t[i]&^keep
		}
		for i := range 4 {
			m[i] = m[i]>>1 | m[i+1]<<63
		}
		m[4] >>= 1
	}
	var s scalar
	for i := range 4 {
		binary.BigEndian.PutUint64(s[24-8*i:], r[i])
	}
	return s
}

// valid tells whether 0 < s < order. Only the answer shows in the time taken.
func (s *scalar) valid() bool {
	var borrow, nonzero uint64
	for i := range 4 {
		limb := binary.BigEndian.Uint64(s[24-8*i:])
		nonzero |= limb
		_, borrow = bits.Sub64(limb, order[i], borrow)
	}
	return nonzero != 0 && borrow == 1
}

// randomTries bounds the rejection sampling of randomScalar. A single rejection
// has the probability 2^-32: a source that is refused this often is broken.
const randomTries = 8

// randomScalar samples a scalar uniformly from [1, order-1].
func randomScalar(random io.Reader) (scalar, error) {
	var s scalar
	for range randomTries {
		if _, err := io.ReadFull(random, s[:]); err != nil {
			return scalar{}, fmt.Errorf("spake2plus: reading randomness: %w", err)
		}
		if s.valid() {
			return s, nil
		}
	}
	return scalar{}, errors.New("spake2plus: the source of randomness is broken")
}
