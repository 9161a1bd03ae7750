package auth

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
)

// TestNextProtocol sees that both ends leave the connection at the byte after
// Accept.
func TestNextProtocol(t *testing.T) {
	s, b := testStore(t), testBinding()
	client, server := pipe(t)
	done := make(chan error, 1)
	go func() {
		err := Authenticate(client, testName, NewPassword([]byte(testPassword)), b)
		if err == nil {
			_, err = io.WriteString(client, "up")
		}
		var got [4]byte
		if err == nil {
			_, err = io.ReadFull(client, got[:])
		}
		if string(got[:]) != "down" {
			t.Errorf("the client reads %q", got)
		}
		done <- err
	}()
	if name, err := s.Verify(server, b); err != nil || name != testName {
		t.Fatalf("%q, %v", name, err)
	}
	var got [2]byte
	if _, err := io.ReadFull(server, got[:]); err != nil || string(got[:]) != "up" {
		t.Fatalf("the server reads %q, %v", got, err)
	}
	if _, err := io.WriteString(server, "down"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestExchangeVector is one exchange with fixed randomness, byte by byte.
func TestExchangeVector(t *testing.T) {
	scalars := func(first byte) io.Reader {
		return io.MultiReader(
			bytes.NewReader(bytes.Repeat([]byte{first}, 32)), bytes.NewReader(bytes.Repeat([]byte{first + 1}, 32)))
	}
	s := emptyStore(t)
	st := s.state.Load()
	for i := range st.secret {
		st.secret[i] = 0xa0 + byte(i)
	}
	if _, err := s.Add(testName, testPassword); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.decoy, err = spake2plus.RandomRecord(scalars(0x51)); err != nil {
		t.Fatal(err)
	}
	s.random = scalars(0x31)
	b := testBinding()
	o := exchange(t, s, b, func(conn net.Conn) error {
		return authenticate(conn, testName, NewPassword([]byte(testPassword)), b, scalars(0x11))
	})
	if o.client != nil || o.server != nil {
		t.Fatal(o.client, o.server)
	}
	for _, side := range []struct {
		bytes []byte
		names []string
	}{
		{o.wire.read.Bytes(), []string{"hello", "share-p", "confirm-p"}},
		{o.wire.written.Bytes(), []string{"params", "share-v", "accept"}},
	} {
		rest := side.bytes
		for _, name := range side.names {
			n := 2 + int(binary.BigEndian.Uint16(rest))
			golden(t, filepath.Join("testdata/frames", name+".hex"), rest[:n])
			rest = rest[n:]
		}
		if len(rest) != 0 {
			t.Errorf("%x follows", rest)
		}
	}
}

func TestRefusals(t *testing.T) {
	s := testStore(t)
	for _, tt := range []struct {
		name, password string
		want           Reason
	}{
		{testName, testPassword + " ", WrongPassword},
		{testName, "", WrongPassword},
		{testName + "2", testPassword, UnknownName},
		{"a", "a", UnknownName},
	} {
		o := login(t, s, tt.name, tt.password)
		var refused *RefusedError
		if !errors.As(o.server, &refused) || refused.Reason != tt.want || refused.Name != tt.name || !errors.Is(o.server, ErrRefused) {
			t.Errorf("%s: the server says %v", tt.name, o.server)
		}
		if o.name != "" || !errors.Is(o.client, ErrRefused) {
			t.Errorf("%s: %q, the client says %v", tt.name, o.name, o.client)
		}
	}
	if o := login(t, s, "Bad Name", ""); !errors.Is(o.client, ErrName) {
		t.Error(o.client)
	}
	if o := login(t, s, testName, testPassword); o.client != nil || o.server != nil || o.name != testName {
		t.Errorf("the right one: %q, %v, %v", o.name, o.client, o.server)
	}
}

// TestStubbornClient sends a wrong ConfirmP where an honest client gives up.
func TestStubbornClient(t *testing.T) {
	s := testStore(t)
	for _, name := range []string{testName, "nobody"} {
		for run := range uint8(runs) {
			conn := newScript(hello{name}.append(nil), frames(t)["share-p"], (&confirmP{run: run}).append(nil))
			if _, err := s.Verify(conn, testBinding()); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
			if !bytes.HasSuffix(conn.written.Bytes(), frames(t)["refuse-credentials"]) {
				t.Errorf("%s: the server wrote %x", name, conn.written.Bytes())
			}
		}
	}
}

// TestNoProof has clients that have read what tests their guess and do anything but
// prove it: they are refused under their name.
func TestNoProof(t *testing.T) {
	s, all := testStore(t), frames(t)
	for name, tt := range map[string]struct {
		last   []byte
		want   error
		answer string
	}{
		"leaves":         {nil, io.EOF, "refuse-credentials"},
		"leaves midway":  {all["confirm-p"][:20], io.ErrUnexpectedEOF, "refuse-credentials"},
		"sends nonsense": {all["hello"], ErrProtocol, "refuse-malformed"},
		"no such run":    {append([]byte{0, 34, 5, runs}, make([]byte, 32)...), ErrProtocol, "refuse-malformed"},
		"refuses":        {all["refuse-throttled"], ErrRefused, ""},
	} {
		for _, credential := range []string{testName, "nobody"} {
			conn := newScript(hello{credential}.append(nil), all["share-p"], tt.last)
			_, err := s.Verify(conn, Binding{})
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reason != NoProof || refused.Name != credential || !errors.Is(err, tt.want) {
				t.Errorf("%s: %v", name, err)
			}
			if throttled := (*ThrottledError)(nil); errors.As(err, &throttled) {
				t.Errorf("%s: the client throttles the server: %v", name, err)
			}
			out := conn.written.Bytes()[len(all["params"])+len(all["share-v"]):]
			if !bytes.Equal(out, all[tt.answer]) {
				t.Errorf("%s: answered %x", name, out)
			}
		}
	}
}

// TestIndistinguishable compares what the server writes for a name that exists,
// one that does not and one that is being rotated: the same but for what is
// random or the name's salt.
func TestIndistinguishable(t *testing.T) {
	s := testStore(t)
	if _, err := s.Add("rotated", testPassword); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rotate("rotated", nextPassword); err != nil {
		t.Fatal(err)
	}
	shape := func(o outcome) (out []byte) {
		for b := o.wire.written.Bytes(); len(b) > 0; {
			n := 2 + int(binary.BigEndian.Uint16(b))
			out = append(out, b[:frameHeader]...)
			switch frameType(b[2]) {
			case typeParams:
				out = append(out, b[frameHeader+saltSize:n]...)
			case typeRefuse:
				out = append(out, b[frameHeader:n]...)
			}
			b = b[n:]
		}
		return out
	}
	want := shape(login(t, s, testName, "wrong password"))
	for _, name := range []string{"rotated", "nobody", "x"} {
		if got := shape(login(t, s, name, "wrong password")); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
	// Old and new password look the same too.
	older, newer := login(t, s, "rotated", testPassword), login(t, s, "rotated", nextPassword)
	if older.client != nil || newer.client != nil || !bytes.Equal(shape(older), shape(newer)) {
		t.Errorf("%v %x, %v %x", older.client, shape(older), newer.client, shape(newer))
	}
}

// TestSaltTellsNothing sees that the salt of a name is the same before it is
// added, while it lives, after a rotation and after it is revoked.
func TestSaltTellsNothing(t *testing.T) {
	s := emptyStore(t)
	salts := map[params]bool{}
	note := func() { _, p := s.candidates(testName); salts[p] = true }
	note()
	for _, step := range []func() error{
		func() error { _, err := s.Add(testName, ""); return err },
		func() error { _, err := s.Rotate(testName, ""); return err },
		func() error { return s.DropOld(testName) },
		func() error { return s.Revoke(testName) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		note()
	}
	if len(salts) != 1 {
		t.Errorf("%d salts", len(salts))
	}
	if _, p := s.candidates("other"); salts[p] {
		t.Error("two names have one salt")
	}
	other := emptyStore(t)
	if _, p := other.candidates(testName); salts[p] {
		t.Error("two stores have one salt")
	}
}

// attempt is a failing attempt for a name, on the calling goroutine alone.
func attempt(s *Store, name string, shares []byte) error {
	conn := newScript(hello{name}.append(nil), shares, (&confirmP{}).append(nil))
	_, err := s.Verify(conn, Binding{})
	return err
}

// TestEqualWork counts what an attempt costs: the same whatever the name is.
func TestEqualWork(t *testing.T) {
	s := testStore(t)
	if _, err := s.Rotate(testName, nextPassword); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add("office-madrid", testPassword); err != nil {
		t.Fatal(err)
	}
	shares := frames(t)["share-p"]
	names := []string{testName, "office-madrid", "office-london"}
	var allocs []float64
	for _, name := range names {
		allocs = append(allocs, testing.AllocsPerRun(50, func() {
			if err := attempt(s, name, shares); !errors.Is(err, ErrRefused) {
				t.Fatal(err)
			}
		}))
	}
	if slices.Max(allocs) != slices.Min(allocs) {
		t.Errorf("allocations for %v: %v", names, allocs)
	}
	// Times are compared with much room, because the machine has other work.
	// The rounds are interleaved, so that all names meet the same conditions.
	for try := 0; ; try++ {
		times := make([][]time.Duration, len(names))
		for range 101 {
			for i, name := range names {
				start := time.Now()
				_ = attempt(s, name, shares)
				times[i] = append(times[i], time.Since(start))
			}
		}
		var medians []time.Duration
		for _, all := range times {
			slices.Sort(all)
			medians = append(medians, all[len(all)/2])
		}
		if float64(slices.Max(medians)) < 1.2*float64(slices.Min(medians)) {
			return
		}
		if try == 4 {
			t.Fatalf("medians for %v: %v", names, medians)
		}
	}
}

func TestRotation(t *testing.T) {
	s := testStore(t)
	check := func(password string, want bool) {
		t.Helper()
		o := login(t, s, testName, password)
		if got := o.client == nil && o.server == nil; got != want || (o.name == testName) != want {
			t.Errorf("%s: %v, %v", password, o.client, o.server)
		}
	}
	check(nextPassword, false)
	if _, err := s.Rotate(testName, nextPassword); err != nil {
		t.Fatal(err)
	}
	check(testPassword, true)
	check(nextPassword, true)
	third, err := s.Rotate(testName, "")
	if err != nil {
		t.Fatal(err)
	}
	check(testPassword, false)
	check(nextPassword, true)
	check(third, true)
	if err := s.DropOld(testName); err != nil {
		t.Fatal(err)
	}
	check(nextPassword, false)
	check(third, true)
	if err := s.Revoke(testName); err != nil {
		t.Fatal(err)
	}
	check(third, false)
}

// TestRevokedMeanwhile revokes while the client is at its last step.
func TestRevokedMeanwhile(t *testing.T) {
	for name, step := range map[string]func(*Store) error{
		"revoked": func(s *Store) error { return s.Revoke(testName) },
		"revoked and added": func(s *Store) error {
			if err := s.Revoke(testName); err != nil {
				return err
			}
			_, err := s.Add(testName, testPassword)
			return err
		},
		"rotated twice": func(s *Store) error {
			if _, err := s.Rotate(testName, ""); err != nil {
				return err
			}
			_, err := s.Rotate(testName, "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, b := testStore(t), testBinding()
			o := exchange(t, s, b, func(conn net.Conn) error {
				return Authenticate(&beforeWrite{conn, typeConfirmP, func() {
					if err := step(s); err != nil {
						t.Error(err)
					}
				}}, testName, NewPassword([]byte(testPassword)), b)
			})
			var refused *RefusedError
			if !errors.As(o.server, &refused) || refused.Reason != Revoked || !errors.Is(o.client, ErrRefused) {
				t.Errorf("server %v, client %v", o.server, o.client)
			}
		})
	}
}

// beforeWrite does something before a frame is written.
type beforeWrite struct {
	net.Conn
	typ frameType
	do  func()
}

func (c *beforeWrite) Write(b []byte) (int, error) {
	if frameType(b[2]) == c.typ {
		c.do()
	}
	return c.Conn.Write(b)
}

// TestBinding relays between two connections whose exporters differ.
func TestBinding(t *testing.T) {
	s, other := testStore(t), testBinding()
	other[31] ^= 1
	o := exchange(t, s, testBinding(), func(conn net.Conn) error {
		return Authenticate(conn, testName, NewPassword([]byte(testPassword)), other)
	})
	if !errors.Is(o.client, ErrRefused) || !errors.Is(o.server, ErrRefused) {
		t.Error(o.client, o.server)
	}
}

// TestTampering changes a bit of each frame on its way.
func TestTampering(t *testing.T) {
	s, b := testStore(t), testBinding()
	for typ := typeHello; typ <= typeConfirmP; typ++ {
		at := frameHeader
		if typ == typeHello {
			at += 3 // another name
		}
		flip := func(conn net.Conn) net.Conn { return &tamper{conn, typ, at} }
		client, server := pipe(t)
		done := make(chan error, 1)
		go func() {
			err := Authenticate(flip(client), testName, NewPassword([]byte(testPassword)), b)
			client.Close()
			done <- err
		}()
		name, err := s.Verify(flip(server), b)
		server.Close()
		if clientErr := <-done; err == nil || clientErr == nil || name != "" {
			t.Errorf("frame type %d changed: client %v, server %v", typ, clientErr, err)
		}
	}
}

// tamper flips the lowest bit of a byte of what is written.
type tamper struct {
	net.Conn
	typ frameType
	at  int
}

func (c *tamper) Write(b []byte) (int, error) {
	b = bytes.Clone(b)
	if frameType(b[2]) == c.typ {
		b[c.at] ^= 1
	}
	return c.Conn.Write(b)
}

func TestServerFacesGarbage(t *testing.T) {
	s := testStore(t)
	all := frames(t)
	identity := append([]byte{0, 131, 3}, make([]byte, 130)...)
	offCurve := bytes.Clone(all["share-p"])
	offCurve[len(offCurve)-1] ^= 1
	badRun := bytes.Clone(all["confirm-p"])
	badRun[frameHeader] = runs
	for name, tt := range map[string]struct {
		frames [][]byte
		want   error
		answer bool
	}{
		"nothing":             {nil, io.EOF, false},
		"cut Hello":           {[][]byte{all["hello"][:9]}, io.ErrUnexpectedEOF, false},
		"HTTP":                {[][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, ErrProtocol, true},
		"name in capitals":    {[][]byte{{0, 3, 1, 1, 'A'}}, ErrProtocol, true},
		"name too long":       {[][]byte{append([]byte{0, 66, 1, 64}, bytes.Repeat([]byte("a"), 64)...)}, ErrProtocol, true},
		"name length differs": {[][]byte{{0, 4, 1, 1, 'a', 'a'}}, ErrProtocol, true},
		"no Hello":            {[][]byte{all["share-p"]}, ErrProtocol, true},
		"Hello twice":         {[][]byte{all["hello"], all["hello"]}, ErrProtocol, true},
		"server's frame":      {[][]byte{all["accept"]}, ErrProtocol, true},
		"gone after Hello":    {[][]byte{all["hello"]}, io.EOF, false},
		"identity":            {[][]byte{all["hello"], identity}, ErrProtocol, true},
		"off the curve":       {[][]byte{all["hello"], offCurve}, ErrProtocol, true},
		"no such run":         {[][]byte{all["hello"], all["share-p"], badRun}, ErrProtocol, true},
	} {
		t.Run(name, func(t *testing.T) {
			conn := newScript(tt.frames...)
			got, err := s.Verify(conn, testBinding())
			if got != "" || !errors.Is(err, tt.want) {
				t.Errorf("%q, %v", got, err)
			}
			if answered := bytes.HasSuffix(conn.written.Bytes(), all["refuse-malformed"]); answered != tt.answer {
				t.Errorf("wrote %x", conn.written.Bytes())
			}
		})
	}
	for _, early := range [][][]byte{{all["refuse-throttled"]}, {all["hello"], all["refuse-proof"]}} {
		conn := newScript(early...)
		_, err := s.Verify(conn, testBinding())
		var refusal *Refusal
		if !errors.As(err, &refusal) || errors.Is(err, ErrRefused) {
			t.Errorf("refused by the client: %v", err)
		}
	}
	for _, b := range []byte{0, 1, 3, 7, 0xff} {
		conn := &endless{b: b}
		if _, err := s.Verify(conn, Binding{}); err == nil || conn.taken > 256 {
			t.Errorf("endless %d: read %d, %v", b, conn.taken, err)
		}
	}
}

func TestClientFacesGarbage(t *testing.T) {
	all := frames(t)
	with := func(k kdf) []byte { return params{kdf: k}.append(nil) }
	identity := append([]byte{0, 195, 4}, make([]byte, 194)...)
	pw := NewPassword([]byte(testPassword))
	for name, tt := range map[string]struct {
		frames [][]byte
		want   error
	}{
		"nothing":         {nil, io.EOF},
		"cut":             {[][]byte{all["params"][:9]}, io.ErrUnexpectedEOF},
		"SSH":             {[][]byte{[]byte("SSH-2.0-OpenSSH_10.0\r\n")}, ErrProtocol},
		"accepts at once": {[][]byte{all["accept"]}, ErrProtocol},
		"one pass":        {[][]byte{with(kdf{1, 64 << 10, 1})}, ErrProtocol},
		"many passes":     {[][]byte{with(kdf{11, 64 << 10, 1})}, ErrProtocol},
		"little memory":   {[][]byte{with(kdf{3, leastMemory - 1, 1})}, ErrProtocol},
		"much memory":     {[][]byte{with(kdf{3, mostMemory + 1, 1})}, ErrProtocol},
		"no lane":         {[][]byte{with(kdf{3, 64 << 10, 0})}, ErrProtocol},
		"many lanes":      {[][]byte{with(kdf{3, 64 << 10, 17})}, ErrProtocol},
		"refused":         {[][]byte{all["refuse-credentials"]}, ErrRefused},
		"unavailable":     {[][]byte{all["refuse-unavailable"]}, ErrUnavailable},
		"accepts ShareP":  {[][]byte{all["params"], all["accept"]}, ErrProtocol},
		"identity":        {[][]byte{all["params"], identity}, ErrProtocol},
		// The recorded answer of the true server proves nothing to a new run.
		"replay":                  {[][]byte{all["params"], all["share-v"], all["accept"]}, ErrServerProof},
		"replay, then refuses":    {[][]byte{all["params"], all["share-v"], all["refuse-credentials"]}, ErrRefused},
		"replay, then is silent":  {[][]byte{all["params"], all["share-v"]}, ErrServerProof},
		"replay, then is strange": {[][]byte{all["params"], all["share-v"], all["refuse-throttled"]}, ErrServerProof},
	} {
		t.Run(name, func(t *testing.T) {
			conn := newScript(tt.frames...)
			if err := Authenticate(conn, testName, pw, testBinding()); !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
			if bytes.Contains(conn.written.Bytes(), []byte{0, 34, byte(typeConfirmP)}) {
				t.Error("the client confirmed")
			}
		})
	}
	var throttled *ThrottledError
	if err := Authenticate(newScript(all["refuse-throttled"]), testName, pw, Binding{}); !errors.As(err, &throttled) || throttled.RetryAfter != 2*time.Minute {
		t.Error(err)
	}
	for _, b := range []byte{0, 2, 7, 0xff} {
		conn := &endless{b: b}
		if err := Authenticate(conn, testName, pw, Binding{}); !errors.Is(err, ErrProtocol) || conn.taken > 256 {
			t.Errorf("endless %d: read %d, %v", b, conn.taken, err)
		}
	}
}

// TestImpostor is a server that knows the name and its salt but no verifier.
func TestImpostor(t *testing.T) {
	true_, s := testStore(t), testStore(t)
	stolen := *s.state.Load()
	stolen.secret = true_.state.Load().secret
	record, err := spake2plus.RandomRecord(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stolen.credentials = map[string]*credential{testName: {verifiers: []*verifier{{record: record}}}}
	s.state.Store(&stolen)
	if o := login(t, s, testName, testPassword); !errors.Is(o.client, ErrRefused) || !errors.Is(o.server, ErrRefused) {
		t.Error(o.client, o.server)
	}
}

// TestSlowPeers sees that the deadline of the caller ends an exchange whose peer
// sends a byte every now and then.
func TestSlowPeers(t *testing.T) {
	s := testStore(t)
	all := frames(t)
	for name, end := range map[string]struct {
		sends []byte
		run   func(net.Conn) error
	}{
		"server": {slices.Concat(all["hello"], all["share-p"]), func(c net.Conn) error {
			_, err := s.Verify(c, Binding{})
			return err
		}},
		"client": {all["params"], func(c net.Conn) error {
			return Authenticate(c, testName, NewPassword(nil), Binding{})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				var peer sync.WaitGroup
				start := time.Now()
				if err := near.SetDeadline(start.Add(5 * time.Second)); err != nil {
					t.Fatal(err)
				}
				peer.Go(func() { _, _ = io.Copy(io.Discard, far) })
				peer.Go(func() {
					for _, b := range end.sends {
						if _, err := far.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(900 * time.Millisecond)
					}
				})
				err := end.run(near)
				if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 5*time.Second {
					t.Errorf("%v after %v", err, took)
				}
				near.Close()
				peer.Wait()
			})
		})
	}
}

// TestBrokenRandomness sees that no run is played without randomness.
func TestBrokenRandomness(t *testing.T) {
	s := testStore(t)
	s.random = bytes.NewReader(nil)
	o := login(t, s, testName, testPassword)
	if !errors.Is(o.server, ErrUnavailable) || !errors.Is(o.client, ErrUnavailable) {
		t.Error(o.server, o.client)
	}
}

// BenchmarkVerify is the server's work for one failing attempt, codec included.
func BenchmarkVerify(b *testing.B) {
	s := testStore(b)
	shares := frames(b)["share-p"]
	for _, name := range []string{testName, "nobody"} {
		b.Run(map[bool]string{true: "known", false: "unknown"}[s.Has(name)], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = attempt(s, name, shares)
			}
		})
	}
}

// BenchmarkHello is what a Hello alone costs the server.
func BenchmarkHello(b *testing.B) {
	s := testStore(b)
	frame := hello{testName}.append(nil)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Verify(newScript(frame), Binding{})
	}
}

// BenchmarkExchange is both ends of a login with a warm Password.
func BenchmarkExchange(b *testing.B) {
	s := testStore(b)
	pw := NewPassword([]byte(testPassword))
	for b.Loop() {
		client, server := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- Authenticate(client, testName, pw, Binding{}) }()
		if _, err := s.Verify(server, Binding{}); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDerive is the client's Argon2id with the parameters of a new store.
func BenchmarkDerive(b *testing.B) {
	for b.Loop() {
		if _, err := derive([]byte(testPassword), testName, params{kdf: defaultKDF}); err != nil {
			b.Fatal(err)
		}
	}
}
