package auth

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
	"golang.org/x/crypto/cryptobyte"
)

type frameType uint8

// Types of frames; the layouts are in the package documentation.
const (
	typeHello    frameType = 1
	typeParams   frameType = 2
	typeShareP   frameType = 3
	typeShareV   frameType = 4
	typeConfirmP frameType = 5
	typeAccept   frameType = 6
	typeRefuse   frameType = 7
)

const (
	frameHeader = 3  // length and type
	saltSize    = 16 // of the Argon2id salt
	runs        = 2  // SPAKE2+ runs per exchange
	runVSize    = spake2plus.ShareSize + spake2plus.ConfirmSize
)

// bodySizes are the least and the greatest length of a body by its type.
var bodySizes = [...]struct{ least, most int }{
	typeHello:    {2, 1 + maxName},
	typeParams:   {saltSize + 9, saltSize + 9},
	typeShareP:   {runs * spake2plus.ShareSize, runs * spake2plus.ShareSize},
	typeShareV:   {runs * runVSize, runs * runVSize},
	typeConfirmP: {1 + spake2plus.ConfirmSize, 1 + spake2plus.ConfirmSize},
	typeAccept:   {0, 0},
	typeRefuse:   {4, 4},
}

// refuseCode is the code of a Refuse.
type refuseCode uint16

const (
	codeMalformed   refuseCode = 1
	codeCredentials refuseCode = 2
	codeThrottled   refuseCode = 3
	codeProof       refuseCode = 4
	codeUnavailable refuseCode = 5
)

// Refusal is the error for a Refuse of the peer whose code has no error of its
// own here. On the server that is every code but 4 in answer to ShareV.
type Refusal struct {
	Code uint16
}

func (e *Refusal) Error() string { return fmt.Sprintf("the peer refused with code %d", e.Code) }

type hello struct{ name string }

func (h hello) append(b []byte) []byte {
	return appendFrame(b, typeHello, func(b *cryptobyte.Builder) {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(h.name)) })
	})
}

func parseHello(body []byte) (hello, error) {
	s := cryptobyte.String(body)
	var name cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&name) || !s.Empty() || !ValidName(string(name)) {
		return hello{}, fmt.Errorf("%w: bad Hello", ErrProtocol)
	}
	return hello{string(name)}, nil
}

// params are the inputs of the password's key derivation.
type params struct {
	salt [saltSize]byte
	kdf  kdf
}

func (p params) append(b []byte) []byte {
	return appendFrame(b, typeParams, func(b *cryptobyte.Builder) {
		b.AddBytes(p.salt[:])
		b.AddUint32(p.kdf.Time)
		b.AddUint32(p.kdf.Memory)
		b.AddUint8(p.kdf.Threads)
	})
}

func parseParams(body []byte) (params, error) {
	s := cryptobyte.String(body)
	var p params
	if !s.CopyBytes(p.salt[:]) || !s.ReadUint32(&p.kdf.Time) || !s.ReadUint32(&p.kdf.Memory) ||
		!s.ReadUint8(&p.kdf.Threads) || !s.Empty() {
		return params{}, fmt.Errorf("%w: bad Params", ErrProtocol)
	}
	return p, nil
}

type shareP [runs][spake2plus.ShareSize]byte

func (f *shareP) append(b []byte) []byte {
	return appendFrame(b, typeShareP, func(b *cryptobyte.Builder) {
		for i := range f {
			b.AddBytes(f[i][:])
		}
	})
}

func parseShareP(body []byte) (shareP, error) {
	s := cryptobyte.String(body)
	var f shareP
	for i := range f {
		if !s.CopyBytes(f[i][:]) {
			return shareP{}, fmt.Errorf("%w: bad ShareP", ErrProtocol)
		}
	}
	if !s.Empty() {
		return shareP{}, fmt.Errorf("%w: bad ShareP", ErrProtocol)
	}
	return f, nil
}

// runV is what the verifier says in one run.
type runV struct {
	share   [spake2plus.ShareSize]byte
	confirm [spake2plus.ConfirmSize]byte
}

type shareV [runs]runV

func (f *shareV) append(b []byte) []byte {
	return appendFrame(b, typeShareV, func(b *cryptobyte.Builder) {
		for i := range f {
			b.AddBytes(f[i].share[:])
			b.AddBytes(f[i].confirm[:])
		}
	})
}

func parseShareV(body []byte) (shareV, error) {
	s := cryptobyte.String(body)
	var f shareV
	for i := range f {
		if !s.CopyBytes(f[i].share[:]) || !s.CopyBytes(f[i].confirm[:]) {
			return shareV{}, fmt.Errorf("%w: bad ShareV", ErrProtocol)
		}
	}
	if !s.Empty() {
		return shareV{}, fmt.Errorf("%w: bad ShareV", ErrProtocol)
	}
	return f, nil
}

