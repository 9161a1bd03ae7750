// Package iptext reads IP addresses out of the text of SIP and SDP without
// allocating: net/netip parses strings only.
package iptext

import "net/netip"

// Parse reads b as an IPv4 or IPv6 address. An IPv6 address may stand in
// brackets, as in a URI. Zones are refused: SIP and SDP have none. ok is false
// for anything else, a host name for example.
func Parse(b []byte) (addr netip.Addr, ok bool) {
	if n := len(b); n > 2 && b[0] == '[' && b[n-1] == ']' {
		return parse6(b[1 : n-1])
	}
	for _, c := range b {
		switch c {
		case '.':
			a, ok := parse4(b)
			if !ok {
				return netip.Addr{}, false
			}
			return netip.AddrFrom4(a), true
		case ':':
			return parse6(b)
		}
	}
	return netip.Addr{}, false
}

// parse4 reads four decimal octets without leading zeros, which some read as
// octal.
func parse4(b []byte) (a [4]byte, ok bool) {
	octet, digits, n := 0, 0, 0
	for _, c := range b {
		if c == '.' {
			if digits == 0 || n == 3 {
				return a, false
			}
			n, octet, digits = n+1, 0, 0
			continue
		}
		if c < '0' || c > '9' || digits > 0 && octet == 0 {
			return a, false
		}
		digits++
		if octet = octet*10 + int(c-'0'); octet > 255 {
			return a, false
		}
		a[n] = byte(octet)
	}
	return a, n == 3 && digits > 0
}

// parse6 reads eight groups of up to four hexadecimal digits; "::" stands once
// for the groups of zeros that are missing, and an IPv4 address may stand for
// the last two (RFC 4291 section 2.2).
func parse6(b []byte) (addr netip.Addr, ok bool) {
	var a [16]byte
	n, gap := 0, -1 // bytes read, and where among them "::" was
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, b = 0, b[2:]
	}
	for len(b) > 0 {
		if n == len(a) {
			return addr, false
		}
		group, digits := hexGroup(b)
		if digits == 0 {
			return addr, false
		}
		if digits < len(b) && b[digits] == '.' {
			v4, ok := parse4(b)
			if !ok || n > len(a)-len(v4) {
				return addr, false
			}
			n += copy(a[n:], v4[:])
			b = nil
			break
		}
		a[n], a[n+1] = byte(group>>8), byte(group)
		n += 2
		if b = b[digits:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return addr, false
		}
		if b = b[1:]; b[0] == ':' {
			if gap >= 0 {
				return addr, false
			}
			gap, b = n, b[1:]
		}
	}
	if gap < 0 {
		return netip.AddrFrom16(a), n == len(a)
	}
	if n == len(a) {
		return addr, false
	}
	tail := n - gap
	copy(a[len(a)-tail:], a[gap:n])
	clear(a[gap : len(a)-tail])
	return netip.AddrFrom16(a), true
}

// hexGroup reads up to four hexadecimal digits; digits is 0 when there are none
// or more.
func hexGroup(b []byte) (group, digits int) {
	for digits < len(b) {
		c := b[digits]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return group, digits
		}
		if digits == 4 {
			return 0, 0
		}
		group = group<<4 | int(c)
		digits++
	}
	return group, digits
}
