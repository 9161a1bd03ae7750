package relay

import (
	"slices"
	"time"

	"github.com/pion/rtp"
)

// maxStreams is how many RTP streams, told apart by SSRC, a meter follows at
// once in one direction. A call has one; during a transfer, or with audio and
// video on one port, two.
const maxStreams = 4

const (
	rtpHeaderSize = 12
	rtpVersion    = 2
)

// A meter measures one direction of one component. The zero value is ready for use. It
// is not safe for concurrent use.
type meter struct {
	packets, bytes uint64

	streams []stream // maxStreams at most
	active  int      // index of the stream heard last
	clock   uint64   // counts RTP packets, to find the stream unheard for longest
	ended   losses   // of streams that had to make room

	fixed [rtpHeaderSize]byte // for measure; the parser would move a local one to the heap
}

// pass counts a packet that was passed on.
func (m *meter) pass(packet []byte) {
	m.packets++
	m.bytes += uint64(len(packet))
}

// measure takes note of a packet of the RTP port, if it is RTP, that came at the
// time at, in time since any fixed moment.
func (m *meter) measure(packet []byte, at time.Duration) {
	if !isRTP(packet) {
		return
	}
	copy(m.fixed[:], packet)
	m.fixed[0] = rtpVersion << 6
	var h rtp.Header
	if _, err := h.Unmarshal(m.fixed[:]); err != nil {
		return
	}
	m.stream(h.SSRC).observe(&h, at)
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
	m.ended.add(s.losses())
	*s = stream{ssrc: ssrc, used: m.clock}
	m.active = oldest
	return s
}

func (m *meter) traffic() Traffic {
	total := m.ended
	for i := range m.streams {
		total.add(m.streams[i].losses())
	}
	var jittered time.Duration
	if m.active < len(m.streams) {
		jittered = m.streams[m.active].jitter.duration()
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
