package auth

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// testKDF is the cheapest that a client accepts.
var testKDF = kdf{Time: leastTime, Memory: leastMemory, Threads: 1}

const (
	testName     = "office-berlin"
	testPassword = "kestrel mobile 77 ladder"
	nextPassword = "violet crane under 31 hats"
)

func testBinding() (b Binding) {
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func emptyStore(t testing.TB) *Store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "credentials.json"), rand.Reader, testKDF)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testStore has one credential, testName with testPassword.
func testStore(t testing.TB) *Store {
	t.Helper()
	s := emptyStore(t)
	if _, err := s.Add(testName, testPassword); err != nil {
		t.Fatal(err)
	}
	return s
}

// recorder keeps what went through a connection.
type recorder struct {
	net.Conn
	mu            sync.Mutex
	read, written bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.Conn.Write(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written.Write(b[:n])
	return n, err
}

// pipe returns the ends of a connection that is closed when the test is over.
func pipe(t testing.TB) (client, server net.Conn) {
	t.Helper()
	client, server = net.Pipe()
	deadline := time.Now().Add(30 * time.Second)
	for _, c := range []net.Conn{client, server} {
		if err := c.SetDeadline(deadline); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	return client, server
}

// outcome is what both ends of an exchange returned.
type outcome struct {
	name           string
	client, server error
	wire           *recorder // the server's end
}

// login plays a client against a store.
func login(t testing.TB, s *Store, name, password string) outcome {
	t.Helper()
	b := testBinding()
	return exchange(t, s, b, func(conn net.Conn) error {
		return Authenticate(conn, name, NewPassword([]byte(password)), b)
	})
}

// exchange plays any client against a store.
func exchange(t testing.TB, s *Store, b Binding, client func(net.Conn) error) outcome {
	t.Helper()
	near, far := pipe(t)
	o := outcome{wire: &recorder{Conn: far}}
	done := make(chan error, 1)
	go func() {
		err := client(near)
		near.Close()
		done <- err
	}()
	o.name, o.server = s.Verify(o.wire, b)
	if o.server != nil {
		far.Close()
	}
	o.client = <-done
	return o
}

// script is a peer whose frames are known beforehand, for a single goroutine.
type script struct {
	io.Reader
	written bytes.Buffer
}

func (s *script) Write(b []byte) (int, error) { return s.written.Write(b) }

func newScript(frames ...[]byte) *script {
	return &script{Reader: bytes.NewReader(bytes.Join(frames, nil))}
}

// endless gives a byte for ever and counts how much was taken.
type endless struct {
	b     byte
	taken int
}

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = e.b
	}
	e.taken += len(b)
	return len(b), nil
}

func (*endless) Write(b []byte) (int, error) { return len(b), nil }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
