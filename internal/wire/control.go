package wire

import (
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// SessionID names a session. The zero value asks for a new one.
type SessionID [16]byte

// MaxControl is the largest body of a frame on the control stream in bytes.
const MaxControl = 2 << 10

// Attach is the first frame of a connection. It asks for a new session
// (Session is zero) or to carry on an old one.
//
//	session 16 | epoch 64 | proof 32 bytes | received 64 | software 8+n
type Attach struct {
	Session SessionID
	// Epoch counts the attempts to attach to the session. It must be larger
	// than that of every earlier attempt, so that a late connection cannot
	// take the session from a newer one. 1 for a new session.
	Epoch uint64
	// Proof shows knowledge of the session's secret, bound to this
	// connection. Zero for a new session.
	Proof [32]byte
	// Received is the number of counted frames that the client has received
	// in this session.
	Received uint64
	Software string
}

// Append appends the frame to dst.
func (m Attach) Append(dst []byte) []byte {
	return appendFrame(dst, TypeAttach, func(b *cryptobyte.Builder) {
		b.AddBytes(m.Session[:])
		b.AddUint64(m.Epoch)
		b.AddBytes(m.Proof[:])
		b.AddUint64(m.Received)
		addShort(b, m.Software)
	})
}

// ParseAttach parses the body of an Attach.
func ParseAttach(body []byte) (m Attach, err error) {
	f := fields{s: body, frame: TypeAttach}
	f.copy(m.Session[:], "session")
	m.Epoch = f.uint64("epoch")
	f.copy(m.Proof[:], "proof")
	m.Received = f.uint64("received")
	m.Software = f.text("software")
	return m, f.end("software")
}

// Attached answers Attach: the connection carries the session from here on.
//
//	session 16 bytes | secret 32 bytes | epoch 64 | resumed 8 | grace 16 | received 64
//	| max phones 16 | max relays 16 | PBX 8+n, 16 | domain 8+n | software 8+n
type Attached struct {
	Session SessionID
	Secret  [32]byte // key of the proofs of later attachments
	Epoch   uint64   // that of the Attach
	// Resumed is false when the session is a new one, whatever was asked for.
	Resumed bool
	// Grace is how many seconds the session outlives its connection.
	Grace uint16
	// Received is the number of counted frames that the server has received.
	Received  uint64
	MaxPhones uint16
	MaxRelays uint16
	PBX       netip.AddrPort
	Domain    string
	Software  string
}

// Append appends the frame to dst.
func (m Attached) Append(dst []byte) []byte {
	return appendFrame(dst, TypeAttached, func(b *cryptobyte.Builder) {
		b.AddBytes(m.Session[:])
		b.AddBytes(m.Secret[:])
		b.AddUint64(m.Epoch)
		var resumed uint8
		if m.Resumed {
			resumed = 1
		}
		b.AddUint8(resumed)
		b.AddUint16(m.Grace)
		b.AddUint64(m.Received)
		b.AddUint16(m.MaxPhones)
		b.AddUint16(m.MaxRelays)
		addAddrPort(b, m.PBX)
		addShort(b, m.Domain)
		addShort(b, m.Software)
	})
}

// ParseAttached parses the body of an Attached.
func ParseAttached(body []byte) (m Attached, err error) {
	f := fields{s: body, frame: TypeAttached}
	f.copy(m.Session[:], "session")
	f.copy(m.Secret[:], "secret")
	m.Epoch = f.uint64("epoch")
	m.Resumed = f.bool("resumed")
	m.Grace = f.uint16("grace")
	m.Received = f.uint64("received")
	m.MaxPhones = f.uint16("max phones")
	m.MaxRelays = f.uint16("max relays")
	m.PBX = f.addrPort("pbx")
	m.Domain = f.text("domain")
	m.Software = f.text("software")
	return m, f.end("software")
}

// Code says why something was refused or ended.
type Code uint16

// The codes of Refused, Bye, PhoneFailed and RelayFailed.
const (
	CodeNone        Code = 0
	CodeShutdown    Code = 1  // the program stops
	CodeRevoked     Code = 2  // the credential is no longer valid
	CodeFenced      Code = 3  // a newer connection carries the session
	CodeOverflow    Code = 4  // more unacknowledged signalling than the session keeps
	CodeProtocol    Code = 5  // the peer broke the protocol
	CodeLimit       Code = 6  // a limit of the server is reached
	CodeUnavailable Code = 7  // the server could not do it (no free port, for one)
	CodeDuplicate   Code = 8  // the id or the key is in use in this session
	CodeStale       Code = 9  // Attach with an epoch that is not newer
	CodeAdmin       Code = 10 // ended by the admin
)

var codeNames = map[Code]string{
	CodeNone: "no reason given", CodeShutdown: "it is stopping",
	CodeRevoked: "the credential was revoked", CodeFenced: "a newer connection took the session over",
	CodeOverflow: "too much unacknowledged signalling", CodeProtocol: "protocol error",
	CodeLimit: "a limit of the server is reached", CodeUnavailable: "not available",
	CodeDuplicate: "already in use in this session", CodeStale: "an older connection came too late",
	CodeAdmin: "ended by the admin",
}

// String returns the code in words.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return "unknown reason"
}

// Refused answers Attach when the connection is not to carry a session. The
// connection closes behind it.
//
//	code 16 | retry after 16 | text 8+n
type Refused Bye

// Append appends the frame to dst.
func (m Refused) Append(dst []byte) []byte { return Bye(m).append(dst, TypeRefused) }

// ParseRefused parses the body of a Refused.
func ParseRefused(body []byte) (Refused, error) {
	m, err := parseBye(body, TypeRefused)
	return Refused(m), err
}

// Bye ends the session, from either side. The connection closes behind it.
//
//	code 16 | retry after 16 | text 8+n
type Bye struct {
	Code Code
	// RetryAfter is how many seconds a client should wait before it connects
	// again. 0: as it likes.
	RetryAfter uint16
	Text       string
}

// Append appends the frame to dst.
func (m Bye) Append(dst []byte) []byte { return m.append(dst, TypeBye) }

func (m Bye) append(dst []byte, t Type) []byte {
	return appendFrame(dst, t, func(b *cryptobyte.Builder) {
		b.AddUint16(uint16(m.Code))
		b.AddUint16(m.RetryAfter)
		addShort(b, m.Text)
	})
}

// ParseBye parses the body of a Bye.
func ParseBye(body []byte) (Bye, error) { return parseBye(body, TypeBye) }

func parseBye(body []byte, t Type) (m Bye, err error) {
	f := fields{s: body, frame: t}
	m.Code = Code(f.uint16("code"))
	m.RetryAfter = f.uint16("retry after")
	m.Text = f.text("text")
	return m, f.end("text")
}
