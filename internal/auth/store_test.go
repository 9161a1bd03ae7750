package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func reopen(t testing.TB, s *Store) *Store {
	t.Helper()
	again, err := OpenStore(s.path)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestStorePersists(t *testing.T) {
	s := testStore(t)
	generated, err := s.Add("default", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Rotate(testName, nextPassword); err != nil {
		t.Fatal(err)
	}
	again := reopen(t, s)
	if got, want := again.List(), s.List(); !slices.Equal(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	for name, passwords := range map[string][]string{testName: {testPassword, nextPassword}, "default": {generated}} {
		for _, password := range passwords {
			if o := login(t, again, name, password); o.client != nil || o.name != name {
				t.Errorf("%s: %v", name, o.client)
			}
		}
	}
	// Unknown names keep their salts too.
	_, before := s.candidates("nobody")
	if _, after := again.candidates("nobody"); before != after {
		t.Error("the salt of an unknown name changed over a restart")
	}
	if err := again.Revoke("default"); err != nil {
		t.Fatal(err)
	}
	if last := reopen(t, again); last.Has("default") || !last.Has(testName) {
		t.Error("the revocation was not written")
	}
}

func TestStoreFileMode(t *testing.T) {
	s := testStore(t)
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o666} {
		if err := os.Chmod(s.path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.path); !errors.Is(err, ErrUnsafeFile) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o400, 0o600} {
		if err := os.Chmod(s.path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.path); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if _, err := OpenStore(filepath.Dir(s.path)); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := OpenStore(filepath.Join(filepath.Dir(s.path), "none", "file")); err == nil {
		t.Error("a file in no directory was made")
	}
}

// TestStoreHasNoPassword searches the file for what must not be in it.
func TestStoreHasNoPassword(t *testing.T) {
	s := testStore(t)
	generated, err := s.Add("default", "")
	if err != nil {
		t.Fatal(err)
	}
	file := readFile(t, s.path)
	for _, secret := range []string{testPassword, generated} {
		if bytes.Contains(file, []byte(secret)) {
			t.Error("the file has a password")
		}
	}
	for _, text := range []string{fmt.Sprintf("%+v", s), fmt.Sprintf("%#v", s.state.Load()), fmt.Sprint(s.List())} {
		if strings.Contains(text, testPassword) {
			t.Error(text)
		}
	}
}

// TestStoreAtomic makes writing impossible: what was there before stays, in the
// file and in memory, and no other file is left.
func TestStoreAtomic(t *testing.T) {
	s := testStore(t)
	dir := filepath.Dir(s.path)
	before := readFile(t, s.path)
	revoked := false
	s.OnRevoke = func(string) { revoked = true }
	// A directory in the place of the file cannot be replaced by a file, even by
	// root.
	s.path = filepath.Join(dir, "in the way")
	if err := os.Mkdir(s.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if secret, err := s.Add("new", ""); err == nil || secret != "" || s.Has("new") {
		t.Errorf("Add: %q, %v", secret, err)
	}
	if secret, err := s.Rotate(testName, ""); err == nil || secret != "" || s.List()[0].Verifiers != 1 {
		t.Errorf("Rotate: %q, %v", secret, err)
	}
	if err := s.Revoke(testName); err == nil || !s.Has(testName) || revoked {
		t.Errorf("Revoke: %v", err)
	}
	if o := login(t, s, testName, testPassword); o.client != nil || o.server != nil {
		t.Errorf("login: %v, %v", o.client, o.server)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if !bytes.Equal(readFile(t, filepath.Join(dir, "credentials.json")), before) {
		t.Error("the file changed")
	}
}

// TestStoreReplaces sees that the file is replaced and not written over, so that
// a crash leaves one of the two contents whole.
func TestStoreReplaces(t *testing.T) {
	s := testStore(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Link(s.path, link); err != nil {
		t.Skip(err)
	}
	before := readFile(t, s.path)
	if err := s.Revoke(testName); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readFile(t, link), before) {
		t.Error("the old content was written over")
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestStoreErrors(t *testing.T) {
	s := testStore(t)
	var weak *WeakPasswordError
	for name, tt := range map[string]struct {
		err  error
		want error
	}{
		"Add again":          {second(s.Add(testName, "")), ErrExists},
		"Add bad name":       {second(s.Add("Bad", "")), ErrName},
		"Rotate unknown":     {second(s.Rotate("nobody", "")), ErrUnknownName},
		"Rotate to the same": {second(s.Rotate(testName, testPassword)), ErrPasswordReused},
		"DropOld unknown":    {s.DropOld("nobody"), ErrUnknownName},
		"Revoke unknown":     {s.Revoke("nobody"), ErrUnknownName},
		"DropOld of one":     {s.DropOld(testName), nil},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v", name, tt.err)
		}
	}
	if _, err := s.Add("new", "abc"); !errors.As(err, &weak) || s.Has("new") {
		t.Error(err)
	}
	if _, err := s.Rotate(testName, testName+"-2"); !errors.As(err, &weak) || s.List()[0].Verifiers != 1 {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestStoreIsBounded(t *testing.T) {
	s := emptyStore(t)
	st := s.state.Load()
	for i := range maxCredentials {
		st.credentials[fmt.Sprintf("c%d", i)] = &credential{verifiers: []*verifier{{record: s.decoy}}}
	}
	if _, err := s.Add("more", ""); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	b, err := st.marshal()
	if err != nil || len(b) > maxStoreFile/2 {
		t.Errorf("a full store takes %d bytes, %v", len(b), err)
	}
}

func TestOnRevoke(t *testing.T) {
	s := testStore(t)
	var told []string
	s.OnRevoke = func(name string) {
		told = append(told, name)
		if s.Has(name) || reopen(t, s).Has(name) {
			t.Error("told before it was done")
		}
	}
	for _, step := range []func() error{
		func() error { return second(s.Rotate(testName, "")) },
		func() error { return s.DropOld(testName) },
		func() error { return s.Revoke(testName) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Revoke(testName); !errors.Is(err, ErrUnknownName) {
		t.Error(err)
	}
	if !slices.Equal(told, []string{testName}) {
		t.Errorf("%v", told)
	}
}

func TestLastUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testStore(t)
		start := time.Now()
		if _, err := s.Rotate(testName, nextPassword); err != nil {
			t.Fatal(err)
		}
		if i := s.List()[0]; !i.LastUsed.IsZero() || !i.OldLastUsed.IsZero() || !i.Created.Equal(start) {
			t.Errorf("%+v", i)
		}
		at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
		use := func(minutes int, password string) {
			t.Helper()
			time.Sleep(time.Until(at(minutes)))
			if o := login(t, s, testName, password); o.client != nil || o.server != nil {
				t.Fatal(o.client, o.server)
			}
		}
		use(10, testPassword)
		use(20, nextPassword)
		use(30, testPassword)
		if i := s.List()[0]; !i.LastUsed.Equal(at(30)) || !i.OldLastUsed.Equal(at(30)) {
			t.Errorf("%+v", i)
		}
		// The file knows the first use of each, and whatever else was known when
		// it was last written.
		if i := reopen(t, s).List()[0]; !i.OldLastUsed.Equal(at(10)) || !i.LastUsed.Equal(at(20)) {
			t.Errorf("after a restart: %+v", i)
		}
		use(71, testPassword)
		if i := reopen(t, s).List()[0]; !i.OldLastUsed.Equal(at(71)) {
			t.Errorf("after an hour and a restart: %+v", i)
		}
	})
}

// TestStoreConcurrently is for the race detector: logins go on while the store
// changes, and the standing credential is never refused.
func TestStoreConcurrently(t *testing.T) {
	s := testStore(t)
	pw := NewPassword([]byte(testPassword))
	var g sync.WaitGroup
	for range 3 {
		g.Go(func() {
			for range 5 {
				b := testBinding()
				o := exchange(t, s, b, func(conn net.Conn) error { return Authenticate(conn, testName, pw, b) })
				if o.client != nil || o.server != nil {
					t.Error(o.client, o.server)
				}
			}
		})
	}
	g.Go(func() {
		for i := range 5 {
			name := fmt.Sprintf("other-%d", i)
			if _, err := s.Add(name, ""); err != nil {
				t.Error(err)
			}
			s.List()
			if err := s.Revoke(name); err != nil {
				t.Error(err)
			}
		}
	})
	g.Wait()
}

// storeJSON is the content of a store's file as it can be changed by a test.
func storeJSON(t testing.TB, b []byte, change func(map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func badStores(t testing.TB, good []byte) map[string][]byte {
	in := func(m map[string]any, keys ...string) map[string]any {
		for _, k := range keys {
			m = m[k].(map[string]any)
		}
		return m
	}
	verifiers := func(m map[string]any) []any { return in(m, "credentials", testName)["verifiers"].([]any) }
	out := map[string][]byte{
		"empty":         nil,
		"cut":           good[:len(good)/2],
		"not JSON":      []byte("default: hunter2\n"),
		"null":          []byte("null"),
		"array":         []byte("[]"),
		"two objects":   slices.Concat(good, good),
		"trailing text": slices.Concat(good, []byte("x")),
		"too long":      slices.Concat(good, bytes.Repeat([]byte(" "), maxStoreFile)),
	}
	for name, change := range map[string]func(map[string]any){
		"other version":   func(m map[string]any) { m["version"] = 2 },
		"no version":      func(m map[string]any) { delete(m, "version") },
		"unknown key":     func(m map[string]any) { m["more"] = 1 },
		"short secret":    func(m map[string]any) { m["secret"] = "AAAA" },
		"no secret":       func(m map[string]any) { delete(m, "secret") },
		"other algorithm": func(m map[string]any) { in(m, "kdf")["algorithm"] = "scrypt" },
		"cheap kdf":       func(m map[string]any) { in(m, "kdf")["memory_kib"] = 8 },
		"bad name":        func(m map[string]any) { in(m, "credentials")["A"] = in(m, "credentials", testName) },
		"no verifier":     func(m map[string]any) { in(m, "credentials", testName)["verifiers"] = []any{} },
		"three verifiers": func(m map[string]any) {
			v := verifiers(m)
			in(m, "credentials", testName)["verifiers"] = []any{v[0], v[0], v[0]}
		},
		"short record": func(m map[string]any) { verifiers(m)[0].(map[string]any)["record"] = "AAAA" },
		"record off curve": func(m map[string]any) {
			verifiers(m)[0].(map[string]any)["record"] = strings.Repeat("BBBB", 33)[:129] + "B=="
		},
		"bad time": func(m map[string]any) { in(m, "credentials", testName)["created"] = "yesterday" },
	} {
		out[name] = storeJSON(t, good, change)
	}
	return out
}

func TestStoreRefusesBadFiles(t *testing.T) {
	s := testStore(t)
	good := readFile(t, s.path)
	for name, content := range badStores(t, good) {
		if err := os.WriteFile(s.path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenStore(s.path); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(readFile(t, s.path), content) {
			t.Errorf("%s: the bad file was changed", name)
		}
	}
}

// FuzzParseStore sees that what is accepted is written and read again the same.
func FuzzParseStore(f *testing.F) {
	s := testStore(f)
	if _, err := s.Rotate(testName, nextPassword); err != nil {
		f.Fatal(err)
	}
	good := readFile(f, s.path)
	f.Add(good)
	for _, b := range badStores(f, good) {
		if len(b) < 1<<12 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStore(b)
		if err != nil {
			return
		}
		once, err := st.marshal()
		if err != nil {
			t.Skip(err) // a year above 9999
		}
		st, err = parseStore(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		if twice, err := st.marshal(); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s\nthen %s, %v", once, twice, err)
		}
	})
}
