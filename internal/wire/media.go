package wire

import "encoding/binary"

const (
	// MediaHeaderLen is the length of the header of a media frame in bytes.
	MediaHeaderLen = 2
	// MaxMedia is the largest media packet in bytes. It is the largest UDP
	// payload that crosses an Ethernet unfragmented, with room to spare.
	MaxMedia = 2048

	rtcpBit = 0x8000
)

// AppendMedia appends a media frame to dst. The packet must have 1 to
// MaxMedia bytes.
//
//	RTCP 1 | length 15 | packet
func AppendMedia(dst []byte, rtcp bool, packet []byte) []byte {
	head := uint16(len(packet))
	if rtcp {
		head |= rtcpBit
	}
	return append(binary.BigEndian.AppendUint16(dst, head), packet...)
}

// NextMedia takes the first media frame of b. The packet aliases b. When b
// holds no whole frame yet, packet is nil and rest is b.
func NextMedia(b []byte) (rtcp bool, packet, rest []byte, err error) {
	if len(b) < MediaHeaderLen {
		return false, nil, b, nil
	}
	head := binary.BigEndian.Uint16(b)
	n := int(head &^ rtcpBit)
	switch {
	case n == 0:
		return false, nil, b, &ParseError{"media", "length", ErrValue}
	case n > MaxMedia:
		return false, nil, b, &ParseError{"media", "length", ErrTooLong}
	case len(b) < MediaHeaderLen+n:
		return false, nil, b, nil
	}
	end := MediaHeaderLen + n
	return head&rtcpBit != 0, b[MediaHeaderLen:end:end], b[end:], nil
}
