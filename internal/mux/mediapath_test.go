package mux

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/udp"
)

// A pathEnd is one end of a media path with what came out of it.
type pathEnd struct {
	*mediaPath
	table    pathTable
	id       uint32
	counters counter.Set
	onPacket atomic.Pointer[func(channel uint32, rtcp bool, packet []byte)]

	mu    sync.Mutex
	heard [][]byte
	turns []string // of changed
}

// A pathPair is a media path between two sockets with a middle box between them.
type pathPair struct {
	t              testing.TB
	client, server *pathEnd
	to             netip.AddrPort // where the client sends
	net            memNet
	box            *middleBox
}

// newPathPair makes it in the memory of a test's bubble.
func newPathPair(t testing.TB, pacing Pacing) *pathPair {
	p := &pathPair{t: t}
	server := p.net.socket(t)
	p.open(pacing, p.net.socket(t), server)
	p.box = newMiddleBox(t, &p.net, server.LocalAddr())
	p.to = p.box.addr()
	p.rekey(1)
	return p
}

// newSocketPair makes it of sockets of the kernel, without a middle box.
func newSocketPair(t testing.TB, pacing Pacing) *pathPair {
	p := &pathPair{t: t}
	var conns [2]*udp.Conn
	for i := range conns {
		var err error
		if conns[i], err = udp.Listen("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	p.open(pacing, conns[0], conns[1])
	p.to = conns[1].LocalAddr()
	p.rekey(1)
	return p
}

// open makes the ends on two sockets.
func (p *pathPair) open(pacing Pacing, sockets ...datagramSocket) {
	t := p.t
	var readers sync.WaitGroup
	t.Cleanup(readers.Wait)
	for i, end := range []**pathEnd{&p.client, &p.server} {
		conn := sockets[i]
		e := new(pathEnd)
		e.mediaPath = newMediaPath(conn, end == &p.client, pathConfig{
			pacing: pacing, counters: &e.counters, received: e.take,
			learn: e.table.learn, forget: func(g *generation) { e.table.forget(g.id) }, changed: e.turn,
		})
		readers.Go(func() { receiveDatagrams(conn, &e.table, &e.counters) })
		for channel := range uint32(200) {
			e.openChannel(channel)
		}
		*end = e
		t.Cleanup(func() {
			e.close()
			_ = conn.Close()
		})
	}
}

// rekey gives both ends the keys of another connection.
func (p *pathPair) rekey(seed byte) {
	p.t.Helper()
	secret := make([]byte, seal.SecretLen)
	secret[0] = seed
	for _, e := range []*pathEnd{p.client, p.server} {
		var err error
		if e.id, err = e.table.reserve(); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.server.rekey(slices.Clone(secret), seal.AES128GCM, p.client.id, p.server.id, udp.Route{}); err != nil {
		p.t.Fatal(err)
	}
	if err := p.client.rekey(secret, seal.AES128GCM, p.server.id, p.client.id, udp.Route{Remote: p.to}); err != nil {
		p.t.Fatal(err)
	}
}

// ready waits until both ends use the path.
func (p *pathPair) ready() *pathPair {
	p.t.Helper()
	p.eventually("the path is proven", func() bool { return p.client.usable.Load() && p.server.usable.Load() })
	return p
}

func (p *pathPair) eventually(what string, f func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			for _, e := range []*pathEnd{p.client, p.server} {
				p.t.Logf("%d packets, %+v, %+v, %v", e.received(), e.info(), e.in.unpacker.Dropped(), e.counters.Snapshot())
			}
			p.t.Fatalf("not in time: %s", what)
		}
	}
}

func (e *pathEnd) take(channel uint32, rtcp bool, packet []byte) {
	if f := e.onPacket.Load(); f != nil {
		(*f)(channel, rtcp, packet)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, append(fmt.Appendf(nil, "%d %t ", channel, rtcp), packet...))
}

func (e *pathEnd) turn(usable bool, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turns = append(e.turns, fmt.Sprint(usable, reason))
}

func (e *pathEnd) received() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.heard)
}

