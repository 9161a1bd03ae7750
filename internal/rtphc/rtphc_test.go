package rtphc

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// rtpPacket returns an RTP packet.
func rtpPacket(first, second byte, seq uint16, ts, ssrc uint32, payload []byte) []byte {
	h := header{first: first, second: second, seq: seq, ts: ts, ssrc: ssrc}
	b := make([]byte, headerLen, headerLen+len(payload))
	h.put(b)
	return append(b, payload...)
}

// source makes packets as phones do, and as they do not.
type source struct {
	random *rand.Rand
	first  byte
	pt     byte
	seq    uint16
	ts     uint32
	ssrc   uint32
	stride uint32
	length int
	wild   int // one packet in so many does something unusual
	event  int // packets of a telephone event to come
	queue  [][]byte
}

func newSource(random *rand.Rand, wild int) *source {
	return &source{
		random: random, first: 0x80, pt: 8, seq: uint16(random.Uint32()), ts: random.Uint32(), ssrc: random.Uint32(),
		stride: 160, length: 160, wild: wild,
	}
}

func (s *source) payload(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.random.Uint32())
	}
	return b
}

func (s *source) next() []byte {
	if len(s.queue) == 0 {
		s.more()
	}
	p := s.queue[0]
	s.queue = s.queue[1:]
	return p
}

func (s *source) plain(second byte) {
	s.queue = append(s.queue, rtpPacket(s.first, second, s.seq, s.ts, s.ssrc, s.payload(s.length)))
	s.seq++
	s.ts += s.stride
}

func (s *source) more() {
	r := s.random
	if s.event > 0 {
		s.event--
		s.queue = append(s.queue, rtpPacket(s.first, 101, s.seq, s.ts, s.ssrc, s.payload(4)))
		s.seq++
		return
	}
	if r.IntN(s.wild) != 0 {
		s.plain(s.pt)
		return
	}
	switch r.IntN(18) {
	case 0: // a gap
		n := uint32(r.IntN(5))
		if r.IntN(10) == 0 {
			n = uint32(r.IntN(70_000))
		}
		s.seq += uint16(n)
		s.ts += n * s.stride
	case 1: // a pause, then a talkspurt
		s.ts += uint32(r.IntN(500)) * s.stride
		s.plain(s.pt | marker)
	case 2: // another clock
		s.ts = r.Uint32()
	case 3: // another source
		s.ssrc = r.Uint32()
		s.seq, s.ts = uint16(r.Uint32()), r.Uint32()
	case 4: // two change places
		s.plain(s.pt)
		s.plain(s.pt)
		n := len(s.queue)
		s.queue[n-1], s.queue[n-2] = s.queue[n-2], s.queue[n-1]
	case 5: // the same again
		s.plain(s.pt)
		s.queue = append(s.queue, s.queue[len(s.queue)-1])
	case 6:
		s.event = r.IntN(30)
		s.queue = append(s.queue, rtpPacket(s.first, 101|marker, s.seq, s.ts, s.ssrc, s.payload(4)))
		s.seq++
	case 7:
		s.length = r.IntN(200)
	case 8:
		s.stride = []uint32{160, 240, 80, 0, 3000, 960, 0x10000, r.Uint32()}[r.IntN(8)]
	case 9: // STUN, DTLS or anything
		s.queue = append(s.queue, s.payload(1+r.IntN(40)))
	case 10:
		s.queue = append(s.queue, append([]byte{22, 254, 253}, s.payload(50)...))
	case 11: // RTCP on the same port
		s.queue = append(s.queue, append([]byte{0x80, 200}, s.payload(26)...))
	case 12:
		s.pt = byte(r.IntN(128))
	case 13: // extensions, CSRC, padding
		s.first = 0x80 | byte(r.Uint32())&0x3f
	case 14: // a length of its own for each
		for range r.IntN(30) {
			s.length = r.IntN(100)
			s.plain(s.pt)
		}
	case 15:
		s.queue = append(s.queue, rtpPacket(0x80, byte(r.Uint32()), uint16(r.Uint32()), r.Uint32(), r.Uint32(), nil))
	case 16: // a packet of long ago
		s.queue = append(s.queue, rtpPacket(s.first, s.pt, s.seq-uint16(r.IntN(40_000)), s.ts, s.ssrc, s.payload(s.length)))
	case 17:
		s.plain(s.pt)
		s.queue = append(s.queue, rtpPacket(s.first, s.pt, s.seq, s.ts, s.ssrc+1, s.payload(s.length))) // two sources in turn
	}
	s.plain(s.pt)
}

