package bundle

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// world is a session on which channels come and go and carry anything. It checks
// that what comes out of a stream is what went into it, in order.
type world struct {
	t        testing.TB
	random   *rand.Rand
	now      int64
	ends     [2]*end
	paths    [2]*transit
	channels []uint32
	next     uint32
	streams  map[streamKey]*traffic
	sent     int
	came     int
	reports  [2]struct{ highest, received uint64 }
}

// streamKey is a stream by the end that sends.
type streamKey struct {
	from    int
	channel uint32
	rtcp    bool
}

// traffic is what went into a stream and how much of it has come out.
type traffic struct {
	sent [][]byte
	out  int
	call *phone
	vary int
}

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 8)), streams: map[streamKey]*traffic{}}
	for i := range w.ends {
		w.ends[i] = &end{now: &w.now}
		w.paths[i] = &transit{random: w.random, lose: func(int) bool { return false }, delay: 10 * millisecond}
		w.ends[i].send = func(d []byte) {
			if len(d) > wire.MaxDatagram-wire.DatagramTagLen {
				t.Fatalf("a datagram of %d bytes", len(d))
			}
			w.paths[i].send(w.now, d)
		}
		w.ends[i].got = func(channel uint32, rtcp bool, packet []byte) { w.receive(streamKey{1 - i, channel, rtcp}, packet) }
	}
	return w
}

func (w *world) receive(k streamKey, packet []byte) {
	s := w.streams[k]
	if s == nil {
		w.t.Fatalf("a packet of %+v, into which nothing went", k)
	}
	for ; s.out < len(s.sent); s.out++ {
		if bytes.Equal(s.sent[s.out], packet) {
			s.out++
			w.came++
			return
		}
	}
	w.t.Fatalf("%+v: % x did not go in, or not after what came out before", k, packet[:min(len(packet), 24)])
}

func (w *world) open() {
	channel := w.next
	w.next += 1 + uint32(w.random.IntN(3))*w.random.Uint32N(1000)
	for _, e := range w.ends {
		if !e.packer.Open(channel) || !e.unpacker.Open(channel) {
			w.t.Fatal("a channel is refused")
		}
	}
	w.channels = append(w.channels, channel)
}

func (w *world) close() {
	if len(w.channels) == 0 {
		return
	}
	i := w.random.IntN(len(w.channels))
	for _, e := range w.ends {
		e.packer.Close(w.channels[i])
		e.unpacker.Close(w.channels[i])
	}
	w.channels = slices.Delete(w.channels, i, i+1)
}

// send sends one packet of a random stream.
func (w *world) send() {
	if len(w.channels) == 0 {
		return
	}
	r := w.random
	k := streamKey{r.IntN(2), w.channels[r.IntN(len(w.channels))], r.IntN(20) == 0}
	s := w.streams[k]
	if s == nil {
		s = &traffic{call: newPhone(k.channel, 20+r.IntN(3)*70, 160), vary: []int{2, 10, 1000}[r.IntN(3)]}
		w.streams[k] = s
	}
	packet := bytes.Clone(s.call.next(len(s.sent)))
	if r.IntN(s.vary) == 0 {
		switch r.IntN(9) {
		case 0:
			packet[1] ^= 0x80
		case 1:
			s.call.ts += r.Uint32N(100_000)
		case 2:
			s.call.seq += uint16(r.IntN(5))
		case 3:
			s.call.ssrc = r.Uint32()
		case 4:
			packet = packet[:1+r.IntN(len(packet))]
		case 5:
			packet = append(packet, make([]byte, r.IntN(wire.MaxMedia-len(packet)+1))...)
		case 6:
			packet[0] = byte(r.Uint32())
		case 7:
			s.call.step = r.Uint32N(1000)
		case 8:
			binary.BigEndian.PutUint16(packet[2:], uint16(r.Uint32()))
		}
	}
	s.sent = append(s.sent, packet)
	w.sent++
	w.ends[k.from].add(k.channel, k.rtcp, packet)
}

// step lets time pass.
func (w *world) step(d int64) {
	w.now += d
	for i, e := range w.ends {
		p := w.paths[1-i]
		for len(p.flights) > 0 && p.flights[0].at <= w.now {
			f := p.flights[0]
			p.flights = p.flights[1:]
			r := &w.reports[i]
			r.highest, r.received = max(r.highest, f.counter), r.received+1
			e.unpacker.Unpack(w.now, f.counter, f.b, e)
		}
		if w.now/millisecond%100 == 0 {
			e.packer.Answer(w.now, wire.Record{Type: wire.RecordReport, Highest: uint32(w.reports[i].highest), Received: uint32(w.reports[i].received)})
		}
	}
	for _, e := range w.ends {
		e.tick(2 * millisecond)
	}
}

