package sipfwd

import (
	"encoding/binary"
	"net/netip"
)

// STUN on the SIP port, RFC 5626 section 4.4.2: a phone keeps its way through a NAT
// open with binding requests, and takes it for broken when they are not answered.
// A server for keepalives needs neither credentials nor other attributes (RFC 5626
// section 8, RFC 8489 section 6).

const (
	stunHeader         = 20
	stunCookie         = 0x2112a442
	stunBindingRequest = 0x0001
	stunBindingSuccess = 0x0101

	stunMappedAddress    = 0x0001 // for those without the cookie, RFC 3489
	stunXORMappedAddress = 0x0020
)

// isSTUN says whether a datagram is STUN and not SIP, whose first byte is never
// below 4 (RFC 5626 section 8).
func isSTUN(b []byte) bool {
	return len(b) >= stunHeader && b[0] < 4 && len(b) == stunHeader+int(binary.BigEndian.Uint16(b[2:])) && len(b)%4 == 0
}

// answerSTUN is the answer to b, which is STUN from from; nil when b is none to be
// answered.
func answerSTUN(b []byte, from netip.AddrPort) []byte {
	if binary.BigEndian.Uint16(b) != stunBindingRequest {
		return nil
	}
	family, address := byte(1), from.Addr().AsSlice()
	if from.Addr().Is6() {
		family = 2
	}
	attribute, port := uint16(stunMappedAddress), from.Port()
	if binary.BigEndian.Uint32(b[4:]) == stunCookie {
		attribute, port = stunXORMappedAddress, port^(stunCookie>>16)
		for i := range address {
			address[i] ^= b[4+i]
		}
	}
	value := 4 + len(address)
	answer := make([]byte, 0, stunHeader+4+value)
	answer = binary.BigEndian.AppendUint16(answer, stunBindingSuccess)
	answer = binary.BigEndian.AppendUint16(answer, uint16(4+value))
	answer = append(answer, b[4:stunHeader]...)
	answer = binary.BigEndian.AppendUint16(answer, attribute)
	answer = binary.BigEndian.AppendUint16(answer, uint16(value))
	answer = append(answer, 0, family)
	answer = binary.BigEndian.AppendUint16(answer, port)
	return append(answer, address...)
}
