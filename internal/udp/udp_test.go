package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

func listen(t testing.TB, network, addr string) *Conn {
	t.Helper()
	c, err := Listen(network, addr)
	if err != nil {
		t.Skipf("%s %s: %v", network, addr, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// burst makes datagrams of these lengths, each filled with its number.
func burst(lengths ...int) *Burst {
	b := new(Burst)
	for i, n := range lengths {
		b.Commit(len(append(b.Room(n), bytes.Repeat([]byte{byte(i)}, n)...)))
	}
	return b
}

// receive takes n datagrams.
func receive(t testing.TB, c *Conn, n int) (all [][]byte, from Route) {
	t.Helper()
	for len(all) < n {
		if err := c.Receive(func(datagram []byte, route Route) {
			all, from = append(all, bytes.Clone(datagram)), route
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all, from
}

func TestBurstArrives(t *testing.T) {
	for _, family := range []struct{ network, addr string }{{"udp4", "127.0.0.1:0"}, {"udp6", "[::1]:0"}, {"udp", "127.0.0.1:0"}} {
		for _, lengths := range [][]int{
			{1}, {1200}, {7, 7, 7}, {1200, 1200, 1200, 300}, {1200, 300, 1200, 300}, {1, 2, 3, 2, 1},
			{1000, 1001, 1000}, {MaxDatagram}, repeat(200, 150), repeat(1200, 70),
		} {
			t.Run(fmt.Sprintf("%s/%d of %d", family.network, len(lengths), lengths[0]), func(t *testing.T) {
				a, b := listen(t, family.network, family.addr), listen(t, family.network, family.addr)
				dropped, err := a.Send(burst(lengths...), Route{Remote: b.LocalAddr()})
				if dropped != 0 || err != nil {
					t.Fatal(dropped, err)
				}
				got, from := receive(t, b, len(lengths))
				if from.Remote != a.LocalAddr() || from.Local != b.LocalAddr().Addr() {
					t.Errorf("came over %+v, want %v to %v", from, a.LocalAddr(), b.LocalAddr().Addr())
				}
				for i, datagram := range got {
					if want := bytes.Repeat([]byte{byte(i)}, lengths[i]); !bytes.Equal(datagram, want) {
						t.Fatalf("datagram %d has %d bytes of %d, want %d of %d", i, len(datagram), datagram[0], lengths[i], i)
					}
				}
			})
		}
	}
}

func repeat(length, n int) []int {
	lengths := make([]int, n)
	for i := range lengths {
		lengths[i] = length
	}
	return lengths
}

// TestAnswerComesFromTheAddressAsked has a socket of all addresses answer over
// the route that a datagram came by.
func TestAnswerComesFromTheAddressAsked(t *testing.T) {
	for _, network := range []string{"udp4", "udp"} {
		t.Run(network, func(t *testing.T) {
			server, client := listen(t, network, ":0"), listen(t, "udp4", "127.0.0.1:0")
			asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.77"), server.LocalAddr().Port())
			if _, err := client.Send(burst(5, 5), Route{Remote: asked}); err != nil {
				t.Fatal(err)
			}
			_, from := receive(t, server, 2)
			if from.Local != asked.Addr() {
				t.Fatalf("was asked at %v, want %v", from.Local, asked.Addr())
			}
			if _, err := server.Send(burst(3, 3, 2), from); err != nil {
				t.Fatal(err)
			}
			if _, from := receive(t, client, 3); from.Remote != asked {
				t.Errorf("the answer came from %v, want %v", from.Remote, asked)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	c := listen(t, "udp4", "127.0.0.1:0")
	if dropped, err := c.Send(burst(5, 5, 5), Route{Remote: netip.MustParseAddrPort("[2001:db8::1]:9")}); dropped != 3 || err == nil {
		t.Errorf("to the other family: %d dropped, %v", dropped, err)
	}
	if dropped, err := c.Send(new(Burst), Route{}); dropped != 0 || err != nil {
		t.Errorf("nothing: %d dropped, %v", dropped, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Send(burst(5), Route{Remote: c.LocalAddr()}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	if err := c.Receive(func([]byte, Route) {}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close: %v", err)
	}
}

func TestBurstsDoNotAllocate(t *testing.T) {
	a, b := listen(t, "udp", "127.0.0.1:0"), listen(t, "udp", "127.0.0.1:0")
	data, to := burst(1200, 1200, 700, 900), Route{Remote: b.LocalAddr(), Local: netip.MustParseAddr("127.0.0.1")}
	got := 0
	count := func([]byte, Route) { got++ }
	if n := testing.AllocsPerRun(200, func() {
		if _, err := a.Send(data, to); err != nil {
			t.Fatal(err)
		}
		for want := got + data.Len(); got < want; {
			if err := b.Receive(count); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations a burst, want 0", n)
	}
}

// BenchmarkBurst is a datagram of 1,160 bytes, sent and received in bursts of 14:
// what 50,000 packets of G.711 a second are at one burst in 2 ms.
func BenchmarkBurst(b *testing.B) {
	x, y := listen(b, "udp4", "127.0.0.1:0"), listen(b, "udp4", "127.0.0.1:0")
	data := burst(repeat(1160, 14)...)
	got := 0
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; sent += data.Len() {
		if _, err := x.Send(data, Route{Remote: y.LocalAddr()}); err != nil {
			b.Fatal(err)
		}
		for got < sent+data.Len() {
			if err := y.Receive(func([]byte, Route) { got++ }); err != nil {
				b.Fatal(err)
			}
		}
	}
}
