package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
)

// maxCredentials bounds a store.
const maxCredentials = 4096

// Store holds the credentials of a server in one file. [OpenStore] makes one. It
// is safe for concurrent use; a change is on disk before it takes effect, and has
// taken effect when the method returns.
type Store struct {
	// OnRevoke, when not nil, is called by Revoke with the name after the file
	// is written. It ends the sessions of that credential. It is set before the
	// store is used.
	OnRevoke func(name string)

	path   string
	random io.Reader
	decoy  *spake2plus.Record // plays the runs that have no verifier

	writing sync.Mutex // held by whoever makes the next state
	state   atomic.Pointer[storeState]
}

// storeState is never changed once it is in Store.state.
type storeState struct {
	secret      [32]byte // salts are made of it
	kdf         kdf      // one for all, or the parameters would tell real names from others
	credentials map[string]*credential
}

type credential struct {
	created, rotated time.Time   // rotated is zero before the first rotation
	verifiers        []*verifier // one or two, the newest first
}

// verifier keeps its identity over the states that it appears in.
type verifier struct {
	record   *spake2plus.Record
	used     atomic.Int64 // Unix seconds of the last login, 0 for none
	recorded atomic.Int64 // what the file says of it
}

// usePrecision is how exactly the file knows the time of the last login. A
// login does not wait for the disk more often than this.
const usePrecision = time.Hour

// OpenStore reads the credentials from the file path, or creates it with none in
// it. The error is ErrUnsafeFile when others than its owner may read it.
func OpenStore(path string) (*Store, error) {
	return openStore(path, rand.Reader, defaultKDF)
}

func openStore(path string, random io.Reader, k kdf) (*Store, error) {
	s := &Store{path: path, random: random}
	var err error
	if s.decoy, err = spake2plus.RandomRecord(random); err != nil {
		return nil, err
	}
	st, err := readStore(path)
	if errors.Is(err, errNoFile) {
		st = &storeState{kdf: k, credentials: map[string]*credential{}}
		if _, err := io.ReadFull(random, st.secret[:]); err != nil {
			return nil, fmt.Errorf("reading randomness: %w", err)
		}
		err = writeStore(path, st)
	}
	if err != nil {
		return nil, err
	}
	s.state.Store(st)
	return s, nil
}

// change makes the next state: f changes a copy, which takes effect once it is
// on disk.
func (s *Store) change(f func(*storeState) error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	next := *s.state.Load()
	next.credentials = maps.Clone(next.credentials)
	if err := f(&next); err != nil {
		return err
	}
	if err := writeStore(s.path, &next); err != nil {
		return err
	}
	s.state.Store(&next)
	return nil
}

