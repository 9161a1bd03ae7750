//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// A victim is the tunnel with a call in it that must not notice what goes on around.
type victim struct {
	*tunnel
	alice, carol *peers.Baresip // in the office, beside the PBX
	call         *call
	connections  int
	heard        [2]int          // by alice and carol when it began
	media        [2]*lab.Capture // RTP at alice and at carol since then
	attackers    int             // addresses of the WAN beside its own
}

// startCall has alice and carol talk.
func startCall(t *testing.T) *victim {
	t.Helper()
	v := &victim{tunnel: newTunnel(t, nil)}
	v.alice = start(t, v.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	v.carol = start(t, v.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	v.call = dial(t, v.alice, v.carol).established().talk(time.Second)
	v.connections = v.tunnel.connections()
	for i, b := range []*peers.Baresip{v.alice, v.carol} {
		v.heard[i], v.media[i] = len(b.Heard()[0]), b.Host.Capture("eth0", "udp and not port 5060")
	}
	return v
}

// unhurt fails the test when a side of the call has heard anything but the other's voice since it began, or has missed some,
// when the office had to connect again, or when the call cannot be ended as usual. It returns what the two programs counted.
func (v *victim) unhurt(t *testing.T) (daemon, proxy map[string]uint64) {
	t.Helper()
	v.call.t = t
	v.call.talk(time.Second)
	atAlice, atCarol := v.media[0].Stop(), v.media[1].Stop()
	for i, b := range []*peers.Baresip{v.alice, v.carol} {
		purely(t, b.User, b.Heard()[0][v.heard[i]:], []*peers.Baresip{v.carol, v.alice}[i].Tone)
	}
	atAlice, atCarol = together(atAlice, atCarol)
	allArrived(t, rtp(atAlice, v.alice.Host.Addr, netip.Addr{}), rtp(atCarol, netip.Addr{}, v.carol.Host.Addr))
	allArrived(t, rtp(atCarol, v.carol.Host.Addr, netip.Addr{}), rtp(atAlice, netip.Addr{}, v.alice.Host.Addr))
	if more := v.tunnel.connections() - v.connections; more != 0 {
		t.Errorf("the office had to connect %d times more", more)
	}
	if !v.tunneld.Running() || !v.proxy.Running() {
		t.Fatal("a program has ended")
	}
	tunneld, tunnelproxy := v.statuses()
	t.Logf("tunneld counted %v", nonZero(tunneld.Counters))
	t.Logf("tunnelproxy counted %v", nonZero(tunnelproxy.Counters))
	v.alice.Hangup()
	v.call.closed()
	return tunneld.Counters, tunnelproxy.Counters
}

// together are those packets of two captures that came while both were running: the second one may begin late.
func together(a, b []*pcap.Packet) ([]*pcap.Packet, []*pcap.Packet) {
	if len(a) == 0 || len(b) == 0 {
		return a, b
	}
	from, to := a[0].Time, a[len(a)-1].Time
	if b[0].Time.After(from) {
		from = b[0].Time
	}
	if end := b[len(b)-1].Time; end.Before(to) {
		to = end
	}
	outside := func(p *pcap.Packet) bool { return p.Time.Before(from) || p.Time.After(to) }
	return slices.DeleteFunc(slices.Clone(a), outside), slices.DeleteFunc(slices.Clone(b), outside)
}

// rtp counts the RTP packets from or to an address.
func rtp(packets []*pcap.Packet, from, to netip.Addr) int {
	count := 0
	for _, p := range packets {
		if p.LooksLikeRTP() && (p.Src.Addr() == from || p.Dst.Addr() == to) {
			count++
		}
	}
	return count
}

// allArrived fails the test when more than one packet in fifty was lost, beside the few that were under way when the captures
// began and ended.
func allArrived(t *testing.T, sent, arrived int) {
	t.Helper()
	t.Logf("of %d RTP packets %d have arrived", sent, arrived)
	if sent == 0 || sent-arrived > sent/50+20 {
		t.Errorf("of %d RTP packets only %d have arrived", sent, arrived)
	}
}

func nonZero(counters map[string]uint64) map[string]uint64 {
	maps.DeleteFunc(counters, func(_ string, n uint64) bool { return n == 0 })
	return counters
}

// attacker gives the WAN another address to attack from.
func (v *victim) attacker() netip.Addr {
	v.attackers++
	return v.WAN.AddAddr(netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + v.attackers)}), 24))
}

// patience is how long tunneld may bear with a connection that gets nowhere: its own limit is 5 s before login, and twice the
// keepalive of 5 s and some after it.
const patience = 20 * time.Second