type confirmP struct {
	run     uint8
	confirm [spake2plus.ConfirmSize]byte
}

func (f *confirmP) append(b []byte) []byte {
	return appendFrame(b, typeConfirmP, func(b *cryptobyte.Builder) {
		b.AddUint8(f.run)
		b.AddBytes(f.confirm[:])
	})
}

func parseConfirmP(body []byte) (confirmP, error) {
	s := cryptobyte.String(body)
	var f confirmP
	if !s.ReadUint8(&f.run) || f.run >= runs || !s.CopyBytes(f.confirm[:]) || !s.Empty() {
		return confirmP{}, fmt.Errorf("%w: bad ConfirmP", ErrProtocol)
	}
	return f, nil
}

func appendAccept(b []byte) []byte {
	return appendFrame(b, typeAccept, func(*cryptobyte.Builder) {})
}

type refuse struct {
	code       refuseCode
	retryAfter uint16 // seconds
}

func (f refuse) append(b []byte) []byte {
	return appendFrame(b, typeRefuse, func(b *cryptobyte.Builder) {
		b.AddUint16(uint16(f.code))
		b.AddUint16(f.retryAfter)
	})
}

func parseRefuse(body []byte) (refuse, error) {
	s := cryptobyte.String(body)
	var f refuse
	if !s.ReadUint16((*uint16)(&f.code)) || !s.ReadUint16(&f.retryAfter) || !s.Empty() {
		return refuse{}, fmt.Errorf("%w: bad Refuse", ErrProtocol)
	}
	return f, nil
}

// err is what a received Refuse means to the end that received it.
func (f refuse) err() error {
	switch f.code {
	case codeMalformed:
		return fmt.Errorf("%w: it says that this end does not", ErrProtocol)
	case codeCredentials:
		return ErrRefused
	case codeThrottled:
		wait := time.Duration(f.retryAfter) * time.Second
		return &ThrottledError{RetryAfter: min(max(wait, time.Second), MaxRetryAfter)}
	case codeUnavailable:
		return ErrUnavailable
	default:
		return &Refusal{Code: uint16(f.code)}
	}
}

func appendFrame(b []byte, t frameType, body cryptobyte.BuilderContinuation) []byte {
	w := cryptobyte.NewBuilder(b)
	w.AddUint16LengthPrefixed(func(w *cryptobyte.Builder) {
		w.AddUint8(uint8(t))
		body(w)
	})
	return w.BytesOrPanic() // no body is near 64 KiB
}

// readFrame reads one frame, whose type is want, and returns it whole; its body
// begins at frameHeader. A Refuse in its place is returned as the error that it
// means. Nothing is read beyond the frame, and of a frame that is out of turn
// nothing beyond its header.
func readFrame(r io.Reader, want frameType) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, fmt.Errorf("waiting for frame type %d: %w", want, err)
	}
	size := int(header[0])<<8 + int(header[1]) - 1
	t := frameType(header[2])
	if t != want && t != typeRefuse {
		return nil, fmt.Errorf("%w: frame type %d where %d is due", ErrProtocol, t, want)
	}
	if limits := bodySizes[t]; size < limits.least || size > limits.most {
		return nil, fmt.Errorf("%w: body of %d bytes in frame type %d", ErrProtocol, size, t)
	}
	frame := append(make([]byte, 0, frameHeader+size), header[:]...)[:frameHeader+size]
	if _, err := io.ReadFull(r, frame[frameHeader:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading frame type %d: %w", t, err)
	}
	if t == typeRefuse {
		f, err := parseRefuse(frame[frameHeader:])
		if err != nil {
			return nil, err
		}
		return nil, &refusedBy{f}
	}
	return frame, nil
}

// refusedBy carries a received Refuse to the code that knows what it means there.
type refusedBy struct{ refuse }

func (e *refusedBy) Error() string { return e.err().Error() }
func (e *refusedBy) Unwrap() error { return e.err() }

// writeFrame writes a whole frame with one call.
func writeFrame(w io.Writer, frame []byte) error {
	if _, err := w.Write(frame); err != nil {
		return fmt.Errorf("writing frame type %d: %w", frame[2], err)
	}
	return nil
}

// RefuseThrottled answers a connection that [Throttle.Begin] refused with e. It
// reads the client's Hello first: closing a TCP connection with unread data
// would throw away the answer. The caller has set a deadline, and closes conn
// afterwards.
func RefuseThrottled(conn io.ReadWriter, e *ThrottledError) error {
	if _, err := readFrame(conn, typeHello); err != nil {
		return err
	}
	seconds := min(max(e.RetryAfter/time.Second, 1), math.MaxUint16)
	return writeFrame(conn, refuse{codeThrottled, uint16(seconds)}.append(nil))
}
