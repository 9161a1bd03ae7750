package wire

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/crypto/cryptobyte"
)

// Ack says how many counted frames its sender has received in the session.
// It is not counted itself.
//
//	received 64
type Ack struct{ Received uint64 }

// Append appends the frame to dst.
func (m Ack) Append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(appendHeader(dst, TypeAck, 8), m.Received)
}

// ParseAck parses the body of an Ack.
func ParseAck(body []byte) (m Ack, err error) {
	f := fields{s: body, frame: TypeAck}
	m.Received = f.uint64("received")
	return m, f.end("received")
}

// SIP carries one SIP message of one phone, either way.
//
//	phone 32 | message (the rest, 1 to 65,535 bytes)
type SIP struct {
	Phone   uint32
	Message []byte
}

// Append appends the frame to dst. The message must have at most MaxSIP bytes.
func (m SIP) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(appendHeader(dst, TypeSIP, 4+len(m.Message)), m.Phone)
	return append(dst, m.Message...)
}

// ParseSIP parses the body of a SIP. Message aliases body.
func ParseSIP(body []byte) (m SIP, err error) {
	f := fields{s: body, frame: TypeSIP}
	m.Phone = f.uint32("phone")
	m.Message = f.rest(MaxSIP, "message")
	if len(m.Message) == 0 {
		f.fail("message", ErrTruncated)
	}
	return m, f.end("message")
}

// OpenPhone asks for a place beside the PBX for one phone. Phone is chosen by
// the client and never used again in the session. The same key gets the same
// port again wherever possible.
//
//	phone 32 | key 8+n | state (the rest, at most 8 KiB)
type OpenPhone struct {
	Phone uint32
	Key   string
	State []byte // what PhoneState last brought for this key; may be empty
}

// Append appends the frame to dst. Key and State must be within MaxKey and
// MaxState.
func (m OpenPhone) Append(dst []byte) []byte {
	return appendFrame(dst, TypeOpenPhone, func(b *cryptobyte.Builder) {
		b.AddUint32(m.Phone)
		addShort(b, m.Key)
		b.AddBytes(m.State)
	})
}

// ParseOpenPhone parses the body of an OpenPhone. State aliases body.
func ParseOpenPhone(body []byte) (m OpenPhone, err error) {
	f := fields{s: body, frame: TypeOpenPhone}
	m.Phone = f.uint32("phone")
	m.Key = f.text("key")
	m.State = f.rest(MaxState, "state")
	if m.Key == "" {
		f.fail("key", ErrValue)
	}
	return m, f.end("state")
}

// PhoneOpened answers OpenPhone with the phone's address beside the PBX.
//
//	phone 32 | address 8+n, 16
type PhoneOpened struct {
	Phone uint32
	Addr  netip.AddrPort
}

// Append appends the frame to dst.
func (m PhoneOpened) Append(dst []byte) []byte {
	return appendOpened(dst, TypePhoneOpened, m.Phone, m.Addr)
}

// ParsePhoneOpened parses the body of a PhoneOpened.
func ParsePhoneOpened(body []byte) (m PhoneOpened, err error) {
	m.Phone, m.Addr, err = parseOpened(body, TypePhoneOpened, "phone")
	return m, err
}

// PhoneFailed answers OpenPhone when there is no place for the phone.
//
//	phone 32 | code 16 | text 8+n
type PhoneFailed struct {
	Phone uint32
	Code  Code
	Text  string
}

// Append appends the frame to dst.
func (m PhoneFailed) Append(dst []byte) []byte {
	return appendFailed(dst, TypePhoneFailed, m.Phone, m.Code, m.Text)
}

// ParsePhoneFailed parses the body of a PhoneFailed.
func ParsePhoneFailed(body []byte) (m PhoneFailed, err error) {
	m.Phone, m.Code, m.Text, err = parseFailed(body, TypePhoneFailed, "phone")
	return m, err
}

// ClosePhone gives the phone's place up. It has no answer.
//
//	phone 32
type ClosePhone struct{ Phone uint32 }

// Append appends the frame to dst.
func (m ClosePhone) Append(dst []byte) []byte { return appendID(dst, TypeClosePhone, m.Phone) }

// ParseClosePhone parses the body of a ClosePhone.
func ParseClosePhone(body []byte) (m ClosePhone, err error) {
	m.Phone, err = parseID(body, TypeClosePhone, "phone")
	return m, err
}