// TestHostileBeforeLogin: bytes at the tunnel's port from somebody who cannot log in. All such connections are closed, slow
// ones too, and a new office can connect meanwhile.
func TestHostileBeforeLogin(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	random := rand.New(rand.NewPCG(1, 2))
	garbage := randomBytes(random, 4096)
	attacks := map[string]func(net.Conn) error{
		"nothing":         func(net.Conn) error { return nil },
		"garbage":         func(c net.Conn) error { return send(c, garbage) },
		"HTTP":            func(c net.Conn) error { return send(c, []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) },
		"endless garbage": func(c net.Conn) error { return sendEndlessly(c, garbage) },
		"half a TLS hello": func(c net.Conn) error {
			hello := clientHello(t)
			return send(c, hello[:len(hello)/2])
		},
		"a slow TLS hello": func(c net.Conn) error { return sendSlowly(c, clientHello(t)) },
		"another protocol in TLS": func(c net.Conn) error {
			if err := tls.Client(c, tlsConfig("h2")).Handshake(); err == nil {
				return errors.New("tunneld speaks h2")
			}
			return nil
		},
		"silence in TLS":         inTLS(func(net.Conn) error { return nil }),
		"garbage in TLS":         inTLS(func(c net.Conn) error { return send(c, garbage) }),
		"endless garbage in TLS": inTLS(func(c net.Conn) error { return sendEndlessly(c, garbage) }),
		"a huge frame in TLS":    inTLS(func(c net.Conn) error { return sendEndlessly(c, append([]byte{0xff, 0xff, 1}, garbage...)) }),
		"an empty frame in TLS":  inTLS(func(c net.Conn) error { return send(c, []byte{0, 0, 0}) }),
		"a cut frame in TLS":     inTLS(func(c net.Conn) error { return send(c, []byte{0, 8, 1, 7, 'd', 'e', 'f'}) }),
		"slow frames in TLS":     inTLS(func(c net.Conn) error { return sendSlowly(c, append([]byte{0, 200, 1, 199}, garbage[:199]...)) }),
		"frames out of order":    inTLS(func(c net.Conn) error { return send(c, append([]byte{0, 33, 5, 0}, garbage[:32]...)) }),
	}
	// Few at a time and each from an address of its own: none is turned away for what another has done.
	var all sync.WaitGroup
	turn := make(chan struct{}, 5)
	for name, attack := range attacks {
		from := v.attacker()
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			if err := closedAfter(v.tunnel, from, attack); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()

	// A crowd that says nothing: it does not keep an office out that was here before.
	var crowd sync.WaitGroup
	from := v.attacker()
	for range 150 {
		crowd.Go(func() {
			if err := closedAfter(v.tunnel, from, func(net.Conn) error { return nil }); err != nil {
				t.Errorf("one of the crowd: %v", err)
			}
		})
	}
	check := v.Office.Start("tunnelproxy-check", v.proxyArgs("check")...)
	if code := check.Exit(soon); code != 0 {
		t.Errorf("tunnelproxy check amid the crowd ended with %d: %s", code, check.Output())
	}
	crowd.Wait()
	// The connection of the check is the office's too.
	v.connections++
	daemon, _ := v.unhurt(t)
	if daemon["auth.dropped.too_many_startups"] == 0 {
		t.Error("none of the crowd was counted")
	}
}

// closedAfter connects to tunneld from an address of the WAN, attacks, and waits until tunneld has closed the connection.
func closedAfter(tun *tunnel, from netip.Addr, attack func(net.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	conn, err := tun.WAN.DialFrom(ctx, from, "tcp", tunnelPort.String())
	if err != nil {
		return nil // tunneld may refuse crowds
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := attack(conn); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("tunneld has not closed the connection within %v", patience)
	}
	return nil
}

// inTLS attacks inside a proper TLS connection.
func inTLS(attack func(net.Conn) error) func(net.Conn) error {
	return func(c net.Conn) error {
		conn := tls.Client(c, tlsConfig("siptunnel/1"))
		if err := conn.Handshake(); err != nil {
			return fmt.Errorf("TLS: %w", err)
		}
		return attack(conn)
	}
}

// tlsConfig takes any key: an attacker does not care.
func tlsConfig(protocol string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}}
}

// clientHello returns the first bytes of a TLS connection.
func clientHello(t *testing.T) []byte {
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		_ = tls.Client(here, tlsConfig("siptunnel/1")).Handshake()
		here.Close()
	}()
	hello := make([]byte, 64<<10)
	n, err := there.Read(hello)
	if err != nil {
		t.Errorf("TLS hello: %v", err)
	}
	return hello[:n]
}

// The senders do not report that the connection was closed: that is what it should be.

func send(c net.Conn, b []byte) error {
	_, _ = c.Write(b)
	return nil
}

func sendSlowly(c net.Conn, b []byte) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return nil
		}
		<-tick.C
	}
	return nil
}

func sendEndlessly(c net.Conn, b []byte) error {
	const enough = 4 << 20
	for sent := 0; sent < enough; sent += len(b) {
		if _, err := c.Write(b); err != nil {
			return nil
		}
	}
	return fmt.Errorf("tunneld took %d MiB", enough>>20)
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}
