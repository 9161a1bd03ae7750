package bundle

import (
	"slices"
	"testing"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// heardBack is a Receiver that notes feedback alone.
type heardBack struct{ numbers []uint32 }

func (h *heardBack) Packet(uint32, bool, []byte) {}
func (h *heardBack) Answer(wire.Record)          {}
func (h *heardBack) Control(*wire.Record, bool)  {}
func (h *heardBack) Feedback(r *wire.Record) {
	h.numbers = append(h.numbers, r.Highest+uint32(r.Number))
}
func (h *heardBack) take(u *Unpacker, n int, r wire.Record) {
	u.Unpack(0, uint64(n), r.Append(nil), h)
}

// TestFeedbackOutOfOrder: where datagrams overtake each other, the one with a report is rarely the newest when it comes. It
// tells something nevertheless, unless a later report has come.
func TestFeedbackOutOfOrder(t *testing.T) {
	report := func(n int) wire.Record { return wire.Record{Type: wire.RecordReport, Highest: uint32(n)} }
	ack := func(n int) wire.Record { return wire.Record{Type: wire.RecordAck, Number: uint16(n)} }
	var u Unpacker
	h := &heardBack{}
	h.take(&u, 9, wire.Record{Type: wire.RecordProtected})
	h.take(&u, 5, report(105))
	h.take(&u, 3, report(103))
	h.take(&u, 4, ack(204))
	h.take(&u, 2, ack(202))
	h.take(&u, 6, report(106))
	h.take(&u, 7, ack(207))
	if want := []uint32{105, 204, 106, 207}; !slices.Equal(h.numbers, want) {
		t.Errorf("feedback %v, want %v", h.numbers, want)
	}
}
