package relay

import (
	"encoding/binary"
	"slices"
	"time"
)

// maxStreams is how many RTP streams, told apart by SSRC, a meter follows at
// once in one direction. A call has one; during a transfer, or with audio and
// video on one port, two.
const maxStreams = 4

const (
	rtpHeaderSize = 12
	rtpVersion    = 2
)

// A header is what a meter reads of RTP's (RFC 3550 section 5.1).
type header struct {
	payloadType uint8
	sequence    uint16
	timestamp   uint32
	ssrc        uint32
}

// parseHeader reads the header of what isRTP.
func parseHeader(packet []byte) header {
	return header{
		payloadType: packet[1] & 0x7f,
		sequence:    binary.BigEndian.Uint16(packet[2:]),
		timestamp:   binary.BigEndian.Uint32(packet[4:]),
		ssrc:        binary.BigEndian.Uint32(packet[8:]),
	}
}

// A meter measures one direction of the RTP port. The zero value is ready for use. It
// is not safe for concurrent use.
type meter struct {
	packets, bytes uint64

	streams []stream // maxStreams at most
	active  int      // index of the stream heard last
	clock   uint64   // counts RTP packets, to find the stream unheard for longest
	past    *past    // nil: all streams are there
}

// past is of streams that had to make room.
type past struct {
	losses losses
	spans  [3]span
}

// pass counts a packet that was passed on.
func (m *meter) pass(packet []byte) {
	m.packets++
	m.bytes += uint64(len(packet))
}

// measure takes note of a packet of the RTP port that came at the time at, in time
// since any fixed moment, and says whether it is RTP that did not come before.
func (m *meter) measure(packet []byte, at time.Duration) bool {
	if !isRTP(packet) {
		return false
	}
	h := parseHeader(packet)
	return m.stream(h.ssrc).observe(h, at)
}

// isRTP tells RTP from what else may come to an RTP port: STUN, DTLS and ZRTP by
// the first byte (RFC 7983), T.38 likewise, multiplexed RTCP by the packet type
// (RFC 5761 section 4).
func isRTP(packet []byte) bool {
	return len(packet) >= rtpHeaderSize && packet[0]>>6 == rtpVersion &&
		(packet[1] < 192 || packet[1] > 223)
}

// stream returns the stream of ssrc, in place of the one unheard for longest if
// it is new.
func (m *meter) stream(ssrc uint32) *stream {
	m.clock++
	if m.active < len(m.streams) && m.streams[m.active].ssrc == ssrc {
		s := &m.streams[m.active]
		s.used = m.clock
		return s
	}
	oldest := 0
	for i := range m.streams {
		s := &m.streams[i]
		if s.ssrc == ssrc {
			s.used = m.clock
			m.active = i
			return s
		}
		if s.used < m.streams[oldest].used {
			oldest = i
		}
	}
	if n := len(m.streams); n < maxStreams {
		// Most have one; append would make room for more of them.
		m.streams = slices.Grow(m.streams, 1)[: n+1 : n+1]
		oldest = n
	}
	s := &m.streams[oldest]
	m.forget(s)
	out := s.out
	if out != nil {
		*out = outward{}
	}
	*s = stream{ssrc: ssrc, used: m.clock, out: out}
	m.active = oldest
	return s
}

// forget keeps the counts of a stream that makes room.
func (m *meter) forget(s *stream) {
	if s.received == 0 {
		return
	}
	if m.past == nil {
		m.past = new(past)
	}
	m.past.losses.add(s.losses())
	for i, span := range s.spans() {
		m.past.spans[i].add(span)
	}
}

// find returns the stream of ssrc, nil when it is not followed.
func (m *meter) find(ssrc uint32) *stream {
	for i := range m.streams {
		if m.streams[i].ssrc == ssrc {
			return &m.streams[i]
		}
	}
	return nil
}

// current returns the stream heard last, nil when there is none.
func (m *meter) current() *stream {
	if m.active >= len(m.streams) {
		return nil
	}
	return &m.streams[m.active]
}

// spans returns what was lost of all streams on the way here; in the tunnel, where
// that is known apart; on the way to the peer.
func (m *meter) spans() (all, tunnel, told span) {
	var sum [3]span
	if m.past != nil {
		sum = m.past.spans
	}
	for i := range m.streams {
		for j, span := range m.streams[i].spans() {
			sum[j].add(span)
		}
	}
	return sum[0], sum[1], sum[2]
}

func (m *meter) format() Format {
	s := m.current()
	if s == nil {
		return Format{}
	}
	return Format{PayloadType: s.format, ClockRate: s.jitter.rate, Known: true}
}

func (m *meter) traffic() Traffic {
	var total losses
	if m.past != nil {
		total = m.past.losses
	}
	for i := range m.streams {
		total.add(m.streams[i].losses())
	}
	var jittered time.Duration
	if s := m.current(); s != nil {
		jittered = s.jitter.duration()
	}
	return Traffic{
		Packets:    m.packets,
		Bytes:      m.bytes,
		Lost:       total.lost,
		Reordered:  total.reordered,
		Duplicates: total.duplicates,
		Jitter:     jittered,
	}
}
