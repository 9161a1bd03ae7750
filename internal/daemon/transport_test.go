package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/mux"
)

func TestWayToPBX(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string // transport and PBX
		text string // of the error
	}{
		{args: nil, want: "UDP 127.0.0.1:5060"},
		{args: []string{"--pbx-transport", "tcp"}, want: "TCP 127.0.0.1:5060"},
		{args: []string{"--pbx-transport", "tls"}, want: "TLS 127.0.0.1:5061"},
		{args: []string{"--pbx-transport", "tls", "--pbx", "pbx.example:5067", "--pbx-tls-insecure"}, want: "TLS 127.0.0.1:5067"},
		{args: []string{"--pbx-tls-insecure"}, text: "not udp"},
		{args: []string{"--pbx-transport", "tcp", "--pbx-tls-ca", "file"}, text: "not tcp"},
		{args: []string{"--pbx-transport", "tls", "--pbx-tls-ca", "/nowhere"}, text: "no such file"},
		{args: []string{"--pbx-transport", "tls", "--pbx-tls-ca", "/dev/null"}, text: "no certificate in it"},
		{args: []string{"--pbx-transport", "tls", "--pbx-tls-ca", "file", "--pbx-tls-insecure"}, text: "contradict"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			p, err := parse(t, test.args...).survey(t.Context(), resolveTo("127.0.0.1"))
			if test.text != "" {
				if config.ExitOf(err) != config.ExitConfig || !strings.Contains(err.Error(), test.text) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := p.way.transport.String() + " " + p.pbx.String(); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// answerStream is a PBX that answers the first message of each connection with 200.
func answerStream(t *testing.T, cfg *tls.Config) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if cfg != nil {
				conn = tls.Server(conn, cfg)
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				buffer := make([]byte, 65535)
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				_, headers, _ := bytes.Cut(buffer[:n], []byte("\r\n"))
				_, _ = conn.Write(append([]byte("SIP/2.0 200 OK\r\n"), headers...))
			}()
		}
	}()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

func TestOptionsOverTCPAndTLS(t *testing.T) {
	certificate, _, err := mux.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "pbx.crt")
	if err := os.WriteFile(own, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	other, _, err := mux.NewCertificate()
	if err != nil {
		t.Fatal(err)
	}
	plain, stranger, secured := answerStream(t, nil), answerStream(t, &tls.Config{Certificates: []tls.Certificate{other}}), answerStream(t, &tls.Config{Certificates: []tls.Certificate{certificate}})
	for _, test := range []struct {
		pbx  netip.AddrPort
		args []string
		ok   bool
	}{
		{plain, []string{"--pbx-transport", "tcp"}, true},
		{secured, []string{"--pbx-transport", "tls", "--pbx-tls-insecure"}, true},
		{secured, []string{"--pbx-transport", "tls"}, false},
		{secured, []string{"--pbx-transport", "tls", "--pbx-tls-ca", own}, true},
		{stranger, []string{"--pbx-transport", "tls", "--pbx-tls-ca", own}, false},
		{plain, []string{"--pbx-transport", "tls", "--pbx-tls-insecure"}, false},
	} {
		w, err := parse(t, append(test.args, "--pbx", test.pbx.String())...).wayToPBX()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.askOptions(t.Context(), target{addr: test.pbx, host: test.pbx.Addr().String()}, "pbx.example"); (err == nil) != test.ok {
			t.Errorf("%v: %v", test.args, err)
		} else if !test.ok && (test.pbx != plain) != strings.Contains(silence(err), "--pbx-tls-ca") {
			t.Errorf("%v: %v is logged as %q", test.args, err, silence(err))
		}
	}
}

// TestTrustedNames: a certificate of the authority counts for the host that it names, and for no other and none.
func TestTrustedNames(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate) *x509.Certificate {
		template.SerialNumber, template.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(nil, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	authority := sign(ca, ca)
	shown := sign(&x509.Certificate{DNSNames: []string{"pbx.example"}}, authority)
	for _, test := range []struct {
		known *x509.Certificate
		host  string
		ok    bool
	}{
		{authority, "pbx.example", true},
		{authority, "other.example", false},
		{authority, "", false},
		{shown, "other.example", true}, // the PBX's own
		{shown, "", true},
	} {
		cfg := trusting([]*x509.Certificate{test.known}, test.host)
		err := cfg.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{shown}})
		if (err == nil) != test.ok {
			t.Errorf("%s known, at %q: %v", test.known.Subject, test.host, err)
		}
	}
}
