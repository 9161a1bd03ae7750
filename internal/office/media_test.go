package office

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/relay"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// fakeMedia is media without a tunnel.
type fakeMedia struct {
	rtp, rtcp net.PacketConn
	closed    atomic.Bool
	readers   sync.WaitGroup
}

func (m *fakeMedia) RTP() net.PacketConn  { return m.rtp }
func (m *fakeMedia) RTCP() net.PacketConn { return m.rtcp }

// Deliver reads until the media is closed.
func (m *fakeMedia) Deliver(f func(rtcp bool, packet []byte)) {
	for i, conn := range []net.PacketConn{m.rtp, m.rtcp} {
		m.readers.Go(func() {
			buf := make([]byte, relay.MaxPacket)
			for {
				n, _, err := conn.ReadFrom(buf)
				if err != nil {
					return
				}
				f(i == 1, buf[:n])
			}
		})
	}
}

func (m *fakeMedia) Close() error {
	m.closed.Store(true)
	if m.rtp == nil {
		return nil
	}
	err := errors.Join(m.rtp.Close(), m.rtcp.Close())
	m.readers.Wait()
	return err
}

func newPoller(t *testing.T) *relay.Poller {
	t.Helper()
	p, err := relay.NewPoller(relay.PollerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// deadConn is the socket of media whose session may be over.
type deadConn struct {
	net.PacketConn
	media *fakeMedia
}

func (c deadConn) SetReadDeadline(time.Time) error {
	if c.media.closed.Load() {
		return net.ErrClosed
	}
	return nil
}
func (deadConn) Close() error { return nil }

// factory allocates fake media and remembers them.
type factory struct {
	mu   sync.Mutex
	made []*fakeMedia
	err  error
}

func (f *factory) allocate(context.Context) (media, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	m := &fakeMedia{}
	m.rtp, m.rtcp = deadConn{media: m}, deadConn{media: m}
	f.made = append(f.made, m)
	return m, nil
}

func (f *factory) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *factory) counts() (made, open int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.made {
		if !m.closed.Load() {
			open++
		}
	}
	return len(f.made), open
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f factory
		f.fail(errors.New("no relays"))
		p := newPool(f.allocate, zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.run(ctx) }()
		synctest.Wait()
		if _, err := p.take(ctx); err == nil {
			t.Error("took what there is not")
		}
		// What the server refuses now it may give later.
		f.fail(nil)
		time.Sleep(refillWait)
		synctest.Wait()
		if made, open := f.counts(); made != poolSize || open != poolSize {
			t.Errorf("made %d, open %d", made, open)
		}
		// One that is taken is replaced, and belongs to whoever took it.
		first := f.made[0]
		m, err := p.take(ctx)
		if err != nil || m != first {
			t.Errorf("took %v, %v", m, err)
		}
		synctest.Wait()
		if made, open := f.counts(); made != poolSize+1 || open != poolSize+1 {
			t.Errorf("after one was taken: made %d, open %d", made, open)
		}
		// A burst beyond the pool waits for the server and for nothing else.
		var taken []media
		for range 2 * poolSize {
			m, err := p.take(ctx)
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, m)
		}
		for _, m := range append(taken, m) {
			m.Close()
		}
		synctest.Wait()
		// A lost session empties the pool, which fills again.
		before, _ := f.counts()
		p.discard()
		synctest.Wait()
		if made, open := f.counts(); made != before+poolSize || open != poolSize {
			t.Errorf("after a lost session: made %d more, open %d", made-before, open)
		}
		// Media that died before anybody said so are not given to a call.
		dead := f.made[before]
		dead.Close()
		if m, err := p.take(ctx); err != nil || m == dead {
			t.Errorf("took dead media, %v", err)
		} else {
			m.Close()
		}
		cancel()
		<-done
		if _, open := f.counts(); open != 0 {
			t.Errorf("%d are open after the end", open)
		}
	})
}

// socket is a UDP socket that fails the test when nothing comes.
type socket struct {
	*net.UDPConn
	t *testing.T
}

func newSocket(t *testing.T) socket {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return socket{conn, t}
}

func (s socket) addr() netip.AddrPort { return s.LocalAddr().(*net.UDPAddr).AddrPort() }

func (s socket) expect(want string) {
	s.t.Helper()
	buf := make([]byte, 2000)
	_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := s.ReadFrom(buf)
	if err != nil || !bytes.Equal(buf[:n], []byte(want)) {
		s.t.Errorf("got %q, %v; want %q", buf[:n], err, want)
	}
}

// redirected sends what it is given to a fixed address, as the tunnel does.
type redirected struct {
	*net.UDPConn
	to netip.AddrPort
}

func (c redirected) WriteTo(b []byte, _ net.Addr) (int, error) {
	return c.WriteToUDPAddrPort(b, c.to)
}