// voice is packet n of a stream of G.711.
func voice(stream uint32, n int) []byte {
	b := make([]byte, 172)
	b[0] = 0x80
	binary.BigEndian.PutUint16(b[2:], uint16(n))
	binary.BigEndian.PutUint32(b[4:], uint32(n)*160)
	binary.BigEndian.PutUint32(b[8:], stream)
	binary.BigEndian.PutUint32(b[12:], uint32(n))
	return b
}

// A middleBox is a NAT between the ends that can be made to misbehave.
type middleBox struct {
	t      testing.TB
	server netip.AddrPort
	net    *memNet
	inner  *memSocket // toward the client
	client atomic.Pointer[netip.AddrPort]
	outer  atomic.Pointer[memSocket] // toward the server; another one after a move
	tasks  sync.WaitGroup
	// fate says how often a datagram is passed on; nil: once.
	fate atomic.Pointer[func(up bool, datagram []byte) int]
}

func newMiddleBox(t testing.TB, network *memNet, server netip.AddrPort) *middleBox {
	b := &middleBox{t: t, net: network, server: server, inner: network.socket(t)}
	t.Cleanup(b.tasks.Wait)
	b.move()
	b.tasks.Go(func() {
		b.forward(b.inner, true, func(datagram []byte, from netip.AddrPort) {
			b.client.Store(&from)
			_, _ = b.outer.Load().WriteToUDPAddrPort(datagram, b.server)
		})
	})
	t.Cleanup(func() {
		_ = b.inner.Close()
		_ = b.outer.Load().Close()
	})
	return b
}

func (b *middleBox) addr() netip.AddrPort { return b.inner.LocalAddr() }

// move gives the client another address toward the server.
func (b *middleBox) move() {
	next := b.net.socket(b.t)
	b.tasks.Go(func() {
		b.forward(next, false, func(datagram []byte, _ netip.AddrPort) {
			if client := b.client.Load(); client != nil {
				_, _ = b.inner.WriteToUDPAddrPort(datagram, *client)
			}
		})
	})
	if old := b.outer.Swap(next); old != nil {
		_ = old.Close()
	}
}

func (b *middleBox) forward(conn *memSocket, up bool, send func(datagram []byte, from netip.AddrPort)) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		times := 1
		if fate := b.fate.Load(); fate != nil {
			times = (*fate)(up, buf[:n])
		}
		for range times {
			send(buf[:n], from)
		}
	}
}

func (b *middleBox) treat(fate func(up bool, datagram []byte) int) { b.fate.Store(&fate) }

func TestPathCarriesMedia(t *testing.T) {
	for name, pacing := range map[string]Pacing{"at once": {}, "bundled": {Wait: 2 * time.Millisecond}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPathPair(t, pacing).ready()
				const streams, packets = 8, 50
				for n := range packets {
					for s := range uint32(streams) {
						for _, e := range []*pathEnd{p.client, p.server} {
							if !e.push(s, false, voice(s, n)) {
								t.Fatal("a packet was not taken")
							}
						}
					}
					if !p.client.push(3, true, []byte("an RTCP report")) {
						t.Fatal("RTCP was not taken")
					}
					time.Sleep(time.Millisecond) // some bundles share a datagram, some do not
				}
				p.eventually("all packets have come", func() bool {
					return p.server.received() == packets*(streams+1) && p.client.received() == packets*streams
				})
				next := map[string]int{}
				for _, line := range p.server.heard {
					var channel uint32
					var rtcp bool
					if _, err := fmt.Sscanf(string(line[:10]), "%d %t ", &channel, &rtcp); err != nil {
						t.Fatal(err)
					}
					head := fmt.Appendf(nil, "%d %t ", channel, rtcp)
					want := append(head, voice(channel, next[string(head)])...)
					if rtcp {
						want = append(head, "an RTCP report"...)
					}
					if !slices.Equal(line, want) {
						t.Fatalf("packet %d of %q is %q", next[string(head)], head, line)
					}
					next[string(head)]++
				}
				if info := p.client.info(); !info.Datagrams || info.RTT <= 0 || info.BytesOut == 0 || info.BytesIn == 0 {
					t.Errorf("%+v", info)
				}
			})
		})
	}
}