// PhoneState is what the server wants to find in OpenPhone should the phone
// have to be opened in another session. Only the last one counts.
//
//	phone 32 | state (the rest, at most 8 KiB)
type PhoneState struct {
	Phone uint32
	State []byte
}

// Append appends the frame to dst. State must be within MaxState.
func (m PhoneState) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(appendHeader(dst, TypePhoneState, 4+len(m.State)), m.Phone)
	return append(dst, m.State...)
}

// ParsePhoneState parses the body of a PhoneState. State aliases body.
func ParsePhoneState(body []byte) (m PhoneState, err error) {
	f := fields{s: body, frame: TypePhoneState}
	m.Phone = f.uint32("phone")
	m.State = f.rest(MaxState, "state")
	return m, f.end("state")
}

// OpenRelay asks for a media relay beside the PBX. Channel is chosen by the
// client and never used again in the session.
//
//	channel 32
type OpenRelay struct{ Channel uint32 }

// Append appends the frame to dst.
func (m OpenRelay) Append(dst []byte) []byte { return appendID(dst, TypeOpenRelay, m.Channel) }

// ParseOpenRelay parses the body of an OpenRelay.
func ParseOpenRelay(body []byte) (m OpenRelay, err error) {
	m.Channel, err = parseID(body, TypeOpenRelay, "channel")
	return m, err
}

// RelayOpened answers OpenRelay with the RTP address of the relay. RTCP is on
// the next port.
//
//	channel 32 | address 8+n, 16
type RelayOpened struct {
	Channel uint32
	Addr    netip.AddrPort
}

// Append appends the frame to dst.
func (m RelayOpened) Append(dst []byte) []byte {
	return appendOpened(dst, TypeRelayOpened, m.Channel, m.Addr)
}

// ParseRelayOpened parses the body of a RelayOpened.
func ParseRelayOpened(body []byte) (m RelayOpened, err error) {
	m.Channel, m.Addr, err = parseOpened(body, TypeRelayOpened, "channel")
	return m, err
}

// RelayFailed answers OpenRelay when there is no relay to be had.
//
//	channel 32 | code 16 | text 8+n
type RelayFailed struct {
	Channel uint32
	Code    Code
	Text    string
}

// Append appends the frame to dst.
func (m RelayFailed) Append(dst []byte) []byte {
	return appendFailed(dst, TypeRelayFailed, m.Channel, m.Code, m.Text)
}

// ParseRelayFailed parses the body of a RelayFailed.
func ParseRelayFailed(body []byte) (m RelayFailed, err error) {
	m.Channel, m.Code, m.Text, err = parseFailed(body, TypeRelayFailed, "channel")
	return m, err
}

// CloseRelay gives the relay back. It has no answer.
//
//	channel 32
type CloseRelay struct{ Channel uint32 }

// Append appends the frame to dst.
func (m CloseRelay) Append(dst []byte) []byte { return appendID(dst, TypeCloseRelay, m.Channel) }

// ParseCloseRelay parses the body of a CloseRelay.
func ParseCloseRelay(body []byte) (m CloseRelay, err error) {
	m.Channel, err = parseID(body, TypeCloseRelay, "channel")
	return m, err
}

func appendID(dst []byte, t Type, id uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(dst, t, 4), id)
}

func parseID(body []byte, t Type, name string) (id uint32, err error) {
	f := fields{s: body, frame: t}
	id = f.uint32(name)
	return id, f.end(name)
}

func appendOpened(dst []byte, t Type, id uint32, addr netip.AddrPort) []byte {
	return appendFrame(dst, t, func(b *cryptobyte.Builder) {
		b.AddUint32(id)
		addAddrPort(b, addr)
	})
}

func parseOpened(body []byte, t Type, name string) (id uint32, addr netip.AddrPort, err error) {
	f := fields{s: body, frame: t}
	id = f.uint32(name)
	addr = f.addrPort("address")
	if f.err == nil && !addr.IsValid() {
		f.fail("address", ErrValue)
	}
	return id, addr, f.end("address")
}

func appendFailed(dst []byte, t Type, id uint32, code Code, text string) []byte {
	return appendFrame(dst, t, func(b *cryptobyte.Builder) {
		b.AddUint32(id)
		b.AddUint16(uint16(code))
		addShort(b, text)
	})
}

func parseFailed(body []byte, t Type, name string) (id uint32, code Code, text string, err error) {
	f := fields{s: body, frame: t}
	id = f.uint32(name)
	code = Code(f.uint16("code"))
	text = f.text("text")
	return id, code, text, f.end("text")
}
