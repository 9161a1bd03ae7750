package relay

import "time"

// maxBlockSpan is how many packets can be between two reports of a peer: those of
// half a minute of video at most. More is another count of the peer's.
const maxBlockSpan = 1 << 16

// An outward is what becomes of one stream beyond this relay: what was sent to the
// peer, and what others have said of it.
type outward struct {
	withheld uint32 // packets that came here and were not sent, on hold for one

	// What the peer has said in report blocks.
	begun   bool   // something was sent; first and missing are of then
	based   bool   // highest, lost and missing are those of the last block
	first   uint64 // number of the first packet, extended as in stream
	missing int64  // what could not reach the peer: it never came here, or was withheld
	// The reporter of the last block. Another one counts anew: a call may have been
	// transferred.
	reporter uint32
	highest  uint32
	lost     int32
	told     span
	excess   int64  // lost on the way to the peer; may be below 0 for a while, as counts are not of the same moment
	jitter   uint64 // sum over blocks, in timestamp units
	blocks   uint64
	rtt      time.Duration // smoothed; 0: not known

	// What the peer has said in an extended report; 0: nothing.
	mos, discarded uint8

	// What the other end of the tunnel has said: how many packets of this stream it
	// never got. since is as of then.
	reported bool
	since    span
}

// A span counts the packets that entered some stretch of their way, and those that
// did not leave it.
type span struct{ packets, lost uint64 }

func (s *span) add(o span) {
	s.packets += o.packets
	s.lost += o.lost
}

func (s *span) addExcess(packets uint64, lost int64) {
	s.packets += packets
	s.lost += min(uint64(max(lost, 0)), packets)
}

// restart forgets what was said: the source has started anew, and the peer with it.
func (o *outward) restart() {
	if o != nil {
		o.begun, o.based = false, false
	}
}

func (o *outward) setRoundTrip(rtt time.Duration) {
	if o.rtt == 0 {
		o.rtt = rtt
		return
	}
	o.rtt += (rtt - o.rtt) / 4
}

// note says of the packet that the meter has just measured whether it was passed on
// to the peer, or to the network, which may have dropped it.
func (m *meter) note(passed bool) {
	s := &m.streams[m.active]
	if s.out == nil {
		s.out = new(outward)
	}
	o := s.out
	switch {
	case !passed:
		o.withheld++
	case !o.begun:
		o.begun, o.first, o.missing = true, s.highest, s.missing()
	}
}

// missing is how many packets of the stream cannot have reached the peer.
func (s *stream) missing() int64 { return int64(s.losses().lost) + int64(s.out.withheld) }

// hear takes a report block of the peer about this stream and says whether it can
// be true. A block counts from the one before on, so that a peer that counts in its
// own way is understood: one that starts anew, or heard the stream late.
func (s *stream) hear(b reportBlock) bool {
	o := s.out
	if o == nil || !o.begun {
		return false
	}
	behind := uint64(uint16(s.highest) - uint16(b.highest))
	if behind > maxDropout || behind > s.highest-min(o.first, s.highest) {
		return false
	}
	missing := s.missing()
	if o.based && b.reporter == o.reporter {
		if older := int32(o.highest - b.highest); older > 0 && older <= maxDropout {
			return false // RTCP that was overtaken
		}
	}
	packets, lost := int64(int32(b.highest-o.highest)), int64(b.lost)-int64(o.lost)
	if !o.based {
		packets, lost = int64(s.highest-behind-o.first)+1, int64(b.lost)
	}
	if anew := o.based && b.reporter != o.reporter; !anew && packets >= 0 && packets <= maxBlockSpan && lost <= packets && lost >= -packets-MaxMisorder {
		o.told.packets += uint64(max(packets-(missing-o.missing), 0))
		o.excess += lost - (missing - o.missing)
	}
	o.based, o.reporter, o.highest, o.lost, o.missing = true, b.reporter, b.highest, b.lost, missing
	if rate := s.jitter.rate; rate != 0 && uint64(b.jitter) < uint64(ticks(maxTransitStep, rate)) {
		o.jitter += uint64(b.jitter)
		o.blocks++
	}
	return true
}

// before takes the word of the other end of the tunnel that so many packets of this
// stream had been lost before they came into the tunnel.
func (s *stream) before(lost uint64) {
	if s.out == nil {
		return
	}
	all := s.span()
	lost = min(lost, all.lost)
	s.out.reported, s.out.since = true, span{all.packets - lost, all.lost - lost}
}

// outwardSpans returns what was lost in the tunnel and on the way to the peer.
func (s *stream) outwardSpans() (tunnel, told span) {
	if s.out == nil {
		return tunnel, told
	}
	told.addExcess(s.out.told.packets, s.out.excess)
	return s.out.since, told
}
