package rtphc

import "github.com/siptunnel/siptunnel/internal/wire"

const (
	// renew is how many numbers behind the anchor the sender begins to set another
	// one, early enough for several tries before the 7 bits end.
	renew = 56
	// firstGap and lastGap are how many numbers lie between the tries while packets
	// could go shorter without.
	firstGap, lastGap = 4, 16
	// rest is how many packets a slot rests after it was active before it gets
	// another line.
	rest = 16
	// steadyStride is how often a stride must be seen before it replaces another
	// one. Telephone events repeat their timestamp (RFC 4733 section 2.5.1.2): a
	// stride of 0 would be learned from each of them.
	steadyStride = 12
	// steadyLength is the same for the payload's length, which some codecs vary.
	steadyLength = 4
)

// A Compressor writes the records of one RTP stream in one direction. Numbers
// must grow from packet to packet, and shall do so by one. Make one with
// NewCompressor.
type Compressor struct {
	context uint16
	has     bool // active can be used
	waits   bool // pending was sent and has not been acknowledged
	channel uint32

	active  anchored
	pending anchored
	free    uint64 // number from which on the slot that is not active may get a line
	slot    uint8  // the active one
	gap     uint8  // numbers to let pass before a short packet becomes an anchor

	any      bool  // there was a packet before: previous, its number, its payload's length
	lengths  uint8 // how often in a row the length was that
	strides  uint8 // how often in a row the stride was that; 0: not seen
	length   uint16
	stride   uint32 // between the last two packets that followed each other
	previous header
	number   uint64
}

// anchored is a line and the numbers of the first and the last anchor of it that
// the receiver may have.
type anchored struct {
	line
	first, last uint64
}

// NewCompressor returns a Compressor for the RTP of a channel, over a context
// (below wire.MaxContexts) that is its alone.
func NewCompressor(context uint16, channel uint32) Compressor {
	return Compressor{context: context, channel: channel}
}

// Append appends the record of the packet (1 to wire.MaxMedia bytes) with this
// number to dst. The record is at most wire.MaxPacketRecord bytes longer than the
// packet.
func (c *Compressor) Append(dst []byte, number uint64, packet []byte) []byte {
	h, ok := parse(packet)
	if !ok {
		return appendWhole(dst, c.channel, number, packet)
	}
	length := len(packet) - headerLen
	c.learn(&h, length)
	usable := c.usable(&h, number)
	var r wire.Record
	if usable {
		r = c.record(&h, number, length)
	}
	anchor := c.repeats(&h, number, usable, &r) || c.starts(&h, number, usable, &r)
	c.previous, c.number, c.length, c.any = h, number, uint16(length), true
	switch {
	case anchor && usable && c.pending.stride == c.active.stride && (c.pending.usual == c.active.usual || int(c.pending.usual) == length):
		c.pending.last = number
		r.Type, r.Number, r.Anchor, r.SetUsual = wire.RecordDelta, uint16(number), true, c.pending.usual != c.active.usual
		if r.SetUsual {
			r.Length = length
		}
	case anchor:
		c.pending.last = number
		return c.appendAnchor(dst, number, packet)
	case !usable:
		return appendWhole(dst, c.channel, number, packet)
	}
	return append(r.Append(dst), packet[headerLen:]...)
}

// AppendCopy appends a record of a packet that was sent before, with the number
// that it had then. It changes nothing.
func (c *Compressor) AppendCopy(dst []byte, number uint64, packet []byte) []byte {
	h, ok := parse(packet)
	if !ok || !c.usable(&h, number) {
		return appendWhole(dst, c.channel, number, packet)
	}
	r := c.record(&h, number, len(packet)-headerLen)
	return append(r.Append(dst), packet[headerLen:]...)
}

// Ack takes the acknowledgement of an anchor: its slot and the low bits of its
// number. It must come from a datagram that is newer than all that brought one
// before.
func (c *Compressor) Ack(slot uint8, number uint16) {
	if c.has && slot == c.slot {
		c.active.acked(number)
		return
	}
	if !c.waits || slot == c.slot || !c.pending.acked(number) {
		return
	}
	if c.has {
		c.free = c.number + rest
	}
	c.slot, c.active, c.has, c.waits = slot, c.pending, true, false
}

// acked takes the acknowledgement of one of the anchors. Those before it do not
// matter any more: the receiver replaces an anchor by newer ones only.
func (a *anchored) acked(number uint16) bool {
	behind := uint64(uint16(a.last) - number)
	if behind > a.last-a.first {
		return false // an anchor of another line
	}
	a.first = a.last - behind
	return true
}

