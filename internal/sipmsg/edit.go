package sipmsg

import (
	"errors"
	"fmt"
	"slices"
)

// ErrEdit is wrapped by what [Message.Err] returns.
var ErrEdit = errors.New("sipmsg: conflicting edits")

// maxEdits bounds the edits of one message. A forwarder makes some twenty; a
// peer that sends thousands of Contacts to be rewritten meets the bound.
const maxEdits = 512

// edit writes text[from:to] in place of buf[start:end].
type edit struct {
	start, end int
	from, to   int
	length     bool // the Content-Length, made anew by each AppendTo
}

func (e *edit) insertion() bool { return e.start == e.end }
func (e *edit) deletion() bool  { return e.from == e.to }

// touches reports whether e shares bytes with s or inserts inside of it.
func (e *edit) touches(s Span) bool { return e.start < s.End && e.end > s.Start }

// Replace has the bytes at s replaced by with, which is copied. Replacing
// nothing is [Message.Insert], replacing by nothing is [Message.Delete].
func (m *Message) Replace(s Span, with []byte) {
	switch {
	case !m.valid(s):
	case len(with) == 0:
		m.remove(s)
	default:
		m.place(edit{start: s.Start, end: s.End}, with)
	}
}

// Insert has with, which is copied, written before the byte at offset at.
// Several insertions at one offset come out in the order of the calls, all of
// them before what replaces the bytes behind it.
func (m *Message) Insert(at int, with []byte) {
	if s := (Span{at, at}); len(with) > 0 && m.valid(s) {
		m.place(edit{start: at, end: at}, with)
	}
}

// Delete has the bytes at s left out, and with them whatever edits were made
// inside of them.
func (m *Message) Delete(s Span) {
	if m.valid(s) {
		m.remove(s)
	}
}

// Err returns what was wrong with the edits, nil when nothing was: an edit
// inside of bytes that another one replaces or deletes, or outside of the
// message, or one too many. It is a mistake of the caller, and the message must
// not be sent: [Message.AppendTo] appends nothing then.
func (m *Message) Err() error { return m.conflict }

// ResetEdits forgets all edits.
func (m *Message) ResetEdits() {
	m.edits, m.text = m.edits[:0], m.text[:0]
	m.conflict, m.wantLength = nil, false
}

// AppendTo appends the message with its edits to dst. Without edits these are
// the bytes of [Message.Bytes]. The value of Content-Length follows the edits of
// the body. Nothing is appended when the edits conflict ([Message.Err]).
func (m *Message) AppendTo(dst []byte) []byte {
	m.placeLength()
	if m.conflict != nil {
		return dst
	}
	size := len(m.buf)
	for i := range m.edits {
		e := &m.edits[i]
		size += e.to - e.from - (e.end - e.start)
	}
	dst = slices.Grow(dst, size)
	pos := 0
	for i := range m.edits {
		e := &m.edits[i]
		dst = append(dst, m.buf[pos:e.start]...)
		dst = append(dst, m.text[e.from:e.to]...)
		pos = e.end
	}
	return append(dst, m.buf[pos:]...)
}

func (m *Message) refuse(err error) {
	if m.conflict == nil {
		m.conflict = err
	}
}

func (m *Message) valid(s Span) bool {
	if 0 <= s.Start && s.Start <= s.End && s.End <= len(m.buf) {
		return true
	}
	m.refuse(errOutside)
	return false
}

var (
	errOutside = fmt.Errorf("%w: an edit outside of the message", ErrEdit)
	errOverlap = fmt.Errorf("%w: an edit inside of another one", ErrEdit)
	errTooMany = fmt.Errorf("%w: more than %d edits", ErrEdit, maxEdits)
	errNoValue = fmt.Errorf("%w: a value that no header of that kind has", ErrEdit)
)

// place records an edit that writes text.
func (m *Message) place(e edit, text []byte) {
	e.from = len(m.text)
	m.text = append(m.text, text...)
	e.to = len(m.text)
	m.record(e, false)
}

// record puts e where it belongs in the table: by offset, insertions before what
// replaces the bytes behind them. above puts an insertion before those that are
// there already.
func (m *Message) record(e edit, above bool) {
	if len(m.edits) >= maxEdits {
		m.refuse(errTooMany)
		return
	}
	i := len(m.edits)
	for i > 0 && m.edits[i-1].behind(&e, above) {
		i--
	}
	if i > 0 && m.edits[i-1].end > e.start || i < len(m.edits) && m.edits[i].start < e.end {
		m.refuse(errOverlap)
		return
	}
	m.edits = slices.Insert(m.edits, i, e)
}

// behind reports whether p, which is in the table, comes behind e.
func (p *edit) behind(e *edit, above bool) bool {
	if p.start != e.start {
		return p.start > e.start
	}
	return e.insertion() && (above || !p.insertion())
}

// remove records the deletion of s. It absorbs the edits inside of s and the
// deletions that overlap it, so that deleting twice is deleting once.
func (m *Message) remove(s Span) {
	if s.Empty() {
		return
	}
	i := 0
	for i < len(m.edits) && !m.edits[i].touches(s) {
		i++
	}
	kept := m.edits[:i]
	for _, e := range m.edits[i:] {
		switch {
		case !e.touches(s):
			kept = append(kept, e)
		case e.deletion():
			s.Start, s.End = min(s.Start, e.start), max(s.End, e.end)
		case s.contains(Span{e.start, e.end}):
		default:
			kept = append(kept, e)
			m.refuse(errOverlap)
		}
	}
	m.edits = kept
	m.record(edit{start: s.Start, end: s.End}, false)
}

// removed reports whether all of s is deleted.
func (m *Message) removed(s Span) bool {
	for i := range m.edits {
		if e := &m.edits[i]; e.deletion() && e.start <= s.Start && s.End <= e.end {
			return true
		}
	}
	return false
}

// set replaces the bytes at s, and what an earlier set of the same bytes put
// there.
func (m *Message) set(s Span, with []byte) {
	e := edit{start: s.Start, end: s.End, from: len(m.text)}
	m.text = append(m.text, with...)
	e.to = len(m.text)
	m.supersede(e)
}

// supersede records e in place of the edit of the same bytes, if there is one.
func (m *Message) supersede(e edit) {
	for i := range m.edits {
		if p := &m.edits[i]; p.start == e.start && p.end == e.end {
			*p = e
			return
		}
	}
	m.record(e, false)
}