func TestBridge(t *testing.T) {
	ports := &lanPorts{low: 42000, high: 42999}
	pbxRTP, pbxRTCP, phoneRTP, phoneRTCP := newSocket(t), newSocket(t), newSocket(t), newSocket(t)
	tunnelRTP, tunnelRTCP := newSocket(t), newSocket(t)
	ahead := &fakeMedia{rtp: redirected{tunnelRTP.UDPConn, pbxRTP.addr()}, rtcp: redirected{tunnelRTCP.UDPConn, pbxRTCP.addr()}}
	var ledger admin.Ledger
	b := &bridges{
		pool:  newPool(func(context.Context) (media, error) { return ahead, nil }, zap.NewNop()),
		ports: ports, poller: newPoller(t), ledger: &ledger,
	}
	port, err := b.Allocate(t.Context(), loopback)
	if err != nil {
		t.Fatal(err)
	}
	if port.PBX() != tunnelRTP.addr() {
		t.Errorf("PBX side %v, want %v", port.PBX(), tunnelRTP.addr())
	}
	port.SetPhone(phoneRTP.addr(), phoneRTCP.addr(), phoneRTP.addr().Addr())
	lan := port.LAN()
	lanRTCP := netip.AddrPortFrom(lan.Addr(), lan.Port()+1)
	for _, step := range []struct {
		from, at socket
		to       netip.AddrPort
		text     string
	}{
		{phoneRTP, pbxRTP, lan, "RTP up"},
		{phoneRTCP, pbxRTCP, lanRTCP, "RTCP up"},
		{pbxRTP, phoneRTP, tunnelRTP.addr(), "RTP down"},
		{pbxRTCP, phoneRTCP, tunnelRTCP.addr(), "RTCP down"},
	} {
		if _, err := step.from.WriteToUDPAddrPort([]byte(step.text), step.to); err != nil {
			t.Fatal(err)
		}
		step.at.expect(step.text)
	}
	// A packet may arrive before the call that sent it has returned and been counted.
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		s := port.Stats()
		if s.PacketsIn == 1 && s.PacketsOut == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", s)
		}
	}
	active, _, _ := ledger.Snapshot()
	if len(active) != 1 || active[0].LANAddress != lan.String() || active[0].PBXAddress != tunnelRTP.addr().String() || active[0].RTCPIn != 1 {
		t.Errorf("%+v", active)
	}
	if err := port.Close(); err != nil || !ahead.closed.Load() {
		t.Errorf("closed %v, %v", ahead.closed.Load(), err)
	}
	if open, _, _ := ports.at[loopback].Usage(); open != 0 {
		t.Errorf("%d port pairs are still open", open)
	}
	if active, ended, _ := ledger.Snapshot(); len(active) != 0 || len(ended) != 1 {
		t.Errorf("%v, %v", active, ended)
	}
}

// TestJoinedPorts: what two phones say reaches the other one and not the tunnel, until the ports are parted.
func TestJoinedPorts(t *testing.T) {
	ports := &lanPorts{low: 44000, high: 44999}
	var ledger admin.Ledger
	b := &bridges{ports: ports, poller: newPoller(t), ledger: &ledger}
	type side struct {
		phone, tunnel, pbx [2]socket
		port               *mediaPort
		lan                [2]netip.AddrPort
	}
	var sides [2]*side
	for i := range sides {
		s := new(side)
		for c := range s.phone {
			s.phone[c], s.tunnel[c], s.pbx[c] = newSocket(t), newSocket(t), newSocket(t)
		}
		pair, err := ports.open(loopback)
		if err != nil {
			t.Fatal(err)
		}
		s.port, err = b.bridge(pair, &fakeMedia{rtp: redirected{s.tunnel[0].UDPConn, s.pbx[0].addr()}, rtcp: redirected{s.tunnel[1].UDPConn, s.pbx[1].addr()}})
		if err != nil {
			t.Fatal(err)
		}
		s.port.SetPhone(s.phone[0].addr(), s.phone[1].addr(), s.phone[0].addr().Addr())
		lan := s.port.LAN()
		s.lan = [2]netip.AddrPort{lan, netip.AddrPortFrom(lan.Addr(), lan.Port()+1)}
		sides[i] = s
	}
	say := func(i, c int, text string) {
		t.Helper()
		if _, err := sides[i].phone[c].WriteToUDPAddrPort([]byte(text), sides[i].lan[c]); err != nil {
			t.Fatal(err)
		}
	}
	say(0, 0, "through the tunnel")
	sides[0].pbx[0].expect("through the tunnel")

	sides[0].port.Join(sides[1].port)
	sides[1].port.Join(sides[0].port)
	for i := range sides {
		for c := range 2 {
			say(i, c, "straight")
			sides[1-i].phone[c].expect("straight")
		}
		// The PBX may have a word all the same.
		if _, err := sides[i].pbx[0].WriteToUDPAddrPort([]byte("announcement"), sides[i].tunnel[0].addr()); err != nil {
			t.Fatal(err)
		}
		sides[i].phone[0].expect("announcement")
	}
	active, _, totals := ledger.Snapshot()
	if len(active) != 2 || totals.PacketsDirect != 2 || active[0].Direct != sides[1].lan[0].String() || active[1].PacketsDirect != 1 {
		t.Errorf("%+v", active)
	}
	if s := sides[0].port.Stats(); s.PacketsIn != 2 || s.PacketsDirect != 1 {
		t.Errorf("%+v", s)
	}

	// It came out of no tunnel: none is to blame for it.
	const voice = "\x80\x00\x00\x01\x00\x00\x00\xa0\x00\x00\x00\x09voice"
	say(0, 0, voice)
	sides[1].phone[0].expect(voice)
	if legs := sides[1].port.Stats().Legs; len(legs) != 0 {
		t.Errorf("%+v", legs)
	}
	if legs := sides[0].port.Stats().Legs; len(legs) != 1 || legs[0].Name != quality.LANIn || legs[0].Packets != 1 {
		t.Errorf("%+v", legs)
	}

	// A peer that is gone before anybody says so takes nothing with it.
	if err := sides[1].port.Close(); err != nil {
		t.Error(err)
	}
	say(0, 0, "nobody there")
	for deadline := time.Now().Add(5 * time.Second); sides[0].port.Stats().PacketsDirect != 3; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the packet for a closed port is not taken in")
		}
	}
	sides[0].port.Join(nil)
	for c := range 2 {
		say(0, c, "parted")
		sides[0].pbx[c].expect("parted") // And nothing of what was said before.
	}
	if active, _, _ := ledger.Snapshot(); len(active) != 1 || active[0].Direct != "" || active[0].PacketsDirect != 3 {
		t.Errorf("%+v", active)
	}
	if err := sides[0].port.Close(); err != nil {
		t.Error(err)
	}
}

