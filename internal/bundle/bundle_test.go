package bundle

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// phone makes the RTP of a call.
type phone struct {
	channel uint32
	seq     uint16
	ts      uint32
	ssrc    uint32
	step    uint32
	size    int
	packet  []byte
}

func newPhone(channel uint32, size int, step uint32) *phone {
	return &phone{channel: channel, seq: uint16(channel * 77), ts: channel * 7777, ssrc: channel * 77777, step: step, size: size, packet: make([]byte, 12+size)}
}

// next returns the next packet, valid until the one behind it. Its payload begins
// with how many there were.
func (p *phone) next(n int) []byte {
	b := p.packet
	b[0], b[1] = 0x80, 8
	binary.BigEndian.PutUint16(b[2:], p.seq)
	binary.BigEndian.PutUint32(b[4:], p.ts)
	binary.BigEndian.PutUint32(b[8:], p.ssrc)
	binary.BigEndian.PutUint32(b[12:], uint32(n))
	p.seq++
	p.ts += p.step
	return b
}

// end is one end of a session: what it sends and what it receives.
type end struct {
	packer   Packer
	unpacker Unpacker
	now      *int64
	got      func(channel uint32, rtcp bool, packet []byte)
	controls []wire.Record
	open     []byte // the datagram under way
	began    int64
	has      bool
	send     func(datagram []byte)
}

func (e *end) Packet(channel uint32, rtcp bool, packet []byte) { e.got(channel, rtcp, packet) }
func (e *end) Answer(r wire.Record)                            { e.packer.Answer(*e.now, r) }
func (e *end) Feedback(r *wire.Record)                         { e.packer.Feedback(*e.now, r) }
func (e *end) Control(r *wire.Record, _ bool)                  { e.controls = append(e.controls, *r) }

// add bundles a packet as the programs do.
func (e *end) add(channel uint32, rtcp bool, packet []byte) {
	for {
		if !e.has {
			e.open, e.began, e.has = e.packer.Begin(e.open, *e.now), *e.now, true
		}
		d, ok := e.packer.Add(e.open, *e.now, channel, rtcp, packet)
		e.open = d
		if ok {
			return
		}
		e.flush()
	}
}

func (e *end) flush() {
	if !e.has {
		e.open = e.packer.Begin(e.open, *e.now)
	}
	e.has = false
	if e.open = e.packer.End(e.open, *e.now); !e.packer.Empty(e.open) {
		e.send(e.open)
	}
}

// tick sends what has waited for long enough.
func (e *end) tick(wait int64) {
	if e.has && *e.now-e.began >= wait {
		e.flush()
	}
	if at, ok := e.packer.Deadline(); ok && at <= *e.now {
		e.flush()
	}
	e.unpacker.Expire(*e.now, e)
}

// TestBytes checks what a packet costs at the IP layer, IPv4, in one direction of
// calls that talk both ways.
func TestBytes(t *testing.T) {
	cases := []struct {
		name  string
		calls int
		wait  int64
		size  int
		limit float64
	}{
		{"G.711, 1 call", 1, 2, 160, 220},
		{"G.711, 10 calls", 10, 2, 160, 200},
		{"G.711, 50 calls", 50, 2, 160, 176},
		{"G.711, 10 calls, 20 ms", 10, 20, 160, 173.2},
		{"G.729, 10 calls, 20 ms", 10, 20, 20, 29.6},
		{"G.711, 1000 calls", 1000, 2, 160, 174},
	}
	for _, c := range cases {
		var worst float64
		seeds := uint64(5)
		if c.calls > 100 || raceEnabled {
			seeds = 1
		}
		for seed := range seeds {
			worst = max(worst, bytesPerPacket(t, seed, c.calls, c.wait*millisecond, c.size))
		}
		t.Logf("%-24s %6.1f bytes per packet, limit %.1f", c.name, worst, c.limit)
		if worst > c.limit {
			t.Errorf("%s: %.1f bytes per packet, want at most %.1f", c.name, worst, c.limit)
		}
	}
}