// Add makes a credential and returns its password: the given one, or for "" a
// generated one of 138 bits. A weak one is refused with a *WeakPasswordError.
// It takes the time and memory of Argon2id, as Rotate does.
func (s *Store) Add(name, password string) (secret string, err error) {
	if !ValidName(name) {
		return "", ErrName
	}
	err = s.change(func(st *storeState) error {
		switch {
		case st.credentials[name] != nil:
			return ErrExists
		case len(st.credentials) >= maxCredentials:
			return ErrTooMany
		}
		v, err := s.newVerifier(st, name, password, &secret)
		if err != nil {
			return err
		}
		now := time.Now().UTC().Truncate(time.Second)
		st.credentials[name] = &credential{created: now, verifiers: []*verifier{v}}
		return nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Rotate gives a credential a new password, as Add would, and returns it. The one
// before it goes on working until the next Rotate, DropOld or Revoke; an older
// one stops. Sessions are left alone.
func (s *Store) Rotate(name, password string) (secret string, err error) {
	err = s.change(func(st *storeState) error {
		old := st.credentials[name]
		if old == nil {
			return ErrUnknownName
		}
		v, err := s.newVerifier(st, name, password, &secret)
		if err != nil {
			return err
		}
		for _, o := range old.verifiers {
			// The salt is the same, so the same password gives the same record.
			if subtle.ConstantTimeCompare(o.record.Bytes(), v.record.Bytes()) == 1 {
				return ErrPasswordReused
			}
		}
		st.credentials[name] = &credential{
			created:   old.created,
			rotated:   time.Now().UTC().Truncate(time.Second),
			verifiers: []*verifier{v, old.verifiers[0]},
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// DropOld ends the life of the password before the present one, if there is one.
// Sessions that logged in with it are left alone; to end them too, revoke the
// credential and add it anew.
func (s *Store) DropOld(name string) error {
	return s.change(func(st *storeState) error {
		old := st.credentials[name]
		if old == nil {
			return ErrUnknownName
		}
		c := *old
		c.verifiers = c.verifiers[:1:1]
		st.credentials[name] = &c
		return nil
	})
}

// Revoke removes a credential and calls OnRevoke. From its return on nobody logs
// in with it any more.
func (s *Store) Revoke(name string) error {
	err := s.change(func(st *storeState) error {
		if st.credentials[name] == nil {
			return ErrUnknownName
		}
		delete(st.credentials, name)
		return nil
	})
	if err == nil && s.OnRevoke != nil {
		s.OnRevoke(name)
	}
	return err
}

// Has tells whether there is a credential of this name.
func (s *Store) Has(name string) bool {
	return s.state.Load().credentials[name] != nil
}

// Info describes a credential. Times are UTC, in seconds; a time of last use
// may be up to an hour too old after a restart.
type Info struct {
	Name        string
	Created     time.Time
	Rotated     time.Time // of the present password; zero before any rotation
	Verifiers   int       // passwords that work: 1, or 2 after a Rotate
	LastUsed    time.Time // last login with any of them; zero for none
	OldLastUsed time.Time // last login with the older of two
}

// List describes all credentials, ordered by name.
func (s *Store) List() []Info {
	st := s.state.Load()
	list := make([]Info, 0, len(st.credentials))
	for name, c := range st.credentials {
		i := Info{Name: name, Created: c.created, Rotated: c.rotated, Verifiers: len(c.verifiers)}
		i.LastUsed = unixTime(c.verifiers[0].used.Load())
		if len(c.verifiers) > 1 {
			i.OldLastUsed = unixTime(c.verifiers[1].used.Load())
			if i.OldLastUsed.After(i.LastUsed) {
				i.LastUsed = i.OldLastUsed
			}
		}
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// newVerifier makes the verifier of a password that is not weak, and says which
// password that is.
func (s *Store) newVerifier(st *storeState, name, password string, secret *string) (*verifier, error) {
	if password == "" {
		var err error
		if password, err = generatePassword(s.random); err != nil {
			return nil, err
		}
	} else if err := checkPassword(name, password); err != nil {
		return nil, err
	}
	input := []byte(password)
	defer clear(input)
	derived, err := derive(input, name, params{st.salt(name), st.kdf})
	if err != nil {
		return nil, err
	}
	*secret = password
	return &verifier{record: derived.Record()}, nil
}

// salt is made the same way for every name. If names had salts of their own, the
// salt of a name would change when it is added or revoked, and who asked for it
// before and after would know.
func (st *storeState) salt(name string) (salt [saltSize]byte) {
	h := hmac.New(sha256.New, st.secret[:])
	h.Write([]byte("salt\x00"))
	h.Write([]byte(name))
	copy(salt[:], h.Sum(nil))
	return salt
}

// candidate is what one run is played with.
type candidate struct {
	record   *spake2plus.Record
	verifier *verifier // nil for the decoy
}

// candidates returns what the runs for a name are played with. What it does
// hardly depends on whether the name exists.
func (s *Store) candidates(name string) ([runs]candidate, params) {
	st := s.state.Load()
	var out [runs]candidate
	for i := range out {
		out[i].record = s.decoy
	}
	if c := st.credentials[name]; c != nil {
		for i, v := range c.verifiers {
			out[i] = candidate{v.record, v}
		}
	}
	return out, params{st.salt(name), st.kdf}
}

// accept tells whether v is a live verifier of name, and notes its use.
func (s *Store) accept(name string, v *verifier) bool {
	c := s.state.Load().credentials[name]
	if v == nil || c == nil || !slices.Contains(c.verifiers, v) {
		return false
	}
	now := time.Now().Unix()
	v.used.Store(now)
	if recorded := v.recorded.Load(); now-recorded >= int64(usePrecision/time.Second) &&
		v.recorded.CompareAndSwap(recorded, now) {
		// The login is valid whether or not the disk takes the time of it.
		_ = s.change(func(*storeState) error { return nil })
	}
	// Once more, because a revocation may have gone first in change.
	c = s.state.Load().credentials[name]
	return c != nil && slices.Contains(c.verifiers, v)
}
