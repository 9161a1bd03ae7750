package bundle

import (
	"testing"

	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// rig is both directions of a session, sealed, whose calls have been going on.
type rig struct {
	packers   [2]Packer
	unpackers [2]Unpacker
	sealers   [2]*seal.Sealer
	openers   [2]*seal.Opener
	phones    [2][]*phone
	buffer    []byte
	now       int64
	came      int
	at        int // the end that receives
}

func (r *rig) Packet(_ uint32, _ bool, packet []byte) { r.came += len(packet) }
func (r *rig) Answer(a wire.Record)                   { r.packers[r.at].Answer(r.now, a) }
func (r *rig) Feedback(a *wire.Record)                { r.packers[r.at].Feedback(r.now, a) }
func (r *rig) Control(*wire.Record, bool)             {}

func newRig(tb testing.TB, suite seal.Suite, calls int) *rig {
	r := &rig{buffer: make([]byte, 0, BufferLen)}
	secret := make([]byte, seal.SecretLen)
	for end := range 2 {
		var err error
		if r.sealers[end], err = seal.NewSealer(secret, suite, seal.Sender(end), 7); err != nil {
			tb.Fatal(err)
		}
		if r.openers[1-end], err = seal.NewOpener(secret, suite, seal.Sender(end), 7); err != nil {
			tb.Fatal(err)
		}
		for channel := range uint32(calls) {
			r.phones[end] = append(r.phones[end], newPhone(channel, 160, 160))
			r.unpackers[end].Open(channel)
			r.packers[end].Open(channel)
		}
	}
	for range 300 {
		r.round(tb, 0)
		r.round(tb, 1)
	}
	return r
}

// round sends one packet of each call of an end.
func (r *rig) round(tb testing.TB, from int) {
	r.now += 10 * millisecond
	p := &r.packers[from]
	d := p.Begin(r.buffer, r.now)
	for _, phone := range r.phones[from] {
		packet := phone.next(0)
		for {
			var ok bool
			if d, ok = p.Add(d, r.now, phone.channel, false, packet); ok {
				break
			}
			r.deliver(tb, from, p.End(d, r.now))
			d = p.Begin(r.buffer, r.now)
		}
	}
	r.deliver(tb, from, p.End(d, r.now))
}

func (r *rig) deliver(tb testing.TB, from int, d []byte) {
	datagram, _, err := r.sealers[from].Seal(d)
	if err != nil {
		tb.Fatal(err)
	}
	r.at = 1 - from
	plaintext, counter, err := r.openers[r.at].Open(datagram)
	if err != nil {
		tb.Fatal(err)
	}
	r.unpackers[r.at].Unpack(r.now, counter, plaintext, r)
}

func TestNoAllocations(t *testing.T) {
	for _, suite := range []seal.Suite{seal.AES128GCM, seal.ChaCha20Poly1305} {
		r := newRig(t, suite, 7)
		if n := testing.AllocsPerRun(1000, func() { r.round(t, 0); r.round(t, 1) }); n != 0 {
			t.Errorf("suite %d: %v allocations in two rounds of 7 packets", suite, n)
		}
		// Copies of every packet cost none either, once there is room for them.
		for i := range uint64(20) {
			r.packers[0].Policy.Report(int64(i)*millisecond, i*100, i*90)
			r.round(t, 0)
		}
		if !r.packers[0].Policy.Protects() {
			t.Fatal("there are no copies")
		}
		if n := testing.AllocsPerRun(1000, func() { r.round(t, 0); r.round(t, 1) }); n != 0 {
			t.Errorf("suite %d: %v allocations in two rounds with copies", suite, n)
		}
	}
}

// BenchmarkPacket takes a packet of G.711 through packer, sealer, opener and
// unpacker, 7 of them in a datagram.
func BenchmarkPacket(b *testing.B) {
	suites := map[string]seal.Suite{"AES-128-GCM": seal.AES128GCM, "ChaCha20-Poly1305": seal.ChaCha20Poly1305}
	for name, suite := range suites {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, suite, 7)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n%7 == 0 {
					r.round(b, n/7&1)
				}
			}
			b.SetBytes(172)
		})
	}
}

// BenchmarkPack is the packer's part of it.
func BenchmarkPack(b *testing.B) {
	r := newRig(b, seal.AES128GCM, 7)
	p := &r.packers[0]
	n := 0
	var d []byte
	for b.Loop() {
		if n%7 == 0 {
			d = p.Begin(r.buffer, r.now)
		}
		call := r.phones[0][n%7]
		d, _ = p.Add(d, r.now, call.channel, false, call.next(0))
		if n++; n%7 == 0 {
			d = p.End(d, r.now)
			if n%350 == 0 { // what the peer would acknowledge
				for id := range uint16(7) {
					for slot := range uint8(2) {
						p.Feedback(r.now, &wire.Record{Type: wire.RecordAck, Context: id, Slot: slot, Number: uint16(p.contexts[id].owner.next - 1)})
					}
				}
			}
		}
	}
}
