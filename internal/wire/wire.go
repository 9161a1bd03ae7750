// Package wire is the codec of everything that travels inside the tunnel's
// connection once both ends have authenticated each other: the first byte of
// a stream, the frames of the control and signalling streams, and the frames
// of a media stream. PROTOCOL.md is the specification; the layout comment
// beside each type repeats it.
//
// The package knows bytes only. Parsers return a typed error that names the
// frame and the field, never panic, and alias their input: what they return
// is valid as long as the bytes given to them. Writers append to the caller's
// slice. All numbers are big endian.
//
// # Frames of the control and signalling streams
//
//	 0               1               2               3
//	+---------------+-----------------------------------------------+
//	|   type (8)    |                  length (24)                  |
//	+---------------+-----------------------------------------------+
//	|                       body (length bytes)                     |
//
// A body is exactly its fields: bytes after the last one are an error, and a
// new field is a new frame type or a new protocol version.
package wire

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"golang.org/x/crypto/cryptobyte"
)

// Constants of the protocol.
const (
	// ALPN names the protocol and its version in the TLS handshake.
	ALPN = "siptunnel/1"

	// HeaderLen is the length of a frame's header in bytes.
	HeaderLen = 4
	// MaxSIP is the largest SIP message in bytes.
	MaxSIP = 65535
	// MaxBody is the largest body of a frame in bytes: a SIP message behind its
	// phone id.
	MaxBody = 4 + MaxSIP
	// MaxKey is the largest key of a phone in bytes.
	MaxKey = 255
	// MaxState is the largest saved state of a phone in bytes.
	MaxState = 8 << 10
	// MaxText is the largest text (software, domain, reason) in bytes.
	MaxText = 255
)

// StreamType is the first byte of every stream, sent by the client, which
// opens all of them.
type StreamType uint8

const (
	StreamControl    StreamType = 1 // Attach, Attached, Refused, Bye
	StreamSignalling StreamType = 2 // counted frames and their acknowledgements
	StreamMedia      StreamType = 3 // media frames
)

// Type is the type of a frame on the control or the signalling stream.
type Type uint8

const (
	TypeAttach   Type = 0x01
	TypeAttached Type = 0x02
	TypeRefused  Type = 0x03
	TypeBye      Type = 0x04

	TypeOpenPath   Type = 0x05
	TypePathOpened Type = 0x06

	TypeAck         Type = 0x10 // the only frame of the signalling stream that is not counted
	TypeSIP         Type = 0x11
	TypeOpenPhone   Type = 0x12
	TypePhoneOpened Type = 0x13
	TypePhoneFailed Type = 0x14
	TypeClosePhone  Type = 0x15
	TypePhoneState  Type = 0x16
	TypeOpenRelay   Type = 0x17
	TypeRelayOpened Type = 0x18
	TypeRelayFailed Type = 0x19
	TypeCloseRelay  Type = 0x1a
)

var typeNames = map[Type]string{
	TypeAttach: "Attach", TypeAttached: "Attached", TypeRefused: "Refused", TypeBye: "Bye",
	TypeOpenPath: "OpenPath", TypePathOpened: "PathOpened",
	TypeAck: "Ack", TypeSIP: "SIP",
	TypeOpenPhone: "OpenPhone", TypePhoneOpened: "PhoneOpened", TypePhoneFailed: "PhoneFailed",
	TypeClosePhone: "ClosePhone", TypePhoneState: "PhoneState",
	TypeOpenRelay: "OpenRelay", TypeRelayOpened: "RelayOpened", TypeRelayFailed: "RelayFailed",
	TypeCloseRelay: "CloseRelay",
}

// String returns the frame's name as PROTOCOL.md has it.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return "type " + strconv.Itoa(int(t))
}

// Reasons of a ParseError.
var (
	ErrTruncated = errors.New("is truncated")
	ErrTrailing  = errors.New("is followed by bytes that no field explains")
	ErrTooLong   = errors.New("is longer than the protocol allows")
	ErrValue     = errors.New("has a value that the protocol does not allow")
)

// ParseError says which field of which frame broke the protocol and how.
type ParseError struct {
	Frame  string
	Field  string
	Reason error // one of the Err values above
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("wire: %s: field %s %v", e.Frame, e.Field, e.Reason)
}

// Unwrap returns the reason.
func (e *ParseError) Unwrap() error { return e.Reason }

