package relay

import (
	"math/bits"
	"testing"
	"unsafe"
)

// TestSizes: a call has a Relay at each end, with a Pair and two streams. The limits are
// size classes of the allocator: a byte more takes up to an eighth more. What only one
// Relay uses at a time can be the Poller's.
func TestSizes(t *testing.T) {
	if bits.UintSize != 64 {
		t.Skip("pointers have another size")
	}
	for _, test := range []struct {
		name        string
		size, limit uintptr
	}{
		{"Relay", unsafe.Sizeof(Relay{}), 640},
		{"Pair", unsafe.Sizeof(Pair{}), 224},
		{"stream", unsafe.Sizeof(stream{}), 160},
		{"outward", unsafe.Sizeof(outward{}), 112},
	} {
		if test.size > test.limit {
			t.Errorf("a %s has %d bytes, more than %d", test.name, test.size, test.limit)
		}
	}
}