// check is what must hold at the end.
func (w *world) check(name string) {
	for range 300 {
		w.step(millisecond)
	}
	for i, e := range w.ends {
		d := e.unpacker.Dropped()
		if d.Context != 0 || d.Malformed != 0 {
			w.t.Errorf("%s: end %d dropped %+v", name, i, d)
		}
		if e.unpacker.Held() != 0 || len(e.unpacker.waiting) != 0 || e.packer.queue.Len() != 0 {
			w.t.Errorf("%s: end %d still holds %d packets of %d streams, %d wait to be sent again", name, i, e.unpacker.Held(), len(e.unpacker.waiting), e.packer.queue.Len())
		}
		for _, r := range e.controls {
			w.t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestAnything lets channels come and go, with packets of all kinds, over paths of
// all kinds.
func TestAnything(t *testing.T) {
	for seed := range uint64(60) {
		w := newWorld(t, seed)
		loss := []float64{0, 0, 0.01, 0.1, 0.4}[w.random.IntN(5)]
		jitter := []int64{0, 0, 3, 40}[w.random.IntN(4)] * millisecond
		for _, p := range w.paths {
			p.lose = func(int) bool { return w.random.Float64() < loss }
			p.jitter = jitter
		}
		stay := seed%2 == 0
		for range 1 + w.random.IntN(20) {
			w.open()
		}
		for range 8000 {
			for range w.random.IntN(4) {
				w.send()
			}
			if !stay && w.random.IntN(200) == 0 {
				w.open()
				w.close()
			}
			w.step(millisecond)
		}
		w.check("the end")
		if stay && loss == 0 && jitter == 0 && w.came != w.sent {
			t.Errorf("%d of %d came over a path that loses nothing", w.came, w.sent)
		}
		if w.came < w.sent/3 {
			t.Errorf("only %d of %d came", w.came, w.sent)
		}
		if t.Failed() {
			t.Fatalf("seed %d: loss %v, jitter %d ms", seed, loss, jitter/millisecond)
		}
	}
}

// FuzzSession makes what happens from the fuzzer's bytes.
func FuzzSession(f *testing.F) {
	f.Add(uint64(1), []byte{0, 0, 1, 1, 1, 5, 1, 1, 0x12, 1, 0x31, 6, 1, 1, 2, 0x45})
	f.Add(uint64(2), bytes.Repeat([]byte{0, 0x61, 0x71, 0x15, 0x26, 0x37, 0x22, 0x71}, 20))
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		w := newWorld(t, seed)
		w.open()
		for _, b := range script[:min(len(script), 400)] {
			n := 1 + int(b>>4)
			switch b & 7 {
			case 0:
				w.open()
			case 1, 2:
				for range n {
					w.send()
				}
			case 3:
				w.close()
			case 4:
				w.step(int64(n) * 7 * millisecond)
			case 5: // a burst is lost
				until := w.paths[0].n + n
				w.paths[0].lose = func(i int) bool { return i < until }
			case 6:
				w.paths[1].jitter = int64(n) * 5 * millisecond
			case 7: // copies
				for i := range w.ends {
					for range 3 {
						w.reports[i].highest += uint64(n)
						w.ends[1-i].packer.Policy.Report(w.now, 1<<20+w.reports[i].highest, 0)
					}
				}
			}
			w.step(millisecond)
		}
		w.check("the end")
	})
}

// FuzzUnpack gives an Unpacker anything. Whatever it is, it is bounded.
func FuzzUnpack(f *testing.F) {
	r := newRig(f, 1, 3)
	for range 3 {
		d := r.packers[0].Begin(nil, r.now)
		for _, call := range r.phones[0] {
			d, _ = r.packers[0].Add(d, r.now, call.channel, false, call.next(0))
		}
		f.Add(bytes.Clone(r.packers[0].End(d, r.now)[wire.DatagramHeaderLen:]), uint8(30))
	}
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		var now int64
		e := &end{now: &now}
		e.got = func(channel uint32, rtcp bool, packet []byte) {
			if channel > 3 || len(packet) == 0 || len(packet) > wire.MaxMedia+12 {
				t.Fatalf("channel %d, %d bytes", channel, len(packet))
			}
		}
		for channel := range uint32(4) {
			e.packer.Open(channel)
			e.unpacker.Open(channel)
		}
		for counter := uint64(0); len(b) > 0; counter++ {
			n := min(len(b), max(1, int(cut)), wire.MaxRecords)
			e.unpacker.Unpack(now, counter^uint64(cut&1), b[:n], e)
			b = b[n:]
			now += 10 * millisecond
			e.unpacker.Expire(now, e)
			d := e.packer.Begin(nil, now)
			if d = e.packer.End(d, now); len(d) > wire.MaxDatagram-wire.DatagramTagLen {
				t.Fatalf("a datagram of %d bytes", len(d))
			}
		}
	})
}

