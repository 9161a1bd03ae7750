package relay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtp"
)

func TestRelayBothWays(t *testing.T) {
	for _, addr := range []netip.Addr{loopback4, loopback6} {
		t.Run(addr.String(), func(t *testing.T) {
			if addr.Is6() {
				needIPv6(t)
			}
			r := newTestRelay(t, addr, sameIP)
			voice, control := newPeer(t, addr.String()), newPeer(t, addr.String())
			r.SetRemote(voice.addr(), control.addr())

			r.mustSend(RTP, "to the signalled address")
			voice.expect(r.LocalAddr(), "to the signalled address")
			r.mustSend(RTCP, "control")
			control.expect(r.rtcpAddr(), "control")

			voice.send(r.LocalAddr(), "from the peer")
			r.expect(RTP, "from the peer")
			control.send(r.rtcpAddr(), "report")
			r.expect(RTCP, "report")

			s := r.Stats()
			if s.In.Packets != 1 || s.In.Bytes != 13 || s.In.RTCP != 1 || s.Out.Packets != 1 || s.Out.Bytes != 24 || s.Out.RTCP != 1 {
				t.Errorf("stats = %+v", s)
			}
			if s.Signalled != voice.addr() || s.Latched != voice.addr() || s.Held {
				t.Errorf("signalled %v, latched %v, held %t, want %v twice", s.Signalled, s.Latched, s.Held, voice.addr())
			}
		})
	}
}

func TestRelayRefusesBleedAttempts(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone := newPeer(t, "127.0.0.2")
	attacker := newPeer(t, "127.0.0.66")

	// Before the first SDP.
	attacker.send(r.LocalAddr(), "attack 1")
	phone.send(r.LocalAddr(), "too early")
	r.mustSend(RTP, "for nobody")

	// Before the peer's first packet: the attacker is first.
	r.waitFor("media.dropped.no_remote", 3)
	r.SetRemote(phone.addr(), netip.AddrPort{})
	for range 5 {
		attacker.send(r.LocalAddr(), "attack 2")
	}
	r.waitFor("media.dropped.unknown_source", 5)
	r.mustSend(RTP, "for the phone")
	phone.expect(r.LocalAddr(), "for the phone")

	// During the call, and toward RTCP.
	phone.send(r.LocalAddr(), "voice")
	r.expect(RTP, "voice")
	attacker.send(r.LocalAddr(), "attack 3")
	attacker.send(r.rtcpAddr(), "attack 4")
	phone.send(r.LocalAddr(), "more voice")
	r.expect(RTP, "more voice")
	r.mustSend(RTP, "still for the phone")
	phone.expect(r.LocalAddr(), "still for the phone")

	// During a long silence.
	r.clock.Add(int64(time.Hour))
	attacker.send(r.LocalAddr(), "attack 5")
	r.waitFor("media.dropped.unknown_source", 7)
	r.waitFor("media.dropped.no_remote", 4)

	want := Drops{UnknownSource: 7, NoRemote: 4}
	if got := r.Stats().Dropped; got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
	if err := attacker.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := attacker.ReadFromUDPAddrPort(make([]byte, 2048)); err == nil {
		t.Errorf("the attacker heard %d bytes", n)
	}
}

func TestRelayFollowsSymmetricRTP(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone, other := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.2")
	r.SetRemote(ap("127.0.0.2:9"), ap("127.0.0.2:11"))
	phone.send(r.LocalAddr(), "one")
	r.expect(RTP, "one")
	r.mustSend(RTP, "back")
	phone.expect(r.LocalAddr(), "back")

	// Another port of the same phone is another stream, and none of ours.
	other.send(r.LocalAddr(), "other")
	phone.send(r.LocalAddr(), "two")
	r.expect(RTP, "two")
	if got := r.Stats().Dropped.UnknownSource; got != 1 {
		t.Errorf("%d packets of unknown source, want 1", got)
	}
}