// ReadFrame reads one frame from r into buf, which must hold at least
// HeaderLen bytes and grows when the body needs more. The body is valid until
// buf is used again; the returned buffer is to be given to the next call.
// A body longer than limit is an error before any of it is read. The error is
// io.EOF only when r ended between two frames.
func ReadFrame(r io.Reader, buf []byte, limit int) (t Type, body, next []byte, err error) {
	header := buf[:HeaderLen]
	if _, err = io.ReadFull(r, header); err != nil {
		return 0, nil, buf, err
	}
	t = Type(header[0])
	n := int(header[1])<<16 | int(header[2])<<8 | int(header[3])
	if n > limit {
		return t, nil, buf, &ParseError{t.String(), "length", ErrTooLong}
	}
	if n > len(buf) {
		buf = make([]byte, n)
	}
	if _, err = io.ReadFull(r, buf[:n]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return t, nil, buf, err
	}
	return t, buf[:n], buf, nil
}

// appendFrame appends the header of a frame and what body writes.
func appendFrame(dst []byte, t Type, body func(*cryptobyte.Builder)) []byte {
	b := cryptobyte.NewBuilder(dst)
	b.AddUint8(uint8(t))
	b.AddUint24LengthPrefixed(body)
	return b.BytesOrPanic()
}

// appendHeader appends the header of a frame whose body of n bytes follows.
func appendHeader(dst []byte, t Type, n int) []byte {
	return append(dst, byte(t), byte(n>>16), byte(n>>8), byte(n))
}

// addShort adds text behind a length of 8 bits, cut to MaxText bytes.
func addShort(b *cryptobyte.Builder, text string) {
	text = text[:min(len(text), MaxText)]
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(text)) })
}

// addAddrPort adds an address: length of the IP address (0, 4 or 16; 0 when a
// is invalid), the address, the port.
func addAddrPort(b *cryptobyte.Builder, a netip.AddrPort) {
	ip := a.Addr().Unmap().AsSlice()
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(ip) })
	b.AddUint16(a.Port())
}

// fields reads the fields of one body in order and keeps the first error, so
// that a parser is a list of its fields.
type fields struct {
	s     cryptobyte.String
	frame Type
	err   error
}

func (f *fields) fail(field string, reason error) {
	if f.err == nil {
		f.err = &ParseError{f.frame.String(), field, reason}
	}
}

func (f *fields) check(ok bool, field string) {
	if !ok {
		f.fail(field, ErrTruncated)
	}
}

func (f *fields) uint8(field string) (v uint8) {
	f.check(f.s.ReadUint8(&v), field)
	return v
}

func (f *fields) uint16(field string) (v uint16) {
	f.check(f.s.ReadUint16(&v), field)
	return v
}

func (f *fields) uint32(field string) (v uint32) {
	f.check(f.s.ReadUint32(&v), field)
	return v
}

func (f *fields) uint64(field string) (v uint64) {
	f.check(f.s.ReadUint64(&v), field)
	return v
}

func (f *fields) bool(field string) bool {
	v := f.uint8(field)
	if v > 1 {
		f.fail(field, ErrValue)
	}
	return v == 1
}

func (f *fields) copy(dst []byte, field string) {
	f.check(f.s.CopyBytes(dst), field)
}

func (f *fields) short(field string) []byte {
	var v cryptobyte.String
	f.check(f.s.ReadUint8LengthPrefixed(&v), field)
	return v
}

func (f *fields) text(field string) string { return string(f.short(field)) }

func (f *fields) addrPort(field string) netip.AddrPort {
	ip := f.short(field)
	port := f.uint16(field)
	if f.err != nil || len(ip) == 0 {
		if port != 0 {
			f.fail(field, ErrValue)
		}
		return netip.AddrPort{}
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || addr.Is4In6() {
		f.fail(field, ErrValue)
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, port)
}

// rest takes what is left, at most limit bytes.
func (f *fields) rest(limit int, field string) []byte {
	v := []byte(f.s)
	if len(v) > limit {
		f.fail(field, ErrTooLong)
		return nil
	}
	f.s = nil
	return v
}

// end returns the first error, a remainder being one.
func (f *fields) end(last string) error {
	if f.err == nil && len(f.s) > 0 {
		f.fail(last, ErrTrailing)
	}
	return f.err
}
