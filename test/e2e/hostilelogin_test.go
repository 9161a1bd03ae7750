//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/joinlink"
	"github.com/siptunnel/siptunnel/internal/wire"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// many is more of anything than one client has a use for.
const many = 3000

// An insider has an office's password, but does not keep to the protocol.
type insider struct {
	name     string // of the credential
	password *auth.Password
}

// login attacks in place of the multiplexer.
func (in insider) login(attack func(net.Conn) error) func(net.Conn) error {
	return inTLS(func(c net.Conn) error {
		state := c.(*tls.Conn).ConnectionState()
		key, err := state.ExportKeyingMaterial("EXPORTER-siptunnel-auth", nil, 32)
		if err != nil {
			return err
		}
		if err := auth.Authenticate(c, in.name, in.password, auth.Binding(key)); err != nil {
			return err
		}
		return attack(c)
	})
}

// streams attacks with streams before any session.
func (in insider) streams(attack func(*yamux.Session) error) func(net.Conn) error {
	return in.login(func(c net.Conn) error {
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

// attached attacks in a session of its own, with its control stream.
func (in insider) attached(attack func(*yamux.Session, net.Conn) error) func(net.Conn) error {
	return in.streams(func(s *yamux.Session) error {
		control, err := s.OpenStream()
		if err != nil {
			return err
		}
		request := wire.Attach{Epoch: 1, Software: "insider"}.Append([]byte{byte(wire.StreamControl)})
		if _, err := control.Write(request); err != nil {
			return err
		}
		_ = control.SetReadDeadline(time.Now().Add(soon))
		kind, _, _, err := wire.ReadFrame(control, make([]byte, wire.HeaderLen), wire.MaxBody)
		if err != nil || kind != wire.TypeAttached {
			return fmt.Errorf("not attached: %v %w", kind, err)
		}
		_ = control.SetReadDeadline(time.Time{})
		return attack(s, control)
	})
}

// TestHostileAfterLogin: bytes from an insider. Each such connection is over sooner or later; nobody else's is.
func TestHostileAfterLogin(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	garbage := randomBytes(rand.New(rand.NewPCG(3, 4)), 4096)
	in := v.insider(t, "stolen")
	for name, attack := range map[string]func(net.Conn) error{
		"silence":                   in.login(func(net.Conn) error { return nil }),
		"garbage":                   in.login(func(c net.Conn) error { return send(c, garbage) }),
		"endless garbage":           in.login(func(c net.Conn) error { return sendEndlessly(c, garbage) }),
		"half a header":             in.login(func(c net.Conn) error { return send(c, []byte{0, 0, 0}) }),
		"a slow header":             in.login(func(c net.Conn) error { return sendSlowly(c, yamuxHeader(0, 1, 1, 4)) }),
		"data for no stream":        in.login(func(c net.Conn) error { return send(c, append(yamuxHeader(0, 0, 77, 8), garbage[:8]...)) }),
		"more data than the window": in.login(func(c net.Conn) error { return sendEndlessly(c, append(yamuxHeader(0, 1, 1, 1<<31), garbage...)) }),
		"streams before a session":  in.streams(func(s *yamux.Session) error { return streamsWithoutEnd(s, []byte{3, 0, 0, 0, 1}) }),
		"garbage for a session":     in.streams(func(s *yamux.Session) error { return writeStream(s, append([]byte{1}, garbage...)) }),
		"SIP before a session":      in.streams(func(s *yamux.Session) error { return writeStream(s, append([]byte{2}, garbage...)) }),
	} {
		// One after the other: each login costs this machine's two cores a tenth of a second of Argon2id.
		if err := closedAfter(v.tunnel, v.attacker(), attack); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	v.unhurt(t)
}

// TestHostileSession: a session of an insider's that asks for too much, or sends what is none of the protocol. It may go on as
// long as it stays within bounds; when it is over, all is as before for others.
func TestHostileSession(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	garbage := randomBytes(rand.New(rand.NewPCG(5, 6)), 4096)
	in := v.insider(t, "stolen")
	for name, attack := range map[string]func(*yamux.Session, net.Conn) error{
		"garbage to control": func(_ *yamux.Session, control net.Conn) error { return send(control, garbage) },
		"a huge frame to control": func(_ *yamux.Session, control net.Conn) error {
			return send(control, append([]byte{byte(wire.TypeBye), 0xff, 0xff, 0xff}, garbage...))
		},
		"a second Attach": func(_ *yamux.Session, control net.Conn) error {
			return send(control, wire.Attach{Epoch: 1}.Append(nil))
		},
		"garbage to signalling": func(s *yamux.Session, _ net.Conn) error {
			return writeStream(s, append([]byte{byte(wire.StreamSignalling)}, garbage...))
		},
		"SIP of no phone": func(s *yamux.Session, _ net.Conn) error {
			frames := []byte{byte(wire.StreamSignalling)}
			for range 100 {
				frames = wire.SIP{Phone: 77, Message: garbage[:100]}.Append(frames)
			}
			return writeStream(s, frames)
		},
		"an Ack of what was never sent": func(s *yamux.Session, _ net.Conn) error {
			return writeStream(s, wire.Ack{Received: 1 << 40}.Append([]byte{byte(wire.StreamSignalling)}))
		},
		"media of no relay": func(s *yamux.Session, _ net.Conn) error {
			return writeStream(s, wire.Media{Channel: 9, Packet: garbage[:100]}.Append([]byte{byte(wire.StreamMedia)}))
		},
		"garbage to media": func(s *yamux.Session, _ net.Conn) error {
			return writeStream(s, append([]byte{byte(wire.StreamMedia)}, garbage...))
		},
		"unknown streams": func(s *yamux.Session, _ net.Conn) error { return writeStream(s, append([]byte{99}, garbage...)) },
		"streams without end": func(s *yamux.Session, _ net.Conn) error {
			return streamsWithoutEnd(s, []byte{byte(wire.StreamMedia)})
		},
		"relays without end": func(s *yamux.Session, _ net.Conn) error {
			return askAll(s, func(i uint32) []byte { return wire.OpenRelay{Channel: i}.Append(nil) })
		},
	} {
		err := closedAfter(v.tunnel, v.attacker(), in.attached(func(s *yamux.Session, control net.Conn) error {
			err := attack(s, control)
			_ = s.Close()
			return err
		}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if status := v.options(); status != 200 {
			t.Errorf("%s: afterwards OPTIONS through the tunnel are answered with %d", name, status)
		}
	}
	start(t, v.Phone("bob"), phone("bob", "udp", officeProxy))
	v.unhurt(t)
}

// TestHostilePhones: an insider takes all places for phones. Phones that have one keep it, and some time after the admin has
// revoked the credential there is room again.
func TestHostilePhones(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	in := v.insider(t, "stolen")
	err := closedAfter(v.tunnel, v.attacker(), in.attached(func(s *yamux.Session, _ net.Conn) error {
		err := askAll(s, func(i uint32) []byte { return wire.OpenPhone{Phone: i, Key: fmt.Sprintf("insider-%d", i)}.Append(nil) })
		if err != nil {
			return err
		}
		c := dial(t, v.carol, v.alice)
		v.carol.Hangup()
		c.closed()
		if out, err := v.PBX.Run(v.tunneldArgs("credential", "revoke", in.name)...); err != nil {
			return fmt.Errorf("tunneld credential revoke: %w: %s", err, out)
		}
		return nil
	}))
	if err != nil {
		t.Error(err)
	}
	host := v.Phone("bob")
	conn, err := host.ListenUDP(netip.AddrPortFrom(host.Addr, 5070).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	lab.Eventually(t, noticed, "there is room for another phone", func() bool {
		answer, err := peers.Exchange(conn, officeSIP, registerRequest("bob", host.Addr), time.Second)
		return err == nil && answer.Status == 401
	})
	t.Logf("there was room again after %v", time.Since(began).Round(time.Millisecond))
	start(t, host, phone("bob", "udp", officeProxy))
	v.unhurt(t)
}

// yamuxHeader is one frame's header in the layout of yamux's specification.
func yamuxHeader(kind byte, flags uint16, stream, length uint32) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{0, kind}, flags)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(frame, stream), length)
}

// streamsWithoutEnd opens streams and writes to each, until tunneld has had enough or lets the insider wait.
func streamsWithoutEnd(s *yamux.Session, first []byte) error {
	const enough = 5000
	failed := make(chan error, 1)
	go func() {
		for range enough {
			stream, err := s.OpenStream()
			if err == nil {
				_, err = stream.Write(first)
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
	case <-time.After(patience / 2):
		return nil
	}
}

// askAll makes requests on a new signalling stream and reads the answers, as a client that asks for too much but acknowledges
// what it gets.
func askAll(s *yamux.Session, request func(uint32) []byte) error {
	const batch = 500
	stream, err := s.OpenStream()
	if err != nil {
		return err
	}
	_ = stream.SetDeadline(time.Now().Add(patience))
	next := []byte{byte(wire.StreamSignalling)}
	buffer := make([]byte, wire.HeaderLen)
	for asked := range uint32(many) {
		next = append(next, request(asked+1)...)
		if (asked+1)%batch != 0 {
			continue
		}
		if _, err := stream.Write(next); err != nil {
			return fmt.Errorf("request %d: %w", asked, err)
		}
		for answered := 0; answered < batch; {
			kind, _, more, err := wire.ReadFrame(stream, buffer, wire.MaxBody)
			if err != nil {
				return fmt.Errorf("%d requests, no answer: %w", asked, err)
			}
			if buffer = more; kind != wire.TypeAck {
				answered++
			}
		}
		next = wire.Ack{Received: uint64(asked + 1)}.Append(nil)
	}
	return nil
}

// writeStream writes to a new stream and reads what comes back, for a second at most.
func writeStream(s *yamux.Session, content []byte) error {
	stream, err := s.OpenStream()
	if err != nil {
		return nil // closed already
	}
	_ = stream.SetDeadline(time.Now().Add(time.Second))
	_, _ = stream.Write(content)
	_, _ = io.Copy(io.Discard, stream)
	return nil
}

// insider makes a credential for somebody to abuse.
func (tun *tunnel) insider(t *testing.T, name string) insider {
	t.Helper()
	out, err := tun.PBX.Run(tun.tunneldArgs("credential", "add", "--link-only", name)...)
	if err != nil {
		t.Fatalf("tunneld credential add: %v: %s", err, out)
	}
	link, err := joinlink.Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	return insider{link.Name, auth.NewPassword([]byte(link.Secret))}
}