func bytesPerPacket(t *testing.T, seed uint64, calls int, wait int64, size int) float64 {
	const (
		seconds = 8
		delay   = 25 * millisecond // one way
		packets = 50 * seconds
	)
	random := rand.New(rand.NewPCG(seed, 5))
	var now int64
	var counters [2]uint64
	var flying [2][]struct {
		at      int64
		counter uint64
		b       []byte
	}
	var ends [2]*end
	var octets, packetsOut, came int
	for i := range ends {
		ends[i] = &end{now: &now, got: func(uint32, bool, []byte) { came++ }}
		ends[i].send = func(d []byte) {
			if i == 0 {
				octets += len(d) + wire.DatagramTagLen + 28
			}
			flying[i] = append(flying[i], struct {
				at      int64
				counter uint64
				b       []byte
			}{now + delay, counters[i], bytes.Clone(d[wire.DatagramHeaderLen:])})
			counters[i]++
		}
	}
	phones := [2][]*phone{}
	phase := make([]int64, calls)
	for i := range calls {
		for e := range ends {
			phones[e] = append(phones[e], newPhone(uint32(i), size, 160))
			ends[e].unpacker.Open(uint32(i))
			ends[e].packer.Open(uint32(i))
		}
		phase[i] = random.Int64N(20 * millisecond / 100_000)
	}
	for tick := range int64(seconds * 10_000) { // 0.1 ms each
		now = tick * 100_000
		for i := range calls {
			if tick%200 == phase[i] {
				ends[0].add(uint32(i), false, phones[0][i].next(int(tick)))
				packetsOut++
			}
			if tick%200 == (phase[i]+77)%200 {
				ends[1].add(uint32(i), false, phones[1][i].next(int(tick)))
			}
		}
		for e := range ends {
			for len(flying[e]) > 0 && flying[e][0].at <= now {
				ends[1-e].unpacker.Unpack(now, flying[e][0].counter, flying[e][0].b, ends[1-e])
				flying[e] = flying[e][1:]
			}
			ends[e].tick(wait)
		}
	}
	if missing := 2*calls*packets - came; missing > 2*calls*4 {
		t.Errorf("%d of %d packets are missing", missing, 2*calls*packets)
	}
	return float64(octets) / float64(packetsOut)
}

// TestSizes bundles packets of all sizes, the RTP and the RTCP of a channel.
func TestSizes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 6))
	var now int64
	var want, got [][]byte
	var counter uint64
	receiver := &end{now: &now}
	receiver.unpacker.Open(3)
	receiver.got = func(channel uint32, rtcp bool, packet []byte) {
		if channel != 3 || rtcp != (packet[0]&1 != 0) {
			t.Fatalf("channel %d, RTCP %v, packet of %d", channel, rtcp, packet[0])
		}
		if !rtcp {
			got = append(got, bytes.Clone(packet))
		}
	}
	sender := &end{now: &now}
	sender.packer.Open(3)
	sender.send = func(d []byte) {
		if len(d) > wire.MaxDatagram-wire.DatagramTagLen {
			t.Fatalf("a datagram of %d bytes", len(d))
		}
		receiver.unpacker.Unpack(now, counter, d[wire.DatagramHeaderLen:], receiver)
		counter++
	}
	for range 5000 {
		packet := make([]byte, 1+random.IntN(wire.MaxMedia))
		for i := range packet {
			packet[i] = byte(random.Uint32())
		}
		rtcp := packet[0]&1 != 0
		if !rtcp {
			want = append(want, packet)
		}
		sender.add(3, rtcp, packet)
	}
	sender.flush()
	if len(got) != len(want) {
		t.Fatalf("%d packets of %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("packet %d is another one", i)
		}
	}
	for _, n := range []int{0, wire.MaxMedia + 1} {
		if _, ok := sender.packer.Add(nil, now, 3, false, make([]byte, n)); !ok || sender.packer.Refused() == 0 {
			t.Errorf("a packet of %d bytes was not refused", n)
		}
	}
}

// transit is a path that loses and delays datagrams.
type transit struct {
	random  *rand.Rand
	lose    func(n int) bool // n counts datagrams
	jitter  int64
	delay   int64
	n       int
	flights []flight
}

type flight struct {
	at      int64
	counter uint64
	b       []byte
}

func (p *transit) send(now int64, d []byte) {
	n := p.n
	p.n++
	if p.lose(n) {
		return
	}
	f := flight{now + p.delay, uint64(n), bytes.Clone(d[wire.DatagramHeaderLen:])}
	if p.jitter > 0 {
		f.at += p.random.Int64N(p.jitter)
	}
	i, _ := slices.BinarySearchFunc(p.flights, f, func(a, b flight) int {
		if a.at <= b.at {
			return -1
		}
		return 1
	})
	p.flights = slices.Insert(p.flights, i, f)
}

// result is what became of the packets of a simulation.
type result struct {
	sent, came int
	worst      int64 // the longest that a packet took, without the path's delay
	copies     float64
	dropped    Dropped
	counted    int // packets sent after protection had time to begin
	missing    int // of those
}

