package office

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
)

// shown is the certificate that a phone meets.
func shown(t *testing.T, cfg *tls.Config) []byte {
	t.Helper()
	pair, err := cfg.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Certificate[0]
}

func TestOwnCertificateStays(t *testing.T) {
	dir, err := config.OpenStateDir(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var s settings
	at := func(lan netip.Addr) []byte {
		cfg, err := s.tlsConfig(dir, lan)
		if err != nil {
			t.Fatal(err)
		}
		return shown(t, cfg)
	}
	first := at(here)
	if !bytes.Equal(first, at(here)) {
		t.Error("another certificate at the next start")
	}
	pair, err := tls.LoadX509KeyPair(dir.Path(tlsCertFileName), dir.Path(tlsKeyFileName))
	if err != nil || pair.Leaf.VerifyHostname(here.String()) != nil {
		t.Errorf("the certificate is not for the LAN address: %v", err)
	}
	if bytes.Equal(first, at(there)) {
		t.Error("the same certificate at another address")
	}
	if err := config.CheckStateDir(filepath.Dir(dir.Path("x"))); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir.Path(tlsKeyFileName), []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.tlsConfig(dir, there); config.ExitOf(err) != config.ExitUnsafe {
		t.Errorf("a damaged key: %v", err)
	}
}

func TestGivenCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	s := settings{TLSCert: filepath.Join(dir, "c"), TLSKey: filepath.Join(dir, "k")}
	lan := netip.MustParseAddr("192.0.2.1")
	if _, err := s.tlsConfig(nil, lan); config.ExitOf(err) != config.ExitConfig {
		t.Errorf("no certificate: %v", err)
	}
	write := func(at time.Time) {
		cert, key, err := newCertificate(lan)
		err = errors.Join(err, os.WriteFile(s.TLSKey, key, 0o600), os.WriteFile(s.TLSCert, cert, 0o600), os.Chtimes(s.TLSCert, at, at))
		if err != nil {
			t.Fatal(err)
		}
	}
	write(time.Unix(1, 0))
	cfg, err := s.tlsConfig(nil, lan)
	if err != nil {
		t.Fatal(err)
	}
	first := shown(t, cfg)
	write(time.Unix(2, 0))
	second := shown(t, cfg)
	if bytes.Equal(first, second) {
		t.Error("a renewed certificate is not shown")
	}
	if err := os.Remove(s.TLSCert); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(second, shown(t, cfg)) {
		t.Error("half a renewal took the certificate away")
	}
}
