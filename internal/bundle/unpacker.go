package bundle

import (
	"errors"

	"github.com/siptunnel/siptunnel/internal/redundancy"
	"github.com/siptunnel/siptunnel/internal/rtphc"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// A Receiver gets what an Unpacker takes out of datagrams. What it is given is
// valid until it returns.
type Receiver interface {
	// Packet gets a packet of a channel, in its stream's order.
	Packet(channel uint32, rtcp bool, packet []byte)
	// Answer gets an acknowledgement to send: it goes to the Packer's Answer.
	Answer(r wire.Record)
	// Feedback gets an acknowledgement or a report about what this end has sent: it
	// goes to the Packer's Feedback. No acknowledgement is older than one before, and
	// no report.
	Feedback(r *wire.Record)
	// Control gets a probe, a reply or a close. newest says that no datagram with a
	// higher counter has come.
	Control(r *wire.Record, newest bool)
}

// Dropped counts what an Unpacker has dropped, by reason.
type Dropped struct {
	Malformed uint64 // the rest of a datagram that cannot be read, or of an unknown type
	Channel   uint64 // packets of a channel that is not open
	Context   uint64 // packets of a context that is not known
	Stale     uint64 // packets of a context that is another one by now
	Again     uint64 // copies that were not needed
	Late      uint64 // packets that came after those behind them
	Overtaken uint64 // the same, of which those behind them came another way
	Fragment  uint64 // pieces that fit nothing
}

// An Unpacker takes the packets of one direction of a session out of its
// datagrams. The zero value is ready for use. Its memory is bounded by the
// channels that are open, and by what packages rtphc and redundancy keep.
type Unpacker struct {
	channels map[uint32]*inChannel
	byID     []*inChannel // by context: whose it was when it was last used
	headers  rtphc.Decompressor
	patience redundancy.Patience
	pool     redundancy.Pool
	waiting  []*inStream // streams that hold packets, or did
	newest   uint64      // highest counter
	counter  uint64      // of the datagram at hand
	isNewest bool        // that is the one of the datagram at hand
	acked    uint64      // highest counter of a datagram with an acknowledgement
	reported uint64      // the same with a report
	record   wire.Record
	packet   []byte // scratch
	dropped  Dropped
}

type inChannel struct {
	rtp, rtcp inStream
	closed    bool
}

// inStream is the RTP or the RTCP of a channel.
type inStream struct {
	owner   *inChannel
	channel uint32
	rtcp    bool
	watched bool // is in waiting
	order   redundancy.Order
	pieces  *pieces

	// The stream goes another way at times (Aside): ahead is one more than the
	// highest counter of a datagram that had packets of it, and packets in those
	// below passed come too late.
	ahead, passed uint64
}

// Open makes the Unpacker take packets of a channel, which must not have been open
// before. It reports false if there are too many channels.
func (u *Unpacker) Open(channel uint32) bool {
	if u.channels == nil {
		u.channels = map[uint32]*inChannel{}
	}
	if u.channels[channel] != nil {
		return true
	}
	if len(u.channels) >= MaxStreams/2 {
		return false
	}
	c := &inChannel{}
	c.rtp = inStream{owner: c, channel: channel}
	c.rtcp = inStream{owner: c, channel: channel, rtcp: true}
	u.channels[channel] = c
	return true
}

// Close makes it drop them, and those that it holds.
func (u *Unpacker) Close(channel uint32) {
	c := u.channels[channel]
	if c == nil {
		return
	}
	c.closed = true
	delete(u.channels, channel)
	c.rtp.order.Clear(&u.pool)
	c.rtcp.order.Clear(&u.pool)
}

// Dropped returns the counts of what was dropped, Held how many packets wait for
// one before them.
func (u *Unpacker) Dropped() Dropped { return u.dropped }
func (u *Unpacker) Held() int        { return u.pool.Held() }

// Unpack takes everything out of the plaintext of the datagram with this counter.
func (u *Unpacker) Unpack(now int64, counter uint64, plaintext []byte, to Receiver) {
	u.counter, u.isNewest = counter, counter >= u.newest
	u.newest = max(u.newest, counter)
	r := &u.record
	for b := plaintext; len(b) > 0; {
		n, err := wire.ParseRecord(b, r)
		if err != nil {
			u.dropped.Malformed++
			return
		}
		body := b[n:]
		length := max(r.Length, 0)
		switch r.Type {
		case wire.RecordCompressed, wire.RecordDelta:
			if length, err = u.compressed(now, counter, body, to); err != nil {
				return
			}
		case wire.RecordPacket, wire.RecordPacketRTCP:
			u.take(now, u.stream(r.Channel, r.RTCP), r.Number, body[:length], to)
		case wire.RecordAnchor:
			if u.channels[r.Channel] != nil && u.headers.Anchor(counter, r, body[:length]) {
				to.Answer(wire.Record{Type: wire.RecordAck, Context: r.Context, Slot: r.Slot, Number: r.Number})
			}
			u.take(now, u.stream(r.Channel, false), r.Number, body[:length], to)
		case wire.RecordFragment, wire.RecordFragmentRTCP:
			u.fragment(now, body[:length], to)
		case wire.RecordAck:
			if counter >= u.acked {
				u.acked = counter
				to.Feedback(r)
			}
		case wire.RecordReport:
			if counter >= u.reported {
				u.reported = counter
				to.Feedback(r)
			}
		case wire.RecordProtected:
			u.patience.Protected(now)
		case wire.RecordPadding:
			return
		default:
			to.Control(r, u.isNewest)
		}
		b = body[length:]
	}
}

// compressed takes the packet of a compressed record or a delta, and returns how
// long its payload is. The error is not nil if that cannot be told.
func (u *Unpacker) compressed(now int64, counter uint64, body []byte, to Receiver) (int, error) {
	r := &u.record
	packet, n, ack, err := u.headers.Append(u.packet[:0], counter, r, body)
	u.packet = packet
	if err != nil {
		switch {
		case errors.Is(err, rtphc.ErrUnknown):
			u.dropped.Context++
			to.Answer(wire.Record{Type: wire.RecordAck, Context: r.Context, Slot: r.Slot, Unknown: true})
		case errors.Is(err, rtphc.ErrStale):
			u.dropped.Stale++
		default:
			u.dropped.Malformed++
		}
		if r.Length == wire.Implied {
			return 0, err
		}
		return r.Length, nil
	}
	if ack {
		to.Answer(wire.Record{Type: wire.RecordAck, Context: r.Context, Slot: 1 - r.Slot, Number: r.Number})
	}
	u.take(now, u.streamOf(r.Context, r.Channel), r.Number, packet, to)
	return n, nil
}

// streamOf returns the RTP stream of a channel by the context that it has; nil if
// the channel is not open.
func (u *Unpacker) streamOf(context uint16, channel uint32) *inStream {
	if int(context) < len(u.byID) {
		if c := u.byID[context]; c != nil && c.rtp.channel == channel && !c.closed {
			return &c.rtp
		}
	} else {
		u.byID = append(u.byID, make([]*inChannel, int(context)+1-len(u.byID))...)
	}
	c := u.channels[channel]
	u.byID[context] = c
	if c == nil {
		return nil
	}
	return &c.rtp
}

func (u *Unpacker) stream(channel uint32, rtcp bool) *inStream {
	switch c := u.channels[channel]; {
	case c == nil:
		return nil
	case rtcp:
		return &c.rtcp
	default:
		return &c.rtp
	}
}

// take hands a packet to the receiver, when its turn has come.
func (u *Unpacker) take(now int64, s *inStream, number uint16, packet []byte, to Receiver) {
	if s == nil {
		u.dropped.Channel++
		return
	}
	if u.counter < s.passed {
		u.dropped.Overtaken++
		return
	}
	s.ahead = max(s.ahead, u.counter+1)
	for {
		switch s.order.Take(now, number, packet, u.isNewest, u.patience.Hold(now) > 0, &u.pool) {
		case redundancy.Deliver:
			to.Packet(s.channel, s.rtcp, packet)
			if since, waits := s.order.Waiting(); waits {
				u.patience.Filled(now, now-since)
			}
			u.drain(s, to)
			return
		case redundancy.Held:
			if !s.watched {
				s.watched = true
				u.waiting = append(u.waiting, s)
			}
			return
		case redundancy.Again:
			u.dropped.Again++
			return
		case redundancy.Late:
			u.dropped.Late++
			u.patience.Late(now, s.order.Lateness())
			return
		}
		s.order.GiveUp(now)
		u.drain(s, to)
	}
}

// Aside reports whether a packet is to be handed on that came another way than in a
// datagram, and was sent after the datagrams with counters below after and before
// those from it on. What waits of its stream is delivered before it, and what is in
// datagrams before it is late from then on.
func (u *Unpacker) Aside(now int64, channel uint32, rtcp bool, after uint64, to Receiver) bool {
	s := u.stream(channel, rtcp)
	if s == nil {
		return true // no packet of it comes in a datagram
	}
	if s.ahead > after {
		u.dropped.Overtaken++
		return false
	}
	if s.passed < after {
		s.passed = after
		for _, waits := s.order.Waiting(); waits; _, waits = s.order.Waiting() {
			s.order.GiveUp(now)
			u.drain(s, to)
		}
	}
	return true
}

// drain delivers what has waited for its turn.
func (u *Unpacker) drain(s *inStream, to Receiver) {
	for {
		packet, ok := s.order.Next()
		if !ok {
			return
		}
		to.Packet(s.channel, s.rtcp, packet)
		u.pool.Release(packet)
	}
}

// Expire delivers the packets that have waited long enough.
func (u *Unpacker) Expire(now int64, to Receiver) {
	hold := u.patience.Hold(now)
	kept := u.waiting[:0]
	for _, s := range u.waiting {
		since, ok := s.order.Waiting()
		for ok && now-since >= hold {
			s.order.GiveUp(now)
			u.drain(s, to)
			since, ok = s.order.Waiting()
		}
		if s.watched = ok; ok {
			kept = append(kept, s)
		}
	}
	clear(u.waiting[len(kept):])
	u.waiting = kept
}

// Deadline returns when Expire is to be called next, at the latest; ok is false if
// nothing waits.
func (u *Unpacker) Deadline(now int64) (at int64, ok bool) {
	for _, s := range u.waiting {
		if since, waits := s.order.Waiting(); waits && (!ok || since < at) {
			at, ok = since, true
		}
	}
	return at + u.patience.Hold(now), ok
}
