package office

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/config"
)

// Files of the certificate that phones over TLS are shown when none is given.
const (
	tlsCertFileName = "sip-tls.crt"
	tlsKeyFileName  = "sip-tls.key"
)

// tlsConfig is what phones over TLS meet: the certificate of --tls-cert and --tls-key, else one of our own making.
func (s *settings) tlsConfig(dir *config.StateDir, lan netip.Addr) (*tls.Config, error) {
	pair := &certificateFiles{cert: s.TLSCert, key: s.TLSKey}
	if pair.cert == "" {
		pair.cert, pair.key = dir.Path(tlsCertFileName), dir.Path(tlsKeyFileName)
		if err := ownCertificate(pair, lan); err != nil {
			return nil, err
		}
	}
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

// ownCertificate makes the files, at the first start or when this machine has another address.
func ownCertificate(f *certificateFiles, lan netip.Addr) error {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err == nil && pair.Leaf.VerifyHostname(lan.String()) == nil {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &config.Error{Code: config.ExitUnsafe, Problem: "the certificate for phones", Err: err, Remedy: "remove " + f.cert + " and " + f.key}
	}
	cert, key, err := newCertificate(lan)
	if err == nil {
		err = errors.Join(atomicfile.Write(f.key, key), atomicfile.Write(f.cert, cert))
	}
	if err != nil {
		return &config.Error{Code: config.ExitFailed, Problem: "a certificate for phones", Err: err}
	}
	return nil
}

// newCertificate is as phones want it: RSA, since many of them know no other, no later than their clocks can count, and
// valid already for those that have not set theirs.
func newCertificate(lan netip.Addr) (cert, key []byte, err error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name + " " + lan.String()},
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2037, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true, // some phones import nothing else
		IPAddresses:           []net.IP{lan.AsSlice()},
	}
	if host, err := os.Hostname(); err == nil {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
