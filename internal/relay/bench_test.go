package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtp"
)

// A rig is a relay that sends everything back to where it came from, and its
// peer.
type rig struct {
	relay  *Relay
	phone  *peer
	packet []byte
	answer []byte
}

func newRig(tb testing.TB) *rig {
	tb.Helper()
	g := &rig{
		phone:  newPeer(tb, "127.0.0.1"),
		packet: rtpPacket(tb, rtp.Header{SSRC: 1}, make([]byte, 160)...),
		answer: make([]byte, 2048),
	}
	started := make(chan struct{})
	g.relay = startRelay(tb, Config{
		Accept: LANPolicy(nil),
		Sink: func(c Component, packet []byte) {
			<-started
			_ = g.relay.Send(c, packet)
		},
	})
	close(started)
	g.relay.SetRemote(g.phone.addr(), netip.AddrPort{})
	return g
}

func (g *rig) roundTrip(tb testing.TB, i int) {
	g.packet[2], g.packet[3] = byte(i>>8), byte(i)
	if _, err := g.phone.WriteToUDPAddrPort(g.packet, g.relay.LocalAddr()); err != nil {
		tb.Fatal(err)
	}
	if _, _, err := g.phone.ReadFromUDPAddrPort(g.answer); err != nil {
		tb.Fatal(err)
	}
}

func TestPacketsDoNotAllocate(t *testing.T) {
	g := newRig(t)
	i := 0
	if n := testing.AllocsPerRun(1000, func() { i++; g.roundTrip(t, i) }); n != 0 {
		t.Errorf("%v allocations per packet in and out, want 0", n)
	}
	if s := g.relay.Stats(); s.In.Packets != 1001 || s.Out.Packets != 1001 {
		t.Errorf("stats = %+v, want 1001 packets in and out", s)
	}
}

func TestDropsDoNotAllocate(t *testing.T) {
	g := newRig(t)
	attacker := newPeer(t, "127.0.0.66")
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := attacker.WriteToUDPAddrPort(g.packet, g.relay.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		i++
		g.roundTrip(t, i)
	}); n != 0 {
		t.Errorf("%v allocations per dropped packet, want 0", n)
	}
	if got := g.relay.Stats().Dropped.UnknownSource; got != 1001 {
		t.Errorf("%d packets dropped, want 1001", got)
	}
}

// BenchmarkRoundTrip is one packet through the relay both ways, with the peer's
// own two system calls and all wake-ups.
func BenchmarkRoundTrip(b *testing.B) {
	g := newRig(b)
	if err := g.phone.SetReadDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		g.roundTrip(b, i)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

// BenchmarkIn is packets from the peer to the Sink as fast as they can be sent;
// those that the socket's buffer has no room for are reported.
func BenchmarkIn(b *testing.B) {
	r := startRelay(b, Config{Accept: LANPolicy(nil)})
	phone := newPeer(b, "127.0.0.1")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	packet := rtpPacket(b, rtp.Header{SSRC: 1}, make([]byte, 160)...)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		packet[2], packet[3] = byte(i>>8), byte(i)
		if _, err := phone.WriteToUDPAddrPort(packet, r.LocalAddr()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	in := float64(r.Stats().In.Packets)
	b.ReportMetric(in/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(100*(1-in/float64(b.N)), "%lost")
}

// BenchmarkSend is packets to a peer that does not read.
func BenchmarkSend(b *testing.B) {
	g := newRig(b)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		g.packet[2], g.packet[3] = byte(i>>8), byte(i)
		if err := g.relay.Send(RTP, g.packet); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

// BenchmarkUnknownSource is what an attacker costs who floods a relay.
func BenchmarkUnknownSource(b *testing.B) {
	l := latch{accept: LANPolicy(nil, netip.MustParsePrefix("10.0.0.0/8"))}
	l.setRemote(ap("192.0.2.1:4000"))
	src := ap("198.51.100.9:4000")
	b.ReportAllocs()
	for range b.N {
		if l.admit(src, 0) == pass {
			b.Fatal("admitted")
		}
	}
}
