package spake2plus

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"testing"

	"filippo.io/nistec"
)

func testSecret(t testing.TB, seed byte) *Secret {
	t.Helper()
	s, err := NewSecret(bytes.Repeat([]byte{seed}, PBKDFSize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testIdentities() Identities {
	return Identities{Context: []byte("test"), Prover: []byte("p"), Verifier: []byte("v")}
}

// run plays a whole exchange and returns the errors of both ends.
func run(t testing.TB, s *Secret, r *Record, pIDs, vIDs Identities) (prover, verifier error) {
	t.Helper()
	p, err := NewProver(rand.Reader, s, pIDs)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(rand.Reader, r, vIDs)
	if err != nil {
		t.Fatal(err)
	}
	shareP := p.Share()
	shareV, confirmV, err := v.Respond(shareP[:])
	if err != nil {
		t.Fatal(err)
	}
	confirmP, prover := p.Finish(shareV[:], confirmV[:])
	return prover, v.Finish(confirmP[:])
}

func TestRun(t *testing.T) {
	s, ids := testSecret(t, 1), testIdentities()
	other := func(change func(*Identities)) Identities { i := ids; change(&i); return i }
	tests := []struct {
		name   string
		record *Record
		ids    Identities
		want   error
	}{
		{"same", s.Record(), ids, nil},
		{"other password", testSecret(t, 2).Record(), ids, ErrConfirm},
		{"other w1", newRecord(&s.w0, testSecret(t, 2).Record().l), ids, ErrConfirm},
		{"other w0", newRecord(&testSecret(t, 2).w0, s.Record().l), ids, ErrConfirm},
		{"other context", s.Record(), other(func(i *Identities) { i.Context = []byte("tset") }), ErrConfirm},
		{"other prover", s.Record(), other(func(i *Identities) { i.Prover = nil }), ErrConfirm},
		{"other verifier", s.Record(), other(func(i *Identities) { i.Verifier = []byte("w") }), ErrConfirm},
		{"shifted field border", s.Record(), Identities{Context: []byte("tes"), Prover: []byte("tp"), Verifier: []byte("v")}, ErrConfirm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			prover, verifier := run(t, s, tt.record, ids, tt.ids)
			if !errors.Is(prover, tt.want) || !errors.Is(verifier, tt.want) {
				t.Fatalf("prover %v, verifier %v, want %v", prover, verifier, tt.want)
			}
		})
	}
}

func TestRandomRecordNeverAccepts(t *testing.T) {
	r, err := RandomRecord(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, testSecret(t, 1), r, testIdentities(), testIdentities()); !errors.Is(err, ErrConfirm) {
		t.Fatal(err)
	}
}

// badShares are byte strings that are no share.
func badShares() map[string][]byte {
	base := nistec.NewP256Point().SetGenerator()
	flip := func(at int) []byte { b := base.Bytes(); b[at] ^= 1; return b }
	zero := append([]byte{4}, make([]byte, 64)...)
	high := append([]byte{4}, bytes.Repeat([]byte{0xff}, 64)...)
	// A point whose x has a second, unreduced form in 32 bytes: x plus the prime.
	wide := make([]byte, 33)
	for wide[0] = 2; ; wide[32]++ {
		if p, err := nistec.NewP256Point().SetBytes(wide); err == nil {
			x := new(big.Int).SetBytes(wide[1:])
			wide = p.Bytes()
			x.Add(x, elliptic.P256().Params().P).FillBytes(wide[1:33])
			break
		}
	}
	hybrid := base.Bytes()
	hybrid[0] = 6
	return map[string][]byte{
		"nil":                  nil,
		"identity":             nistec.NewP256Point().Bytes(),
		"identity padded":      make([]byte, ShareSize),
		"compressed":           base.BytesCompressed(),
		"hybrid":               hybrid,
		"zero coordinates":     zero,
		"off the curve, x":     flip(5),
		"off the curve, y":     flip(64),
		"above the prime":      high,
		"coordinate unreduced": wide,
		"short":                base.Bytes()[:64],
		"long":                 append(base.Bytes(), 0),
	}
}

func TestBadShares(t *testing.T) {
	s, ids := testSecret(t, 1), testIdentities()
	shares := badShares()
	// A share that is the blinding itself leaves the identity.
	shares["cancels w0*M"] = mult(&s.w0, pointM()).Bytes()
	for name, share := range shares {
		t.Run("shareP "+name, func(t *testing.T) {
			v, err := NewVerifier(rand.Reader, s.Record(), ids)
			if err != nil {
				t.Fatal(err)
			}
			shareV, confirmV, err := v.Respond(share)
			if !errors.Is(err, ErrShare) {
				t.Fatalf("Respond: %v", err)
			}
			if shareV != [ShareSize]byte{} || confirmV != [ConfirmSize]byte{} {
				t.Error("Respond gave values with its error")
			}
			if err := v.Finish(make([]byte, ConfirmSize)); !errors.Is(err, ErrState) {
				t.Errorf("Finish after an error: %v", err)
			}
		})
	}
	delete(shares, "cancels w0*M")
	shares["cancels w0*N"] = mult(&s.w0, pointN()).Bytes()
	for name, share := range shares {
		t.Run("shareV "+name, func(t *testing.T) {
			p, err := NewProver(rand.Reader, s, ids)
			if err != nil {
				t.Fatal(err)
			}
			confirmP, err := p.Finish(share, make([]byte, ConfirmSize))
			if !errors.Is(err, ErrShare) || confirmP != [ConfirmSize]byte{} {
				t.Fatalf("Finish: %x, %v", confirmP, err)
			}
			if _, err := p.Finish(share, nil); !errors.Is(err, ErrState) {
				t.Errorf("Finish after an error: %v", err)
			}
		})
	}
}

func TestStates(t *testing.T) {
	s, ids := testSecret(t, 1), testIdentities()
	p, err := NewProver(rand.Reader, s, ids)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(rand.Reader, s.Record(), ids)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Finish(make([]byte, ConfirmSize)); !errors.Is(err, ErrState) {
		t.Errorf("Finish before Respond: %v", err)
	}
	shareP := p.Share()
	shareV, confirmV, err := v.Respond(shareP[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Respond(shareP[:]); !errors.Is(err, ErrState) {
		t.Errorf("second Respond: %v", err)
	}
	confirmP, err := p.Finish(shareV[:], confirmV[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Finish(shareV[:], confirmV[:]); !errors.Is(err, ErrState) {
		t.Errorf("second Finish of the prover: %v", err)
	}
	for _, bad := range [][]byte{nil, confirmP[:31], append(confirmP[:], 0)} {
		w := *v
		if err := w.Finish(bad); !errors.Is(err, ErrConfirm) {
			t.Errorf("Finish with %d bytes: %v", len(bad), err)
		}
		if err := w.Finish(confirmP[:]); !errors.Is(err, ErrState) {
			t.Errorf("a second try of the confirmation: %v", err)
		}
	}
	if err := v.Finish(confirmP[:]); err != nil {
		t.Error(err)
	}
}

// TestReflection sends each side's values back to it.
func TestReflection(t *testing.T) {
	s, ids := testSecret(t, 1), testIdentities()
	p, err := NewProver(rand.Reader, s, ids)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(rand.Reader, s.Record(), ids)
	if err != nil {
		t.Fatal(err)
	}
	shareP := p.Share()
	_, confirmV, err := v.Respond(shareP[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Finish(confirmV[:]); !errors.Is(err, ErrConfirm) {
		t.Errorf("confirmV as confirmP: %v", err)
	}
	if _, err := p.Finish(shareP[:], confirmV[:]); !errors.Is(err, ErrConfirm) {
		t.Errorf("shareP as shareV: %v", err)
	}
}

func TestRandomness(t *testing.T) {
	s, ids := testSecret(t, 1), testIdentities()
	for name, r := range map[string]io.Reader{
		"none":  strings.NewReader(""),
		"short": bytes.NewReader(make([]byte, 31)),
		"zeros": bytes.NewReader(make([]byte, 1<<12)),
		"ones":  bytes.NewReader(bytes.Repeat([]byte{0xff}, 1<<12)),
	} {
		if _, err := NewProver(r, s, ids); err == nil {
			t.Errorf("%s: NewProver gave no error", name)
		}
		if _, err := NewVerifier(r, s.Record(), ids); err == nil {
			t.Errorf("%s: NewVerifier gave no error", name)
		}
		if _, err := RandomRecord(r); err == nil {
			t.Errorf("%s: RandomRecord gave no error", name)
		}
	}
}

func TestNothingPrints(t *testing.T) {
	s := testSecret(t, 1)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		if got := fmt.Sprintf(verb, s); got != "[secret]" {
			t.Errorf("secret as %s: %s", verb, got)
		}
		if got := fmt.Sprintf(verb, s.Record()); got != "[record]" {
			t.Errorf("record as %s: %s", verb, got)
		}
	}
}

func FuzzRespond(f *testing.F) {
	s, ids := testSecret(f, 1), testIdentities()
	for _, b := range badShares() {
		f.Add(b)
	}
	f.Add(nistec.NewP256Point().SetGenerator().Bytes())
	f.Add(mult(&s.w0, pointM()).Bytes())
	r := s.Record()
	f.Fuzz(func(t *testing.T, share []byte) {
		v, err := NewVerifier(rand.Reader, r, ids)
		if err != nil {
			t.Fatal(err)
		}
		_, confirmV, err := v.Respond(share)
		// The curve equation itself is the oracle: y^2 = x^3 - 3x + b.
		if ok := onCurve(share) && !bytes.Equal(share, mult(&s.w0, pointM()).Bytes()); ok != (err == nil) {
			t.Fatalf("share %x: on the curve %t, error %v", share, ok, err)
		}
		if err == nil && v.Finish(confirmV[:]) == nil {
			t.Fatal("accepted its own confirmation")
		}
	})
}

func BenchmarkVerifier(b *testing.B) {
	s, ids := testSecret(b, 1), testIdentities()
	p, err := NewProver(rand.Reader, s, ids)
	if err != nil {
		b.Fatal(err)
	}
	share, r := p.Share(), s.Record()
	b.ReportAllocs()
	for b.Loop() {
		v, err := NewVerifier(rand.Reader, r, ids)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := v.Respond(share[:]); err != nil {
			b.Fatal(err)
		}
	}
}
