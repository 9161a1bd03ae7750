package office

import (
	"crypto/tls"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
)

// Files of the authority that signs what phones over TLS are shown when no certificate is given.
const (
	tlsCertFileName = "sip-tls.crt"
	tlsKeyFileName  = "sip-tls.key"
)

// tlsConfig is what phones over TLS meet: the certificate of --tls-cert and --tls-key, else one that an authority of our own
// has signed for the address that the phone has connected to, or for lan where all phones are told that.
func (s *settings) tlsConfig(dir *config.StateDir, lan netip.Addr) (*tls.Config, error) {
	if s.TLSCert == "" {
		own, err := openAuthority(dir.Path(tlsCertFileName), dir.Path(tlsKeyFileName), lan)
		if err != nil {
			return nil, err
		}
		return &tls.Config{GetCertificate: own.certificate}, nil
	}
	pair := &certificateFiles{cert: s.TLSCert, key: s.TLSKey}
	if _, err := pair.load(); err != nil {
		return nil, &config.Error{Code: config.ExitConfig, Problem: "the certificate for phones", Err: err,
			Remedy: "correct --tls-cert and --tls-key: PEM files, the certificate with its chain"}
	}
	return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.load() }}, nil
}

// certificateFiles is a certificate that others renew. It is safe for concurrent use.
type certificateFiles struct {
	cert, key string

	mu      sync.Mutex
	current *tls.Certificate
	written time.Time // the certificate's file
}

// load reads the files when they have changed. What cannot be read, half a renewal for instance, leaves the last good one.
func (f *certificateFiles) load() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.cert)
	if err == nil && f.current != nil && info.ModTime().Equal(f.written) {
		return f.current, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(f.cert, f.key)
	}
	switch {
	case err == nil:
		f.current, f.written = &pair, info.ModTime()
	case f.current == nil:
		return nil, err
	}
	return f.current, nil
}