// talk pushes a packet each way every few milliseconds until done, and returns how
// many were taken.
func (p *pathPair) talk(done func() bool) (up, down int) {
	for n := 0; !done(); n++ {
		if p.client.push(1, false, voice(1, n)) {
			up++
		}
		if p.server.push(1, false, voice(1, n)) {
			down++
		}
		time.Sleep(5 * time.Millisecond)
	}
	return up, down
}

func TestPathIsLeftAndTakenAgain(t *testing.T) {
	for name, blocked := range map[string]func(up bool) bool{
		"both ways": func(bool) bool { return true },
		"up only":   func(up bool) bool { return up },
		"down only": func(up bool) bool { return !up },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPathPair(t, Pacing{}).ready()
				start := time.Now()
				p.talk(func() bool { return time.Since(start) > 300*time.Millisecond })
				p.box.treat(func(up bool, _ []byte) int {
					if blocked(up) {
						return 0
					}
					return 1
				})
				start = time.Now()
				p.talk(func() bool {
					return !p.client.usable.Load() && !p.server.usable.Load() || time.Since(start) > testTimeout
				})
				// Both ends, the later one after what the first one had sent has been answered.
				if took := time.Since(start); took > 200*time.Millisecond {
					t.Errorf("the path was left after %v", took)
				}
				if p.client.push(1, false, voice(1, 0)) {
					t.Error("a packet was taken for a path that is left")
				}
				p.box.treat(func(bool, []byte) int { return 1 })
				p.ready()
				if n := p.client.counters.Counter("path.left").Value(); n != 1 {
					t.Errorf("the path was left %d times", n)
				}
			})
		})
	}
}

// TestPathStaysInLoss: a tenth of the datagrams lost is no silence.
func TestPathStaysInLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		rng := rand.New(rand.NewPCG(1, 2))
		var mu sync.Mutex
		p.box.treat(func(bool, []byte) int {
			mu.Lock()
			defer mu.Unlock()
			return min(rng.IntN(10), 1)
		})
		start := time.Now()
		up, _ := p.talk(func() bool { return time.Since(start) > 5*time.Second })
		for _, e := range []*pathEnd{p.client, p.server} {
			if n := e.counters.Counter("path.left").Value(); n > 1 {
				t.Errorf("the path was left %d times", n)
			}
		}
		t.Logf("%d of %d packets came, loss %.3f", p.server.received(), up, p.client.info().Loss)
	})
}

func TestPathFollowsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		start := time.Now()
		p.talk(func() bool { return time.Since(start) > 100*time.Millisecond })
		for range 3 {
			p.box.move()
			before := p.client.received()
			start = time.Now()
			p.talk(func() bool { return p.client.received() > before+5 || time.Since(start) > testTimeout })
			if p.client.received() <= before+5 {
				t.Fatal("nothing comes from the server after the client has moved")
			}
		}
		if n := p.server.counters.Counter("path.moved").Value(); n < 3 {
			t.Errorf("moved %d times, want 3", n)
		}
	})
}

// TestPathDoesNotFollowEavesdroppers sends a copy of what the client sends from
// elsewhere, faster than the client's own: the server goes back to the client, as
// nobody else answers the challenge.
func TestPathDoesNotFollowEavesdroppers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		attacker := p.net.socket(t)
		defer attacker.Close()
		var stolen atomic.Int64
		p.box.treat(func(up bool, datagram []byte) int {
			if up && stolen.Add(1) <= 20 {
				_, _ = attacker.WriteToUDPAddrPort(datagram, p.box.server)
				return 0
			}
			return 1
		})
		start := time.Now()
		p.talk(func() bool { return stolen.Load() > 20 || time.Since(start) > testTimeout })
		before := p.client.received()
		p.talk(func() bool { return p.client.received() > before+20 || time.Since(start) > testTimeout })
		if p.client.received() <= before+20 {
			t.Error("the server sends to the eavesdropper still")
		}
	})
}

