// Package joinlink is the line of text that connects an office to a server. The
// server prints it once, the office takes it as its only argument:
//
//	siptunnel://NAME:SECRET@HOST:PORT#PIN
//
// NAME is a credential, SECRET its password, HOST:PORT where tunneld listens and
// PIN the key that it must have: SHA-256 of its SubjectPublicKeyInfo, in base64url
// without padding. Without #PIN the office takes the key that it meets first,
// provided that it proves to know the password.
//
// The syntax is that of RFC 3986: in SECRET every character that is not
// unreserved may, and one of : @ / ? # [ ] % must, be percent-encoded as UTF-8; an
// IPv6 address stands in brackets. There is no path, no query and no default port.
//
// A join link is a password. Whoever has it can log in, so nothing here prints
// the secret unless asked by name: [Link.Reveal].
package joinlink

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/siptunnel/siptunnel/internal/auth"
)

// scheme begins every link.
const scheme = "siptunnel://"

// Limits in bytes.
const (
	maxLink   = 1024
	maxSecret = 128 // as it is, not as it is encoded
	pinBytes  = 32
)

// Link is a join link taken apart. The zero value is not a link. It prints, and
// encodes as text and JSON, without its secret.
type Link struct {
	Server string // host:port, an IPv6 host in brackets
	Name   string // of the credential
	Secret string
	Pin    string // 43 characters of base64url; empty for none
}

// Error says which part of a link is wrong. It contains nothing of the link.
type Error struct {
	Part    string // "link", "name", "secret", "server" or "pin"
	Problem string
}

func (e *Error) Error() string {
	return "the " + e.Part + " " + e.Problem + ": copy the whole line that tunneld printed"
}

// Parse takes a link apart. White space around it is ignored. The error is an
// *Error.
func Parse(s string) (Link, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxLink {
		return Link{}, &Error{"link", fmt.Sprintf("is longer than %d bytes", maxLink)}
	}
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return Link{}, &Error{"link", "does not begin with " + scheme}
	}
	rest, pin, hasPin := strings.Cut(s[len(scheme):], "#")
	user, server, ok := strings.Cut(rest, "@")
	if !ok {
		return Link{}, &Error{"link", "has no @ between the secret and the server"}
	}
	name, secret, _ := strings.Cut(user, ":")
	if strings.ContainsFunc(secret, func(r rune) bool { return strings.ContainsRune(":/?[] ", r) }) {
		return Link{}, &Error{"secret", "has a character that must be percent-encoded"}
	}
	secret, err := url.PathUnescape(secret)
	if err != nil { // says what is wrong, and so a part of the secret
		return Link{}, &Error{"secret", "has a bad percent-encoding"}
	}
	l := Link{Server: server, Name: name, Secret: secret, Pin: pin}
	if hasPin && pin == "" {
		return Link{}, &Error{"pin", "is missing after #"}
	}
	if err := l.Check(); err != nil {
		return Link{}, err
	}
	return l, nil
}

// Check tells whether the fields make a link, with the *Error that Parse would
// give.
func (l Link) Check() error {
	switch {
	case !auth.ValidName(l.Name):
		return &Error{"name", "is not one of a credential"}
	case l.Secret == "":
		return &Error{"secret", "is missing"}
	case len(l.Secret) > maxSecret:
		return &Error{"secret", fmt.Sprintf("is longer than %d bytes", maxSecret)}
	case !utf8.ValidString(l.Secret) || strings.ContainsFunc(l.Secret, unicode.IsControl):
		return &Error{"secret", "has characters that cannot be typed"}
	case !validPin(l.Pin):
		return &Error{"pin", "is not 43 characters of base64url"}
	}
	return checkServer(l.Server)
}

func validPin(pin string) bool {
	if pin == "" {
		return true
	}
	// DecodeString skips line breaks, which a pin has none of.
	b, err := base64.RawURLEncoding.Strict().DecodeString(pin)
	return err == nil && len(b) == pinBytes && len(pin) == base64.RawURLEncoding.EncodedLen(pinBytes)
}

func checkServer(server string) error {
	colon := strings.LastIndexByte(server, ':')
	if colon < 0 || strings.HasSuffix(server, "]") {
		return &Error{"server", "has no port"}
	}
	host, port := server[:colon], server[colon+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return &Error{"server", "has a port that is not 1 to 65535"}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return &Error{"server", "has a bad IPv6 address"}
		}
		return nil
	}
	if !validHost(host) {
		return &Error{"server", "has a bad host"}
	}
	return nil
}

// validHost tells whether host is an IPv4 address or a domain name (RFC 1123
// section 2.1). A name whose last label is a number is neither.
func validHost(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Is4()
	}
	if len(host) > 253 {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !isAlphanumeric(c) && c != '-' {
				return false
			}
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// Reveal returns the link with its secret, in the form that [Parse] takes.
func (l Link) Reveal() string { return l.text(escape(l.Secret)) }

// String returns the link with a placeholder for its secret. Parse does not take
// it for a link.
func (l Link) String() string { return l.text("[hidden]") }

// Format is String, for every verb.
func (l Link) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, l.String()) }

// MarshalText is String.
func (l Link) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

func (l Link) text(secret string) string {
	s := scheme + l.Name + ":" + secret + "@" + l.Server
	if l.Pin != "" {
		s += "#" + l.Pin
	}
	return s
}

// escape encodes all but the unreserved characters of RFC 3986 section 2.3.
func escape(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; isAlphanumeric(c) || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}
