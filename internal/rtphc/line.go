package rtphc

import "encoding/binary"

const (
	headerLen = 12

	// Where a number may be in the 7 bit form, relative to the anchor.
	shortBehind = 16
	shortAhead  = 127 - shortBehind
	// reach is how far from its anchor a line is used at all.
	reach = 1 << 14
)

// header is the fixed part of an RTP header.
type header struct {
	first  byte // version, padding, extension, CSRC count
	second byte // marker, payload type
	seq    uint16
	ts     uint32
	ssrc   uint32
}

// parse reads the header of what may be an RTP packet. Payload types that are
// RTCP's packet types when both share a port are left out (RFC 5761 section 4).
func parse(p []byte) (h header, ok bool) {
	if len(p) < headerLen || p[0]>>6 != 2 || p[1] >= 192 && p[1] <= 223 {
		return header{}, false
	}
	return header{
		first: p[0], second: p[1], seq: binary.BigEndian.Uint16(p[2:]),
		ts: binary.BigEndian.Uint32(p[4:]), ssrc: binary.BigEndian.Uint32(p[8:]),
	}, true
}

func (h *header) put(b []byte) {
	_ = b[headerLen-1]
	b[0], b[1] = h.first, h.second
	binary.BigEndian.PutUint16(b[2:], h.seq)
	binary.BigEndian.PutUint32(b[4:], h.ts)
	binary.BigEndian.PutUint32(b[8:], h.ssrc)
}

// line is where the headers of a stream are expected: that of packet number n has
// the sequence number seq+(n-number), and the timestamp goes with the sequence
// number.
type line struct {
	header        // of the anchor, without marker
	number uint16 // of the anchor
	stride uint16 // timestamp units per sequence number
	usual  uint16 // length of the payload in bytes
}

const marker = 0x80

func lineOf(h header, number uint16, stride, usual uint16) line {
	h.second &^= marker
	return line{header: h, number: number, stride: stride, usual: usual}
}

// timestamp returns what the line tells for a sequence number less than 2^15 away
// from the anchor's.
func (l *line) timestamp(seq uint16) uint32 {
	return l.ts + uint32(int32(int16(seq-l.seq))*int32(l.stride))
}

// offsets returns how far the header of packet number is off the line.
func (l *line) offsets(h *header, number uint16) (seq uint16, ts uint32) {
	return h.seq - (l.seq + (number - l.number)), h.ts - l.timestamp(h.seq)
}

// near reports whether sequence number and number are close enough to the anchor
// for every place between anchors to tell the same.
func (l *line) near(h *header, number uint16) bool {
	ahead, seq := int16(number-l.number), int16(h.seq-l.seq)
	return ahead > -reach && ahead < reach && seq > -reach && seq < reach
}

// holds reports whether the header of packet number is on the line, marker aside.
func (l *line) holds(h *header, number uint16) bool {
	if h.first != l.first || h.ssrc != l.ssrc || h.second&^marker != l.second || !l.near(h, number) {
		return false
	}
	seq, ts := l.offsets(h, number)
	return seq == 0 && ts == 0
}
