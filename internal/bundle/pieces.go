package bundle

import (
	"math/bits"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// lookBack is how far behind the packet that is put together pieces of older ones
// may come.
const lookBack = 1 << 12

// pieces is a packet that comes in pieces: those of the packet and those of its
// copies may be cut at different places.
type pieces struct {
	number uint16
	total  int
	missed int
	got    [wire.MaxMedia / 64]uint64
	packet [wire.MaxMedia]byte
}

// put adds a piece and reports whether the packet is whole.
func (p *pieces) put(offset int, piece []byte) bool {
	copy(p.packet[offset:], piece)
	for at, end := offset, offset+len(piece); at < end; {
		word, first := at/64, at%64
		n := min(64-first, end-at)
		mask := ^uint64(0) >> (64 - n) << first
		p.missed -= bits.OnesCount64(mask &^ p.got[word])
		p.got[word] |= mask
		at += n
	}
	return p.missed == 0
}

// fragment takes a piece of a packet. One packet of a stream is put together at a
// time.
func (u *Unpacker) fragment(now int64, piece []byte, to Receiver) {
	r := &u.record
	s := u.stream(r.Channel, r.RTCP)
	if s == nil {
		u.dropped.Channel++
		return
	}
	p := s.pieces
	if p == nil {
		p = &pieces{}
		s.pieces = p
	}
	switch behind := int16(r.Number - p.number); {
	case p.total != 0 && behind < 0 && behind > -lookBack:
		u.dropped.Fragment++
		return
	case p.total == 0 || behind != 0:
		*p = pieces{number: r.Number, total: r.Total, missed: r.Total}
	case p.total != r.Total || p.missed == 0:
		u.dropped.Fragment++
		return
	}
	if p.put(r.Offset, piece) {
		u.take(now, s, r.Number, p.packet[:p.total], to)
	}
}
