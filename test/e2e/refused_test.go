//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// The exit codes of tunnelproxy that these tests see.
const (
	exitRefused     = 5
	exitKeyChanged  = 6
	exitNotTunneld  = 7
	exitUnreachable = 8
)

// TestWrongPassword: an office with a wrong password is told so by an exit code of its own, and its phones get nowhere.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	tun := prepareTunnel(t, lab.New(t))
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users})
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon()
	for name, credential := range map[string]string{"wrong password": "default", "unknown name": "nobody"} {
		t.Run(name, func(t *testing.T) {
			before := len(tun.inside.SIP())
			password := filepath.Join(tun.state, "password")
			if err := os.WriteFile(password, []byte("not the password of this office\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			flags := []string{"--server", tunnelPort.String(), "--name", credential, "--password-file", password}
			check := tun.Office.Start("tunnelproxy-check", append(tun.proxyArgs("check"), flags...)...)
			if code := check.Exit(soon); code != exitRefused {
				t.Errorf("tunnelproxy check ended with %d, want %d: %s", code, exitRefused, check.Output())
			}
			serve := tun.Office.Start("tunnelproxy-serve", append(tun.proxyArgs("serve"), flags...)...)
			if code := serve.Exit(soon); code != exitRefused {
				t.Errorf("tunnelproxy serve ended with %d, want %d: %s", code, exitRefused, serve.Output())
			}
			if strings.Contains(check.Output()+serve.Output(), "not the password") {
				t.Error("the password is in the output")
			}
			if messages := tun.inside.SIP()[before:]; len(messages) != 0 {
				t.Errorf("%d SIP messages reached the PBX: %s", len(messages), messages[0].StartLine)
			}
		})
	}
}

// TestKeyChanged: another key at the known address is not trusted, even with the right password.
func TestKeyChanged(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	tun.proxy.Stop()
	tun.tunneld.Stop()
	if err := os.RemoveAll(filepath.Join(tun.state, "tunneld")); err != nil {
		t.Fatal(err)
	}
	tun.startDaemon()
	check := tun.Office.Start("tunnelproxy-check", tun.proxyArgs("check")...)
	if code := check.Exit(soon); code != exitKeyChanged {
		t.Errorf("tunnelproxy check ended with %d, want %d: %s", code, exitKeyChanged, check.Output())
	}
}

// TestUnreachable: nobody at the server's address, or somebody who is no tunneld.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	tun := prepareTunnel(t, lab.New(t))
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users})
	tun.startDaemon()
	tun.join()
	tun.tunneld.Stop()
	check := tun.Office.Start("tunnelproxy-check", tun.proxyArgs("check")...)
	if code := check.Exit(2 * soon); code != exitUnreachable {
		t.Errorf("tunnelproxy check with no tunneld ended with %d, want %d: %s", code, exitUnreachable, check.Output())
	}
	password := filepath.Join(tun.state, "password")
	if err := os.WriteFile(password, []byte("a password of some length\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, serve := range map[string]func(net.Conn){
		"mail server": func(c net.Conn) { _, _ = c.Write([]byte("220 mail.example ESMTP\r\n")) },
		// As a tunneld of a later version would.
		"version 2": func(c net.Conn) { _ = tls.Server(c, otherProtocol(t)).Handshake() },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := tun.PBX.ListenTCP(tunnelPort.String())
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					serve(conn)
					_, _ = io.Copy(io.Discard, conn)
					_ = conn.Close()
				}
			}()
			check := tun.Office.Start("tunnelproxy-check-other", tun.proxyArgs("check", "--server", tunnelPort.String(), "--password-file", password)...)
			if code := check.Exit(2 * soon); code != exitNotTunneld {
				t.Errorf("tunnelproxy check ended with %d, want %d: %s", code, exitNotTunneld, check.Output())
			}
		})
	}
}

// otherProtocol is the TLS of a server that does not speak this version of the tunnel's protocol.
func otherProtocol(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}, NextProtos: []string{"siptunnel/2"},
	}
}

// TestRevoked: what the admin takes away is gone at once, for the session too.
func TestRevoked(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	if out, err := tun.PBX.Run(tun.tunneldArgs("credential", "revoke", "default")...); err != nil {
		t.Fatalf("tunneld credential revoke: %v: %s", err, out)
	}
	lab.Eventually(t, soon, "the session is over", func() bool { return tun.options() == 503 })
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	mark := carol.Mark()
	carol.Dial("sip:alice@" + domain)
	carol.Wait(soon, mark, "CALL_CLOSED")
	if events := alice.Events(); strings.Contains(events[len(events)-1].Type, "CALL") {
		t.Error("a call reached a phone whose office has been shut out")
	}
}
