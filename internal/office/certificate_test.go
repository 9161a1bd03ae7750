package office

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
)

// shown is the chain that a phone meets which has connected to an address of this machine.
func shown(t *testing.T, cfg *tls.Config, at string) [][]byte {
	t.Helper()
	pair, err := cfg.GetCertificate(&tls.ClientHelloInfo{Conn: connAt{at: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at))}})
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate
}

// connAt is a connection to an address.
type connAt struct {
	net.Conn
	at net.Addr
}

func (c connAt) LocalAddr() net.Addr { return c.at }

// TestOwnCertificate: a phone that has imported the file of the state directory trusts this machine at every address, also
// at those that it gets later.
func TestOwnCertificate(t *testing.T) {
	dir, err := config.OpenStateDir(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var s settings
	start := func(lan netip.Addr) *tls.Config {
		cfg, err := s.tlsConfig(dir, lan)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	cfg := start(netip.Addr{})
	imported := x509.NewCertPool()
	text, err := os.ReadFile(dir.Path(tlsCertFileName))
	if err != nil || !imported.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	trusts := func(cfg *tls.Config, at, host string) {
		t.Helper()
		leaf, err := x509.ParseCertificate(shown(t, cfg, at)[0])
		if err == nil {
			_, err = leaf.Verify(x509.VerifyOptions{Roots: imported, DNSName: host})
		}
		if err != nil {
			t.Errorf("a phone that asks %s for %s: %v", at, host, err)
		} else if !slices.Contains(leaf.DNSNames, host) {
			t.Errorf("a phone that compares names alone finds %q, not %s", leaf.DNSNames, host)
		}
	}
	trusts(cfg, "192.0.2.1:5061", "192.0.2.1")
	trusts(cfg, "[2001:db8::1]:5061", "2001:db8::1")
	if !bytes.Equal(shown(t, cfg, "192.0.2.1:5061")[0], shown(t, cfg, "192.0.2.1:9")[0]) {
		t.Error("a certificate is made anew for each connection")
	}
	again := start(netip.MustParseAddr("198.51.100.1"))
	trusts(again, "192.0.2.2:5061", "192.0.2.2")
	trusts(again, "192.0.2.2:5061", "198.51.100.1")
	if err := config.CheckStateDir(filepath.Dir(dir.Path("x"))); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir.Path(tlsKeyFileName), []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.tlsConfig(dir, netip.Addr{}); config.ExitOf(err) != config.ExitUnsafe {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestGivenCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	s := settings{TLSCert: filepath.Join(dir, "c"), TLSKey: filepath.Join(dir, "k")}
	if _, err := s.tlsConfig(nil, netip.Addr{}); config.ExitOf(err) != config.ExitConfig {
		t.Errorf("no certificate: %v", err)
	}
	write := func(at time.Time) {
		err := errors.Join(newAuthority(s.TLSCert, s.TLSKey), os.Chtimes(s.TLSCert, at, at))
		if err != nil {
			t.Fatal(err)
		}
	}
	write(time.Unix(1, 0))
	cfg, err := s.tlsConfig(nil, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	const at = "192.0.2.1:5061"
	first := shown(t, cfg, at)
	write(time.Unix(2, 0))
	second := shown(t, cfg, at)
	if bytes.Equal(first[0], second[0]) {
		t.Error("a renewed certificate is not shown")
	}
	if err := os.Remove(s.TLSCert); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(second[0], shown(t, cfg, at)[0]) {
		t.Error("half a renewal took the certificate away")
	}
}
