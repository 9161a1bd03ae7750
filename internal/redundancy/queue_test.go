package redundancy

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestDue follows packets through their copies.
func TestDue(t *testing.T) {
	type event struct {
		now      int64 // ms
		datagram uint64
		due      bool
	}
	cases := []struct {
		name   string
		copies int
		events []event // after a packet in datagram 1 at 0 ms
	}{
		{"one copy", 1, []event{{1, 2, false}, {5, 3, false}, {9, 4, false}, {10, 4, true}, {11, 5, false}}},
		{"one a datagram in 20 ms", 1, []event{{20, 2, false}, {40, 3, true}, {60, 4, false}}},
		{"two copies", 2, []event{{20, 2, false}, {40, 3, true}, {40, 3, false}, {60, 4, true}, {80, 5, false}}},
		{"two copies in one datagram", 2, []event{{10, 9, true}, {10, 9, false}, {19, 10, false}, {20, 11, true}}},
		// A lone packet's copy goes after 60 ms, though that is the next datagram, and once more.
		{"alone", 1, []event{{59, 2, false}, {60, 2, true}, {61, 2, false}, {100, 3, true}, {200, 4, false}}},
	}
	for _, c := range cases {
		var q Queue[string]
		q.Push(0, c.name, 77, 1, c.copies, []byte("packet"))
		for _, e := range c.events {
			copied, due := q.Due(e.now*millisecond, e.datagram)
			if due != e.due {
				t.Errorf("%s: at %d ms, datagram %d: due is %v", c.name, e.now, e.datagram, due)
				break
			}
			if due {
				if copied.Owner != c.name || copied.Number != 77 || string(copied.Packet) != "packet" {
					t.Errorf("%s: %+v", c.name, copied)
				}
				q.Sent(e.now*millisecond, e.datagram)
			}
		}
		if q.Len() != 0 {
			t.Errorf("%s: %d packets are left", c.name, q.Len())
		}
		if _, ok := q.Deadline(); ok {
			t.Errorf("%s: an empty queue has a deadline", c.name)
		}
	}
}

func TestQueueDeadline(t *testing.T) {
	var q Queue[int]
	q.Push(5, 1, 1, 1, 1, []byte("a"))
	q.Push(7, 2, 1, 1, 1, []byte("b"))
	if at, ok := q.Deadline(); !ok || at != 5+maxAge {
		t.Errorf("%d, %v", at, ok)
	}
}

// TestQueueAgainstModel fills and empties the rings, with packets of all sizes, up
// to the limits.
func TestQueueAgainstModel(t *testing.T) {
	type packet struct {
		owner int
		b     []byte
	}
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		var q Queue[int]
		var model []packet
		largest := []int{10, 200, 2048}[random.IntN(3)]
		dropped := uint64(0)
		filling := true
		for i := range 30_000 {
			if i%5000 == 0 {
				filling = !filling || seed%3 == 0
			}
			switch {
			case random.IntN(10) < 7 == filling:
				p := packet{i, bytes.Repeat([]byte{byte(i)}, 1+random.IntN(largest))}
				q.Push(int64(i), p.owner, 0, uint64(i), 1, p.b)
				model = append(model, p)
				for q.Dropped() > dropped {
					dropped++
					model = model[1:]
				}
			case len(model) > 0:
				c, ok := q.Due(1<<60, 1<<60)
				if !ok || c.Owner != model[0].owner || !bytes.Equal(c.Packet, model[0].b) {
					t.Fatalf("seed %d, step %d: %v, packet of %d", seed, i, ok, c.Owner)
				}
				q.Sent(1<<60, 1<<60)
				model = model[1:]
			}
			if q.Len() != len(model) || q.Len() > MaxQueued || len(q.bytes) > MaxQueuedBytes {
				t.Fatalf("seed %d, step %d: %d packets, want %d; %d bytes", seed, i, q.Len(), len(model), len(q.bytes))
			}
		}
	}
}

func TestQueueNoAllocations(t *testing.T) {
	var q Queue[*int]
	packet := make([]byte, 172)
	now, datagram := int64(0), uint64(0)
	step := func() {
		now += millisecond
		datagram++
		q.Push(now, nil, 1, datagram, 2, packet)
		for {
			if _, ok := q.Due(now, datagram); !ok {
				return
			}
			q.Sent(now, datagram)
		}
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkQueue(b *testing.B) {
	var q Queue[*int]
	packet := make([]byte, 172)
	now, datagram := int64(0), uint64(0)
	for b.Loop() {
		now += 100_000
		datagram++
		q.Push(now, nil, 1, datagram, 1, packet)
		for {
			if _, ok := q.Due(now, datagram); !ok {
				break
			}
			q.Sent(now, datagram)
		}
	}
}
