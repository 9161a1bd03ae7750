package wire

import "encoding/binary"

const (
	// MediaHeaderLen is the length of the header of a media frame in bytes.
	MediaHeaderLen = 6
	// MaxMedia is the largest media packet in bytes. It is the largest UDP
	// payload that crosses an Ethernet unfragmented, with room to spare.
	MaxMedia = 2048

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

// NextMedia takes the first media frame of b. Its packet aliases b. When b
// holds no whole frame yet, the packet is nil and rest is b.
func NextMedia(b []byte) (m Media, rest []byte, err error) {
	if len(b) < 2 {
		return Media{}, b, nil
	}
	head := binary.BigEndian.Uint16(b)
	n := int(head &^ rtcpBit)
	switch {
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