// TestMovedPort: media goes on at another address of this machine, with the figures of before.
func TestMovedPort(t *testing.T) {
	pbx, phone := newSocket(t), newSocket(t)
	tunnelRTP, tunnelRTCP := newSocket(t), newSocket(t)
	ports := &lanPorts{low: 46000, high: 46999}
	var ledger admin.Ledger
	b := &bridges{ports: ports, poller: newPoller(t), ledger: &ledger}
	pair, err := ports.open(loopback)
	if err != nil {
		t.Fatal(err)
	}
	port, err := b.bridge(pair, &fakeMedia{rtp: redirected{tunnelRTP.UDPConn, pbx.addr()}, rtcp: redirected{tunnelRTCP.UDPConn, pbx.addr()}})
	if err != nil {
		t.Fatal(err)
	}
	port.SetPhone(phone.addr(), netip.AddrPort{}, phone.addr().Addr())
	say := func(from, at socket, to netip.AddrPort, text string) {
		t.Helper()
		if _, err := from.WriteToUDPAddrPort([]byte(text), to); err != nil {
			t.Fatal(err)
		}
		at.expect(text)
	}
	before := port.LAN()
	say(phone, pbx, before, "up")
	say(pbx, phone, tunnelRTP.addr(), "down")
	there := netip.MustParseAddr("127.0.0.2")
	if err := port.Move(there); err != nil {
		t.Fatal(err)
	}
	if port.LAN().Addr() != there || port.PBX() != tunnelRTP.addr() {
		t.Errorf("%v, %v", port.LAN(), port.PBX())
	}
	say(phone, pbx, port.LAN(), "up from there")
	say(pbx, phone, tunnelRTP.addr(), "down to there")
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		if s := port.Stats(); s.PacketsIn == 2 && s.PacketsOut == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", port.Stats())
		}
	}
	if err := port.Move(netip.MustParseAddr("192.0.2.77")); err == nil || port.LAN().Addr() != there {
		t.Errorf("moved to where this machine is not: %v, %v", err, port.LAN())
	}
	if open, resting, _ := ports.at[loopback].Usage(); open != 0 || resting != 1 {
		t.Errorf("%d ports open, %d resting where it was", open, resting)
	}
	if err := port.Close(); err != nil {
		t.Error(err)
	}
	if err := port.Move(loopback); err == nil {
		t.Error("moved after its end")
	}
	if _, ended, totals := ledger.Snapshot(); len(ended) != 1 || totals.PacketsIn != 2 || !strings.HasPrefix(ended[0].LANAddress, "127.0.0.2:") {
		t.Errorf("%+v", ended)
	}
}

func TestAllocateGivesPortsBack(t *testing.T) {
	ports := &lanPorts{low: 43000, high: 43999}
	down := errors.New("tunnel down")
	b := &bridges{pool: newPool(func(context.Context) (media, error) { return nil, down }, zap.NewNop()), ports: ports, ledger: &admin.Ledger{}}
	if _, err := b.Allocate(t.Context(), loopback); !errors.Is(err, down) {
		t.Errorf("%v", err)
	}
	if open, _, _ := ports.at[loopback].Usage(); open != 0 {
		t.Errorf("%d port pairs are open", open)
	}
}
