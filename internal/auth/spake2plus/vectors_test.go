package spake2plus

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/nistec"
)

type vector map[string]string

func (v vector) bytes(t testing.TB, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[key])
	if err != nil || len(b) == 0 {
		t.Fatalf("vector value %s: %q", key, v[key])
	}
	return b
}

// check compares with a value of the vector; a value that it lacks is skipped.
func (v vector) check(t *testing.T, key string, got []byte) {
	t.Helper()
	if want, ok := v[key]; ok && hex.EncodeToString(got) != want {
		t.Errorf("%s\n got %x\nwant %s", key, got, want)
	}
}

func (v vector) identities() Identities {
	return Identities{
		Context:  []byte(v["context"]),
		Prover:   []byte(v["idProver"]),
		Verifier: []byte(v["idVerifier"]),
	}
}

// secret makes a Secret whose halves are the vector's w0 and w1.
func (v vector) secret(t testing.TB) *Secret {
	t.Helper()
	pbkdf := make([]byte, 0, PBKDFSize)
	for _, key := range []string{"w0", "w1"} {
		pbkdf = append(pbkdf, make([]byte, wideSize-32)...)
		pbkdf = append(pbkdf, v.bytes(t, key)...)
	}
	s, err := NewSecret(pbkdf)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readVector(t testing.TB, path string) vector {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v := vector{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, ": ")
		if _, again := v[key]; !ok || again {
			t.Fatalf("%s: bad line %q", path, line)
		}
		v[key] = value
	}
	return v
}

const ownSuite = "testdata/rfc9383/p256-sha256-hkdf-sha256-hmac-sha256.txt"

// TestRFC9383 runs both sides with the ephemeral values of the vectors and
// compares every value that the run makes on its way.
func TestRFC9383(t *testing.T) {
	v := readVector(t, ownSuite)
	s, ids := v.secret(t), v.identities()
	v.check(t, "L", s.Record().l.Bytes())
	p, err := NewProver(bytes.NewReader(v.bytes(t, "x")), s, ids)
	if err != nil {
		t.Fatal(err)
	}
	shareP := p.Share()
	v.check(t, "shareP", shareP[:])
	r, err := ParseRecord(s.Record().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	ver, err := NewVerifier(bytes.NewReader(v.bytes(t, "y")), r, ids)
	if err != nil {
		t.Fatal(err)
	}
	shareV, confirmV, err := ver.Respond(shareP[:])
	if err != nil {
		t.Fatal(err)
	}
	v.check(t, "shareV", shareV[:])
	v.check(t, "confirmV", confirmV[:])
	confirmP, err := p.Finish(shareV[:], confirmV[:])
	if err != nil {
		t.Fatal(err)
	}
	v.check(t, "confirmP", confirmP[:])
	if err := ver.Finish(confirmP[:]); err != nil {
		t.Fatal(err)
	}

	tt := v.transcript(t)
	v.check(t, "TT", tt)
	k, err := newKeys(tt)
	if err != nil {
		t.Fatal(err)
	}
	v.check(t, "K_main", k.main)
	v.check(t, "K_confirmP", k.confirmP)
	v.check(t, "K_confirmV", k.confirmV)
}

// transcript makes TT from the vector's own Z and V, or else from those that
// its scalars give.
func (v vector) transcript(t *testing.T) []byte {
	t.Helper()
	s, ids := v.secret(t), v.identities()
	shareP, shareV := v.bytes(t, "shareP"), v.bytes(t, "shareV")
	x := scalar(v.bytes(t, "x"))
	Y, err := parseShare(shareV)
	if err != nil {
		t.Fatal(err)
	}
	w0N := mult(&s.w0, pointN())
	yP := sum(Y, w0N.Negate(w0N))
	Z, V := mult(&x, yP), mult(&s.w1, yP)
	for key, p := range map[string]*nistec.P256Point{"Z": Z, "V": V} {
		v.check(t, key, p.Bytes())
	}
	return transcript(&ids, shareP, shareV, Z, V, &s.w0)
}

// TestRFC9383KeySchedule compares the group arithmetic and the transcript with
// all vectors for P-256, whatever their hash: the key schedule is made here with
// the vector's hash, apart from the package's.
func TestRFC9383KeySchedule(t *testing.T) {
	files, err := filepath.Glob("testdata/rfc9383/*.txt")
	if err != nil || len(files) != 2 {
		t.Fatalf("vectors: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			v := readVector(t, file)
			newHash := map[string]func() hash.Hash{"SHA256": sha256.New, "SHA512": sha512.New}[v["hash"]]
			h := newHash()
			h.Write(v.transcript(t))
			main := h.Sum(nil)
			expand := func(info string, n int) []byte {
				b, err := hkdf.Key(newHash, main, nil, info, n)
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			sign := func(key, message []byte) []byte {
				m := hmac.New(newHash, key)
				m.Write(message)
				return m.Sum(nil)
			}
			n := h.Size()
			confirm := expand("ConfirmationKeys", 2*n)
			v.check(t, "K_main", main)
			v.check(t, "K_confirmP", confirm[:n])
			v.check(t, "K_confirmV", confirm[n:])
			v.check(t, "confirmP", sign(confirm[:n], v.bytes(t, "shareV")))
			v.check(t, "confirmV", sign(confirm[n:], v.bytes(t, "shareP")))
			v.check(t, "K_shared", expand("SharedKey", n))
		})
	}
}

// TestConstants decodes M and N from the compressed form that RFC 9383 section 4
// prints.
func TestConstants(t *testing.T) {
	for compressed, encoded := range map[string]string{
		"02886e2f97ace46e55ba9dd7242579f2993b64e16ef3dcab95afd497333d8fa12f": encodedM,
		"03d8bbd6c639c62937b04d997f38c3770719c629d7014d49a24b4f98baa1292b49": encodedN,
	} {
		b, err := hex.DecodeString(compressed)
		if err != nil {
			t.Fatal(err)
		}
		p, err := nistec.NewP256Point().SetBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		if string(p.Bytes()) != encoded {
			t.Errorf("%s decodes to %x, the constant is %x", compressed, p.Bytes(), encoded)
		}
	}
}
