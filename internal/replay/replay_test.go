package replay

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestWindow(t *testing.T) {
	var w Window
	steps := []struct {
		counter uint64
		want    Verdict
	}{
		{0, New}, {0, Seen}, {1, New}, {1, Seen}, {9, New}, {8, New}, {7, New}, {7, Seen}, {10, New}, {9, Seen},
		{Size - 1, New}, {Size, New}, {2, New}, {1, Seen}, {0, Old},
		{Size + 1, New}, {1, Old}, {2, Seen}, {3, New},
		{10 * Size, New}, {9*Size + 1, New}, {9*Size + 1, Seen}, {9 * Size, Old}, {10*Size - 1, New},
		{math.MaxUint64, New}, {math.MaxUint64, Seen}, {math.MaxUint64 - 1, New}, {math.MaxUint64 - Size + 1, New},
		{math.MaxUint64 - Size, Old}, {0, Old},
	}
	for i, s := range steps {
		if got := w.Accept(s.counter); got != s.want {
			t.Errorf("step %d: counter %d is %d, want %d", i, s.counter, got, s.want)
		}
	}
}

// model is the window as one would write it with a set.
type model struct {
	highest uint64
	seen    map[uint64]bool
}

func (m *model) accept(counter uint64) Verdict {
	switch {
	case counter <= m.highest && m.highest-counter >= Size:
		return Old
	case m.seen[counter]:
		return Seen
	}
	m.highest = max(m.highest, counter)
	m.seen[counter] = true
	return New
}

func TestWindowAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		var w Window
		m := model{seen: map[uint64]bool{}}
		base := random.Uint64N(1 << 40)
		for i := range 20_000 {
			switch random.IntN(100) {
			case 0:
				base += random.Uint64N(3 * Size)
			default:
				base += random.Uint64N(3)
			}
			counter := base - min(base, random.Uint64N(uint64(1)<<random.IntN(15)))
			if got, want := w.Accept(counter), m.accept(counter); got != want {
				t.Fatalf("seed %d, step %d: counter %d behind %d is %d, want %d", seed, i, counter, m.highest, got, want)
			}
		}
	}
}

// FuzzWindow moves the window by signed steps and compares it with the model.
func FuzzWindow(f *testing.F) {
	f.Add(uint64(0), []byte{0, 0, 1, 1, 255, 3, 2, 127, 128})
	f.Add(uint64(1<<63), []byte{7, 130, 130, 8})
	f.Fuzz(func(t *testing.T, base uint64, steps []byte) {
		var w Window
		m := model{seen: map[uint64]bool{}}
		for _, s := range steps {
			// Small steps, or with the high bit set steps of a third of the window.
			delta := uint64(int64(int8(s<<1) >> 1))
			if s&0x80 != 0 {
				delta *= Size / 3
			}
			base += delta
			if got, want := w.Accept(base), m.accept(base); got != want {
				t.Fatalf("counter %d behind %d is %d, want %d", base, m.highest, got, want)
			}
		}
	})
}

func TestReconstruct(t *testing.T) {
	cases := []struct {
		truncated      uint32
		bits           uint
		expected, want uint64
	}{
		{0x9b32, 16, 0xa82f30eb, 0xa82f9b32}, // RFC 9000 appendix A.3
		{0, 24, 0, 0},
		{5, 24, 0, 5},
		{0xffffff, 24, 0, 0xffffff}, // nothing lies below 0
		{0xffffff, 24, 1 << 24, 0xffffff},
		{0, 24, 0xffffff, 1 << 24},
		{0x800000, 24, 0x1000000, 0x1800000}, // equally near: the higher one
		{0x800001, 24, 0x1000000, 0x800001},
		{0xffffffff, 32, 1 << 33, 1<<33 - 1},
		{0, 24, math.MaxUint64, math.MaxUint64 &^ 0xffffff}, // nothing lies beyond
		{0xffffff, 24, math.MaxUint64, math.MaxUint64},
	}
	for _, c := range cases {
		if got := Reconstruct(c.truncated, c.bits, c.expected); got != c.want {
			t.Errorf("Reconstruct(%#x, %d, %#x) = %#x, want %#x", c.truncated, c.bits, c.expected, got, c.want)
		}
	}
}

// FuzzReconstruct cuts a number that is less than half a span away and gets it back.
func FuzzReconstruct(f *testing.F) {
	f.Add(uint64(1<<40), int64(-5), uint8(24))
	f.Add(uint64(0), int64(1<<22), uint8(24))
	f.Add(uint64(math.MaxUint64), int64(-1<<30), uint8(32))
	f.Fuzz(func(t *testing.T, expected uint64, away int64, width uint8) {
		bits := uint(width)%32 + 1
		half := int64(1) << (bits - 1)
		away %= half
		counter := expected + uint64(away)
		if (away < 0) != (counter < expected) && away != 0 {
			return // wraps: there is no such counter
		}
		truncated := uint32(counter & (1<<bits - 1))
		if got := Reconstruct(truncated, bits, expected); got != counter {
			t.Errorf("%d bits, expected %#x: %#x became %#x", bits, expected, counter, got)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	var w Window
	counter := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		counter += 3
		w.Accept(w.Reconstruct(uint32(counter), 24))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAccept(b *testing.B) {
	var w Window
	counter := uint64(0)
	for b.Loop() {
		counter++
		w.Accept(counter)
	}
}
