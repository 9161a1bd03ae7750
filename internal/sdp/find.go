package sdp

import (
	"bytes"
	"iter"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// maxDepth is how many multiparts may lie inside of one another. What lies
// deeper is not looked for.
const maxDepth = 4

// Find returns where the first session description in the body of a message is:
// all of an application/sdp body, or the first such part of a multipart body.
func Find(contentType, body []byte) (start, end int, ok bool) {
	for start, end := range All(contentType, body) {
		return start, end, true
	}
	return 0, 0, false
}

// All walks over all session descriptions in the body of a message, in their
// order: which of several parts a receiver takes is up to the receiver. A body
// without a Content-Type that begins as a description does is one; some
// implementations take it so. A Content-Type in a part is not asked for either.
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
	main, sub = bytes.TrimSpace(main), bytes.TrimSpace(sub)
	switch {
	case len(contentType) == 0:
		if !bytes.HasPrefix(body[start:end], []byte("v=0")) {
			return true
		}
	case isWord(main, "multipart") && depth < maxDepth:
		return parts(boundary(params), body, start, end, depth, yield)
	case !isWord(main, "application") || !isWord(sub, "sdp"):
		return true
	}
	return start == end || yield(start, end)
}

// parts yields the descriptions in the parts of a multipart body (RFC 2046
// section 5.1.1).
func parts(mark, body []byte, start, end, depth int, yield func(int, int) bool) bool {
	if len(mark) == 0 {
		return true
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
		pos = next
		if l.end == l.start {
			return walk(contentType, body, pos, end, depth+1, yield)
		}
		if name, value := cut(l.text(body), ':'); isWord(bytes.TrimSpace(name), "content-type") {
			contentType = bytes.TrimSpace(value)
		}
	}
	return true
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