// Unknown takes the news that the receiver does not know the context. It starts
// again.
func (c *Compressor) Unknown() { c.has, c.waits = false, false }

// learn compares a packet with the one before.
func (c *Compressor) learn(h *header, length int) {
	if !c.any {
		return
	}
	if length == int(c.length) {
		c.lengths = min(c.lengths+1, steadyLength)
	} else {
		c.lengths = 0
	}
	if h.ssrc != c.previous.ssrc || h.seq != c.previous.seq+1 {
		return
	}
	step := h.ts - c.previous.ts
	if c.strides > 0 && step == c.stride {
		c.strides = min(c.strides+1, steadyStride)
	} else {
		c.stride, c.strides = step, 1
	}
}

// usable reports whether a record over the active slot can carry the packet.
func (c *Compressor) usable(h *header, number uint64) bool {
	return c.has && h.first == c.active.header.first && h.ssrc == c.active.ssrc && c.active.near(h, uint16(number)) &&
		number+reach/2 > c.active.last && number < c.active.first+reach/2
}

// record returns the shortest record that carries the packet over the active slot
// and sets no anchor.
func (c *Compressor) record(h *header, number uint64, length int) wire.Record {
	r := wire.Record{Type: wire.RecordCompressed, Context: c.context, Slot: c.slot, Number: uint16(number), Length: wire.Implied}
	if length != int(c.active.usual) {
		r.Length = length
	}
	r.Sequence, r.Timestamp = c.active.offsets(h, uint16(number))
	r.HasByte, r.Byte = h.second != c.active.second, h.second
	if off(&r) || number+shortBehind < c.active.last || number > c.active.first+shortAhead {
		r.Type = wire.RecordDelta
	}
	return r
}

// off reports whether the record's packet is off the active line.
func off(r *wire.Record) bool { return r.Sequence != 0 || r.Timestamp != 0 || r.HasByte }

// repeats reports whether the packet is to be another anchor of the pending line.
// r is the record that it would have without, if it is usable.
func (c *Compressor) repeats(h *header, number uint64, usable bool, r *wire.Record) bool {
	if !c.waits || !c.pending.holds(h, uint16(number)) || number >= c.pending.first+reach/4 {
		return false
	}
	if !usable || r.Type == wire.RecordDelta {
		return true
	}
	if number < c.pending.last+uint64(c.gap) {
		return false
	}
	c.gap = min(2*c.gap, lastGap)
	return true
}

// starts reports whether the packet is to be the first anchor of a new line, and
// makes that line the pending one.
func (c *Compressor) starts(h *header, number uint64, usable bool, r *wire.Record) bool {
	if c.waits && c.pending.holds(h, uint16(number)) && number < c.pending.first+reach/4 || c.has && number < c.free {
		return false
	}
	stride, usual, start := c.active.stride, c.active.usual, false
	switch {
	case !usable:
		// Two packets are a line.
		stride, usual = uint16(c.stride), c.length
		start = c.strides > 0 && c.stride <= 0xffff && c.follows(h, number, stride)
	case off(r) && c.strides == steadyStride && c.stride <= 0xffff && c.stride != uint32(stride):
		stride = uint16(c.stride)
		start = c.follows(h, number, stride)
	case off(r):
		start = c.follows(h, number, stride)
	case r.Length != wire.Implied && c.lengths == steadyLength:
		usual, start = uint16(r.Length), true
	default:
		start = number >= c.active.first+renew
	}
	if start {
		c.pending = anchored{lineOf(*h, uint16(number), stride, usual), number, number}
		c.waits, c.gap = true, firstGap
	}
	return start
}

// follows reports whether the packet and the one before are on one line.
func (c *Compressor) follows(h *header, number uint64, stride uint16) bool {
	p := &c.previous
	return c.any && number == c.number+1 && h.seq == p.seq+1 && h.ts == p.ts+uint32(stride) &&
		h.ssrc == p.ssrc && h.first == p.first && h.second&^marker == p.second&^marker
}

func (c *Compressor) appendAnchor(dst []byte, number uint64, packet []byte) []byte {
	r := wire.Record{
		Type: wire.RecordAnchor, Context: c.context, Slot: 1 - c.slot, Stride: c.pending.stride, Usual: int(c.pending.usual),
		Channel: c.channel, Number: uint16(number), Length: len(packet),
	}
	return append(r.Append(dst), packet...)
}

// appendWhole appends the record of a packet that is none of a Compressor's.
func appendWhole(dst []byte, channel uint32, number uint64, packet []byte) []byte {
	r := wire.Record{Type: wire.RecordPacket, Channel: channel, Number: uint16(number), Length: len(packet)}
	return append(r.Append(dst), packet...)
}
