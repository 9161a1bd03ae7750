package sipmsg

import "bytes"

// Span is a range of offsets [Start, End) into the bytes of one message, as
// [Message.Bytes] returns them.
type Span struct{ Start, End int }

// Len returns the length of s in bytes.
func (s Span) Len() int { return s.End - s.Start }

// Empty reports whether s covers nothing.
func (s Span) Empty() bool { return s.End <= s.Start }

// contains reports whether t lies inside s.
func (s Span) contains(t Span) bool { return s.Start <= t.Start && t.End <= s.End }

// isLWS reports whether c is linear white space. Line ends count: inside of a
// header value they are there only as part of a fold.
func isLWS(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// trim narrows s by the white space at its ends.
func trim(b []byte, s Span) Span {
	for s.Start < s.End && isLWS(b[s.Start]) {
		s.Start++
	}
	for s.Start < s.End && isLWS(b[s.End-1]) {
		s.End--
	}
	return s
}

// skipLWS returns the offset of the first byte in b[i:end] that is not white
// space, or end.
func skipLWS(b []byte, i, end int) int {
	for i < end && isLWS(b[i]) {
		i++
	}
	return i
}

// skipQuoted returns the offset behind the quoted string that begins at b[i],
// or -1 when it does not end before end.
func skipQuoted(b []byte, i, end int) int {
	for i++; i < end; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// indexComma returns the offset of the first comma in b[i:end] that separates
// values, that is, outside of quoted strings and angle brackets; end when there
// is none. What opens and never closes reaches to the end.
func indexComma(b []byte, i, end int) int {
	for i < end {
		switch b[i] {
		case ',':
			return i
		case '"':
			if i = skipQuoted(b, i, end); i < 0 {
				return end
			}
			continue
		case '<':
			n := bytes.IndexByte(b[i:end], '>')
			if n < 0 {
				return end
			}
			i += n
		}
		i++
	}
	return end
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// equalFold reports whether b and s are the same but for the case of ASCII
// letters.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		if b[i] != s[i] && lower(b[i]) != lower(s[i]) {
			return false
		}
	}
	return true
}

// isToken reports whether b is a token of RFC 3261 section 25.1.
func isToken(b []byte) bool {
	for _, c := range b {
		if !isTokenByte(c) {
			return false
		}
	}
	return len(b) > 0
}

func isTokenByte(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '-', '.', '!', '%', '*', '_', '+', '`', '\'', '~':
		return true
	}
	return false
}

// parseUint reads b as a decimal number. Numbers above limit are reported as
// limit+1, so that the caller chooses between refusing and clamping; ok is
// false when b is empty or holds anything but digits.
func parseUint(b []byte, limit uint64) (n uint64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n <= limit {
			n = n*10 + uint64(c-'0')
		}
	}
	return min(n, limit+1), len(b) > 0
}

// parsePort reads b as a port. An empty b is no port, which is well formed.
func parsePort(b []byte) (port int, ok bool) {
	if len(b) == 0 {
		return 0, true
	}
	n, ok := parseUint(b, 65535)
	return int(n), ok && n >= 1 && n <= 65535
}
