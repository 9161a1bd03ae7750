package bundle

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// other is a packet that goes another way than in a datagram.
type other struct {
	at      int64
	channel uint32
	rtcp    bool
	after   uint64
	packet  []byte
}

// twoWays sends streams whose packets go in datagrams at times and in a connection
// at others, each with a delay of its own, and checks that each stream comes out in
// order, once. It returns how many packets were sent and how many came.
func twoWays(t *testing.T, seed uint64, loss float64, jitter, stall int64) (sent, came int, dropped Dropped) {
	const channels = 3
	random := rand.New(rand.NewPCG(seed, 9))
	var now int64
	path := &transit{random: random, delay: 25 * millisecond, jitter: jitter, lose: func(int) bool { return random.Float64() < loss }}
	sender, receiver := &end{now: &now}, &end{now: &now}
	sender.send = func(d []byte) { path.send(now, d) }
	receiver.send = func([]byte) {}
	var last [channels][2]int
	var next [channels][2]int
	receiver.got = func(channel uint32, rtcp bool, packet []byte) {
		n, of := int(binary.BigEndian.Uint32(packet[12:])), &last[channel][index(rtcp)]
		if n <= *of {
			t.Fatalf("seed %d, channel %d, RTCP %v: packet %d came behind %d", seed, channel, rtcp, n, *of)
		}
		*of = n
		came++
	}
	var phones [channels]*phone
	for i := range phones {
		phones[i] = newPhone(uint32(i), 20, 160)
		sender.packer.Open(uint32(i))
		receiver.unpacker.Open(uint32(i))
	}
	var connection []other
	var stalled int64 // until when the connection carries nothing
	aside, after := false, uint64(0)
	for tick := range int64(20_000) {
		now = tick * millisecond
		if random.IntN(400) == 0 {
			if aside = !aside; aside {
				sender.flush()
				sender.packer.Leave()
				after = uint64(path.n)
			}
		}
		if stall > 0 && random.IntN(1000) == 0 {
			stalled = now + random.Int64N(stall)
			path.delay = 25*millisecond + random.Int64N(2)*random.Int64N(stall)
		}
		for i, p := range phones {
			rtcp := random.IntN(10) == 0
			if tick%20 != int64(i) {
				continue
			}
			n := &next[i][index(rtcp)]
			*n++
			packet := p.next(*n)
			sent++
			if aside {
				connection = append(connection, other{now + 25*millisecond, p.channel, rtcp, after, bytes.Clone(packet)})
			} else {
				sender.add(p.channel, rtcp, packet)
			}
		}
		for len(path.flights) > 0 && path.flights[0].at <= now {
			f := path.flights[0]
			path.flights = path.flights[1:]
			receiver.unpacker.Unpack(now, f.counter, f.b, receiver)
		}
		for now >= stalled && len(connection) > 0 && connection[0].at <= now {
			o := connection[0]
			connection = connection[1:]
			if receiver.unpacker.Aside(now, o.channel, o.rtcp, o.after, receiver) {
				receiver.got(o.channel, o.rtcp, o.packet)
			}
		}
		if tick%200 == 0 && loss > 0 {
			highest := uint64(path.n)
			report := wire.Record{Type: wire.RecordReport, Highest: uint32(highest), Received: uint32(float64(highest) * (1 - loss))}
			sender.packer.Feedback(now, &report)
		}
		sender.tick(2 * millisecond)
		receiver.tick(0)
	}
	return sent, came, receiver.unpacker.Dropped()
}

func index(rtcp bool) int {
	if rtcp {
		return 1
	}
	return 0
}

// TestTwoWaysKeepOrder changes the way of streams at random, while what is on
// either way may be held up for longer than the change takes.
func TestTwoWaysKeepOrder(t *testing.T) {
	overtaken := uint64(0)
	for seed := range uint64(40) {
		loss := []float64{0, 0.05}[seed%2]
		jitter := []int64{0, 50}[seed/2%2] * millisecond
		sent, came, dropped := twoWays(t, seed, loss, jitter, 400*millisecond)
		overtaken += dropped.Overtaken
		if came < sent*7/10 {
			t.Errorf("seed %d: %d of %d came, %+v", seed, came, sent, dropped)
		}
	}
	if overtaken == 0 {
		t.Error("nothing was ever overtaken")
	}
}

// TestTwoWaysLoseNothing: where both ways take equally long a change costs nothing.
func TestTwoWaysLoseNothing(t *testing.T) {
	for seed := range uint64(10) {
		sent, came, dropped := twoWays(t, seed, 0, 0, 0)
		if dropped != (Dropped{}) || sent-came > 10 { // what was under way at the end
			t.Errorf("seed %d: %d of %d came, %+v", seed, came, sent, dropped)
		}
	}
}

// TestAside judges single packets at the edges.
func TestAside(t *testing.T) {
	now := int64(0)
	var out []string
	e := &end{now: &now}
	e.got = func(_ uint32, _ bool, packet []byte) { out = append(out, string(packet)) }
	u := &e.unpacker
	u.Open(1)
	datagram := func(counter uint64, number uint16, text string) {
		r := wire.Record{Type: wire.RecordPacket, Channel: 1, Number: number, Length: len(text)}
		u.Unpack(now, counter, append(r.Append(nil), text...), e)
	}
	aside := func(rtcp bool, after uint64, text string) {
		if u.Aside(now, 1, rtcp, after, e) {
			e.got(1, rtcp, []byte(text))
		}
	}
	expect := func(overtaken uint64, want ...string) {
		t.Helper()
		if len(out) != len(want) || u.Dropped().Overtaken != overtaken {
			t.Fatalf("%q came, %d overtaken, want %q, %d", out, u.Dropped().Overtaken, want, overtaken)
		}
		for i := range want {
			if out[i] != want[i] {
				t.Fatalf("%q came, want %q", out, want)
			}
		}
		out = nil
	}
	aside(false, 0, "first")
	datagram(10, 256, "a")
	aside(false, 0, "late")
	expect(1, "first", "a")
	u.Unpack(now, 11, []byte{byte(wire.RecordProtected)}, e)
	datagram(13, 258, "c") // "b" is missing
	expect(1)
	aside(false, 14, "d")
	expect(1, "c", "d")
	datagram(12, 257, "b")
	expect(2)
	aside(true, 12, "report") // of another stream, which no datagram had
	aside(false, 14, "e")
	datagram(14, 259, "f")
	aside(false, 14, "late")
	expect(3, "report", "e", "f")
	if !u.Aside(now, 2, false, 0, e) {
		t.Error("a packet of a channel without datagrams is refused")
	}
}

// TestAsideDoesNotAllocate holds what each packet of the connection passes to none.
func TestAsideDoesNotAllocate(t *testing.T) {
	now := int64(0)
	e := &end{now: &now}
	e.unpacker.Open(1)
	if n := testing.AllocsPerRun(100, func() { e.unpacker.Aside(now, 1, false, 7, e) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