// simulate runs calls through a path, with reports every 200 ms, and checks that
// each stream comes out in order, once, byte for byte.
func simulate(t *testing.T, seed uint64, calls, seconds int, wait int64, size int, lose func(*rand.Rand) func(int) bool, jitter int64) result {
	const settle = 10_000 * millisecond
	random := rand.New(rand.NewPCG(seed, 7))
	var now int64
	var res result
	forth := &transit{random: random, lose: lose(random), jitter: jitter, delay: 25 * millisecond}
	back := &transit{random: random, lose: lose(random), jitter: jitter, delay: 25 * millisecond}
	sender, receiver := &end{now: &now}, &end{now: &now}
	octets, received, highest := 0, uint64(0), uint64(0)
	sender.send = func(d []byte) { octets += len(d); forth.send(now, d) }
	receiver.send = func(d []byte) { back.send(now, d) }
	phones := make([]*phone, calls)
	phase := make([]int64, calls)
	last := make([]int, calls)
	sentAt := make([][]int64, calls)
	for i := range phones {
		phones[i] = newPhone(uint32(i), size, 160)
		phase[i] = random.Int64N(20)
		last[i] = -1
		receiver.unpacker.Open(uint32(i))
		sender.packer.Open(uint32(i))
	}
	receiver.got = func(channel uint32, _ bool, packet []byte) {
		n := int(binary.BigEndian.Uint32(packet[12:]))
		if n <= last[channel] || n >= len(sentAt[channel]) {
			t.Fatalf("channel %d: packet %d behind %d", channel, n, last[channel])
		}
		for m := last[channel] + 1; m < n; m++ {
			if sentAt[channel][m] >= settle {
				res.missing++
			}
		}
		p := phones[channel]
		if ahead := len(sentAt[channel]) - n; binary.BigEndian.Uint16(packet[2:]) != p.seq-uint16(ahead) ||
			binary.BigEndian.Uint32(packet[4:]) != p.ts-uint32(ahead)*p.step || binary.BigEndian.Uint32(packet[8:]) != p.ssrc || len(packet) != 12+size {
			t.Fatalf("channel %d: packet %d has the header % x", channel, n, packet[:12])
		}
		last[channel] = n
		res.came++
		res.worst = max(res.worst, now-sentAt[channel][n]-25*millisecond)
	}
	for tick := range int64(seconds) * 1000 {
		now = tick * millisecond
		for i, p := range phones {
			if tick%20 == phase[i] {
				packet := p.next(len(sentAt[i]))
				sentAt[i] = append(sentAt[i], now)
				sender.add(p.channel, false, packet)
				res.sent++
				if now >= settle {
					res.counted++
				}
			}
		}
		for len(forth.flights) > 0 && forth.flights[0].at <= now {
			f := forth.flights[0]
			forth.flights = forth.flights[1:]
			highest, received = max(highest, f.counter), received+1
			receiver.unpacker.Unpack(now, f.counter, f.b, receiver)
		}
		for len(back.flights) > 0 && back.flights[0].at <= now {
			f := back.flights[0]
			back.flights = back.flights[1:]
			sender.unpacker.Unpack(now, f.counter, f.b, sender)
		}
		if tick%200 == 0 {
			receiver.packer.Answer(now, wire.Record{Type: wire.RecordReport, Highest: uint32(highest), Received: uint32(received)})
		}
		sender.tick(wait)
		receiver.tick(wait)
	}
	res.copies = float64(octets) / float64(res.sent*(size+2))
	res.dropped = receiver.unpacker.Dropped()
	return res
}

func randomLoss(p float64) func(*rand.Rand) func(int) bool {
	return func(random *rand.Rand) func(int) bool {
		return func(int) bool { return random.Float64() < p }
	}
}

// burstsOfTwo loses two datagrams in a row, one time in so many, which must be more
// than there are in 60 ms.
func burstsOfTwo(every int) func(*rand.Rand) func(int) bool {
	return func(random *rand.Rand) func(int) bool {
		next := every
		return func(n int) bool {
			if n > next+1 {
				next = n + every + random.IntN(every)
			}
			return n == next || n == next+1
		}
	}
}

// TestLoss simulates paths that lose datagrams. With a loss of p on the path and
// one copy of each packet p^2 of the packets are lost; the limits of 0.3 % and
// 1.5 % are more than three standard deviations above that.
func TestLoss(t *testing.T) {
	cases := []struct {
		name   string
		lose   func(*rand.Rand) func(int) bool
		jitter int64
		limit  float64 // of packets, in %
	}{
		{"0 %", randomLoss(0), 0, 0},
		{"0.1 %", randomLoss(0.001), 0, 0.2},
		{"1 %", randomLoss(0.01), 0, 0.05},
		{"3 %", randomLoss(0.03), 0, 0.15},
		{"5 %", randomLoss(0.05), 0, 0.3},
		{"10 %", randomLoss(0.10), 0, 1.5},
		{"5 %, jitter 20 ms", randomLoss(0.05), 20 * millisecond, 0.3},
		{"bursts of two", burstsOfTwo(60), 0, 0},
		{"jitter 5 ms", randomLoss(0), 5 * millisecond, 0.01},
		{"jitter 50 ms", randomLoss(0), 50 * millisecond, 0.05},
	}
	for _, calls := range []int{1, 10, 50} {
		seconds := 60 + 240/calls*10
		if raceEnabled {
			seconds = 20
		}
		for _, c := range cases {
			r := simulate(t, 1, calls, seconds, 2*millisecond, 160, c.lose, c.jitter)
			lost := 100 * float64(r.missing) / float64(r.counted)
			t.Logf("%2d calls, path %-18s lost %6.3f %% of %6d, %.2f times the bytes, %3d ms at most, dropped %+v",
				calls, c.name, lost, r.counted, r.copies, r.worst/millisecond, r.dropped)
			if lost > c.limit && !raceEnabled {
				t.Errorf("%d calls, path %s: %.3f %% lost, want at most %v %%", calls, c.name, lost, c.limit)
			}
			if r.copies > 3.2 || r.worst > 150*millisecond {
				t.Errorf("%d calls, path %s: %.2f times the bytes, %d ms", calls, c.name, r.copies, r.worst/millisecond)
			}
		}
	}
}
