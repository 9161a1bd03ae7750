package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

// A testClock is a clock that moves when told to.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func newTestClock() *testClock { return &testClock{t: time.Unix(1e9, 0)} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// freePorts returns a range of n pairs of ports that nobody has at the moment. A
// test that fails when somebody takes one of them uses an address of its own
// from 127.0.0.0/8.
func freePorts(t testing.TB, addr netip.Addr, n int, now func() time.Time) *Ports {
	t.Helper()
	for lo := 31000; lo+2*n < 60000; lo += 2 * n {
		p, err := newPorts(addr, uint16(lo), uint16(lo+2*n-1), now)
		if err != nil {
			t.Fatal(err)
		}
		if allFree(addr, lo, 2*n) {
			return p
		}
	}
	t.Fatal("no free range of ports")
	return nil
}

func allFree(addr netip.Addr, lo, n int) bool {
	for port := lo; port < lo+n; port++ {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, uint16(port))))
		if err != nil {
			return false
		}
		_ = conn.Close()
	}
	return true
}

func needIPv6(t testing.TB) {
	t.Helper()
	conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		t.Skip("this host has no IPv6 loopback")
	}
	_ = conn.Close()
}

func TestNewPorts(t *testing.T) {
	for _, test := range []struct {
		name  string
		addr  string
		lo    uint16
		hi    uint16
		pairs int // 0: refused
	}{
		{"even to odd", "127.0.0.1", 50000, 50009, 5},
		{"odd to odd", "127.0.0.1", 50001, 50009, 4},
		{"even to even", "127.0.0.1", 50000, 50008, 4},
		{"odd to even", "127.0.0.1", 50001, 50008, 3},
		{"one pair", "::1", 50000, 50001, 1},
		{"up to the last port", "127.0.0.1", 65534, 65535, 1},
		{"all ports", "127.0.0.1", 1, 65535, 32767},
		{"one port", "127.0.0.1", 50000, 50000, 0},
		{"one odd port and the even one after it", "127.0.0.1", 50001, 50002, 0},
		{"last port alone", "127.0.0.1", 65535, 65535, 0},
		{"backwards", "127.0.0.1", 50009, 50000, 0},
		{"port 0", "127.0.0.1", 0, 50000, 0},
		{"unspecified", "0.0.0.0", 50000, 50009, 0},
		{"unspecified IPv6", "::", 50000, 50009, 0},
		{"multicast", "224.0.0.1", 50000, 50009, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := NewPorts(netip.MustParseAddr(test.addr), test.lo, test.hi)
			if test.pairs == 0 {
				if err == nil {
					t.Fatal("accepted")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, total := p.Usage(); total != test.pairs {
				t.Errorf("%d pairs, want %d", total, test.pairs)
			}
			if p.first%2 != 0 || int(p.first)+2*test.pairs-1 > int(test.hi) || p.first < test.lo {
				t.Errorf("pairs from %d on leave the range", p.first)
			}
		})
	}
	if _, err := NewPorts(netip.Addr{}, 50000, 50009); err == nil {
		t.Error("the zero address was accepted")
	}
}

func TestPairIsEvenAndOdd(t *testing.T) {
	p := freePorts(t, loopback4, 4, time.Now)
	pair, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer pair.Close()
	rtp := pair.Addr()
	if rtp.Addr() != loopback4 || rtp.Port()%2 != 0 {
		t.Errorf("RTP is at %v, want an even port of %v", rtp, loopback4)
	}
	rtcp := netip.AddrPortFrom(rtp.Addr(), rtp.Port()+1)
	if conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(rtcp)); err == nil {
		t.Errorf("%v is free, want RTCP there", rtcp)
		_ = conn.Close()
	}
}

func TestPortsQuarantine(t *testing.T) {
	clock := newTestClock()
	p := freePorts(t, netip.MustParseAddr("127.0.10.1"), 2, clock.now)
	usage := func(open, resting int) {
		t.Helper()
		if o, r, n := p.Usage(); o != open || r != resting || n != 2 {
			t.Errorf("Usage() = %d, %d, %d, want %d, %d, 2", o, r, n, open, resting)
		}
	}
	a, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	usage(2, 0)
	if _, err := p.Open(); !errors.Is(err, ErrNoPorts) {
		t.Fatalf("Open() of a third pair of two: %v", err)
	}

	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	usage(1, 1)
	clock.add(Quarantine - 1)
	if _, err := p.Open(); !errors.Is(err, ErrNoPorts) {
		t.Fatalf("Open() while the pair rests: %v", err)
	}
	clock.add(1)
	usage(1, 0)
	again, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.index != a.index {
		t.Errorf("got pair %d, want %d", again.index, a.index)
	}

	// A pair that was closed already must not give its ports back again.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	usage(2, 0)
}

func TestPortsPassOverTakenOnes(t *testing.T) {
	addr := netip.MustParseAddr("127.0.10.2")
	p := freePorts(t, addr, 3, time.Now)
	for _, port := range []uint16{p.first, p.first + 3} { // RTP of one pair, RTCP of the next
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for range 20 {
		pair, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := pair.Addr().Port(), p.first+4; got != want {
			t.Errorf("got port %d, want %d", got, want)
		}
		if _, err := p.Open(); !errors.Is(err, ErrNoPorts) {
			t.Errorf("Open() with all ports taken: %v", err)
		}
		if err := pair.Close(); err != nil {
			t.Error(err)
		}
		p.giveBack(pair.index, 0)
	}
}

func TestPortsOfForeignAddress(t *testing.T) {
	p, err := NewPorts(netip.MustParseAddr("192.0.2.1"), 50000, 50009)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(); err == nil || errors.Is(err, ErrNoPorts) {
		t.Errorf("Open() on an address of another host: %v", err)
	}
	if open, resting, _ := p.Usage(); open != 0 || resting != 0 {
		t.Errorf("%d open and %d resting pairs after a failure, want none", open, resting)
	}
}

func TestPortsConcurrently(t *testing.T) {
	const workers, rounds = 8, 50
	clock := newTestClock()
	p := freePorts(t, netip.MustParseAddr("127.0.10.3"), workers, clock.now)
	var mu sync.Mutex
	inUse := map[uint16]bool{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				clock.add(Quarantine)
				pair, err := p.Open()
				if errors.Is(err, ErrNoPorts) {
					continue // the others have just closed all the rest
				}
				if err != nil {
					t.Error(err)
					return
				}
				port := pair.Addr().Port()
				mu.Lock()
				if inUse[port] {
					t.Errorf("port %d was given out twice", port)
				}
				inUse[port] = true
				mu.Unlock()

				mu.Lock()
				delete(inUse, port)
				mu.Unlock()
				if err := pair.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if open, _, _ := p.Usage(); open != 0 {
		t.Errorf("%d pairs are open at the end, want none", open)
	}
}

func TestPairsComeInNoOrder(t *testing.T) {
	clock := newTestClock()
	p := freePorts(t, netip.MustParseAddr("127.0.10.4"), 32, clock.now)
	steps := map[int]bool{}
	last := -1
	for range 16 {
		pair, err := p.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer pair.Close()
		if last >= 0 {
			steps[pair.index-last] = true
		}
		last = pair.index
	}
	if len(steps) < 3 {
		t.Errorf("16 pairs came in steps of %v only", steps)
	}
}
