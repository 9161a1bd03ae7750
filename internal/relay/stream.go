package relay

import "time"

// Limits of RFC 3550 appendix A.1: a step of the sequence number within them is
// loss or reordering, beyond them the source has started anew.
const (
	maxDropout = 3000

	// MaxMisorder is by how many sequence numbers a packet may be behind the
	// latest one without being taken as lost.
	MaxMisorder = 100
)

// windowSize is how many of the latest sequence numbers are remembered, in
// packets: a power of two above MaxMisorder.
const windowSize = 128

type losses struct {
	lost, reordered, duplicates uint64
}

func (l *losses) add(o losses) {
	l.lost += o.lost
	l.reordered += o.reordered
	l.duplicates += o.duplicates
}

// A stream follows one SSRC by its sequence numbers, as RFC 3550 appendix A.1
// and A.3 do, with two differences. There is no probation: the source was
// admitted by its address. And packets are counted once however often they
// come, where A.3 lets duplicates hide losses.
type stream struct {
	ssrc        uint32
	suspect     uint16 // the number that would prove that the source started anew; that of highest: none
	format      uint8  // the payload type of most packets
	formatVotes uint8
	used        uint64 // by the meter

	// Sequence numbers are extended to 64 bits and start one cycle up, so
	// that the packets just before the first one have a number too.
	first, highest uint64
	received       uint64 // different packets from first to highest
	window         [windowSize / 64]uint64

	past        losses // from before the source started anew; reordered and duplicates in all
	pastPackets uint64 // the same, of what spans has
	jitter      jitter

	out *outward // of the direction to the peer, when something was sent
}

// observe takes the header of a packet that came at the time at, and says whether the
// packet is a new one.
func (s *stream) observe(h header, at time.Duration) bool {
	if !s.count(h.sequence) {
		return false
	}
	s.jitter.observe(h.payloadType, h.timestamp, at)
	s.vote(h.payloadType)
	return true
}

// vote finds what most packets are (Boyer and Moore's majority vote): comfort noise
// and telephone events have payload types of their own in the same stream.
func (s *stream) vote(payloadType uint8) {
	switch {
	case s.format == payloadType:
		s.formatVotes = min(s.formatVotes, 254) + 1
	case s.formatVotes == 0:
		s.format, s.formatVotes = payloadType, 1
	default:
		s.formatVotes--
	}
}

// count notes a sequence number and says whether the packet is a new one.
func (s *stream) count(seq uint16) bool {
	if s.received == 0 {
		s.begin(seq)
		return true
	}
	switch ahead := seq - uint16(s.highest); {
	case ahead == 0:
		s.past.duplicates++
		return false
	case ahead < maxDropout:
		s.advance(s.highest + uint64(ahead))
		return true
	case -ahead <= MaxMisorder:
		return s.countLate(s.highest - uint64(-ahead))
	}
	if seq != s.suspect {
		s.suspect = seq + 1
		return false
	}
	s.past.lost += s.lost()
	s.pastPackets += s.highest - s.first + 1
	s.out.restart()
	s.begin(seq - 1)
	s.advance(s.highest + 1)
	return true
}

func (s *stream) begin(seq uint16) {
	s.first = 1<<16 + uint64(seq)
	s.highest = s.first
	s.received = 0
	s.window = [windowSize / 64]uint64{}
	s.mark(s.first)
}

func (s *stream) advance(ext uint64) {
	for n := max(s.highest+1, ext-min(ext, windowSize)+1); n <= ext; n++ {
		s.window[n%windowSize/64] &^= 1 << (n % 64)
	}
	s.highest = ext
	s.mark(ext)
}

func (s *stream) countLate(ext uint64) bool {
	if s.window[ext%windowSize/64]&(1<<(ext%64)) != 0 {
		s.past.duplicates++
		return false
	}
	s.past.reordered++
	s.first = min(s.first, ext)
	s.mark(ext)
	return true
}

func (s *stream) mark(ext uint64) {
	s.window[ext%windowSize/64] |= 1 << (ext % 64)
	s.received++
	s.suspect = uint16(s.highest)
}

func (s *stream) lost() uint64 {
	if s.received == 0 {
		return 0
	}
	return s.highest - s.first + 1 - s.received
}

func (s *stream) losses() losses {
	all := s.past
	all.lost += s.lost()
	return all
}

// span is what was sent here and what of it was lost.
func (s *stream) span() span {
	all := span{packets: s.pastPackets, lost: s.losses().lost}
	if s.received > 0 {
		all.packets += s.highest - s.first + 1
	}
	return all
}

// spans are what was lost on the way here, in the tunnel, on the way to the peer.
func (s *stream) spans() [3]span {
	tunnel, told := s.outwardSpans()
	return [3]span{s.span(), tunnel, told}
}
