package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/siptunnel/siptunnel/internal/config"
)

// transport of SIP to the PBX: udp, tcp or tls.
type transport string

// UnmarshalText takes the name of a transport.
func (t *transport) UnmarshalText(text []byte) error {
	switch transport(text) {
	case "udp", "tcp", "tls":
		*t = transport(text)
		return nil
	}
	return fmt.Errorf("%q is not one of udp, tcp, tls", text)
}

// String is the transport as SIP writes it.
func (t transport) String() string { return strings.ToUpper(string(t)) }

// defaultPort is the PBX's when --pbx names none.
func (t transport) defaultPort() uint16 {
	if t == "tls" {
		return defaultTLSPort
	}
	return defaultSIPPort
}

// service is what SRV records of the transport are named, without underscores (RFC 3263 section 4.1).
func (t transport) service() (service, proto string) {
	switch t {
	case "tls":
		return "sips", "tcp"
	case "tcp":
		return "sip", "tcp"
	}
	return "sip", "udp"
}

// way is how the PBX is reached.
type way struct {
	transport transport
	// trust is what the certificate of the PBX must be for a host of --pbx; nil but for TLS. Names of SRV records do not
	// count: whoever can forge the DNS could choose them (RFC 5922).
	trust func(host string) *tls.Config
}

// trusted is trust, or nil.
func (w way) trusted(host string) *tls.Config {
	if w.trust == nil {
		return nil
	}
	return w.trust(host)
}

// wayToPBX reads what --pbx-transport and its companions say.
func (s *settings) wayToPBX() (way, error) {
	w := way{transport: s.PBXTransport}
	if w.transport != "tls" {
		if s.PBXTLSCA != "" || s.PBXTLSInsecure {
			return w, config.Errorf(config.ExitConfig, "set --pbx-transport tls, or leave the other out",
				"pbx-tls-ca and pbx-tls-insecure are for the pbx-transport tls, not %s", string(w.transport))
		}
		return w, nil
	}
	w.trust = func(host string) *tls.Config {
		return &tls.Config{ServerName: host, InsecureSkipVerify: s.PBXTLSInsecure}
	}
	if s.PBXTLSCA == "" {
		return w, nil
	}
	if s.PBXTLSInsecure {
		return w, config.Errorf(config.ExitConfig, "leave one of them out", "pbx-tls-ca and pbx-tls-insecure contradict each other")
	}
	known, err := readCertificates(s.PBXTLSCA)
	if err != nil {
		return w, &config.Error{Code: config.ExitConfig, Problem: "pbx-tls-ca", Err: err, Remedy: "give a PEM file with the PBX's certificate, or with that of its authority"}
	}
	w.trust = func(host string) *tls.Config { return trusting(known, host) }
	return w, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var known []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		known = append(known, certificate)
	}
	if len(known) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return known, nil
}

var errNoTarget = errors.New("the address is no target of --pbx any more")

// trusting accepts a certificate that is one of known, whatever its names are: PBXs make theirs with a common name only.
// It accepts others that one of known has signed for host; an empty host, that of an address which no target has any
// more, is nobody's.
func trusting(known []*x509.Certificate, host string) *tls.Config {
	roots := x509.NewCertPool()
	for _, certificate := range known {
		roots.AddCert(certificate)
	}
	return &tls.Config{
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			shown := state.PeerCertificates[0]
			if slices.ContainsFunc(known, shown.Equal) {
				return nil
			}
			if host == "" { // Verify would take any name
				return errNoTarget
			}
			between := x509.NewCertPool()
			for _, certificate := range state.PeerCertificates[1:] {
				between.AddCert(certificate)
			}
			_, err := shown.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between})
			return err
		},
	}
}
