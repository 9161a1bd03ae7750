package auth

import (
	"fmt"
	"io"
	"runtime/debug"
	"sync"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
	"golang.org/x/crypto/argon2"
)

// verifierID is idVerifier of every run.
const verifierID = "tunneld"

// kdf are the parameters of Argon2id.
type kdf struct {
	Time    uint32 `json:"time"`       // passes
	Memory  uint32 `json:"memory_kib"` // KiB
	Threads uint8  `json:"threads"`    // lanes
}

// defaultKDF is the second recommended option of RFC 9106 section 4 for the
// memory of a small office box.
var defaultKDF = kdf{Time: 3, Memory: 64 << 10, Threads: 4}

// Bounds of the parameters. Below the least (OWASP's for Argon2id) a server, or
// who plays it, would have the password hashed too cheaply; above the most it
// would keep the client's machine busy.
const (
	leastTime, mostTime     = 2, 10
	leastMemory, mostMemory = 19 << 10, 256 << 10
	mostThreads             = 16
)

func (k kdf) check() error {
	switch {
	case k.Time < leastTime || k.Time > mostTime:
		return fmt.Errorf("%w: %d passes of Argon2id, want %d to %d", ErrProtocol, k.Time, leastTime, mostTime)
	case k.Memory < leastMemory || k.Memory > mostMemory:
		return fmt.Errorf("%w: %d KiB for Argon2id, want %d to %d", ErrProtocol, k.Memory, leastMemory, mostMemory)
	case k.Threads < 1 || k.Threads > mostThreads:
		return fmt.Errorf("%w: %d lanes of Argon2id, want 1 to %d", ErrProtocol, k.Threads, mostThreads)
	}
	return nil
}

// derive makes w0 and w1 from the password. It takes Memory of memory and, on a
// desktop of 2025, about a tenth of a second with defaultKDF.
func derive(password []byte, name string, p params) (*spake2plus.Secret, error) {
	input := spake2plus.PBKDFInput(password, []byte(name), []byte(verifierID))
	defer clear(input)
	// A daemon derives once and then never again: what Argon2id took must not stay
	// with the process until the collector happens to look. This costs about a
	// millisecond beside a tenth of a second.
	defer debug.FreeOSMemory()
	out := argon2.IDKey(input, p.salt[:], p.kdf.Time, p.kdf.Memory, p.kdf.Threads, spake2plus.PBKDFSize)
	defer clear(out)
	return spake2plus.NewSecret(out)
}

// Password is a tunnel password on the client. It remembers what Argon2id made
// of it, so that only the first of many logins pays for that, and pays even if
// the server's deadline runs out meanwhile. The zero value is the empty password.
// It is safe for concurrent use, copies share what is remembered, and it prints
// as a placeholder.
type Password struct {
	// Behind a function, because fmt prints what a struct's unexported field is
	// or points to without asking its Format method, but of a function only the
	// address.
	state func() *passwordState
}

type passwordState struct {
	secret []byte

	mu      sync.Mutex // held during Argon2id: two at once would take twice the memory
	derived []derived  // most recent first
}

type derived struct {
	name   string
	params params
	secret *spake2plus.Secret
}

// maxDerived bounds what a Password remembers. Every salt of a credential is
// the same; another one comes from another server or from a restored store.
const maxDerived = 2

// NewPassword returns the password that the bytes are, all of them: a line
// break at the end of a file is for the caller to remove. It copies them.
func NewPassword(password []byte) *Password {
	s := &passwordState{secret: append([]byte(nil), password...)}
	return &Password{func() *passwordState { return s }}
}

// Format keeps the password out of whatever prints it.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[password]") }

// MarshalText keeps the password out of whatever encodes it.
func (Password) MarshalText() ([]byte, error) { return []byte("[password]"), nil }

func (pw *Password) derive(name string, p params) (*spake2plus.Secret, error) {
	if pw == nil || pw.state == nil {
		return derive(nil, name, p)
	}
	s := pw.state()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.derived {
		if d.name == name && d.params == p {
			return d.secret, nil
		}
	}
	secret, err := derive(s.secret, name, p)
	if err != nil {
		return nil, err
	}
	s.derived = append([]derived{{name, p, secret}}, s.derived[:min(len(s.derived), maxDerived-1)]...)
	return secret, nil
}
