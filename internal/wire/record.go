package wire

import "encoding/binary"

// The plaintext of a datagram is records, one behind the other, in the order in
// which they are to be handled. The first bits of a record say what it is:
//
//	0 context 7         | S number 7                 | payload          compressed
//	10 context 6        | S number 7 | length varint | payload          compressed, its length in it
//	110 context 13      | S number 7                 | payload          compressed
//	0xe0                | channel varint | number 16 | length varint | packet       whole, RTP
//	0xe1                | the same                                                  whole, RTCP
//	0xe2                | context varint | 0000000S | stride 16 | usual varint |
//	                      channel varint | number 16 | length varint | packet       anchor
//	0xe3                | context varint | S A B Q T L U 0 | number 16 | byte 8 if B |
//	                      sequence 16 if Q | timestamp 32 if T | length varint if L | payload               delta
//	0xe4                | context varint | S number 7 | length varint | payload     compressed, its length in it
//	0xe5                | channel varint | number 16 | total varint | offset varint |
//	                      length varint | bytes                                     fragment, RTP
//	0xe6                | the same                                                  fragment, RTCP
//	0xe7                | context varint | 000000US | number 16                     ack; U: context unknown
//	0xe8                | id 32 | time 32                                           probe
//	0xe9                | id 32 | time 32                                           probe reply
//	0xea                | highest 32 | received 32 | delay 32                       report
//	0xeb                |                                                           protected
//	0xec                | code 8                                                    close
//	0xed                | the rest of the datagram                                  padding
//
// S is the slot of the context (0 or 1). The flags of a delta are written here from
// the highest bit down. The payload of a compressed record, and of a delta without
// L, is as long as the slot says. A record of another type ends the datagram: what
// is behind it cannot be found.

// RecordType is the type of a record.
type RecordType uint8

const (
	// RecordCompressed is an RTP packet whose header its context tells. Its type
	// byte, like those of its two longer forms, has the context in it.
	RecordCompressed RecordType = 0x00

	RecordPacket       RecordType = 0xe0 // a whole RTP packet, or what came instead of one
	RecordPacketRTCP   RecordType = 0xe1 // a whole RTCP packet
	RecordAnchor       RecordType = 0xe2 // a whole RTP packet whose header becomes a slot's
	RecordDelta        RecordType = 0xe3 // an RTP packet that differs from what its context tells
	recordLong         RecordType = 0xe4 // RecordCompressed, with any context and a length
	RecordFragment     RecordType = 0xe5 // a piece of an RTP packet that fits no datagram
	RecordFragmentRTCP RecordType = 0xe6 // a piece of an RTCP packet
	RecordAck          RecordType = 0xe7 // an anchor has come, or a context is not known
	RecordProbe        RecordType = 0xe8 // to be answered at once where it came from
	RecordReply        RecordType = 0xe9 // the answer
	RecordReport       RecordType = 0xea // what has come
	RecordProtected    RecordType = 0xeb // the packets of this datagram come once more
	RecordClose        RecordType = 0xec // nothing more comes on this path
	RecordPadding      RecordType = 0xed // the rest of the datagram means nothing
)

const (
	// MaxContexts is how many contexts a direction has: what fits the second form
	// of a compressed record.
	MaxContexts = 1 << 13
	// shortContexts fit the type byte, lengthContexts that of a record with a
	// length. The longer forms are for the others only.
	shortContexts, lengthContexts = 0x80, 0x40

	// MaxPacketRecord is how much longer than its packet a record of type packet or
	// anchor can be.
	MaxPacketRecord = 1 + 2 + 1 + 2 + 2 + 5 + 2 + 2
	// MaxCompressed is how much longer than its payload a compressed record or a
	// delta can be.
	MaxCompressed = 1 + 2 + 1 + 2 + 1 + 2 + 4 + 2
	// MaxFragment is how much longer than its piece a fragment can be.
	MaxFragment = 1 + 5 + 2 + 2 + 2 + 2
	// MaxFeedback is the longest of the records that carry no packet.
	MaxFeedback = 10

	// ReportBits is how many bits of its counters a report has.
	ReportBits = 24
)

const (
	// Flags of a delta.
	deltaSlot   = 0x80
	deltaAnchor = 0x40
	deltaByte   = 0x20
	deltaSeq    = 0x10
	deltaTime   = 0x08
	deltaLength = 0x04
	deltaUsual  = 0x02

	ackUnknown = 0x02 // beside the slot, in an ack
	numberBits = 0x7f // beside the slot, in a compressed record
)

