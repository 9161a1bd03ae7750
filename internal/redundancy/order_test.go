package redundancy

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// stream is an Order and what came out of it.
type stream struct {
	t    testing.TB
	o    Order
	pool Pool
	out  []uint64

	newest uint64
}

func numbered(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// take gives packet n to the Order and returns the last verdict but Full.
func (s *stream) take(now int64, n uint64, wait bool) Verdict {
	for {
		v := s.o.Take(now, uint16(n), numbered(n), n >= s.newest, wait, &s.pool)
		s.newest = max(s.newest, n)
		switch v {
		case Deliver:
			s.deliver(n)
			s.drain()
		case Full:
			s.giveUp(now)
			continue
		}
		return v
	}
}

func (s *stream) deliver(n uint64) {
	if len(s.out) > 0 && n <= s.out[len(s.out)-1] {
		s.t.Fatalf("%d came out behind %d", n, s.out[len(s.out)-1])
	}
	s.out = append(s.out, n)
}

func (s *stream) drain() {
	for {
		packet, ok := s.o.Next()
		if !ok {
			return
		}
		s.deliver(binary.BigEndian.Uint64(packet))
		s.pool.Release(packet)
	}
}

func (s *stream) giveUp(now int64) {
	s.o.GiveUp(now)
	s.drain()
}

func TestOrder(t *testing.T) {
	type step struct {
		n    uint64
		wait bool
		want Verdict
	}
	cases := []struct {
		name  string
		steps []step
		out   []uint64
	}{
		{"in order", []step{{500, true, Deliver}, {501, true, Deliver}, {502, false, Deliver}}, []uint64{500, 501, 502}},
		{"twice", []step{{500, true, Deliver}, {500, true, Again}, {501, true, Deliver}, {500, true, Again}}, []uint64{500, 501}},
		{"held", []step{{500, true, Deliver}, {502, true, Held}, {503, true, Held}, {502, true, Held}, {501, true, Deliver}, {503, true, Again}}, []uint64{500, 501, 502, 503}},
		{"two gaps", []step{{500, true, Deliver}, {502, true, Held}, {504, true, Held}, {501, true, Deliver}, {503, true, Deliver}}, []uint64{500, 501, 502, 503, 504}},
		{"not waited for", []step{{500, true, Deliver}, {502, false, Deliver}, {501, false, Late}, {501, false, Again}, {503, false, Deliver}}, []uint64{500, 502, 503}},
		{"waiting goes on", []step{{500, true, Deliver}, {502, true, Held}, {503, false, Held}, {501, false, Deliver}}, []uint64{500, 501, 502, 503}},
		{"far ahead", []step{{500, true, Deliver}, {502, true, Held}, {600, true, Deliver}, {601, true, Deliver}}, []uint64{500, 502, 600, 601}},
		{"across 16 bits", []step{{65534, true, Deliver}, {65536, true, Held}, {65535, true, Deliver}, {65537, true, Deliver}}, []uint64{65534, 65535, 65536, 65537}},
		{"start of a stream", []step{{514, true, Held}, {513, true, Held}, {512, true, Deliver}}, []uint64{512, 513, 514}},
		{"start without waiting", []step{{514, false, Deliver}, {513, false, Late}, {515, false, Deliver}}, []uint64{514, 515}},
		{"in the middle of a stream", []step{{520, true, Deliver}, {519, true, Late}}, []uint64{520}},
		{"older than is known", []step{{500, true, Deliver}, {400, true, Again}}, []uint64{500}},
		{"after a long outage", []step{{500, true, Deliver}, {500 + 50_000, true, Deliver}, {500 + 50_001, true, Deliver}}, []uint64{500, 50_500, 50_501}},
		{"after almost all numbers", []step{{500, true, Deliver}, {500 + 65_000, true, Deliver}, {501, true, Again}, {500 + 65_001, true, Deliver}}, []uint64{500, 65_500, 65_501}},
		{"long delayed", []step{{5000, true, Deliver}, {4000, true, Again}, {5001, true, Deliver}}, []uint64{5000, 5001}},
	}
	for _, c := range cases {
		s := stream{t: t}
		for i, step := range c.steps {
			if v := s.take(int64(i), step.n, step.wait); v != step.want {
				t.Errorf("%s: step %d is %d, want %d", c.name, i, v, step.want)
			}
		}
		if len(s.out) != len(c.out) {
			t.Errorf("%s: %d came out, want %d", c.name, s.out, c.out)
			continue
		}
		for i := range c.out {
			if s.out[i] != c.out[i] {
				t.Errorf("%s: %d came out, want %d", c.name, s.out, c.out)
			}
		}
	}
}

func TestWaiting(t *testing.T) {
	s := stream{t: t}
	s.take(0, 500, true)
	if _, ok := s.o.Waiting(); ok {
		t.Error("it waits for nothing")
	}
	s.take(10, 502, true)
	s.take(20, 504, true)
	if since, ok := s.o.Waiting(); !ok || since != 10 {
		t.Errorf("%d, %v", since, ok)
	}
	s.giveUp(70)
	if since, ok := s.o.Waiting(); !ok || since != 20 {
		t.Errorf("after the first gap: %d, %v", since, ok)
	}
	if v := s.take(75, 501, true); v != Late || s.o.Lateness() != 5 {
		t.Errorf("verdict %d, %d late", v, s.o.Lateness())
	}
	s.o.Clear(&s.pool)
	if _, ok := s.o.Waiting(); ok || s.pool.Held() != 0 || s.pool.bytes != 0 {
		t.Errorf("%d packets are held", s.pool.Held())
	}
	s.giveUp(80)
}

func TestPoolIsBounded(t *testing.T) {
	var pool Pool
	orders := make([]Order, MaxHeld/4)
	packet := make([]byte, 1000)
	for i := range orders {
		orders[i].Take(0, 500, packet, true, true, &pool)
		for n := range uint16(holds) {
			v := orders[i].Take(0, 502+n, packet, true, true, &pool)
			if v == Full {
				orders[i].GiveUp(0)
				for {
					p, ok := orders[i].Next()
					if !ok {
						break
					}
					pool.Release(p)
				}
			}
			if pool.packets > MaxHeld || pool.bytes > MaxHeldBytes {
				t.Fatalf("%d packets, %d bytes", pool.packets, pool.bytes)
			}
		}
	}
	for i := range orders {
		orders[i].Clear(&pool)
	}
	if pool.packets != 0 || pool.bytes != 0 {
		t.Errorf("%d packets, %d bytes are left", pool.packets, pool.bytes)
	}
}

// FuzzOrder makes arrivals from the fuzzer's bytes: whatever comes, what goes out
// is in order, once, and nothing stays.
func FuzzOrder(f *testing.F) {
	f.Add(uint16(0), []byte{0, 1, 2, 4, 3, 0x83, 0x40, 9, 8, 7})
	f.Add(uint16(65530), []byte{0x20, 0x21, 0x22, 0x60, 0xc1, 2, 3, 0xff})
	f.Fuzz(func(t *testing.T, start uint16, script []byte) {
		s := stream{t: t}
		base := uint64(start) + 1<<16
		taken := map[uint64]Verdict{}
		for now, b := range script {
			switch {
			case b&0xc0 == 0xc0:
				s.giveUp(int64(now))
			default:
				// Around the newest, a little ahead or back.
				n := base + uint64(b&0x1f)
				if b&0x20 != 0 {
					base++
				}
				v := s.take(int64(now), n, b&0x40 == 0)
				if before, ok := taken[n]; ok && v == Deliver && before == Deliver {
					t.Fatalf("%d was delivered twice", n)
				}
				taken[n] = v
			}
		}
		for {
			if _, ok := s.o.Waiting(); !ok {
				break
			}
			s.giveUp(1 << 40)
		}
		if s.pool.Held() != 0 || s.pool.bytes != 0 {
			t.Fatalf("%d packets are left", s.pool.Held())
		}
		out := map[uint64]bool{}
		for _, n := range s.out {
			out[n] = true
		}
		for n, v := range taken {
			if (v == Deliver || v == Held) && !out[n] {
				t.Fatalf("%d was lost", n)
			}
		}
	})
}

func TestOrderNoAllocations(t *testing.T) {
	var o Order
	var pool Pool
	packet := make([]byte, 172)
	n := uint16(0)
	step := func() {
		for _, ahead := range []uint16{0, 2, 3, 1} {
			o.Take(0, n+ahead, packet, true, true, &pool)
		}
		for {
			p, ok := o.Next()
			if !ok {
				break
			}
			pool.Release(p)
		}
		n += 4
	}
	step()
	if allocations := testing.AllocsPerRun(1000, step); allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
}

// TestOrderOfAnything lets packets come in any order, some of them never, with
// copies.
func TestOrderOfAnything(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		s := stream{t: t}
		const n, ptime, longest = 2000, 20, 300
		arrivals := make([][]uint64, n*ptime+longest+1) // by ms
		for number := range uint64(n) {
			for range 1 + random.IntN(2) {
				if random.IntN(10) > 0 {
					at := number*ptime + random.Uint64N(1+random.Uint64N(longest))
					arrivals[at] = append(arrivals[at], number)
				}
			}
		}
		for now := range int64(len(arrivals)) {
			for _, number := range arrivals[now] {
				s.take(now, number, seed%2 == 0)
			}
			for {
				since, ok := s.o.Waiting()
				if !ok || now-since < 60 {
					break
				}
				s.giveUp(now)
			}
		}
		if len(s.out) < n*9/20 {
			t.Errorf("seed %d: only %d came out", seed, len(s.out))
		}
	}
}
