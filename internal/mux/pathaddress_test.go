package mux

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// lengths of datagrams that have one probe or reply.
const probeLen = wire.DatagramHeaderLen + 9 + wire.DatagramTagLen

// elsewhere is a socket at an address that is not the client's, and how many
// datagrams and bytes came there.
func elsewhere(t *testing.T, network *memNet) (conn *memSocket, datagrams, bytes *atomic.Int64) {
	conn, datagrams, bytes = network.socket(t), new(atomic.Int64), new(atomic.Int64)
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, _, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			datagrams.Add(1)
			bytes.Add(int64(n))
		}
	}()
	return conn, datagrams, bytes
}

// TestOneExcursionToAnAddressThatDoesNotAnswer has all that the client sends come
// from an address that does not answer. The server sends there for a second, once.
func TestOneExcursionToAnAddressThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		victim, datagrams, bytes := elsewhere(t, &p.net)
		p.box.treat(func(up bool, datagram []byte) int {
			if up {
				_, _ = victim.WriteToUDPAddrPort(datagram, p.box.server)
				return 0
			}
			return 1
		})
		start := time.Now()
		p.talk(func() bool { return time.Since(start) > challengeWait+500*time.Millisecond })
		if bytes.Load() == 0 {
			t.Error("the path did not follow an authentic datagram")
		}
		before, beforeDatagrams := bytes.Load(), datagrams.Load()
		start = time.Now()
		p.talk(func() bool { return time.Since(start) > 2*time.Second })
		// Challenges and answers to the client's probes, each a datagram of one record.
		n, size := datagrams.Load()-beforeDatagrams, bytes.Load()-before
		if size != n*probeLen || n > 20 {
			t.Errorf("%d datagrams of %d bytes were sent to the address afterwards, want a few probes", n, size)
		}
		// One that answers is followed all the same.
		p.box.treat(func(bool, []byte) int { return 1 })
		p.box.move()
		heard := p.client.received()
		start = time.Now()
		p.talk(func() bool { return p.client.received() > heard+20 || time.Since(start) > testTimeout })
		if p.client.received() <= heard+20 {
			t.Error("the server does not follow the client")
		}
	})
}

// TestChallengeIsRepeated loses the first challenge after a move.
func TestChallengeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		var lost atomic.Int64
		p.box.treat(func(up bool, datagram []byte) int {
			if !up && len(datagram) == probeLen && lost.Add(1) == 1 {
				return 0
			}
			return 1
		})
		p.box.move()
		start := time.Now()
		p.talk(func() bool { return lost.Load() >= 2 || time.Since(start) > testTimeout })
		p.eventually("the challenge is answered", func() bool {
			p.server.out.Lock()
			defer p.server.out.Unlock()
			return !p.server.out.challenge.open
		})
		p.server.out.Lock()
		defer p.server.out.Unlock()
		if p.server.out.wary != 0 {
			t.Error("the address is distrusted for the loss of one challenge")
		}
	})
}

// say has an end send a datagram with these records.
func (e *pathEnd) say(records ...wire.Record) {
	e.out.Lock()
	defer e.out.Unlock()
	d := append(e.out.burst.Room(2048), make([]byte, wire.DatagramHeaderLen)...)
	for i := range records {
		d = records[i].Append(d)
	}
	e.seal(d, e.now())
	e.transmit()
}

// TestOneReplyADatagram has a client ask as often as a datagram has room for.
func TestOneReplyADatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		var replies atomic.Int64
		p.box.treat(func(up bool, datagram []byte) int {
			if !up {
				replies.Add(1)
			}
			return 1
		})
		const asked = 20
		for range asked {
			p.client.say(slices.Repeat([]wire.Record{{Type: wire.RecordProbe, ID: 7}}, 100)...)
		}
		p.eventually("the answers come", func() bool { return replies.Load() >= asked })
		time.Sleep(50 * time.Millisecond)
		if n := replies.Load(); n > 2*asked { // reports come too
			t.Errorf("%d datagrams answer %d", n, asked)
		}
	})
}

// TestProofNeedsTheProbe has a client that does not get the server's probes answer
// them: they have gone to an address that is not its own.
func TestProofNeedsTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{})
		p.box.treat(func(up bool, _ []byte) int {
			if up {
				return 1
			}
			return 0
		})
		p.client.out.Lock()
		p.client.out.watch.proven = false
		p.client.out.Unlock()
		p.server.out.Lock()
		p.server.out.watch = pathWatch{}
		p.server.usable.Store(false)
		p.server.out.Unlock()
		for id := range uint32(50) {
			var guesses []wire.Record
			for n := range uint32(60) {
				guesses = append(guesses, wire.Record{Type: wire.RecordReply, ID: n, Time: id})
			}
			p.client.say(guesses...)
			time.Sleep(10 * time.Millisecond)
		}
		if p.server.usable.Load() {
			t.Error("the server sends media to where no probe was answered from")
		}
	})
}

// TestKeysOfTheLatestOfferAreUsed has a datagram come under keys that a newer offer
// has replaced before any was used.
func TestKeysOfTheLatestOfferAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		p.box.treat(func(bool, []byte) int { return 0 })
		p.rekey(2)
		p.server.out.Lock()
		replaced := p.server.out.offered
		p.server.out.Unlock()
		if replaced == nil {
			t.Fatal("the server has taken keys into use under which nothing can have come")
		}
		p.rekey(3)
		p.server.in.Lock()
		p.server.note(replaced, false, p.server.now())
		p.server.in.Unlock()
		p.server.out.Lock()
		defer p.server.out.Unlock()
		if p.server.out.current == replaced {
			t.Error("keys that were replaced are used")
		}
	})
}

// ids is how many ids are taken.
func (t *pathTable) ids() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.by)
}

// TestPathIDsAreGivenBack opens a path on many connections.
func TestPathIDsAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		for seed := range byte(40) {
			p.rekey(10 + seed)
			if seed%2 == 0 {
				p.client.say(wire.Record{Type: wire.RecordProbe})
				p.eventually("the keys are used", func() bool {
					p.server.out.Lock()
					defer p.server.out.Unlock()
					return p.server.out.offered == nil
				})
			}
			for _, e := range []*pathEnd{p.client, p.server} {
				if n := e.table.ids(); n > 3 {
					t.Fatalf("%d ids are taken after %d connections", n, seed)
				}
			}
		}
		p.server.close()
		p.client.close()
		if n := p.server.table.ids() + p.client.table.ids(); n != 0 {
			t.Errorf("%d ids are left", n)
		}
		if err := p.server.rekey(make([]byte, 32), 1, 1, 1, udp.Route{}); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatIsDroppedIsCounted has records come that are of no use.
func TestWhatIsDroppedIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		p.client.say(wire.Record{Type: wire.RecordCompressed, Context: 77, Length: 0})
		p.client.say(wire.Record{Type: 0xff})
		for _, reason := range []string{"no_context", "malformed"} {
			p.eventually(reason, func() bool { return p.server.counters.Counter("path.dropped."+reason).Value() > 0 })
		}
	})
}
