package wire

import "encoding/binary"

// A datagram on the media path is a header, which is authenticated, and the
// sealed records behind it:
//
//	 0               1               2               3
//	+-------------+-+-----------------------------------------------+
//	| 0000 100    |P|           connection id (32)                  :
//	+-------------+-+-----------------------------------------------+
//	:               |        low 24 bits of the counter             |
//	+---------------+-----------------------------------------------+
//	|  records, encrypted             ...           | tag 16 bytes  |
//
// P is the low bit of the key phase. The receiver has chosen the connection id.
// The counter numbers the datagrams of one direction from 0 under all keys. First
// bytes 8 to 15 are what RFC 9443 leaves free between STUN, ZRTP, DTLS, TURN,
// QUIC and RTP.
const (
	// DatagramHeaderLen is the length of the header of a datagram in bytes.
	DatagramHeaderLen = 8
	// DatagramTagLen is the length of the authentication tag in bytes.
	DatagramTagLen = 16
	// MaxDatagram is the largest datagram in bytes, header and tag included. With
	// the headers of IPv6 and UDP it fits into 1,280 bytes, the smallest MTU of
	// IPv6.
	MaxDatagram = 1200
	// MaxRecords is the room for records in a datagram in bytes.
	MaxRecords = MaxDatagram - DatagramHeaderLen - DatagramTagLen
	// CounterBits is how many low bits of the counter the header has.
	CounterBits = 24

	datagramByte = 0x08
	phaseBit     = 0x01
)

// DatagramHeader is the header of a datagram.
type DatagramHeader struct {
	Phase      bool   // the low bit of the key phase
	Connection uint32 // chosen by the receiver
	Counter    uint32 // the low CounterBits bits
}

// Put writes the header to the first DatagramHeaderLen bytes of b.
func (h DatagramHeader) Put(b []byte) {
	_ = b[DatagramHeaderLen-1]
	b[0] = datagramByte
	if h.Phase {
		b[0] |= phaseBit
	}
	binary.BigEndian.PutUint32(b[1:], h.Connection)
	b[5], b[6], b[7] = byte(h.Counter>>16), byte(h.Counter>>8), byte(h.Counter)
}

// ParseDatagramHeader parses the header of a datagram. ok is false for what
// cannot be one: it is too short, too long or begins with another byte.
func ParseDatagramHeader(b []byte) (h DatagramHeader, ok bool) {
	if len(b) < DatagramHeaderLen+DatagramTagLen || len(b) > MaxDatagram || b[0]&^phaseBit != datagramByte {
		return DatagramHeader{}, false
	}
	return DatagramHeader{
		Phase:      b[0]&phaseBit != 0,
		Connection: binary.BigEndian.Uint32(b[1:]),
		Counter:    uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7]),
	}, true
}