func TestRelayLatchesComponentsApart(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	voice, control := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.2")
	r.SetRemote(ap("127.0.0.2:9"), control.addr())
	voice.send(r.LocalAddr(), "voice")
	r.expect(RTP, "voice")

	r.mustSend(RTCP, "to the signalled one")
	control.expect(r.rtcpAddr(), "to the signalled one")
	voice.send(r.rtcpAddr(), "RTCP latches to this")
	r.expect(RTCP, "RTCP latches to this")
	r.mustSend(RTCP, "there")
	voice.expect(r.rtcpAddr(), "there")
}

func TestRelayLatchesAnewAfterNewSDP(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	before, after := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.3")
	r.SetRemote(ap("127.0.0.2:9"), netip.AddrPort{})
	before.send(r.LocalAddr(), "before")
	r.expect(RTP, "before")

	// The same SDP again, as in a session refresh.
	r.SetRemote(ap("127.0.0.2:9"), netip.AddrPort{})
	r.mustSend(RTP, "still")
	before.expect(r.LocalAddr(), "still")

	r.SetRemote(after.addr(), netip.AddrPort{})
	before.send(r.LocalAddr(), "over")
	r.mustSend(RTP, "new")
	after.expect(r.LocalAddr(), "new")
	after.send(r.LocalAddr(), "after")
	r.expect(RTP, "after")
}

func TestRelayHold(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone, control := newPeer(t, "127.0.0.2"), newPeer(t, "127.0.0.2")
	sdp, sdpControl := ap("127.0.0.2:9"), ap("127.0.0.2:11")
	r.SetRemote(sdp, sdpControl)
	phone.send(r.LocalAddr(), "voice")
	r.expect(RTP, "voice")
	control.send(r.rtcpAddr(), "report")
	r.expect(RTCP, "report")

	for range 2 {
		r.SetRemote(ap("0.0.0.0:9"), ap("0.0.0.0:11"))
		r.mustSend(RTP, "unheard")
		r.mustSend(RTCP, "unheard")
		phone.send(r.LocalAddr(), "music on hold")
		r.expect(RTP, "music on hold")
		if !r.Stats().Held {
			t.Error("not held")
		}

		r.SetRemote(sdp, sdpControl)
		r.mustSend(RTP, "back again")
		phone.expect(r.LocalAddr(), "back again")
		r.mustSend(RTCP, "report again")
		control.expect(r.rtcpAddr(), "report again")
		if r.Stats().Held {
			t.Error("still held")
		}
	}
	if got, want := r.Stats().Dropped, (Drops{Held: 4}); got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
}

func TestRelayWithoutRemoteSendsNothing(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone := newPeer(t, "127.0.0.2")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	r.mustSend(RTP, "one")
	phone.expect(r.LocalAddr(), "one")
	r.SetRemote(netip.AddrPort{}, netip.AddrPort{})
	r.mustSend(RTP, "unheard")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	r.mustSend(RTP, "two")
	phone.expect(r.LocalAddr(), "two")
	if got, want := r.Stats().Dropped, (Drops{NoRemote: 1}); got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
}

func TestRelayPacketSizes(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone := newPeer(t, "127.0.0.2")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	largest := string(bytes.Repeat([]byte("x"), MaxPacket))
	for _, packet := range []string{"", largest + "x", largest + largest} {
		phone.send(r.LocalAddr(), packet)
		if err := r.Send(RTP, []byte(packet)); !errors.Is(err, ErrPacketSize) {
			t.Errorf("Send of %d bytes: %v", len(packet), err)
		}
	}
	for _, packet := range []string{"x", largest} {
		phone.send(r.LocalAddr(), packet)
		r.expect(RTP, packet)
		r.mustSend(RTP, packet)
		phone.expect(r.LocalAddr(), packet)
	}
	if got, want := r.Stats().Dropped, (Drops{Size: 6}); got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
}

