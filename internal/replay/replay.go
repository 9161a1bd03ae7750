// Package replay refuses datagrams that came before: a sliding window over
// their counters (RFC 6479), and the reconstruction of a counter of which the
// wire carries the low bits only (RFC 9000 appendix A.3).
//
// The package knows numbers only.
package replay

const (
	blockBits = 64
	blocks    = 128 // a power of two

	// Size is how far behind the highest counter one may still be accepted: 0.8 s
	// of 10,000 datagrams a second, more than a path reorders.
	Size = (blocks - 1) * blockBits
)

// A Window remembers which of the latest counters were accepted. The zero value
// has accepted none and is ready for use. It is not safe for concurrent use.
//
// The bits lie in a ring of one block more than the window is wide, so that
// moving the window clears whole blocks and never shifts (RFC 6479 section 3).
type Window struct {
	highest uint64
	any     bool
	ring    [blocks]uint64
}

// Highest returns the highest counter accepted, 0 if there was none.
func (w *Window) Highest() uint64 { return w.highest }

// Verdict says what a Window thinks of a counter.
type Verdict uint8

const (
	New  Verdict = iota // not accepted before
	Seen                // accepted before
	Old                 // too far behind the highest one to know
)

// Accept judges a counter and remembers it when it is New. It must be called for
// authenticated datagrams only: whoever could move the window with a forged one
// would shut the true ones out.
func (w *Window) Accept(counter uint64) Verdict {
	block := counter / blockBits
	switch top := w.highest / blockBits; {
	case counter > w.highest:
		for i := range min(block-top, blocks) {
			w.ring[(top+1+i)%blocks] = 0
		}
		w.highest = counter
	case w.highest-counter >= Size:
		return Old
	}
	slot, bit := &w.ring[block%blocks], uint64(1)<<(counter%blockBits)
	if *slot&bit != 0 {
		return Seen
	}
	*slot |= bit
	w.any = true
	return New
}

// Reconstruct returns the counter whose low bits (1 to 32) are truncated and that is
// nearest to what follows highest, the highest counter authenticated so far, as
// RFC 9000 appendix A.3 does for packet numbers and RFC 3711 section 3.3.1 for
// those of SRTP. It is right when the true counter is less than 2^(bits-1) away
// from highest+1.
func (w *Window) Reconstruct(truncated uint32, bits uint) uint64 {
	if !w.any {
		return Reconstruct(truncated, bits, 0)
	}
	return Reconstruct(truncated, bits, w.highest+1)
}

// Reconstruct returns the number whose low bits (1 to 32) are truncated and that is
// nearest to expected. Of two that are equally near it takes the higher one; it
// never wraps below 0 or beyond 2^64-1.
func Reconstruct(truncated uint32, bits uint, expected uint64) uint64 {
	span := uint64(1) << bits
	half := span / 2
	candidate := expected&^(span-1) | uint64(truncated)&(span-1)
	switch {
	case expected >= half && candidate <= expected-half && candidate <= ^uint64(0)-span:
		return candidate + span
	case candidate > expected && candidate-expected > half && candidate >= span:
		return candidate - span
	}
	return candidate
}
