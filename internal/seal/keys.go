package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

const (
	// ExporterLabel is the label under which the media secret is exported from the
	// TLS connection (RFC 8446 section 7.5, no context).
	ExporterLabel = "EXPORTER-siptunnel-media"
	// SecretLen is the length of that secret, and of all that follow from it, in
	// bytes.
	SecretLen = 32

	ivLen = 12
)

// Suite is an AEAD, by its code point in the protocol.
type Suite uint8

const (
	// AES128GCM is the faster one where the processor has instructions for it.
	AES128GCM Suite = 1
	// ChaCha20Poly1305 needs none.
	ChaCha20Poly1305 Suite = 2
)

// ErrSuite is returned for a code point that is not a Suite.
var ErrSuite = errors.New("seal: the AEAD is not one of siptunnel/1")

// PreferredSuite returns the suite that is the faster one on this processor.
func PreferredSuite() Suite {
	if cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ || cpu.ARM64.HasAES && cpu.ARM64.HasPMULL || cpu.S390X.HasAESGCM {
		return AES128GCM
	}
	return ChaCha20Poly1305
}

// Sender says whose datagrams a key is for.
type Sender uint8

const (
	Client Sender = 0
	Server Sender = 1
)

func (s Sender) label() string {
	if s == Client {
		return "siptunnel/1 media client "
	}
	return "siptunnel/1 media server "
}

// phaseKey is the key of one phase.
type phaseKey struct {
	aead cipher.AEAD
	iv   [ivLen]byte
}

// ratchet yields the keys of one direction, phase by phase.
//
//	secret of phase 0   = HKDF-Expand(exported secret, "siptunnel/1 media client " suite 8, 32)
//	                      ("server" for the other direction)
//	key of phase n      = HKDF-Expand(secret of phase n, "key", 16 or 32)
//	iv of phase n       = HKDF-Expand(secret of phase n, "iv", 12)
//	secret of phase n+1 = HKDF-Expand(secret of phase n, "next", 32)
//
// HKDF is that of RFC 5869 with SHA-256; the exported secret needs no
// HKDF-Extract, being the output of one (RFC 5869 section 3.3). As with KeyUpdate
// of TLS 1.3, a secret says nothing about those before it.
type ratchet struct {
	suite  Suite
	secret []byte
}

func newRatchet(exported []byte, suite Suite, sender Sender) (*ratchet, error) {
	if suite != AES128GCM && suite != ChaCha20Poly1305 {
		return nil, ErrSuite
	}
	if len(exported) != SecretLen {
		return nil, fmt.Errorf("seal: the exported secret has %d bytes, want %d", len(exported), SecretLen)
	}
	secret, err := hkdf.Expand(sha256.New, exported, sender.label()+string([]byte{byte(suite)}), SecretLen)
	if err != nil {
		return nil, fmt.Errorf("seal: derive the secret: %w", err)
	}
	return &ratchet{suite: suite, secret: secret}, nil
}

// next returns the key of the phase and moves on to the following one.
func (r *ratchet) next() (phaseKey, error) {
	var k phaseKey
	keyLen := 16
	if r.suite == ChaCha20Poly1305 {
		keyLen = chacha20poly1305.KeySize
	}
	key, err := hkdf.Expand(sha256.New, r.secret, "key", keyLen)
	if err != nil {
		return k, fmt.Errorf("seal: derive a key: %w", err)
	}
	iv, err := hkdf.Expand(sha256.New, r.secret, "iv", ivLen)
	if err != nil {
		return k, fmt.Errorf("seal: derive an iv: %w", err)
	}
	following, err := hkdf.Expand(sha256.New, r.secret, "next", SecretLen)
	if err != nil {
		return k, fmt.Errorf("seal: derive the next secret: %w", err)
	}
	copy(k.iv[:], iv)
	if k.aead, err = newAEAD(r.suite, key); err != nil {
		return k, err
	}
	clear(key)
	clear(r.secret)
	r.secret = following
	return k, nil
}

func newAEAD(suite Suite, key []byte) (cipher.AEAD, error) {
	if suite == ChaCha20Poly1305 {
		aead, err := chacha20poly1305.New(key)
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		return aead, nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead, nil
}

// nonce writes the nonce of a datagram to buf: the iv, with the counter xored
// into its last 8 bytes (RFC 8446 section 5.3).
func (k *phaseKey) nonce(buf *[ivLen]byte, counter uint64) []byte {
	*buf = k.iv
	for i := range 8 {
		buf[ivLen-1-i] ^= byte(counter >> (8 * i))
	}
	return buf[:]
}
