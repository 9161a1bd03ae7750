package bundle

import (
	"github.com/siptunnel/siptunnel/internal/redundancy"
	"github.com/siptunnel/siptunnel/internal/replay"
	"github.com/siptunnel/siptunnel/internal/rtphc"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	millisecond = 1_000_000

	// BufferLen is the capacity that buffers for datagrams should have, so that
	// nothing is allocated.
	BufferLen = wire.MaxDatagram + 2*wire.MaxPacketRecord
	// MaxStreams bounds the streams (RTP or RTCP of a channel) of each direction.
	MaxStreams = 2 * wire.MaxContexts

	// limit is the length of a datagram that is not sealed yet.
	limit = wire.MaxDatagram - wire.DatagramTagLen
	// copiesUntil is where copies of earlier packets end in a datagram that has yet
	// to take new ones: each may be sent again twice.
	copiesUntil = limit * 2 / 3
	// uncut is the longest packet that goes in one piece.
	uncut = limit - wire.DatagramHeaderLen - 1 - wire.MaxPacketRecord
	// leastPiece is the smallest piece of a longer one.
	leastPiece = 64

	maxAnswers = 512
	// answerWait is how long an answer waits for a packet to go with.
	answerWait = 20 * millisecond
	// contextRest is how long a context rests before another stream gets it: while
	// records of the old one are under way they can only be dropped, and what is
	// behind them in their datagrams with them.
	contextRest = 2000 * millisecond
)

// A Packer writes the packets of one direction of a session into datagrams. The
// zero value is ready for use. Its memory is bounded by the channels that are open
// (MaxStreams/2) and by what package redundancy keeps.
type Packer struct {
	// Policy decides about copies; Report feeds it.
	Policy redundancy.Policy

	streams  map[uint64]*outStream
	contexts []outContext
	vacant   int // all contexts below have an owner
	now      int64
	queue    redundancy.Queue[*outStream]
	index    uint64 // of the datagram that was begun last
	bare     int    // length of the open datagram without any packet

	answers []wire.Record // to send
	since   int64         // when the first of them came

	cut, cutCopy cutting // the packet, and the copy, that are being cut

	highest, received uint64 // of the latest report
	refused           uint64
}

// outContext is a context, the lowest number that none of its streams has used, and
// when it may get another stream.
type outContext struct {
	owner  *outStream
	number uint64
	free   int64
}

// cutting says how much of a packet has gone that does not fit one datagram.
type cutting struct {
	stream *outStream
	number uint64
	at     int
}

// of returns how much of a stream's packet has gone.
func (c *cutting) of(s *outStream, number uint64) int {
	if c.stream != s || c.number != number {
		*c = cutting{s, number, 0}
	}
	return c.at
}

// outStream is the RTP or the RTCP of a channel.
type outStream struct {
	channel    uint32
	rtcp       bool
	closed     bool
	compressed bool
	context    uint16
	next       uint64            // number of the next packet
	compressor *rtphc.Compressor // nil unless compressed: RTCP never is
}

func key(channel uint32, rtcp bool) uint64 {
	k := uint64(channel) << 1
	if rtcp {
		k |= 1
	}
	return k
}

// Begin begins a datagram in buf[:0]: room for its header, then copies that are
// due. The capacity should be BufferLen.
func (p *Packer) Begin(buf []byte, now int64) []byte {
	p.index++
	p.now = now
	d := append(buf[:0], make([]byte, wire.DatagramHeaderLen)...)
	if p.Policy.Protects() {
		d = append(d, byte(wire.RecordProtected))
	}
	p.bare = len(d)
	return p.appendCopies(d, now, copiesUntil)
}