// Implied is the Length of a record whose payload is as long as its context says.
const Implied = -1

// Record is one record, parsed. Which fields have a meaning depends on the type.
type Record struct {
	Type    RecordType
	RTCP    bool   // packet, fragment
	Slot    uint8  // 0 or 1: compressed, anchor, delta, ack
	Context uint16 // compressed, anchor, delta, ack
	// Number is that of the packet in its stream: all 16 bits, of a compressed
	// record the low 7.
	Number  uint16
	Channel uint32 // packet, anchor, fragment
	Stride  uint16 // anchor: timestamp units from one packet to the next
	Usual   int    // anchor: payload length that later records imply, 0 to MaxMedia

	Anchor    bool   // delta: the packet's header becomes the other slot's
	SetUsual  bool   // delta: with Anchor, so does its payload's length
	HasByte   bool   // delta: Byte is the packet's second, marker and payload type
	Byte      uint8  //
	Sequence  uint16 // delta: what the sequence number is ahead of what is told
	Timestamp uint32 // delta: what the timestamp is ahead of what is told

	Total, Offset int  // fragment: length of the packet, place of the piece
	Unknown       bool // ack: the context or its slot is not known

	ID, Time        uint32 // probe, reply: as the prober likes
	Highest         uint32 // report: low ReportBits of the highest counter received
	Received, Delay uint32 // report: those of datagrams received; us since the highest one, 2^24 - 1 at most
	Code            uint8  // close

	// Length is that of what follows the record's head: payload, packet or piece.
	Length int
}

// ParseRecord parses the head of the record at the start of b, which is not
// empty, and returns its length. r.Length bytes of payload follow; they are in b,
// unless the length is Implied.
func ParseRecord(b []byte, r *Record) (n int, err error) {
	first := b[0]
	if first >= 0xe0 {
		return parseRecord(b, r)
	}
	*r = Record{Type: RecordCompressed, Length: Implied}
	var number byte
	switch {
	case first < 0x80:
		if len(b) < 2 {
			return 0, recordError("compressed", "number", ErrTruncated)
		}
		r.Context, number, n = uint16(first), b[1], 2
	case first < 0xc0:
		if len(b) < 3 {
			return 0, recordError("compressed", "length", ErrTruncated)
		}
		r.Context, number = uint16(first&0x3f), b[1]
		f := recordFields{b: b, n: 2, record: "compressed"}
		f.length(r, 0)
		if f.err != nil {
			return 0, f.err
		}
		n = f.n
	default:
		if len(b) < 3 {
			return 0, recordError("compressed", "number", ErrTruncated)
		}
		r.Context, number, n = uint16(first&0x1f)<<8|uint16(b[1]), b[2], 3
		if r.Context < shortContexts {
			return 0, recordError("compressed", "context", ErrValue)
		}
	}
	r.Slot, r.Number = number>>7, uint16(number&numberBits)
	return n, nil
}

func parseRecord(b []byte, r *Record) (int, error) {
	t := RecordType(b[0])
	*r = Record{Type: t}
	f := recordFields{b: b, n: 1, record: "record"}
	switch t {
	case RecordPacket, RecordPacketRTCP:
		f.record, r.RTCP = "packet", t == RecordPacketRTCP
		r.Channel, r.Number = f.varint("channel"), f.uint16("number")
		f.length(r, 1)
	case RecordAnchor:
		f.record = "anchor"
		f.context(r)
		r.Slot = f.flags(1)
		r.Stride, r.Usual = f.uint16("stride"), f.size("usual")
		r.Channel, r.Number = f.varint("channel"), f.uint16("number")
		f.length(r, 12)
	case RecordDelta:
		f.record = "delta"
		f.delta(r)
	case recordLong:
		f.record, r.Type = "compressed", RecordCompressed
		f.context(r)
		if r.Context < lengthContexts {
			f.fail("context", ErrValue)
		}
		number := f.uint8("number")
		r.Slot, r.Number = number>>7, uint16(number&numberBits)
		f.length(r, 0)
	case RecordFragment, RecordFragmentRTCP:
		f.record, r.RTCP = "fragment", t == RecordFragmentRTCP
		r.Channel, r.Number = f.varint("channel"), f.uint16("number")
		r.Total, r.Offset = f.size("total"), f.size("offset")
		f.length(r, 1)
		if f.err == nil && r.Offset+r.Length > r.Total {
			f.fail("offset", ErrValue)
		}
	case RecordAck:
		f.record = "ack"
		f.context(r)
		flags := f.flags(1 | ackUnknown)
		r.Slot, r.Unknown, r.Number = flags&1, flags&ackUnknown != 0, f.uint16("number")
	case RecordProbe, RecordReply:
		f.record = "probe"
		r.ID, r.Time = f.uint32("id"), f.uint32("time")
	case RecordReport:
		f.record = "report"
		r.Highest, r.Received, r.Delay = f.uint24("highest"), f.uint24("received"), f.uint24("delay")
	case RecordClose:
		f.record = "close"
		r.Code = f.uint8("code")
	case RecordPadding:
		r.Length = len(b) - 1
	case RecordProtected:
	default:
		f.fail("type", ErrValue)
	}
	return f.n, f.err
}

