package spake2plus

import "filippo.io/nistec"

// M and N for P-256 (RFC 9383 section 4), uncompressed, as the transcript has
// them. Nobody knows their discrete logarithms.
const (
	encodedM = "\x04" +
		"\x88\x6e\x2f\x97\xac\xe4\x6e\x55\xba\x9d\xd7\x24\x25\x79\xf2\x99" +
		"\x3b\x64\xe1\x6e\xf3\xdc\xab\x95\xaf\xd4\x97\x33\x3d\x8f\xa1\x2f" +
		"\x5f\xf3\x55\x16\x3e\x43\xce\x22\x4e\x0b\x0e\x65\xff\x02\xac\x8e" +
		"\x5c\x7b\xe0\x94\x19\xc7\x85\xe0\xca\x54\x7d\x55\xa1\x2e\x2d\x20"
	encodedN = "\x04" +
		"\xd8\xbb\xd6\xc6\x39\xc6\x29\x37\xb0\x4d\x99\x7f\x38\xc3\x77\x07" +
		"\x19\xc6\x29\xd7\x01\x4d\x49\xa2\x4b\x4f\x98\xba\xa1\x29\x2b\x49" +
		"\x07\xd6\x0a\xa6\xbf\xad\xe4\x50\x08\xa6\x36\x33\x7f\x51\x68\xc6" +
		"\x4d\x9b\xd3\x60\x34\x80\x8c\xd5\x64\x49\x0b\x1e\x65\x6e\xdb\xe7"
)

func pointM() *nistec.P256Point { return constant(encodedM) }
func pointN() *nistec.P256Point { return constant(encodedN) }

func constant(encoded string) *nistec.P256Point {
	p, err := nistec.NewP256Point().SetBytes([]byte(encoded))
	if err != nil {
		panic("spake2plus: a constant of RFC 9383 is not on the curve")
	}
	return p
}

// parseShare decodes an uncompressed point. The identity has no such encoding,
// and SetBytes refuses coordinates that are not reduced or not on the curve, so
// what is returned is in the group (its cofactor is 1) and not the identity.
func parseShare(b []byte) (*nistec.P256Point, error) {
	// SetBytes would take the compressed form and the identity as well.
	if len(b) != ShareSize || b[0] != 4 {
		return nil, ErrShare
	}
	p, err := nistec.NewP256Point().SetBytes(b)
	if err != nil {
		return nil, ErrShare
	}
	return p, nil
}

// mult returns k*p.
func mult(k *scalar, p *nistec.P256Point) *nistec.P256Point {
	r, err := nistec.NewP256Point().ScalarMult(p, k[:])
	if err != nil {
		panic("spake2plus: a scalar is 32 bytes by its type")
	}
	return r
}

// baseMult returns k*P, P being the generator.
func baseMult(k *scalar) *nistec.P256Point {
	r, err := nistec.NewP256Point().ScalarBaseMult(k[:])
	if err != nil {
		panic("spake2plus: a scalar is 32 bytes by its type")
	}
	return r
}

// sum returns p+q.
func sum(p, q *nistec.P256Point) *nistec.P256Point {
	return nistec.NewP256Point().Add(p, q)
}
