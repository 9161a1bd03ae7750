package mux

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
)

// Names of the files that LoadOrCreateCertificate keeps.
const (
	keyFile         = "server.key"
	certificateFile = "server.crt"
)

// Pin returns the name that clients know a server's key by: the SHA-256 of the
// certificate's SubjectPublicKeyInfo (as RFC 7469 section 2.4), in the URL
// alphabet of base64 without padding.
func Pin(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// NewCertificate makes a P-256 key and a certificate signed by itself. Nobody
// checks its names or dates: clients know the server by the key's pin and by
// the password.
func NewCertificate() (cert tls.Certificate, pin string, err error) {
	_, _, cert, pin, err = newCertificate()
	return cert, pin, err
}

func newCertificate() (keyPEM, certPEM []byte, cert tls.Certificate, pin string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, cert, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "siptunnel"},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		// RFC 5280 section 4.1.2.5: no well-defined expiration date.
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, cert, "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, cert, "", err
	}
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cert, pin, err = parseCertificate(certPEM, keyPEM)
	return keyPEM, certPEM, cert, pin, err
}

func parseCertificate(certPEM, keyPEM []byte) (cert tls.Certificate, pin string, err error) {
	cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return cert, "", err
	}
	return cert, Pin(cert.Leaf), nil
}

// LoadOrCreateCertificate returns the certificate kept in dir, which must
// exist, and makes one the first time. The files have mode 0600; a key that
// others can read is refused, since whoever has it can pose as this server to
// everyone who also knows a password.
func LoadOrCreateCertificate(dir string) (cert tls.Certificate, pin string, err error) {
	keyPath, certPath := filepath.Join(dir, keyFile), filepath.Join(dir, certificateFile)
	keyPEM, err := readPrivate(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return createCertificate(keyPath, certPath)
	}
	if err != nil {
		return cert, "", err
	}
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return cert, "", fmt.Errorf("%s exists but its certificate cannot be read: %w; restore it, or remove the key and hand out new links", keyPath, err)
	}
	cert, pin, err = parseCertificate(certPEM, keyPEM)
	if err != nil {
		return cert, "", fmt.Errorf("%s and %s are no usable key and certificate: %w; restore them, or remove both and hand out new links", keyPath, certPath, err)
	}
	return cert, pin, nil
}

// createCertificate writes the certificate before the key: a key without its
// certificate would be an error at the next start, the reverse starts afresh.
func createCertificate(keyPath, certPath string) (cert tls.Certificate, pin string, err error) {
	keyPEM, certPEM, cert, pin, err := newCertificate()
	if err != nil {
		return cert, "", err
	}
	if err := atomicfile.Write(certPath, certPEM); err != nil {
		return cert, "", err
	}
	if err := atomicfile.Write(keyPath, keyPEM); err != nil {
		return cert, "", err
	}
	return cert, pin, nil
}

func readPrivate(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it, and replace it if somebody may have taken it", path, info.Mode().Perm())
	}
	buf := make([]byte, info.Size())
	_, err = file.ReadAt(buf, 0)
	return buf, err
}