// Add puts a packet (1 to wire.MaxMedia bytes) into the open datagram. When it
// reports false the datagram is full: it must be ended and sent, and the same
// packet be added to the next one, as often as that takes. A packet of another
// length, or of one stream too many, is dropped and counted.
func (p *Packer) Add(d []byte, now int64, channel uint32, rtcp bool, packet []byte) ([]byte, bool) {
	s := p.streams[key(channel, rtcp)]
	if s == nil || len(packet) == 0 || len(packet) > wire.MaxMedia {
		p.refused++
		return d, true
	}
	var fits bool
	if len(packet) > uncut {
		if p.cut.stream == s && p.cut.number == s.next && p.cut.at >= len(packet) {
			s.next++ // another packet was given up halfway
		}
		d, p.cut.at, fits = s.appendPieces(d, s.next, packet, p.cut.of(s, s.next))
	} else {
		d, fits = s.append(d, packet)
	}
	if !fits {
		return d, false
	}
	if copies := p.Policy.Copies(); copies > 0 {
		p.queue.Push(now, s, s.next, p.index, copies, packet)
	}
	s.next++
	return d, true
}

// End completes a datagram with what fits of acknowledgements and copies.
func (p *Packer) End(d []byte, now int64) []byte {
	n := 0
	for n < len(p.answers) && len(d)+wire.MaxFeedback <= limit {
		d = p.answers[n].Append(d)
		n++
	}
	p.answers = p.answers[:copy(p.answers, p.answers[n:])]
	return p.appendCopies(d, now, limit)
}

// Empty reports whether an open datagram has nothing to tell. End may change that.
func (p *Packer) Empty(d []byte) bool { return len(d) <= p.bare }

// Deadline returns when a datagram is to be sent even if no packet comes: for
// copies or answers that wait. ok is false if nothing does.
func (p *Packer) Deadline() (at int64, ok bool) {
	at, ok = p.queue.Deadline()
	if len(p.answers) > 0 {
		if answer := p.since + answerWait; !ok || answer < at {
			at, ok = answer, true
		}
	}
	return at, ok
}

// Leave says that the packets that follow go another way until the next Add. There
// must be no open datagram. No datagram from the next one on has a packet, or a copy
// of one, that was added before.
func (p *Packer) Leave() {
	p.queue.Clear()
	if s := p.cut.stream; s != nil && p.cut.number == s.next {
		s.next++ // pieces of it have gone
	}
	p.cut, p.cutCopy = cutting{}, cutting{}
}

// Answer takes a record without payload to send: an acknowledgement from
// Receiver.Answer, or a probe, a reply or a report of the caller's. It waits 20 ms
// at most for a packet to go with.
func (p *Packer) Answer(now int64, r wire.Record) {
	if len(p.answers) == 0 {
		p.since = now
	}
	if len(p.answers) < maxAnswers { // else the anchor comes again
		p.answers = append(p.answers, r)
	}
}

// Feedback takes an acknowledgement or a report that came, from
// Receiver.Feedback.
func (p *Packer) Feedback(now int64, r *wire.Record) {
	switch r.Type {
	case wire.RecordAck:
		if int(r.Context) >= len(p.contexts) || p.contexts[r.Context].owner == nil {
			return
		}
		s := p.contexts[r.Context].owner
		if r.Unknown {
			s.compressor.Unknown()
		} else {
			s.compressor.Ack(r.Slot, r.Number)
		}
	case wire.RecordReport:
		p.highest = replay.Reconstruct(r.Highest, wire.ReportBits, p.highest)
		p.received = replay.Reconstruct(r.Received, wire.ReportBits, p.received)
		p.Policy.Report(now, p.highest, p.received)
	}
}

// Refused returns how many packets were too long, empty, or of a channel that is
// not open.
func (p *Packer) Refused() uint64 { return p.refused }

// Open makes the Packer take packets of a channel, which must not have been open
// before. It reports false if there are too many channels.
func (p *Packer) Open(channel uint32) bool {
	if len(p.streams) >= MaxStreams {
		return false
	}
	if p.streams == nil {
		p.streams = map[uint64]*outStream{}
	}
	if p.streams[key(channel, false)] == nil {
		p.open(channel, false)
		p.open(channel, true)
	}
	return true
}