// TestChannels checks what is bounded, and what becomes of channels that are closed.
func TestChannels(t *testing.T) {
	var p Packer
	var u Unpacker
	for channel := range uint32(MaxStreams / 2) {
		if !p.Open(channel) || !u.Open(channel) || !u.Open(channel) {
			t.Fatalf("channel %d is refused", channel)
		}
	}
	if p.Open(MaxStreams) || u.Open(MaxStreams) {
		t.Error("one channel too many is taken")
	}
	if len(p.contexts) != wire.MaxContexts {
		t.Errorf("%d contexts", len(p.contexts))
	}
	packet := []byte("packet")
	if _, ok := p.Add(nil, 0, MaxStreams, false, packet); !ok || p.Refused() != 1 {
		t.Error("a packet of a channel that is not open is not refused")
	}
	p.Close(5)
	p.Close(5)
	u.Close(5)
	u.Close(5)
	if !p.Open(MaxStreams) || p.contexts[5].owner != nil {
		t.Error("the context of a closed channel is used again at once")
	}
	p.Close(6)
	d := p.Begin(nil, contextRest)
	if !p.Open(MaxStreams+1) || p.contexts[5].owner != p.streams[key(MaxStreams+1, false)] {
		t.Error("the context of a closed channel is not used again")
	}
	d, _ = p.Add(d, contextRest, MaxStreams, false, packet)
	now := int64(0)
	e := &end{now: &now, got: func(uint32, bool, []byte) { t.Error("a packet of a channel that is not open came") }}
	e.unpacker.Unpack(0, 0, p.End(d, 0)[wire.DatagramHeaderLen:], e)
	if e.unpacker.Dropped().Channel != 1 {
		t.Errorf("%+v", e.unpacker.Dropped())
	}
}

// TestControls carries what is not a packet, between packets.
func TestControls(t *testing.T) {
	now := int64(0)
	a, b := &end{now: &now}, &end{now: &now, got: func(uint32, bool, []byte) {}}
	b.unpacker.Open(1)
	a.packer.Open(1)
	a.packer.Answer(now, wire.Record{Type: wire.RecordProbe, ID: 1, Time: 2})
	if at, ok := a.packer.Deadline(); !ok || at != answerWait {
		t.Errorf("deadline %d, %v", at, ok)
	}
	d := a.packer.Begin(nil, now)
	if !a.packer.Empty(d) {
		t.Error("a datagram that has just been begun is not empty")
	}
	d, _ = a.packer.Add(d, now, 1, false, []byte("packet"))
	d = a.packer.End(d, now)
	if _, ok := a.packer.Deadline(); ok {
		t.Error("there is still a deadline")
	}
	rest := wire.Record{Type: wire.RecordClose, Code: 3}
	d = append(rest.Append(d), byte(wire.RecordPadding), 1, 2, 3)
	b.unpacker.Unpack(now, 0, d[wire.DatagramHeaderLen:], b)
	if len(b.controls) != 2 || b.controls[0].Type != wire.RecordProbe || b.controls[0].Time != 2 || b.controls[1].Code != 3 {
		t.Errorf("%+v", b.controls)
	}
	b.unpacker.Unpack(now, 1, []byte{0xfe, 0xe8}, b)
	if b.unpacker.Dropped().Malformed != 1 || len(b.controls) != 2 {
		t.Errorf("%+v", b.unpacker.Dropped())
	}
	// A context that was never set is asked for.
	b.unpacker.Unpack(now, 2, []byte{3, 3, 0}, b)
	if b.unpacker.Dropped().Context != 1 || len(b.packer.answers) != 1 || !b.packer.answers[0].Unknown {
		t.Errorf("%+v, %+v", b.unpacker.Dropped(), b.packer.answers)
	}
}
