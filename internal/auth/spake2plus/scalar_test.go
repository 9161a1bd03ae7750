package spake2plus

import (
	"bytes"
	"crypto/elliptic"
	"errors"
	"math/big"
	"testing"
)

// onCurve decides with math/big whether b is an uncompressed point.
func onCurve(b []byte) bool {
	if len(b) != ShareSize || b[0] != 4 {
		return false
	}
	c := elliptic.P256().Params()
	x, y := new(big.Int).SetBytes(b[1:33]), new(big.Int).SetBytes(b[33:])
	if x.Cmp(c.P) >= 0 || y.Cmp(c.P) >= 0 {
		return false
	}
	right := new(big.Int).Exp(x, big.NewInt(3), c.P)
	right.Sub(right, new(big.Int).Mul(x, big.NewInt(3)))
	right.Add(right, c.B)
	right.Mod(right, c.P)
	return new(big.Int).Exp(y, big.NewInt(2), c.P).Cmp(right) == 0
}

// edges are integers around those where a reduction goes wrong.
func edges() []*big.Int {
	n := elliptic.P256().Params().N
	var out []*big.Int
	for _, base := range []*big.Int{
		new(big.Int), n, new(big.Int).Lsh(n, 1), new(big.Int).Lsh(n, 63), new(big.Int).Lsh(n, 64),
		new(big.Int).Lsh(big.NewInt(1), 256), new(big.Int).Lsh(big.NewInt(1), 320),
	} {
		for d := int64(-2); d <= 2; d++ {
			if v := new(big.Int).Add(base, big.NewInt(d)); v.Sign() >= 0 && v.BitLen() <= 8*wideSize {
				out = append(out, v)
			}
		}
	}
	return out
}

func TestReduce(t *testing.T) {
	n := elliptic.P256().Params().N
	for _, v := range edges() {
		var wide [wideSize]byte
		v.FillBytes(wide[:])
		got := reduce(&wide)
		want := new(big.Int).Mod(v, n)
		if new(big.Int).SetBytes(got[:]).Cmp(want) != 0 {
			t.Errorf("%x mod order = %x, want %x", v, got, want)
		}
		if valid := want.Sign() != 0; got.valid() != valid {
			t.Errorf("%x valid: %t", got, got.valid())
		}
		if v.BitLen() <= 256 {
			var s scalar
			v.FillBytes(s[:])
			if want := v.Sign() > 0 && v.Cmp(n) < 0; s.valid() != want {
				t.Errorf("%x valid: %t", s, s.valid())
			}
		}
	}
}

func FuzzReduce(f *testing.F) {
	for _, v := range edges() {
		f.Add(v.FillBytes(make([]byte, wideSize)))
	}
	n := elliptic.P256().Params().N
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != wideSize {
			return
		}
		got := reduce((*[wideSize]byte)(b))
		if want := new(big.Int).Mod(new(big.Int).SetBytes(b), n); new(big.Int).SetBytes(got[:]).Cmp(want) != 0 {
			t.Fatalf("%x mod order = %x, want %x", b, got, want)
		}
	})
}

func TestNewSecretRefuses(t *testing.T) {
	n := make([]byte, wideSize)
	elliptic.P256().Params().N.FillBytes(n)
	one := append(make([]byte, wideSize-1), 1)
	for name, b := range map[string][]byte{
		"nothing":     nil,
		"short":       bytes.Repeat([]byte{1}, PBKDFSize-1),
		"long":        bytes.Repeat([]byte{1}, PBKDFSize+1),
		"zeros":       make([]byte, PBKDFSize),
		"w0 is zero":  append(make([]byte, wideSize), one...),
		"w1 is zero":  append(bytes.Clone(one), make([]byte, wideSize)...),
		"w0 is order": append(bytes.Clone(n), one...),
		"w1 is order": append(bytes.Clone(one), n...),
	} {
		if _, err := NewSecret(b); !errors.Is(err, ErrScalar) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	r := testSecret(f, 1).Record().Bytes()
	f.Add(r)
	f.Add(r[:96])
	f.Add(append(make([]byte, 32), r[32:]...))
	for _, b := range badShares() {
		f.Add(append(bytes.Clone(r[:32]), b...))
	}
	n := elliptic.P256().Params().N
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		want := len(b) == RecordSize && onCurve(b[32:])
		if want {
			w0 := new(big.Int).SetBytes(b[:32])
			want = w0.Sign() > 0 && w0.Cmp(n) < 0
		}
		if want != (err == nil) {
			t.Fatalf("%x: valid %t, error %v", b, want, err)
		}
		if err == nil && !bytes.Equal(r.Bytes(), b) {
			t.Fatalf("%x encodes as %x", b, r.Bytes())
		}
	})
}
