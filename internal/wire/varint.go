package wire

import "encoding/binary"

// A varint is a number of up to 32 bits whose first bits say how long it is:
//
//	0 value 7
//	10 value 14
//	110 value 29
//	1110 0000 value 32
//
// It must be written in the shortest form.

// varintLen returns the length of v's shortest form in bytes.
func varintLen(v uint32) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<29:
		return 4
	}
	return 5
}

func appendVarint(dst []byte, v uint32) []byte {
	switch {
	case v < 1<<7:
		return append(dst, byte(v))
	case v < 1<<14:
		return append(dst, 0x80|byte(v>>8), byte(v))
	case v < 1<<29:
		return binary.BigEndian.AppendUint32(dst, 0xc0000000|v)
	}
	return binary.BigEndian.AppendUint32(append(dst, 0xe0), v)
}

// parseVarint returns the number at the start of b and its length, 0 when b is
// too short, and -1 when the form is not allowed.
func parseVarint(b []byte) (v uint32, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	switch first := b[0]; {
	case first < 0x80:
		return uint32(first), 1
	case first < 0xc0:
		n = 2
		if len(b) < n {
			return 0, 0
		}
		v = uint32(first&0x3f)<<8 | uint32(b[1])
	case first < 0xe0:
		n = 4
		if len(b) < n {
			return 0, 0
		}
		v = binary.BigEndian.Uint32(b) & 0x1fffffff
	case first == 0xe0:
		n = 5
		if len(b) < n {
			return 0, 0
		}
		v = binary.BigEndian.Uint32(b[1:])
	default:
		return 0, -1
	}
	if varintLen(v) != n {
		return 0, -1
	}
	return v, n
}
