package sdp

import "bytes"

// line is one line: [start, end) without its end, next behind it.
type line struct{ start, end, next int }

func (l line) text(b []byte) []byte { return b[l.start:l.end] }

// nextLine returns the line at b[pos] and the offset behind it. The last line
// need not have an end, or may have half of one.
func nextLine(b []byte, pos int) (line, int) {
	l := line{pos, len(b), len(b)}
	if n := bytes.IndexByte(b[pos:], '\n'); n >= 0 {
		l.end, l.next = pos+n, pos+n+1
	}
	if l.end > pos && b[l.end-1] == '\r' {
		l.end--
	}
	return l, l.next
}

// field returns the first word of b and what follows it.
func field(b []byte) (word, rest []byte) {
	i := 0
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	start := i
	for i < len(b) && !isSpace(b[i]) {
		i++
	}
	return b[start:i], b[i:]
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// cut splits b at the first separator; after is nil when there is none.
func cut(b []byte, sep byte) (before, after []byte) {
	if i := bytes.IndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// number reads a decimal number up to limit.
func number(b []byte, limit int) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int(c-'0'); n > limit {
			return 0, false
		}
	}
	return n, len(b) > 0
}
