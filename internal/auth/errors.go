package auth

import (
	"errors"
	"fmt"
	"time"
)

// Errors of an exchange.
var (
	// ErrRefused says that the server does not take the name and the password;
	// it does not tell which of them is wrong.
	ErrRefused = errors.New("the server does not accept this name and password: check both, or ask its administrator for a new join link")
	// ErrServerProof says that the peer could not prove that it knows the
	// password and did not claim that the password is wrong either.
	ErrServerProof = errors.New("the peer did not prove that it is the server of this password: check the server's address")
	// ErrProtocol says that the peer sent something other than this protocol.
	ErrProtocol = errors.New("the peer does not follow the authentication protocol")
	// ErrUnavailable says that the server has a fault of its own.
	ErrUnavailable = errors.New("the server cannot authenticate anyone just now: see its log")
	// ErrTooManyStartups says that too many connections are waiting for their
	// authentication: close the new one without a word.
	ErrTooManyStartups = errors.New("too many connections that have not authenticated yet")
)

// Errors of a Store.
var (
	// ErrName says that a name is not one of a credential.
	ErrName = errors.New("a credential's name is 1 to 63 of the characters a-z 0-9 . _ - and begins with a letter or digit")
	// ErrExists says that the credential to add exists.
	ErrExists = errors.New("the credential exists: rotate it, or revoke it first")
	// ErrUnknownName says that there is no such credential.
	ErrUnknownName = errors.New("there is no credential of this name")
	// ErrPasswordReused says that the new password is one of the present ones.
	ErrPasswordReused = errors.New("the new password is a present one")
	// ErrTooMany says that the store is full.
	ErrTooMany = fmt.Errorf("no more than %d credentials: revoke some", maxCredentials)
	// ErrUnsafeFile says that others than the owner may read the store.
	ErrUnsafeFile = errors.New("others may read the credential file: make it chmod 600")
)

// MaxRetryAfter is the longest wait that a ThrottledError made from a peer's
// Refuse has. Without a limit one forged frame could keep an office away for
// hours.
const MaxRetryAfter = 5 * time.Minute

// ThrottledError says that the source of a connection failed too often lately.
// On the server it asks for [RefuseThrottled], on the client it is the answer to it.
type ThrottledError struct {
	RetryAfter time.Duration // whole seconds, at least one
}

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("too many failed attempts from this address: wait %v", e.RetryAfter)
}

// Reason tells the server why it refused somebody; it never crosses the wire.
type Reason string

// Reasons, in the form that counters and logs use.
const (
	WrongPassword Reason = "wrong_password"
	UnknownName   Reason = "unknown_name"
	Revoked       Reason = "revoked" // while the attempt was under way
	// NoProof is that of a client that fell silent, left or sent nonsense when it
	// was to prove itself. It has what it needs to know whether a guess was right,
	// so this is how a guesser leaves who does not want to be seen.
	NoProof Reason = "no_proof"
)

// RefusedError is what [Store.Verify] returns for an attempt that was answered and
// came to nothing. It is an ErrRefused.
type RefusedError struct {
	Name   string // what the client called itself; a valid name
	Reason Reason
	err    error // what went wrong instead of the proof, for NoProof
}

func (e *RefusedError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("refused %s: %s: %v", e.Name, e.Reason, e.err)
	}
	return fmt.Sprintf("refused %s: %s", e.Name, e.Reason)
}

// Unwrap returns what went wrong instead of the proof.
func (e *RefusedError) Unwrap() error { return e.err }

// Is makes every RefusedError an ErrRefused.
func (*RefusedError) Is(target error) bool { return target == ErrRefused }

// maxName is the longest name of a credential.
const maxName = 63

// ValidName tells whether name can be that of a credential:
// [a-z0-9][a-z0-9._-]{0,62}.
func ValidName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}