// recordFields reads the fields of a record's head and keeps the first error.
type recordFields struct {
	b      []byte
	n      int
	record string
	err    error
}

func recordError(record, field string, reason error) error {
	return &ParseError{record, field, reason}
}

func (f *recordFields) fail(field string, reason error) {
	if f.err == nil {
		f.err = recordError(f.record, field, reason)
	}
}

// take returns the next n bytes, zeros when there are not as many.
func (f *recordFields) take(n int, field string) []byte {
	if f.err != nil || len(f.b)-f.n < n {
		f.fail(field, ErrTruncated)
		return make([]byte, 4)[:n]
	}
	f.n += n
	return f.b[f.n-n : f.n]
}

func (f *recordFields) uint8(field string) uint8   { return f.take(1, field)[0] }
func (f *recordFields) uint16(field string) uint16 { return binary.BigEndian.Uint16(f.take(2, field)) }
func (f *recordFields) uint24(field string) uint32 {
	b := f.take(3, field)
	return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
}

func (f *recordFields) uint32(field string) uint32 { return binary.BigEndian.Uint32(f.take(4, field)) }

// flags reads a byte of which only the bits of allowed may be set.
func (f *recordFields) flags(allowed uint8) uint8 {
	v := f.uint8("flags")
	if v&^allowed != 0 {
		f.fail("flags", ErrValue)
	}
	return v
}

func (f *recordFields) varint(field string) uint32 {
	if f.err != nil {
		return 0
	}
	v, n := parseVarint(f.b[f.n:])
	switch {
	case n == 0:
		f.fail(field, ErrTruncated)
	case n < 0:
		f.fail(field, ErrValue)
	default:
		f.n += n
	}
	return v
}

func (f *recordFields) context(r *Record) {
	v := f.varint("context")
	if v >= MaxContexts {
		f.fail("context", ErrValue)
	}
	r.Context = uint16(v)
}

// size reads a number of bytes of at most MaxMedia.
func (f *recordFields) size(field string) int {
	v := f.varint(field)
	if v > MaxMedia {
		f.fail(field, ErrTooLong)
		return 0
	}
	return int(v)
}

// length reads the length of what follows, at least least bytes, all of which
// must be there.
func (f *recordFields) length(r *Record, least int) {
	r.Length = f.size("length")
	switch {
	case f.err != nil:
	case r.Length < least:
		f.fail("length", ErrValue)
	case r.Length > len(f.b)-f.n:
		f.fail("length", ErrTruncated)
	}
}

func (f *recordFields) delta(r *Record) {
	f.context(r)
	flags := f.flags(deltaSlot | deltaAnchor | deltaByte | deltaSeq | deltaTime | deltaLength | deltaUsual)
	r.Slot, r.Anchor, r.SetUsual, r.HasByte = flags>>7, flags&deltaAnchor != 0, flags&deltaUsual != 0, flags&deltaByte != 0
	if r.SetUsual && !r.Anchor {
		f.fail("flags", ErrValue)
	}
	r.Number = f.uint16("number")
	if r.HasByte {
		r.Byte = f.uint8("byte")
	}
	if flags&deltaSeq != 0 {
		if r.Sequence = f.uint16("sequence"); r.Sequence == 0 {
			f.fail("sequence", ErrValue)
		}
	}
	if flags&deltaTime != 0 {
		if r.Timestamp = f.uint32("timestamp"); r.Timestamp == 0 {
			f.fail("timestamp", ErrValue)
		}
	}
	r.Length = Implied
	if flags&deltaLength != 0 {
		f.length(r, 0)
	}
}