// TestPathChangesKeys gives the path the keys of new connections while it is used.
func TestPathChangesKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		sent := 0
		say := func(packets int) {
			for range packets {
				if !p.client.push(1, false, voice(1, sent)) || !p.server.push(1, false, voice(1, sent)) {
					t.Fatal("a packet was not taken")
				}
				sent++
				time.Sleep(time.Millisecond)
			}
		}
		say(20)
		for seed := range byte(3) {
			p.rekey(10 + seed)
			say(20)
		}
		p.eventually("all packets have come", func() bool { return p.server.received() == sent && p.client.received() == sent })
		for _, e := range []*pathEnd{p.client, p.server} {
			for n, line := range e.heard {
				if want := append([]byte("1 false "), voice(1, n)...); !slices.Equal(line, want) {
					t.Fatalf("packet %d is % x", n, line)
				}
			}
		}
	})
}

// TestPathRefusesForgeries repeats each datagram, and sends each with a bit changed.
func TestPathRefusesForgeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{}).ready()
		var made atomic.Int64
		p.box.treat(func(up bool, datagram []byte) int {
			if !up {
				return 1
			}
			forged := slices.Clone(datagram)
			forged[5+rand.IntN(len(forged)-5)] ^= 1 << rand.IntN(8)
			_, _ = p.box.outer.Load().WriteToUDPAddrPort(forged, p.box.server)
			made.Add(1)
			return 3
		})
		const packets = 200
		for n := range packets {
			p.client.push(1, false, voice(1, n))
			time.Sleep(time.Millisecond)
		}
		p.eventually("all packets have come", func() bool { return p.server.received() >= packets })
		time.Sleep(50 * time.Millisecond)
		if n := p.server.received(); n != packets {
			t.Errorf("%d packets came out, want %d", n, packets)
		}
		forged, replayed := p.server.counters.Counter("path.dropped.not_authentic").Value(), p.server.counters.Counter("path.dropped.replayed").Value()
		if forged < packets/2 || replayed < packets {
			t.Errorf("%d of %d forgeries and %d replays were counted", forged, made.Load(), replayed)
		}
	})
}

func TestPathDoesNotAllocate(t *testing.T) {
	p := newSocketPair(t, Pacing{Manual: true}).ready()
	came := make(chan struct{}, 16)
	count := func(uint32, bool, []byte) { came <- struct{}{} }
	p.server.onPacket.Store(&count)
	packets := make([][]byte, 14)
	round := 0
	turn := func() {
		round++
		for i := range packets {
			binary.BigEndian.PutUint16(packets[i][2:], uint16(round))
			binary.BigEndian.PutUint32(packets[i][4:], uint32(round)*160)
			p.client.push(uint32(i), false, packets[i])
		}
		p.client.flush()
		for range packets {
			<-came
		}
	}
	for i := range packets {
		packets[i] = voice(uint32(i), 0)
	}
	for range 100 {
		turn() // contexts are made and buffers grow
	}
	if n := testing.AllocsPerRun(500, turn) / float64(len(packets)); n > 0.01 {
		t.Errorf("%v allocations a packet, want none", n)
	}
}

// BenchmarkPath is a packet of G.711 through both ends and the kernel, in bursts of
// 100: 50,000 a second with a wait of 2 ms.
func BenchmarkPath(b *testing.B) {
	p := newSocketPair(b, Pacing{Manual: true}).ready()
	var came atomic.Int64
	count := func(uint32, bool, []byte) { came.Add(1) }
	p.server.onPacket.Store(&count)
	packets := make([][]byte, 100)
	for i := range packets {
		packets[i] = voice(uint32(i), 0)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += len(packets) {
		for i := range packets {
			binary.BigEndian.PutUint16(packets[i][2:], uint16(sent/100))
			binary.BigEndian.PutUint32(packets[i][4:], uint32(sent/100)*160)
			p.client.push(uint32(i), false, packets[i])
		}
		p.client.flush()
		for deadline := time.Now().Add(time.Second); came.Load() < int64(sent) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Microsecond)
		}
	}
	b.StopTimer()
	b.ReportMetric(100*(1-float64(came.Load())/float64(b.N)), "%lost")
}
