package relay

import (
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// A taken is a packet that came out of a relay's Sink.
type taken struct {
	c      Component
	packet string
}

// newPoller returns a Poller that is closed after the Relays that the test makes
// from now on.
func newPoller(t testing.TB, config PollerConfig) *Poller {
	t.Helper()
	p, err := NewPoller(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Poller.Close: %v", err)
		}
	})
	return p
}

// startRelay starts a Relay on two free ports, with a Poller of its own.
func startRelay(t testing.TB, config Config) *Relay {
	t.Helper()
	config.Poller = newPoller(t, PollerConfig{})
	if config.Pair == nil {
		pair, err := freePorts(t, loopback4, 2, time.Now).Open()
		if err != nil {
			t.Fatal(err)
		}
		config.Pair = pair
	}
	r, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// A testRelay is a relay whose Sink is a Go channel and whose clock is at hand.
type testRelay struct {
	*Relay
	t        testing.TB
	sunk     chan taken
	clock    *atomic.Int64
	counters *counter.Set
}

func newTestRelay(t testing.TB, addr netip.Addr, accept Policy) *testRelay {
	t.Helper()
	r := &testRelay{t: t, clock: new(atomic.Int64), counters: new(counter.Set)}
	poller := newPoller(t, PollerConfig{Counters: r.counters})
	poller.began, poller.now = time.Unix(1e9, 0), func() time.Duration { return time.Duration(r.clock.Load()) }
	r.start(addr, Config{Poller: poller, Accept: accept})
	return r
}

// replaced returns a relay that has taken the place of r.
func (r *testRelay) replaced(addr netip.Addr, accept Policy) *testRelay {
	r.t.Helper()
	other := &testRelay{t: r.t, clock: r.clock, counters: r.counters}
	other.start(addr, Config{Poller: r.poller, Accept: accept, Replaces: r.Relay})
	return other
}

func (r *testRelay) start(addr netip.Addr, config Config) {
	t := r.t
	t.Helper()
	pair, err := freePorts(t, addr, 2, time.Now).Open()
	if err != nil {
		t.Fatal(err)
	}
	r.sunk = make(chan taken, 1000)
	config.Pair, config.Sink = pair, func(c Component, packet []byte) { r.sunk <- taken{c, string(packet)} }
	r.Relay, err = Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if len(r.sunk) != 0 {
			t.Errorf("packet nobody expected: %+v", <-r.sunk)
		}
	})
}

// expect waits for the next packet to come out of the Sink. As a socket keeps
// the order of packets, it also shows that what was sent before did not pass.
func (r *testRelay) expect(c Component, packet string) {
	r.t.Helper()
	select {
	case got := <-r.sunk:
		if want := (taken{c, packet}); got != want {
			r.t.Fatalf("the sink got %+v, want %+v", got, want)
		}
	case <-time.After(patience):
		r.t.Fatalf("the sink did not get %q", packet)
	}
}

func (r *testRelay) mustSend(c Component, packet string) {
	r.t.Helper()
	if err := r.Send(c, []byte(packet)); err != nil {
		r.t.Fatalf("Send: %v", err)
	}
}

func (r *testRelay) rtcpAddr() netip.AddrPort {
	a := r.LocalAddr()
	return netip.AddrPortFrom(a.Addr(), a.Port()+1)
}

// A peer is a UDP socket of a phone, a PBX or an attacker.
type peer struct {
	*net.UDPConn
	t testing.TB
}

func newPeer(t testing.TB, addr string) *peer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{conn, t}
}

func (p *peer) addr() netip.AddrPort { return unmap(p.LocalAddr().(*net.UDPAddr).AddrPort()) }

func (p *peer) send(to netip.AddrPort, packet string) {
	p.t.Helper()
	if _, err := p.WriteToUDPAddrPort([]byte(packet), to); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) expect(from netip.AddrPort, packet string) {
	p.t.Helper()
	buf := make([]byte, 2048)
	n, src, err := p.ReadFromUDPAddrPort(buf)
	if err != nil {
		p.t.Fatalf("waiting for %q: %v", packet, err)
	}
	if got := string(buf[:n]); got != packet || unmap(src) != from {
		p.t.Fatalf("got %q from %v, want %q from %v", got, src, packet, from)
	}
}

// waitFor waits until a drop counter has the value n. There is no event to wait
// on: that nothing happens is the point of a drop.
func (r *testRelay) waitFor(name string, n uint64) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for r.counters.Counter(name).Value() < n {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s = %d, want %d", name, r.counters.Counter(name).Value(), n)
		}
		runtime.Gosched()
	}
	if got := r.counters.Counter(name).Value(); got != n {
		r.t.Fatalf("%s = %d, want %d", name, got, n)
	}
}