// path loses, delays and reorders what is put into it. Times are steps.
type path[T any] struct {
	random  *rand.Rand
	loss    float64
	delay   int
	jitter  int
	pending []flight[T]
	counter uint64
}

type flight[T any] struct {
	at      int
	counter uint64
	what    T
}

func (p *path[T]) send(now int, what T) {
	p.counter++
	if p.random.Float64() < p.loss {
		return
	}
	at := now + p.delay
	if p.jitter > 0 {
		at += p.random.IntN(p.jitter + 1)
	}
	p.pending = append(p.pending, flight[T]{at, p.counter, what})
}

func (p *path[T]) arrived(now int, f func(counter uint64, what T)) {
	kept := p.pending[:0]
	for _, x := range p.pending {
		if x.at <= now {
			f(x.counter, x.what)
		} else {
			kept = append(kept, x)
		}
	}
	p.pending = kept
}

// session is a stream through a path and its acknowledgements through another.
type session struct {
	t          testing.TB
	compressor Compressor
	receiver   Decompressor
	forth      path[[]byte]
	back       path[wire.Record]
	newestAck  uint64
	sent       map[uint16][]byte // by low bits of the number
	bytes, n   int
	delivered  int
	stale      int
	overhead   int
}

func newSession(t testing.TB, random *rand.Rand, loss float64, delay, jitter int) *session {
	return &session{
		t: t, compressor: NewCompressor(5, 9),
		forth: path[[]byte]{random: random, loss: loss, delay: delay, jitter: jitter},
		back:  path[wire.Record]{random: random, loss: loss, delay: delay, jitter: jitter},
		sent:  map[uint16][]byte{},
	}
}

// step sends a packet, and with it again one that is back numbers older, unless
// that is 0.
func (s *session) step(now int, number uint64, packet []byte, back uint64) {
	s.sent[uint16(number)] = packet
	record := s.compressor.Append(nil, number, packet)
	if len(record) > len(packet)+wire.MaxPacketRecord {
		s.t.Fatalf("a record of %d bytes for a packet of %d", len(record), len(packet))
	}
	s.n++
	s.bytes += len(record)
	s.overhead += len(record) - len(packet)
	if again := s.sent[uint16(number-back)]; back != 0 && again != nil {
		record = s.compressor.AppendCopy(record, number-back, again)
	}
	s.forth.send(now, record)
	s.forth.arrived(now, s.receive(now))
	s.back.arrived(now, func(counter uint64, r wire.Record) {
		if counter < s.newestAck {
			return
		}
		s.newestAck = counter
		if r.Unknown {
			s.compressor.Unknown()
		} else {
			s.compressor.Ack(r.Slot, r.Number)
		}
	})
}

func (s *session) receive(now int) func(counter uint64, b []byte) {
	return func(counter uint64, b []byte) {
		for len(b) > 0 {
			var r wire.Record
			n, err := wire.ParseRecord(b, &r)
			if err != nil {
				s.t.Fatal(err)
			}
			b = b[n:]
			var packet []byte
			switch r.Type {
			case wire.RecordPacket, wire.RecordAnchor:
				packet, n = b[:r.Length], r.Length
				if r.Type == wire.RecordAnchor && s.receiver.Anchor(counter, &r, packet) {
					s.back.send(now, wire.Record{Type: wire.RecordAck, Context: r.Context, Slot: r.Slot, Number: r.Number})
				}
			default:
				var ack bool
				packet, n, ack, err = s.receiver.Append(nil, counter, &r, b)
				if err == ErrStale {
					s.stale++
					return
				}
				if err != nil {
					s.t.Fatalf("step %d: %v", now, err)
				}
				if ack {
					s.back.send(now, wire.Record{Type: wire.RecordAck, Context: r.Context, Slot: 1 - r.Slot, Number: r.Number})
				}
			}
			b = b[n:]
			if r.Channel != 9 || !bytes.Equal(packet, s.sent[r.Number]) {
				s.t.Fatalf("step %d: packet %d of channel %d came out as\n%x, want\n%x", now, r.Number, r.Channel, packet, s.sent[r.Number])
			}
			s.delivered++
		}
	}
}

