package rtphc

import (
	"errors"

	"github.com/siptunnel/siptunnel/internal/wire"
)

var (
	// ErrUnknown is returned for a record whose context or slot has never been set:
	// the receiver has lost its state, or the sender is wrong.
	ErrUnknown = errors.New("rtphc: the context is not known")
	// ErrStale is returned for a record that was overtaken by a newer line for its
	// slot.
	ErrStale = errors.New("rtphc: the context has changed since")
	// ErrTruncated is returned for a payload that is shorter than its context says.
	ErrTruncated = errors.New("rtphc: the payload is shorter than usual")
)

// A Decompressor reads the records of all contexts of one direction of a session.
// The zero value knows no context and is ready for use. It grows with the ids
// that its peer uses, to wire.MaxContexts of about 100 bytes each.
type Decompressor struct {
	contexts []context
}

type context struct {
	known   bool
	channel uint32
	floor   uint64 // counter of the datagram that gave the context to its channel
	slots   [2]slot
}

// slot is a line and the counter of the datagram that its anchor came in.
type slot struct {
	line
	set     bool
	counter uint64
}

// Anchor takes an anchor, whole in a datagram with this counter. packet is the
// record's. It reports whether the anchor is to be acknowledged.
func (d *Decompressor) Anchor(counter uint64, r *wire.Record, packet []byte) (ack bool) {
	h, ok := parse(packet)
	if !ok {
		return false
	}
	if int(r.Context) >= len(d.contexts) {
		d.contexts = append(d.contexts, make([]context, int(r.Context)+1-len(d.contexts))...)
	}
	c := &d.contexts[r.Context]
	switch {
	case c.known && counter < c.floor:
		return false
	case !c.known || c.channel != r.Channel:
		*c = context{known: true, channel: r.Channel, floor: counter}
	}
	return c.set(r.Slot, counter, lineOf(h, r.Number, r.Stride, uint16(r.Usual)))
}

// set puts a line into a slot, unless one of a newer datagram is there.
func (c *context) set(s uint8, counter uint64, l line) bool {
	if c.slots[s].set && counter < c.slots[s].counter {
		return false
	}
	c.slots[s] = slot{line: l, set: true, counter: counter}
	return true
}

// Append reads a compressed record or a delta that came in a datagram with this
// counter. It appends the packet to dst, and returns how many bytes of body, which
// begins behind the record's head, are its payload. r gets the packet's channel
// and the 16 bits of its number. ack says that r is an anchor for the slot 1-r.Slot and
// is to be acknowledged.
func (d *Decompressor) Append(dst []byte, counter uint64, r *wire.Record, body []byte) (packet []byte, n int, ack bool, err error) {
	if int(r.Context) >= len(d.contexts) {
		return dst, 0, false, ErrUnknown
	}
	c := &d.contexts[r.Context]
	s := &c.slots[r.Slot]
	switch {
	case counter < c.floor || s.set && counter < s.counter:
		return dst, 0, false, ErrStale
	case !s.set:
		return dst, 0, false, ErrUnknown
	}
	n = r.Length
	if n == wire.Implied {
		n = int(s.usual)
	}
	if n > len(body) {
		return dst, 0, false, ErrTruncated
	}
	if r.Type == wire.RecordCompressed {
		ahead := (r.Number - s.number) & 127
		if ahead > shortAhead {
			ahead -= 128
		}
		r.Number = s.number + ahead
	}
	h := s.header
	h.seq = s.seq + (r.Number - s.number) + r.Sequence
	h.ts = s.timestamp(h.seq) + r.Timestamp
	if r.HasByte {
		h.second = r.Byte
	}
	r.Channel = c.channel
	if r.Anchor {
		usual := s.usual
		if r.SetUsual {
			usual = uint16(n)
		}
		ack = c.set(1-r.Slot, counter, lineOf(h, r.Number, s.stride, usual))
	}
	at := len(dst)
	dst = append(dst, zeroHeader[:]...)
	h.put(dst[at:])
	return append(dst, body[:n]...), n, ack, nil
}

// zeroHeader is room for a header.
var zeroHeader [headerLen]byte
