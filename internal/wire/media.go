package wire

import "encoding/binary"

const (
	// MediaHeaderLen is the length of the header of a media frame in bytes.
	MediaHeaderLen = 2
	// MaxMedia is the largest media packet in bytes. It is the largest UDP
	// payload that crosses an Ethernet unfragmented, with room to spare.
	MaxMedia = 2048

	// MediaMarkLen is the length of a mark in bytes.
	MediaMarkLen = MediaHeaderLen + 8

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

// AppendMediaMark appends a mark to dst: the packets behind it were sent after the
// datagrams of the session that are numbered below after, and before those from it
// on.
//
//	0 16 | after 64
func AppendMediaMark(dst []byte, after uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0, 0), after)
}

// NextMediaMark takes a mark that b begins with. If there is none, or not all of it
// yet, ok is false and rest is b.
func NextMediaMark(b []byte) (after uint64, rest []byte, ok bool) {
	if len(b) < MediaMarkLen || binary.BigEndian.Uint16(b) != 0 {
		return 0, b, false
	}
	return binary.BigEndian.Uint64(b[MediaHeaderLen:]), b[MediaMarkLen:], true
}

// NextMedia takes the first media frame of b, which must not begin with a whole
// mark. The packet aliases b. When b holds no whole frame yet, packet is nil and
// rest is b.
func NextMedia(b []byte) (rtcp bool, packet, rest []byte, err error) {
	if len(b) < MediaHeaderLen {
		return false, nil, b, nil
	}
	head := binary.BigEndian.Uint16(b)
	n := int(head &^ rtcpBit)
	switch {
	case head == 0 && len(b) < MediaMarkLen:
		return false, nil, b, nil
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
