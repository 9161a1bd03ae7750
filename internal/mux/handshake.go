package mux

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// Labels of the TLS exporter (RFC 8446 section 7.5).
const (
	exporterAuth   = "EXPORTER-siptunnel-auth"
	exporterResume = "EXPORTER-siptunnel-resume"
	// That of the media path is package seal's.
)

// baseTLS is what both ends have in common.
func baseTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{wire.ALPN},
		// One record for what the coalescer has gathered.
		DynamicRecordSizingDisabled: true,
	}
}

func serverTLS(cert tls.Certificate) *tls.Config {
	c := baseTLS()
	c.Certificates = []tls.Certificate{cert}
	// A resumed TLS session would save nothing here and tell connections of
	// one client apart from others.
	c.SessionTicketsDisabled = true
	return c
}

// clientTLS trusts the server whose key has the pin, and for the time being,
// without a pin, every server: it has to prove that it knows the password
// before anything else is said.
func clientTLS(pin string) *tls.Config {
	c := baseTLS()
	c.InsecureSkipVerify = true // names and authorities mean nothing here
	c.VerifyConnection = func(state tls.ConnectionState) error {
		got := Pin(state.PeerCertificates[0])
		if pin != "" && subtle.ConstantTimeCompare([]byte(got), []byte(pin)) != 1 {
			return fmt.Errorf("%w (it has %s, known is %s)", ErrKeyChanged, got, pin)
		}
		return nil
	}
	return c
}

// clientHandshake completes TLS toward a server and names what is in the way.
func clientHandshake(ctx context.Context, conn *tls.Conn) error {
	err := conn.HandshakeContext(ctx)
	var record tls.RecordHeaderError
	switch {
	case err == nil:
	case errors.As(err, &record):
		return fmt.Errorf("%w (it does not speak TLS)", ErrNotTunneld)
	// crypto/tls keeps the type of the peer's alerts to itself.
	case strings.Contains(err.Error(), "no application protocol"),
		strings.Contains(err.Error(), "protocol version not supported"):
		return fmt.Errorf("%w (%w)", ErrVersion, err)
	case isNetwork(err):
		return unreachable(err)
	default:
		return err
	}
	if conn.ConnectionState().NegotiatedProtocol != wire.ALPN {
		return fmt.Errorf("%w (it speaks TLS, but another protocol)", ErrNotTunneld)
	}
	return nil
}

// isNetwork reports whether err is about the connection rather than about what
// came over it.
func isNetwork(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		(errors.As(err, &op) && op.Op != "remote error" && op.Op != "local error")
}

// binding ties the authentication to this TLS connection and no other.
func binding(conn *tls.Conn) (b auth.Binding, err error) {
	state := conn.ConnectionState()
	out, err := state.ExportKeyingMaterial(exporterAuth, nil, len(b))
	copy(b[:], out)
	return b, err
}

// resumeProof shows that who attaches to a session on this TLS connection
// knows the session's secret.
func resumeProof(conn *tls.Conn, secret [32]byte, epoch uint64) (proof [32]byte, err error) {
	state := conn.ConnectionState()
	out, err := state.ExportKeyingMaterial(exporterResume, nil, 32)
	if err != nil {
		return proof, err
	}
	return proofOf(secret, out, epoch), nil
}

// mediaSecret is what the keys of the media path are derived from.
func mediaSecret(conn *tls.Conn) ([]byte, error) {
	state := conn.ConnectionState()
	return state.ExportKeyingMaterial(seal.ExporterLabel, nil, seal.SecretLen)
}

// proofOf is HMAC-SHA256(secret, exporter | epoch).
func proofOf(secret [32]byte, exporter []byte, epoch uint64) (proof [32]byte) {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(exporter)
	mac.Write(binary.BigEndian.AppendUint64(nil, epoch))
	mac.Sum(proof[:0])
	return proof
}