// TestPaths sends streams of all kinds through paths of all kinds: what comes out
// is what went in, and loss makes nothing unreadable.
func TestPaths(t *testing.T) {
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 2))
		wild := []int{3, 10, 50, 300}[random.IntN(4)]
		loss := []float64{0, 0.01, 0.1, 0.5, 0.95}[random.IntN(5)]
		delay := []int{0, 1, 5, 40, 300}[random.IntN(5)]
		jitter := []int{0, 0, 3, 15, 60}[random.IntN(5)]
		s := newSession(t, random, loss, delay, jitter)
		from := newSource(random, wild)
		number := random.Uint64N(1 << 17)
		for now := range 3000 {
			back := uint64(0)
			if random.IntN(2) == 0 {
				back = 1 + random.Uint64N(1<<random.IntN(8))
			}
			s.step(now, number, from.next(), back)
			number++
		}
		if s.stale > 0 && jitter <= rest {
			t.Errorf("seed %d: %d packets stale with a jitter of %d packets", seed, s.stale, jitter)
		}
		if t.Failed() {
			t.Fatalf("seed %d: wild %d, loss %v, delay %d, jitter %d", seed, wild, loss, delay, jitter)
		}
	}
}

// TestOverhead is what streams cost beyond their payload.
func TestOverhead(t *testing.T) {
	cases := []struct {
		name        string
		loss        float64
		delay       int
		limit       float64 // bytes per packet, the payload aside
		length, dtx int
	}{
		{"audio", 0, 3, 2.2, 0, 0},
		{"long path", 0, 20, 2.6, 0, 0},
		{"loss", 0.1, 5, 2.3, 0, 0},
		{"variable length", 0, 3, 4.4, 1, 0},
		{"pauses", 0, 3, 3.3, 0, 50},
	}
	for _, c := range cases {
		random := rand.New(rand.NewPCG(1, 3))
		s := newSession(t, random, c.loss, c.delay, 0)
		from := newSource(random, 1<<30)
		const n = 20_000
		for now := range n {
			if c.length > 0 {
				from.length = 60 + random.IntN(c.length*60)
			}
			if c.dtx > 0 && now%c.dtx == 0 {
				from.ts += 160 * uint32(random.IntN(100))
				from.plain(from.pt | marker)
			}
			s.step(now, uint64(now), from.next(), 0)
		}
		got := float64(s.overhead)/n + headerLen
		t.Logf("%-16s %.2f bytes per packet beyond the payload", c.name, got)
		if got > c.limit {
			t.Errorf("%s: %.2f bytes per packet, want at most %.2f", c.name, got, c.limit)
		}
	}
}

// TestFar has acknowledgements of the first of several anchors only, so that the
// receiver's place on the line is another one than the sender thinks, and then
// packets that are half the sequence numbers away.
func TestFar(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 9))
	for _, jump := range []uint16{1 << 14, 1<<15 - 40, 1<<15 - 1, 1 << 15, 1<<15 + 10, 1<<15 + 40, 3 << 14, 65_000} {
		s := newSession(t, random, 0, 0, 0)
		from := newSource(random, 1<<30)
		s.back.delay = 25
		now := 0
		for ; now < 60; now++ {
			s.back.loss = 1
			if now == 2 {
				s.back.loss = 0
			}
			s.step(now, uint64(now), from.next(), 0)
		}
		if !s.compressor.has || s.compressor.active.last < s.compressor.active.first+10 {
			t.Fatalf("%+v", s.compressor.active)
		}
		from.seq += jump
		from.ts += uint32(jump) * from.stride
		for range 3 {
			s.step(now, uint64(now), from.next(), 0)
			now++
		}
		// And as far by number, without any further acknowledgement.
		for range 40_000 {
			s.step(now, uint64(now), from.next(), 0)
			now++
		}
		if s.delivered != now {
			t.Errorf("%d of %d", s.delivered, now)
		}
	}
}