// Close makes it drop them. Copies that wait are not sent any more.
func (p *Packer) Close(channel uint32) {
	for _, rtcp := range []bool{false, true} {
		s := p.streams[key(channel, rtcp)]
		if s == nil {
			continue
		}
		s.closed = true
		delete(p.streams, key(channel, rtcp))
		if s.compressed {
			p.contexts[s.context] = outContext{number: s.next, free: p.now + contextRest}
			p.vacant = min(p.vacant, int(s.context))
		}
	}
}

// open makes a stream, with a context if one is free. Its numbers go on where the
// context's last stream ended, since acknowledgements may still come for that one.
func (p *Packer) open(channel uint32, rtcp bool) {
	s := &outStream{channel: channel, rtcp: rtcp}
	p.streams[key(channel, rtcp)] = s
	if rtcp {
		return
	}
	for p.vacant < len(p.contexts) && p.contexts[p.vacant].owner != nil {
		p.vacant++
	}
	id := p.vacant
	for id < len(p.contexts) && (p.contexts[id].owner != nil || p.contexts[id].free > p.now) {
		id++
	}
	switch {
	case id == wire.MaxContexts:
		return
	case id == len(p.contexts):
		p.contexts = append(p.contexts, outContext{})
	}
	c := &p.contexts[id]
	c.owner = s
	s.compressed, s.context = true, uint16(id)
	s.next = (c.number + redundancy.FirstNumber - 1) &^ (redundancy.FirstNumber - 1)
	compressor := rtphc.NewCompressor(s.context, channel)
	s.compressor = &compressor
}

// append appends the record of the stream's next packet, if there is room.
func (s *outStream) append(d []byte, packet []byte) ([]byte, bool) {
	if !s.compressed {
		return s.appendWhole(d, s.next, packet)
	}
	if len(d)+len(packet)+wire.MaxPacketRecord <= limit {
		return s.compressor.Append(d, s.next, packet), true
	}
	if len(d)+len(packet) > limit+12 {
		return d, false
	}
	before := *s.compressor
	longer := s.compressor.Append(d, s.next, packet)
	if len(longer) > limit {
		*s.compressor = before
		return d, false
	}
	return longer, true
}

func (s *outStream) appendWhole(d []byte, number uint64, packet []byte) ([]byte, bool) {
	if len(d)+len(packet)+wire.MaxPacketRecord > limit {
		return d, false
	}
	r := wire.Record{Type: wire.RecordPacket, RTCP: s.rtcp, Channel: s.channel, Number: uint16(number), Length: len(packet)}
	return append(r.Append(d), packet...), true
}

// appendPieces appends the packet from at on, as much as there is room for. It
// returns how much has gone then, and whether that is all.
func (s *outStream) appendPieces(d []byte, number uint64, packet []byte, at int) ([]byte, int, bool) {
	n := min(len(packet)-at, limit-len(d)-wire.MaxFragment)
	if n < min(leastPiece, len(packet)-at) {
		return d, at, false
	}
	r := wire.Record{
		Type: wire.RecordFragment, RTCP: s.rtcp, Channel: s.channel, Number: uint16(number),
		Total: len(packet), Offset: at, Length: n,
	}
	d = append(r.Append(d), packet[at:at+n]...)
	return d, at + n, at+n == len(packet)
}

// appendCopies appends copies that are due until the datagram is so long.
func (p *Packer) appendCopies(d []byte, now int64, until int) []byte {
	for len(d) < until {
		c, ok := p.queue.Due(now, p.index)
		if !ok {
			return d
		}
		s := c.Owner
		if s.closed {
			p.queue.Pop()
			continue
		}
		switch {
		case len(c.Packet) > uncut:
			d, p.cutCopy.at, ok = s.appendPieces(d, c.Number, c.Packet, p.cutCopy.of(s, c.Number))
		case len(d)+len(c.Packet)+wire.MaxPacketRecord > limit:
			ok = false
		case s.compressed:
			d = s.compressor.AppendCopy(d, c.Number, c.Packet)
		default:
			d, ok = s.appendWhole(d, c.Number, c.Packet)
		}
		if !ok {
			return d
		}
		p.cutCopy = cutting{}
		p.queue.Sent(now, p.index)
	}
	return d
}
