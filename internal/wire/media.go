package wire

import "encoding/binary"

const (
	// MediaHeaderLen is the length of the header of a media frame in bytes.
	MediaHeaderLen = 6
	// MaxMedia is the largest media packet in bytes. It is the largest UDP
	// payload that crosses an Ethernet unfragmented, with room to spare.
	MaxMedia = 2048

	// MediaMarkLen is the length of a mark in bytes.
	MediaMarkLen = 2 + 8

	rtcpBit = 0x8000
)

// Media is a frame of the media stream.
type Media struct {
	Channel uint32
	RTCP    bool
	Packet  []byte // 1 to MaxMedia bytes
}

// Append appends the frame to dst.
//
//	RTCP 1 | length 15 | channel 32 | packet
func (m Media) Append(dst []byte) []byte {
	head := uint16(len(m.Packet))
	if m.RTCP {
		head |= rtcpBit
	}
	dst = binary.BigEndian.AppendUint16(dst, head)
	return append(binary.BigEndian.AppendUint32(dst, m.Channel), m.Packet...)
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
	return binary.BigEndian.Uint64(b[2:]), b[MediaMarkLen:], true
}

// NextMedia takes the first media frame of b, which must not begin with a whole
// mark. Its packet aliases b. When b holds no whole frame yet, the packet is nil
// and rest is b.
func NextMedia(b []byte) (m Media, rest []byte, err error) {
	if len(b) < 2 {
		return Media{}, b, nil
	}
	head := binary.BigEndian.Uint16(b)
	n := int(head &^ rtcpBit)
	switch {
	case head == 0 && len(b) < MediaMarkLen:
		return Media{}, b, nil
	case n == 0:
		return Media{}, b, &ParseError{"media", "length", ErrValue}
	case n > MaxMedia:
		return Media{}, b, &ParseError{"media", "length", ErrTooLong}
	case len(b) < MediaHeaderLen+n:
		return Media{}, b, nil
	}
	end := MediaHeaderLen + n
	return Media{binary.BigEndian.Uint32(b[2:]), head&rtcpBit != 0, b[MediaHeaderLen:end:end]}, b[end:], nil
}
