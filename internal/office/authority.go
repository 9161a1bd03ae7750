package office

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/config"
)

// maxCertificates bounds the addresses of this machine for which certificates are kept; phones choose among the machine's
// own only.
const maxCertificates = 64

// An authority signs certificates for the addresses of this machine: phones that trust it trust each of them, and those that
// the machine will have another day. It is safe for concurrent use.
type authority struct {
	tls.Certificate
	lan netip.Addr // stands in every certificate; may be zero

	mu     sync.Mutex
	issued map[netip.Addr]*tls.Certificate
}

// openAuthority reads the files, which it makes at the first start.
func openAuthority(cert, key string, lan netip.Addr) (*authority, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if errors.Is(err, fs.ErrNotExist) {
		if err := newAuthority(cert, key); err != nil {
			return nil, &config.Error{Code: config.ExitFailed, Problem: "a certificate for phones", Err: err}
		}
		pair, err = tls.LoadX509KeyPair(cert, key)
	}
	if err != nil {
		return nil, &config.Error{Code: config.ExitUnsafe, Problem: "the certificate for phones", Err: err, Remedy: "remove " + cert + " and " + key}
	}
	return &authority{Certificate: pair, lan: lan, issued: make(map[netip.Addr]*tls.Certificate)}, nil
}

// certificate is for the address that the phone has connected to.
func (a *authority) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	at := addrPort(hello.Conn.LocalAddr()).Addr().WithZone("")
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.issued[at]; known != nil {
		return known, nil
	}
	template, err := template(name + " " + at.String())
	if err != nil {
		return nil, err
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if host, err := os.Hostname(); err == nil {
		template.DNSNames = []string{host}
	}
	for _, addr := range []netip.Addr{at, a.lan} {
		if addr.IsValid() {
			template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
			// Mbed TLS before 3.6, which small phones and linphone are built on, looks for addresses among the names.
			template.DNSNames = append(template.DNSNames, addr.String())
		}
	}
	// The authority's own key: it lies beside the one of a certificate in any case.
	der, err := x509.CreateCertificate(rand.Reader, template, a.Leaf, a.PrivateKey.(crypto.Signer).Public(), a.PrivateKey)
	if err != nil {
		return nil, err
	}
	if len(a.issued) >= maxCertificates {
		clear(a.issued)
	}
	made := &tls.Certificate{Certificate: [][]byte{der, a.Leaf.Raw}, PrivateKey: a.PrivateKey}
	a.issued[at] = made
	return made, nil
}

// newAuthority makes the files. The key is RSA, since many phones know no other.
func newAuthority(certFile, keyFile string) error {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	template, err := template(name + " phones " + host)
	if err != nil {
		return err
	}
	template.KeyUsage |= x509.KeyUsageCertSign
	template.IsCA = true
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		atomicfile.Write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		atomicfile.Write(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// template is a certificate as phones want it: valid no later than their clocks can count, and already for those that have
// not set theirs.
func template(common string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: common},
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2037, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
	}, nil
}
