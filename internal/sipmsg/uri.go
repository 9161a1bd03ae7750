package sipmsg

import "bytes"

// URI is a sip or sips URI in its parts (RFC 3261 section 19.1.1). The slices
// lie in the bytes that were given to [ParseURI].
type URI struct {
	Scheme  []byte // as it stands, without the colon
	User    []byte // user with telephone parameters and password; nil when absent
	Host    []byte // an IPv6 address keeps its brackets
	Port    int    // 0 when absent
	Params  []byte // from the first semicolon behind the host on
	Headers []byte // behind the question mark
}

// ParseURI reads a URI. ok is false when it is not a sip or sips URI or is not
// well formed; Scheme is set whenever there is one, so that other schemes
// (tel) can be told.
func ParseURI(b []byte) (u URI, ok bool) {
	colon := bytes.IndexByte(b, ':')
	if colon <= 0 || !isToken(b[:colon]) {
		return URI{}, false
	}
	u.Scheme = b[:colon]
	if !equalFold(u.Scheme, "sip") && !equalFold(u.Scheme, "sips") {
		return u, false
	}
	rest := b[colon+1:]
	// The user part may hold ";", "?" and ":", but neither it nor anything
	// before it may hold "@": the first one ends it.
	if at := bytes.IndexByte(rest, '@'); at >= 0 {
		u.User = rest[:at]
		rest = rest[at+1:]
	}
	n := hostLen(rest)
	if n == 0 {
		return u, false
	}
	u.Host, rest = rest[:n], rest[n:]
	if len(rest) > 0 && rest[0] == ':' {
		end := 1
		for end < len(rest) && rest[end] != ';' && rest[end] != '?' {
			end++
		}
		if u.Port, ok = parsePort(rest[1:end]); !ok {
			return u, false
		}
		rest = rest[end:]
	}
	if q := bytes.IndexByte(rest, '?'); q >= 0 {
		u.Headers, rest = rest[q+1:], rest[:q]
	}
	u.Params = rest
	return u, true
}

// hostLen returns the length of the host that b begins with, 0 when there is
// none or something else than a port, parameters or headers follows.
func hostLen(b []byte) int {
	n := 0
	if len(b) > 0 && b[0] == '[' {
		n = bytes.IndexByte(b, ']') + 1
	} else {
		for n < len(b) && isHostByte(b[n]) {
			n++
		}
	}
	if n < len(b) && b[n] != ':' && b[n] != ';' && b[n] != '?' {
		return 0
	}
	return n
}

// isHostByte reports whether c may stand in a host that is not in brackets.
// The underscore is not in the grammar, but in names of hosts.
func isHostByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return c == '-' || c == '.' || c == '_' || c >= 0x80
}

// Secure reports whether the scheme is sips.
func (u URI) Secure() bool { return equalFold(u.Scheme, "sips") }

// Param returns the URI parameter with that name, as [Param] does.
func (u URI) Param(name string) (value []byte, ok bool) { return Param(u.Params, name) }