// Append appends the head of the record; the caller appends its payload, which
// must be Length bytes. Fields that the type does not have are not looked at.
func (r *Record) Append(dst []byte) []byte {
	switch r.Type {
	case RecordCompressed:
		return r.appendCompressed(dst)
	case RecordPacket, RecordPacketRTCP:
		dst = appendVarint(append(dst, packetType(RecordPacket, r.RTCP)), r.Channel)
		dst = binary.BigEndian.AppendUint16(dst, r.Number)
		return appendVarint(dst, uint32(r.Length))
	case RecordAnchor:
		dst = append(appendVarint(append(dst, byte(r.Type)), uint32(r.Context)), r.Slot&1)
		dst = binary.BigEndian.AppendUint16(dst, r.Stride)
		dst = appendVarint(appendVarint(dst, uint32(r.Usual)), r.Channel)
		dst = binary.BigEndian.AppendUint16(dst, r.Number)
		return appendVarint(dst, uint32(r.Length))
	case RecordDelta:
		return r.appendDelta(dst)
	case RecordFragment, RecordFragmentRTCP:
		dst = appendVarint(append(dst, packetType(RecordFragment, r.RTCP)), r.Channel)
		dst = binary.BigEndian.AppendUint16(dst, r.Number)
		return appendVarint(appendVarint(appendVarint(dst, uint32(r.Total)), uint32(r.Offset)), uint32(r.Length))
	case RecordAck:
		flags := r.Slot & 1
		if r.Unknown {
			flags |= ackUnknown
		}
		dst = append(appendVarint(append(dst, byte(r.Type)), uint32(r.Context)), flags)
		return binary.BigEndian.AppendUint16(dst, r.Number)
	case RecordProbe, RecordReply:
		dst = binary.BigEndian.AppendUint32(append(dst, byte(r.Type)), r.ID)
		return binary.BigEndian.AppendUint32(dst, r.Time)
	case RecordReport:
		dst = appendUint24(append(dst, byte(r.Type)), r.Highest)
		return appendUint24(appendUint24(dst, r.Received), min(r.Delay, 1<<ReportBits-1))
	case RecordClose:
		return append(dst, byte(r.Type), r.Code)
	}
	return append(dst, byte(r.Type))
}

// appendUint24 appends the low 24 bits of v.
func appendUint24(dst []byte, v uint32) []byte {
	return append(dst, byte(v>>16), byte(v>>8), byte(v))
}

// packetType returns the type for RTP or the one behind it, for RTCP.
func packetType(t RecordType, rtcp bool) byte {
	if rtcp {
		return byte(t) + 1
	}
	return byte(t)
}

func (r *Record) appendCompressed(dst []byte) []byte {
	number := byte(r.Number)&numberBits | r.Slot<<7
	switch {
	case r.Length == Implied && r.Context < shortContexts:
		return append(dst, byte(r.Context), number)
	case r.Length == Implied:
		return append(dst, 0xc0|byte(r.Context>>8), byte(r.Context), number)
	case r.Context < lengthContexts:
		dst = append(dst, 0x80|byte(r.Context), number)
	default:
		dst = append(appendVarint(append(dst, byte(recordLong)), uint32(r.Context)), number)
	}
	return appendVarint(dst, uint32(r.Length))
}

func (r *Record) appendDelta(dst []byte) []byte {
	dst = append(appendVarint(append(dst, byte(r.Type)), uint32(r.Context)), 0)
	at := len(dst) - 1
	flags := r.Slot << 7
	dst = binary.BigEndian.AppendUint16(dst, r.Number)
	if r.Anchor {
		flags |= deltaAnchor
	}
	if r.SetUsual {
		flags |= deltaUsual
	}
	if r.HasByte {
		flags |= deltaByte
		dst = append(dst, r.Byte)
	}
	if r.Sequence != 0 {
		flags |= deltaSeq
		dst = binary.BigEndian.AppendUint16(dst, r.Sequence)
	}
	if r.Timestamp != 0 {
		flags |= deltaTime
		dst = binary.BigEndian.AppendUint32(dst, r.Timestamp)
	}
	if r.Length != Implied {
		flags |= deltaLength
		dst = appendVarint(dst, uint32(r.Length))
	}
	dst[at] = flags
	return dst
}