// TestContextChangesHands gives a context to another channel while records of the
// first are under way.
func TestContextChangesHands(t *testing.T) {
	var d Decompressor
	var r wire.Record
	packet := rtpPacket(0x80, 8, 10, 160, 1, make([]byte, 160))
	anchor := func(counter uint64, channel uint32, slot uint8) bool {
		return d.Anchor(counter, &wire.Record{Type: wire.RecordAnchor, Context: 3, Slot: slot, Stride: 160, Usual: 160, Channel: channel, Number: 7}, packet)
	}
	if !anchor(10, 1, 0) || !anchor(20, 2, 1) {
		t.Fatal("anchors were refused")
	}
	if anchor(11, 1, 0) {
		t.Error("an anchor of the channel that had the context before was taken")
	}
	r = wire.Record{Type: wire.RecordCompressed, Context: 3, Slot: 0, Number: 8, Length: wire.Implied}
	if _, _, _, err := d.Append(nil, 12, &r, packet); err != ErrStale {
		t.Errorf("a record of that channel: %v", err)
	}
	r = wire.Record{Type: wire.RecordCompressed, Context: 3, Slot: 1, Number: 8, Length: wire.Implied}
	if _, _, _, err := d.Append(nil, 19, &r, packet); err != ErrStale {
		t.Errorf("a record older than its anchor: %v", err)
	}
	r = wire.Record{Type: wire.RecordCompressed, Context: 3, Slot: 1, Number: 8, Length: wire.Implied}
	out, n, _, err := d.Append(nil, 21, &r, make([]byte, 170))
	if err != nil || n != 160 || r.Channel != 2 || binary.BigEndian.Uint16(out[2:]) != 11 {
		t.Errorf("%v, %d bytes, channel %d, % x", err, n, r.Channel, out[:12])
	}
}

// FuzzStream makes packets, loss and order from the fuzzer's bytes.
func FuzzStream(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add(uint64(2), bytes.Repeat([]byte{9, 0x80, 7, 0x41}, 60))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		random := rand.New(rand.NewPCG(seed, 4))
		s := newSession(t, random, 0, 2, 0)
		from := newSource(random, 1<<30)
		for now, b := range script {
			s.forth.loss, s.back.loss = float64(b>>7), float64(b>>6&1)
			s.forth.jitter = int(b>>5&1) * 40
			if b&0x10 != 0 {
				from.wild = 1
			}
			for range 1 + b&15 {
				s.step(now, uint64(s.n), from.next(), 0)
			}
			from.wild = 1 << 30
		}
	})
}

// FuzzDecompressor gives the decompressor anything.
func FuzzDecompressor(f *testing.F) {
	c := NewCompressor(1, 2)
	from := newSource(rand.New(rand.NewPCG(1, 1)), 5)
	var all []byte
	for n := range uint64(20) {
		all = c.Append(all, n, from.next())
		c.Ack(1, uint16(n))
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decompressor
		for counter := uint64(0); len(b) > 0; counter++ {
			var r wire.Record
			n, err := wire.ParseRecord(b, &r)
			if err != nil {
				return
			}
			b = b[n:]
			switch r.Type {
			case wire.RecordAnchor:
				d.Anchor(counter, &r, b[:r.Length])
				b = b[r.Length:]
			case wire.RecordCompressed, wire.RecordDelta:
				out, n, _, err := d.Append([]byte("x"), counter, &r, b)
				if err != nil {
					return
				}
				if n > len(b) || len(out) != 1+headerLen+n || !bytes.Equal(out[1+headerLen:], b[:n]) {
					t.Fatal("the payload is not what came")
				}
				b = b[n:]
			default:
				b = b[max(r.Length, 0):]
			}
		}
	})
}

func TestNoAllocations(t *testing.T) {
	c := NewCompressor(5, 9)
	var d Decompressor
	var r wire.Record
	packet := rtpPacket(0x80, 8, 0, 0, 7, make([]byte, 160))
	record, out := make([]byte, 0, 256), make([]byte, 0, 256)
	number := uint64(0)
	step := func() {
		h := header{first: 0x80, second: 8, seq: uint16(number), ts: uint32(number) * 160, ssrc: 7}
		h.put(packet)
		record = c.Append(record[:0], number, packet)
		n, _ := wire.ParseRecord(record, &r)
		ack := false
		if r.Type == wire.RecordAnchor {
			ack = d.Anchor(number, &r, record[n:])
			r.Slot = 1 - r.Slot
		} else if r.Type != wire.RecordPacket {
			out, _, ack, _ = d.Append(out[:0], number, &r, record[n:])
		}
		if ack {
			c.Ack(1-r.Slot, uint16(number))
		}
		number++
	}
	step()
	step()
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !c.has || len(record) > 165 {
		t.Errorf("the stream is not compressed: %d bytes", len(record))
	}
}

func BenchmarkCompress(b *testing.B) {
	c := NewCompressor(5, 9)
	packet := rtpPacket(0x80, 8, 0, 0, 7, make([]byte, 160))
	record := make([]byte, 0, 256)
	number := uint64(0)
	for b.Loop() {
		h := header{first: 0x80, second: 8, seq: uint16(number), ts: uint32(number) * 160, ssrc: 7}
		h.put(packet)
		record = c.Append(record[:0], number, packet)
		c.Ack(1-c.slot, uint16(c.pending.last))
		number++
	}
}