func TestRelayErrorsOfSend(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	if err := r.Send(components, []byte("x")); !errors.Is(err, ErrComponent) {
		t.Errorf("Send of component %d: %v", components, err)
	}
	for _, unreachable := range []string{"[2001:db8::1]:4000", "[fe80::1%nowhere]:4000"} {
		r.SetRemote(ap(unreachable), netip.AddrPort{})
		if err := r.Send(RTP, []byte("x")); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("Send to %s from IPv4: %v", unreachable, err)
		}
	}
	if got, want := r.Stats().Dropped, (Drops{SendFailed: 2}); got != want {
		t.Errorf("dropped %+v, want %+v", got, want)
	}
	if got := r.Stats().Out.Packets; got != 0 {
		t.Errorf("%d packets out, want 0", got)
	}

	phone := newPeer(t, "127.0.0.2")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	r.mustSend(RTP, "works again")
	phone.expect(r.LocalAddr(), "works again")

	for range 2 {
		if err := r.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := r.Send(RTP, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
}

// TestDirectMedia joins the media of two phones of one office at their two
// relays: each relay's remote is the other relay.
func TestDirectMedia(t *testing.T) {
	for _, addr := range []netip.Addr{loopback4, loopback6} {
		t.Run(addr.String(), func(t *testing.T) {
			if addr.Is6() {
				needIPv6(t)
			}
			a := newTestRelay(t, addr, sameIP)
			b := newTestRelay(t, addr, sameIP)
			a.SetRemote(b.LocalAddr(), b.rtcpAddr())
			b.SetRemote(a.LocalAddr(), a.rtcpAddr())
			for i := range 20 {
				packet := fmt.Sprint("packet ", i)
				a.mustSend(RTP, packet)
				b.expect(RTP, packet)
				b.mustSend(RTP, packet)
				a.expect(RTP, packet)
				a.mustSend(RTCP, packet)
				b.expect(RTCP, packet)
				b.mustSend(RTCP, packet)
				a.expect(RTCP, packet)
			}
			for _, r := range []*testRelay{a, b} {
				if s := r.Stats(); s.In.Packets != 20 || s.Out.Packets != 20 || s.In.RTCP != 20 || s.Dropped != (Drops{}) {
					t.Errorf("stats = %+v", s)
				}
			}
		})
	}
}

// TestPBXOnThisHost is a PBX whose SDP says 127.0.0.1 while its packets come from
// another address of the host.
func TestPBXOnThisHost(t *testing.T) {
	r := newTestRelay(t, loopback4, PBXPolicy(nil, nil))
	pbx := newPeer(t, "127.0.0.5")
	r.SetRemote(netip.AddrPortFrom(loopback4, pbx.addr().Port()), netip.AddrPort{})
	pbx.send(r.LocalAddr(), "voice")
	r.expect(RTP, "voice")
	r.mustSend(RTP, "back")
	pbx.expect(r.LocalAddr(), "back")
}

func TestRelayMeasuresBothDirections(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone := newPeer(t, "127.0.0.2")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	if !r.Stats().LastIn.IsZero() {
		t.Error("LastIn before the first packet is not zero")
	}
	for i := range 100 {
		if i%10 != 3 {
			at := time.Duration(i)*20*ms + time.Duration(i%2)*16*ms
			r.clock.Store(int64(at))
			h := rtp.Header{SequenceNumber: uint16(65500 + i), Timestamp: uint32(160 * i), SSRC: 7}
			packet := string(rtpPacket(t, h, make([]byte, 160)...))
			phone.send(r.LocalAddr(), packet)
			r.expect(RTP, packet)
			r.mustSend(RTP, packet)
			phone.expect(r.LocalAddr(), packet)
		}
	}
	s := r.Stats()
	for name, got := range map[string]Traffic{"in": s.In, "out": s.Out} {
		if got.Packets != 90 || got.Bytes != 90*172 || got.Lost != 10 {
			t.Errorf("%s: %+v, want 90 packets of 172 bytes, 10 lost", name, got)
		}
		near(t, got.Jitter, 0.015, 2*ms)
	}
	if want := time.Unix(1e9, 0).Add(99*20*ms + 16*ms); !s.LastIn.Equal(want) {
		t.Errorf("LastIn = %v, want %v", s.LastIn, want)
	}
}

func TestDropsOfARelayAreNotLoss(t *testing.T) {
	r := newTestRelay(t, loopback4, sameIP)
	phone := newPeer(t, "127.0.0.2")
	for seq := range uint16(50) {
		switch seq {
		case 10:
			r.SetRemote(phone.addr(), netip.AddrPort{})
		case 20:
			r.SetRemote(ap("0.0.0.0:9"), netip.AddrPort{})
		case 30:
			r.SetRemote(phone.addr(), netip.AddrPort{})
		case 40:
			continue
		}
		r.mustSend(RTP, string(rtpPacket(t, rtp.Header{SequenceNumber: seq})))
	}
	s := r.Stats()
	if s.Out.Packets != 29 || s.Out.Lost != 1 {
		t.Errorf("%d packets out and %d lost, want 29 and 1", s.Out.Packets, s.Out.Lost)
	}
	if want := (Drops{NoRemote: 10, Held: 10}); s.Dropped != want {
		t.Errorf("dropped %+v, want %+v", s.Dropped, want)
	}
}

func TestRelayGivesItsPortsBack(t *testing.T) {
	p := freePorts(t, netip.MustParseAddr("127.0.10.5"), 1, time.Now)
	pair, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, Config{Pair: pair})
	var closing sync.WaitGroup
	for range 4 {
		closing.Go(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closing.Wait()
	if open, resting, _ := p.Usage(); open != 0 || resting != 1 {
		t.Errorf("%d open, %d resting, want 0, 1", open, resting)
	}
}

func TestRelayWithoutSinkAndPolicy(t *testing.T) {
	r := startRelay(t, Config{})
	phone := newPeer(t, "127.0.0.1")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	phone.send(r.LocalAddr(), "voice")
	deadline := time.Now().Add(patience)
	for r.Stats().In.Packets == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the packet of the signalled address did not pass")
		}
		runtime.Gosched()
	}
}

