package sdp

import (
	"bytes"
	"iter"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// maxDepth is how many multiparts may lie inside of one another. What lies
// deeper is not looked into.
const maxDepth = 4

// Find returns where the first session description in the body of a message is,
// of those that [All] walks over.
func Find(contentType, body []byte) (start, end int, ok bool) {
	for start, end := range All(contentType, body) {
		return start, end, true
	}
	return 0, 0, false
}

// All walks over all session descriptions in the body of a message, in their
// order: all of an application/sdp body, or each such part of a multipart body.
// Which of several a receiver takes is up to the receiver.
//
// Where some receivers may find one and others do not, all of it is given out,
// for [Description.Parse] to refuse: what has "v=0" in it but no Content-Type, a
// multipart that names no boundary or has it in a place where it delimits
// nothing, a part with two types.
func All(contentType, body []byte) iter.Seq2[int, int] {
	return func(yield func(start, end int) bool) {
		walk(contentType, body, 0, len(body), 0, yield)
	}
}

// walk yields the descriptions in body[start:end], which is of that type, and
// reports whether to go on.
func walk(contentType, body []byte, start, end, depth int, yield func(int, int) bool) bool {
	kind, params := cut(contentType, ';')
	main, sub := cut(kind, '/')
	main, sub = bytes.TrimSpace(main), token(bytes.TrimSpace(sub))
	switch {
	case len(contentType) == 0:
		return doubtful(body, start, end, yield)
	case isWord(main, "multipart"):
		mark := boundary(params)
		if len(mark) == 0 || depth == maxDepth {
			return doubtful(body, start, end, yield)
		}
		return parts(mark, body, start, end, depth, yield)
	case !isWord(main, "application") || !isWord(sub, "sdp"):
		return true
	}
	return len(bytes.TrimSpace(body[start:end])) == 0 || yield(start, end)
}

// doubtful yields body[start:end] when a description may be in it.
func doubtful(body []byte, start, end int, yield func(int, int) bool) bool {
	return !bytes.Contains(body[start:end], []byte("v=0")) || yield(start, end)
}

// token returns the letters and digits that b begins with: some receivers look
// at no more of a subtype.
func token(b []byte) []byte {
	n := 0
	for n < len(b) && b[n] > ' ' && !bytes.ContainsRune([]byte("()<>@,;:\\\"/[]?="), rune(b[n])) {
		n++
	}
	return b[:n]
}

// parts yields the descriptions in the parts of a multipart body (RFC 2046
// section 5.1.1).
func parts(mark, body []byte, start, end, depth int, yield func(int, int) bool) bool {
	if ambiguous(mark, body[start:end]) {
		return doubtful(body, start, end, yield)
	}
	open := -1 // where the current part begins
	for pos := start; pos < end; {
		l, next := nextLine(body[:end], pos)
		if delimiter, last := isDelimiter(l.text(body), mark); delimiter {
			if open >= 0 && !part(body, open, beforeEnd(body, open, l.start), depth, yield) {
				return false
			}
			if open = next; last {
				return true
			}
		}
		pos = next
	}
	return open < 0 || part(body, open, end, depth, yield)
}

// ambiguous reports whether the delimiter of a multipart stands where it is not
// alone on a line, or behind the last one. RFC 2046 rules that out; some
// receivers see a part there and others do not.
func ambiguous(mark, b []byte) bool {
	seen, delimiters := 0, 0
	for i := 0; ; {
		n := bytes.Index(b[i:], mark)
		if n < 0 {
			break
		}
		if i += n; i >= 2 && b[i-1] == '-' && b[i-2] == '-' {
			seen++
		}
		i++
	}
	for pos := 0; pos < len(b); {
		var l line
		l, pos = nextLine(b, pos)
		delimiter, last := isDelimiter(l.text(b), mark)
		if delimiter {
			delimiters++
		}
		if last {
			break
		}
	}
	return seen != delimiters
}

// isDelimiter reports whether a line is "--mark", or "--mark--", which is the
// last one.
func isDelimiter(b, mark []byte) (delimiter, last bool) {
	if len(b) < 2+len(mark) || b[0] != '-' || b[1] != '-' || !bytes.HasPrefix(b[2:], mark) {
		return false, false
	}
	b = bytes.TrimRight(b[2+len(mark):], " \t")
	return len(b) == 0 || string(b) == "--", string(b) == "--"
}

// beforeEnd returns where a part that begins at start ends: before the line end
// that precedes the delimiter at pos, which belongs to the delimiter.
func beforeEnd(body []byte, start, pos int) int {
	if pos > start && body[pos-1] == '\n' {
		if pos--; pos > start && body[pos-1] == '\r' {
			pos--
		}
	}
	return pos
}

// part yields the descriptions in one part, which begins with its headers.
func part(body []byte, start, end, depth int, yield func(int, int) bool) bool {
	var contentType []byte
	for pos := start; pos < end; {
		l, next := nextLine(body[:end], pos)
		for next < end && l.end > l.start && (body[next] == ' ' || body[next] == '\t') {
			fold, behind := nextLine(body[:end], next)
			l.end, next = fold.end, behind
		}
		if pos = next; l.end == l.start {
			return walk(contentType, body, pos, end, depth+1, yield)
		}
		name, value := cut(l.text(body), ':')
		typed := isWord(bytes.TrimSpace(name), "content-type")
		if typed && contentType != nil || hasReturn(body[l.start:next]) {
			break
		}
		if typed {
			contentType = bytes.TrimSpace(value)
		}
	}
	return doubtful(body, start, end, yield)
}

// hasReturn reports whether a carriage return in b is no part of a line end.
func hasReturn(b []byte) bool {
	for i, c := range b {
		if c == '\r' && (i+1 == len(b) || b[i+1] != '\n') {
			return true
		}
	}
	return false
}

// boundary returns the boundary of a multipart body from the parameters of its
// type.
func boundary(params []byte) []byte {
	v, _ := sipmsg.Param(params, "boundary")
	if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
		v = v[1 : n-1]
	}
	return v
}

// isWord reports whether b is word, which is in lower case, in any case.
func isWord(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != word[i] {
			return false
		}
	}
	return true
}
