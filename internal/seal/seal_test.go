package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/replay"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const connection = 0x01020304

func secret() []byte {
	s := make([]byte, SecretLen)
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

func pair(t testing.TB, suite Suite, sender Sender) (*Sealer, *Opener) {
	t.Helper()
	s, err := NewSealer(secret(), suite, sender, connection)
	if err != nil {
		t.Fatal(err)
	}
	o, err := NewOpener(secret(), suite, sender, connection)
	if err != nil {
		t.Fatal(err)
	}
	return s, o
}

// sealed returns a datagram with this plaintext.
func sealed(t testing.TB, s *Sealer, plaintext string) []byte {
	t.Helper()
	b := append(make([]byte, wire.DatagramHeaderLen, wire.MaxDatagram), plaintext...)
	d, counter, err := s.Seal(b)
	if err != nil {
		t.Fatal(err)
	}
	if counter+1 != s.Next() || len(d) != len(b)+wire.DatagramTagLen || &d[0] != &b[0] {
		t.Fatalf("counter %d, next %d, %d bytes", counter, s.Next(), len(d))
	}
	return d
}

// opens checks that a datagram, of which it takes a copy, has this plaintext and
// counter.
func opens(t testing.TB, o *Opener, d []byte, plaintext string, counter uint64) {
	t.Helper()
	got, n, err := o.Open(bytes.Clone(d))
	if err != nil || string(got) != plaintext || n != counter {
		t.Fatalf("%q, counter %d, %v; want %q, %d", got, n, err, plaintext, counter)
	}
}

func refuses(t testing.TB, o *Opener, d []byte, reason error) {
	t.Helper()
	if got, _, err := o.Open(bytes.Clone(d)); !errors.Is(err, reason) || got != nil {
		t.Fatalf("%q, %v; want %v", got, err, reason)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, suite := range []Suite{AES128GCM, ChaCha20Poly1305} {
		for _, sender := range []Sender{Client, Server} {
			s, o := pair(t, suite, sender)
			_, other := pair(t, suite, 1-sender)
			_, suited := pair(t, 3-suite, sender)
			for i, plaintext := range []string{"", "a", strings.Repeat("b", wire.MaxRecords)} {
				d := sealed(t, s, plaintext)
				refuses(t, other, d, ErrForged)  // the other direction
				refuses(t, suited, d, ErrForged) // the other cipher
				opens(t, o, d, plaintext, uint64(i))
				refuses(t, o, d, ErrReplayed)
			}
			if o.Received() != 3 || o.Highest() != 2 || o.Refused() != (Refused{Replayed: 3}) {
				t.Errorf("received %d, highest %d, refused %+v", o.Received(), o.Highest(), o.Refused())
			}
		}
	}
}

// TestEveryBit changes each bit of a datagram, and cuts it everywhere.
func TestEveryBit(t *testing.T) {
	for _, suite := range []Suite{AES128GCM, ChaCha20Poly1305} {
		s, o := pair(t, suite, Client)
		d := sealed(t, s, "some records")
		for bit := range len(d) * 8 {
			bad := bytes.Clone(d)
			bad[bit/8] ^= 1 << (bit % 8)
			_, _, err := o.Open(bad)
			want := ErrForged
			switch {
			case bit/8 == 0 && bit != 0:
				want = ErrMalformed
			case bit/8 >= 1 && bit/8 <= 4:
				want = ErrConnection
			}
			if !errors.Is(err, want) {
				t.Errorf("bit %d: %v, want %v", bit, err, want)
			}
		}
		for n := range d {
			if _, _, err := o.Open(bytes.Clone(d[:n])); err == nil {
				t.Errorf("cut at %d: taken", n)
			}
		}
		refuses(t, o, append(bytes.Clone(d), make([]byte, wire.MaxDatagram)...), ErrMalformed)
		refuses(t, o, append(bytes.Clone(d), 0), ErrForged)
		opens(t, o, d, "some records", 0)
		if r := o.Refused(); r.Connection != 32 || r.Malformed == 0 || r.Forged == 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestOrder(t *testing.T) {
	s, o := pair(t, AES128GCM, Server)
	var all [][]byte
	for range replay.Size + 2 {
		all = append(all, sealed(t, s, "x"))
	}
	opens(t, o, all[5], "x", 5)
	opens(t, o, all[2], "x", 2)
	opens(t, o, all[replay.Size+1], "x", replay.Size+1)
	refuses(t, o, all[0], ErrOld)
	refuses(t, o, all[5], ErrReplayed)
	opens(t, o, all[3], "x", 3)
	if r := o.Refused(); r != (Refused{Old: 1, Replayed: 1}) {
		t.Errorf("%+v", r)
	}
}

// TestCounter crosses the 24 bits of the header, many times.
func TestCounter(t *testing.T) {
	s, o := pair(t, AES128GCM, Client)
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		s.next += random.Uint64N(1<<23 - 1)
		s.start = s.next // else the key would be used up
		opens(t, o, sealed(t, s, "x"), "x", s.next-1)
	}
	if s.next < 10<<24 {
		t.Errorf("only came to %d", s.next)
	}
}

func TestRekey(t *testing.T) {
	for _, suite := range []Suite{AES128GCM, ChaCha20Poly1305} {
		s, o := pair(t, suite, Client)
		if ok, err := s.Rekey(); ok || err != nil {
			t.Fatalf("a key that the peer has not confirmed was left: %v, %v", ok, err)
		}
		for phase := range uint64(5) {
			var old [][]byte
			for range 4 {
				old = append(old, sealed(t, s, "old"))
			}
			base := s.Next() - 4
			opens(t, o, old[0], "old", base)
			s.Confirm(base)
			if ok, err := s.Rekey(); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if ok, _ := s.Rekey(); ok {
				t.Fatal("two phases without confirmation")
			}
			s.Confirm(base + 3) // of the phase before: confirms nothing
			if ok, _ := s.Rekey(); ok {
				t.Fatal("a confirmation of the phase before counted")
			}
			first, later := sealed(t, s, "new"), sealed(t, s, "new")
			if first[0]&1 != byte(phase+1)&1 {
				t.Fatalf("phase %d has the first byte %#x", phase+1, first[0])
			}
			opens(t, o, old[1], "old", base+1)
			opens(t, o, later, "new", base+5)
			opens(t, o, old[2], "old", base+2)
			opens(t, o, first, "new", base+4)
			opens(t, o, old[3], "old", base+3)
			refuses(t, o, old[3], ErrReplayed)
			// The key of the phase before goes when nothing of it could be taken.
			s.next += replay.Size
			opens(t, o, sealed(t, s, "new"), "new", s.next-1)
			if o.previous.aead != nil {
				t.Error("the key of the phase before is still there")
			}
			refuses(t, o, old[0], ErrOld)
		}
	}
}

func TestLimits(t *testing.T) {
	s, o := pair(t, AES128GCM, Client)
	s.next = RekeyAfter - 1
	d := sealed(t, s, "x")
	opens(t, o, d, "x", RekeyAfter-1)
	if d := sealed(t, s, "x"); d[0]&1 != 0 {
		t.Error("the next key was taken without confirmation")
	}
	s.Confirm(RekeyAfter - 1)
	d = sealed(t, s, "x")
	if d[0]&1 != 1 {
		t.Error("the next key was not taken")
	}
	opens(t, o, d, "x", RekeyAfter+1)
	s.next = s.start + MaxSealed
	if _, _, err := s.Seal(make([]byte, wire.DatagramHeaderLen, 100)); !errors.Is(err, ErrExhausted) {
		t.Errorf("%v", err)
	}
	for _, n := range []int{0, wire.DatagramHeaderLen - 1, wire.MaxDatagram - wire.DatagramTagLen + 1} {
		if _, _, err := s.Seal(make([]byte, n)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	o.refused.Forged = MaxForged
	refuses(t, o, d, ErrExhausted)
	for _, suite := range []Suite{0, 3} {
		if _, err := NewSealer(secret(), suite, Client, 1); !errors.Is(err, ErrSuite) {
			t.Errorf("suite %d: %v", suite, err)
		}
		if _, err := NewOpener(secret(), suite, Client, 1); !errors.Is(err, ErrSuite) {
			t.Errorf("suite %d: %v", suite, err)
		}
	}
	if _, err := NewSealer(secret()[1:], AES128GCM, Client, 1); err == nil {
		t.Error("a short secret was taken")
	}
	if PreferredSuite() != AES128GCM && PreferredSuite() != ChaCha20Poly1305 {
		t.Error("no suite is preferred")
	}
}

// TestMillionForged opens what was not sealed, and what was opened before.
func TestMillionForged(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 20_000
	}
	random := rand.New(rand.NewPCG(3, 3))
	s, o := pair(t, AES128GCM, Client)
	var seen [][]byte
	for range 500 {
		d := sealed(t, s, "some records of some calls")
		seen = append(seen, d)
		opens(t, o, d, "some records of some calls", s.Next()-1)
	}
	b := make([]byte, 0, wire.MaxDatagram)
	for range n {
		b = append(b[:0], seen[random.IntN(len(seen))]...)
		switch random.IntN(4) {
		case 0: // replayed
		case 1:
			b[random.IntN(len(b))] ^= byte(1 + random.IntN(255))
		case 2: // the counter of one that has not come
			b[6], b[7] = 0x70, byte(random.Uint32())
		case 3:
			for i := 5; i < len(b); i++ {
				b[i] = byte(random.Uint32())
			}
		}
		if _, _, err := o.Open(b); err == nil {
			t.Fatalf("% x was taken", b)
		}
	}
	if o.Received() != 500 || o.Highest() != 499 {
		t.Errorf("received %d, highest %d", o.Received(), o.Highest())
	}
}

// vector returns what is in testdata.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorPlaintext is a packet whose context is 0, and a probe.
var vectorPlaintext = append(append([]byte{0x00, 0x85}, "audio"...), 0xe8, 0, 0, 0, 1, 0, 0, 0, 2)

func TestVectors(t *testing.T) {
	for _, v := range []struct {
		name    string
		suite   Suite
		sender  Sender
		rekeyed bool
	}{
		{"aes-client-0", AES128GCM, Client, false},
		{"aes-client-1", AES128GCM, Client, true},
		{"chacha-server-0", ChaCha20Poly1305, Server, false},
	} {
		s, _ := pair(t, v.suite, v.sender)
		s.next = 0x0123456789
		s.start = s.next
		if v.rekeyed {
			s.confirmed = true
			if _, err := s.Rekey(); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := sealed(t, s, string(vectorPlaintext)), vector(t, v.name); !bytes.Equal(got, want) {
			t.Errorf("%s:\n%x, want\n%x", v.name, got, want)
		}
	}
}

// TestKeys derives the keys once more, from RFC 5869 alone.
func TestKeys(t *testing.T) {
	expand := func(secret []byte, info string, n int) []byte {
		mac := hmac.New(sha256.New, secret)
		mac.Write(append([]byte(info), 1))
		return mac.Sum(nil)[:n]
	}
	r, err := newRatchet(secret(), AES128GCM, Server)
	if err != nil {
		t.Fatal(err)
	}
	s := expand(secret(), "siptunnel/1 media server \x01", 32)
	for phase := range 3 {
		k, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		aead, err := newAEAD(AES128GCM, expand(s, "key", 16))
		if err != nil {
			t.Fatal(err)
		}
		nonce := make([]byte, ivLen)
		if !bytes.Equal(k.iv[:], expand(s, "iv", 12)) || !bytes.Equal(k.aead.Seal(nil, nonce, nonce, nil), aead.Seal(nil, nonce, nonce, nil)) {
			t.Errorf("phase %d has another key", phase)
		}
		s = expand(s, "next", 32)
	}
}

// FuzzOpen opens anything, and a datagram of which some bytes are changed.
func FuzzOpen(f *testing.F) {
	s, _ := pair(f, AES128GCM, Client)
	f.Add(sealed(f, s, "records"), uint16(0), byte(1))
	f.Add([]byte{8}, uint16(3), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, change byte) {
		s, o := pair(t, AES128GCM, Client)
		if len(b) <= wire.MaxRecords {
			d := sealed(t, s, string(b))
			bad := bytes.Clone(d)
			bad[int(at)%len(bad)] ^= change
			if plaintext, _, err := o.Open(bad); (err == nil) != (change == 0) || err == nil && !bytes.Equal(plaintext, b) {
				t.Fatalf("%v", err)
			}
		}
		if _, o = pair(t, AES128GCM, Server); len(b) > 0 {
			if _, _, err := o.Open(bytes.Clone(b)); err == nil {
				t.Fatal("taken")
			}
		}
	})
}

func TestNoAllocations(t *testing.T) {
	for _, suite := range []Suite{AES128GCM, ChaCha20Poly1305} {
		s, o := pair(t, suite, Client)
		b := make([]byte, wire.DatagramHeaderLen+1000, wire.MaxDatagram)
		if n := testing.AllocsPerRun(1000, func() {
			d, counter, err := s.Seal(b)
			if err != nil {
				t.Fatal(err)
			}
			s.Confirm(counter)
			if _, _, err := o.Open(d); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("suite %d: %v allocations", suite, n)
		}
	}
}

func BenchmarkSealOpen(b *testing.B) {
	for name, suite := range map[string]Suite{"AES-128-GCM": AES128GCM, "ChaCha20-Poly1305": ChaCha20Poly1305} {
		b.Run(name, func(b *testing.B) {
			s, o := pair(b, suite, Client)
			buf := make([]byte, wire.DatagramHeaderLen+7*162, wire.MaxDatagram)
			b.SetBytes(7 * 162)
			b.ReportAllocs()
			for b.Loop() {
				d, counter, err := s.Seal(buf)
				if err != nil {
					b.Fatal(err)
				}
				s.Confirm(counter)
				if _, _, err := o.Open(d); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
