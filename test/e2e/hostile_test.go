//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/joinlink"
	"github.com/siptunnel/siptunnel/test/e2e/audio"
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
	began        time.Time
	heard        [2]int // by alice and carol when it began
}

// startCall has alice and carol talk.
func startCall(t *testing.T) *victim {
	t.Helper()
	v := &victim{tunnel: newTunnel(t, nil)}
	v.alice = start(t, v.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	v.carol = start(t, v.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	v.call = dial(t, v.alice, v.carol).established().talk(time.Second)
	v.connections, v.began = v.tunnel.connections(), time.Now()
	v.heard = [2]int{len(v.alice.Heard()[0]), len(v.carol.Heard()[0])}
	return v
}

// unhurt fails the test when a side of the call has heard anything but the other's voice since it began, or has missed some,
// when the office had to connect again, or when the call cannot be ended as usual.
func (v *victim) unhurt(t *testing.T) {
	t.Helper()
	v.call.t = t
	v.call.talk(time.Second)
	took := time.Since(v.began)
	t.Logf("the call was watched for %v", took.Round(time.Millisecond))
	for i, b := range []*peers.Baresip{v.alice, v.carol} {
		heard := b.Heard()[0][v.heard[i]:]
		purely(t, b.User, heard, []*peers.Baresip{v.carol, v.alice}[i].Tone)
		if missed := took - seconds(len(heard)); missed > 500*time.Millisecond {
			t.Errorf("%s has missed %v of the call", b.User, missed)
		}
	}
	if more := v.tunnel.connections() - v.connections; more != 0 {
		t.Errorf("the office had to connect %d times more", more)
	}
	if !v.tunneld.Running() || !v.proxy.Running() {
		t.Fatal("a program has ended")
	}
	v.alice.Hangup()
	v.call.closed()
}

// patience is how long tunneld may bear with a connection that gets nowhere: its own limit is 5 s before login, and twice the
// keepalive of 5 s and some after it.
const patience = 20 * time.Second

// TestHostileBeforeLogin: bytes at the tunnel's port from somebody who cannot log in. All such connections are closed, slow
// ones too, and a new office can connect meanwhile.
func TestHostileBeforeLogin(t *testing.T) {
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
	var all sync.WaitGroup
	for name, attack := range attacks {
		all.Go(func() {
			if err := closedAfter(v.tunnel, attack); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()

	// A crowd that says nothing: it does not keep an office out that was here before.
	var crowd sync.WaitGroup
	for range 150 {
		crowd.Go(func() {
			if err := closedAfter(v.tunnel, func(net.Conn) error { return nil }); err != nil {
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
	v.unhurt(t)
}

// TestHostileAfterLogin: bytes from somebody who has an office's password, but does not keep to the protocol. Each such
// connection is over sooner or later; nobody else's is.
func TestHostileAfterLogin(t *testing.T) {
	v := startCall(t)
	random := rand.New(rand.NewPCG(3, 4))
	garbage := randomBytes(random, 4096)
	password := v.password(t)
	login := func(attack func(net.Conn) error) func(net.Conn) error {
		return inTLS(func(c net.Conn) error {
			state := c.(*tls.Conn).ConnectionState()
			key, err := state.ExportKeyingMaterial("EXPORTER-siptunnel-auth", nil, 32)
			if err != nil {
				return err
			}
			if err := auth.Authenticate(c, "default", password, auth.Binding(key)); err != nil {
				return err
			}
			return attack(c)
		})
	}
	streams := func(attack func(*yamux.Session) error) func(net.Conn) error {
		return login(func(c net.Conn) error {
			config := yamux.DefaultConfig()
			config.LogOutput = io.Discard
			session, err := yamux.Client(c, config)
			if err != nil {
				return err
			}
			defer session.Close()
			return attack(session)
		})
	}
	yamuxFrame := func(kind byte, flags uint16, stream, length uint32) []byte {
		frame := binary.BigEndian.AppendUint16([]byte{0, kind}, flags)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(frame, stream), length)
	}
	for name, attack := range map[string]func(net.Conn) error{
		"silence":                   login(func(net.Conn) error { return nil }),
		"garbage":                   login(func(c net.Conn) error { return send(c, garbage) }),
		"endless garbage":           login(func(c net.Conn) error { return sendEndlessly(c, garbage) }),
		"half a header":             login(func(c net.Conn) error { return send(c, []byte{0, 0, 0}) }),
		"a slow header":             login(func(c net.Conn) error { return sendSlowly(c, yamuxFrame(0, 1, 1, 4)) }),
		"data for no stream":        login(func(c net.Conn) error { return send(c, append(yamuxFrame(0, 0, 77, 8), garbage[:8]...)) }),
		"more data than the window": login(func(c net.Conn) error { return sendEndlessly(c, append(yamuxFrame(0, 1, 1, 1<<31), garbage...)) }),
		"streams without end":       streams(streamsWithoutEnd),
		"streams of unknown types": streams(func(s *yamux.Session) error {
			return eachStream(s, 20, func(i int) []byte { return []byte{byte(100 + i), 1, 2, 3} })
		}),
		"garbage to control": streams(func(s *yamux.Session) error {
			return eachStream(s, 1, func(int) []byte { return append([]byte{1}, garbage...) })
		}),
		"garbage to SIP": streams(func(s *yamux.Session) error {
			return eachStream(s, 1, func(int) []byte { return append([]byte{2}, garbage...) })
		}),
		"garbage to media": streams(func(s *yamux.Session) error {
			return eachStream(s, 1, func(int) []byte { return append([]byte{3, 0, 0, 0, 1}, garbage...) })
		}),
	} {
		// One after the other: each login costs this machine's two cores a tenth of a second of Argon2id.
		if err := closedAfter(v.tunnel, attack); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	v.unhurt(t)
}

// streamsWithoutEnd opens streams until tunneld has had enough.
func streamsWithoutEnd(s *yamux.Session) error {
	const enough = 5000
	failed := make(chan error, 1)
	go func() {
		for range enough {
			stream, err := s.OpenStream()
			if err == nil {
				_, err = stream.Write([]byte{3})
			}
			if err != nil {
				failed <- nil
				return
			}
		}
		failed <- fmt.Errorf("tunneld took %d streams", enough)
	}()
	select {
	case err := <-failed:
		return err
	case <-time.After(patience):
		return nil // it lets the attacker wait
	}
}

// eachStream opens streams and writes to each.
func eachStream(s *yamux.Session, count int, content func(int) []byte) error {
	for i := range count {
		stream, err := s.OpenStream()
		if err != nil {
			return nil // closed already
		}
		_ = stream.SetDeadline(time.Now().Add(time.Second))
		_, _ = stream.Write(content(i))
		_, _ = io.Copy(io.Discard, stream)
	}
	return nil
}

// closedAfter connects to tunneld from the WAN, attacks, and waits until tunneld has closed the connection.
func closedAfter(tun *tunnel, attack func(net.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	conn, err := tun.WAN.Dial(ctx, "tcp", tunnelPort.String())
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
			return nil // tunneld may refuse crowds
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

// password is that of the credential "default".
func (tun *tunnel) password(t *testing.T) *auth.Password {
	t.Helper()
	text, err := os.ReadFile(tun.joinLink())
	if err != nil {
		t.Fatal(err)
	}
	link, err := joinlink.Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewPassword([]byte(link.Secret))
}

// TestHostileRTP: packets from elsewhere at the media ports of a call, at either end, are not heard.
func TestHostileRTP(t *testing.T) {
	v := startCall(t)
	intruders := map[*lab.Host]string{v.Phone("mallory"): "192.168.77.10", v.Desk("trudy"): lab.PBXAddr.String()}
	office, desk := v.alice.Host.Capture("eth0", "udp"), v.carol.Host.Capture("eth0", "udp")
	v.call.talk(time.Second)
	var targets []*pcap.Stream
	targets = append(targets, pcap.Streams(office.Stop())...)
	targets = append(targets, pcap.Streams(desk.Stop())...)
	voice := audio.EncodeULaw(audio.Tone(2000, 0.02))
	for host, address := range intruders {
		conn, err := host.ListenUDP(host.Addr.String() + ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		at := slices.IndexFunc(targets, func(s *pcap.Stream) bool { return s.Dst.Addr().String() == address })
		if at < 0 {
			t.Fatalf("no RTP toward %s seen", address)
		}
		intrude(t, conn, targets[at], voice)
	}
	v.unhurt(t)
}

// intrude sends RTP to where a stream goes, as if it were part of it, for two seconds.
func intrude(t *testing.T, conn net.PacketConn, into *pcap.Stream, voice []byte) {
	t.Helper()
	last := into.Packets[len(into.Packets)-1].Payload
	packet := append(slices.Clone(last[:12]), voice...)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range 100 {
		binary.BigEndian.PutUint16(packet[2:], binary.BigEndian.Uint16(last[2:])+uint16(100+i))
		for port := range uint16(2) {
			to := net.UDPAddr{IP: into.Dst.Addr().AsSlice(), Port: int(into.Dst.Port() + port)}
			if _, err := conn.WriteTo(packet, &to); err != nil {
				t.Fatal(err)
			}
		}
		<-tick.C
	}
}