// TestRelayConcurrently uses everything at once, for the race detector, and
// closes in the middle.
func TestRelayConcurrently(t *testing.T) {
	var in atomic.Uint64
	enough := make(chan struct{})
	r := startRelay(t, Config{
		Accept: sameIP,
		Sink: func(Component, []byte) {
			if in.Add(1) == 50 {
				close(enough)
			}
		},
	})
	phone := newPeer(t, "127.0.0.1")
	packet := rtpPacket(t, rtp.Header{SSRC: 1}, make([]byte, 160)...)
	r.SetRemote(phone.addr(), phone.addr())

	done := make(chan struct{})
	var wg sync.WaitGroup
	until := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					f()
				}
			}
		})
	}
	rtcp := netip.AddrPortFrom(loopback4, r.LocalAddr().Port()+1)
	until(func() {
		_, _ = phone.WriteToUDPAddrPort(packet, r.LocalAddr())
		_, _ = phone.WriteToUDPAddrPort(packet, rtcp)
	})
	for c := range Component(components) {
		for range 2 {
			until(func() {
				if err := r.Send(c, packet); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, ErrQueueFull) {
					t.Errorf("Send: %v", err)
				}
			})
		}
	}
	until(func() { r.SetRemote(phone.addr(), phone.addr()) })
	until(func() { r.Stats() })
	select {
	case <-enough:
	case <-time.After(6 * patience): // all of this competes for the processors
		t.Error("not enough packets passed")
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	after := in.Load()
	close(done)
	wg.Wait()
	if got := in.Load(); got != after {
		t.Errorf("the Sink was called %d times after Close", got-after)
	}
}
