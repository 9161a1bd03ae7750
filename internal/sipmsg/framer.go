package sipmsg

import (
	"bytes"
	"fmt"
	"io"
)

// Bounds of a [Framer].
const (
	minBuffer  = 4 << 10
	maxDiscard = 1 << 20 // the largest message that is read over
	maxNoBytes = 100     // reads in a row that give neither bytes nor an error
)

// FrameError says why the bytes of a stream could not be cut into messages.
type FrameError struct {
	Reason string // constant text, fit for a counter's name or a log
	Code   int    // the status code of the response that fits
	// Fatal is set when the start of the next message cannot be found, and the
	// connection is of no more use. Otherwise the message was read over, and
	// Next goes on behind it.
	Fatal bool
	// Head is the message up to the empty line behind its headers, as far as
	// it is there, to make a response from. It is good until the next call.
	Head []byte
}

func (e *FrameError) Error() string { return fmt.Sprintf("sipmsg: framing: %s", e.Reason) }

// Framer cuts a stream into messages by their Content-Length (RFC 3261 section
// 18.3). It looks at nothing else: what is framed but badly formed is handed
// out, for [Message.Parse] to say what is wrong. It reads into one buffer that
// grows up to the size of the largest message. It is not safe for concurrent
// use.
type Framer struct {
	r       io.Reader
	buf     []byte
	start   int // of what was not handed out yet
	end     int // of what was read
	scanned int // how much of buf[start:end] is known not to end the headers
	size    int // of the message at start; 0 while it is not known
	skip    int // bytes of a message too large that are still to be read over
	ends    int // line ends read since the last message, 2 bytes at a time
	assumed bool
	fatal   error
	err     error // what the reader returned with its last bytes
}

// NewFramer returns a Framer that reads from r.
func NewFramer(r io.Reader) *Framer { return &Framer{r: r} }

// Assumed reports whether the last message that Next returned had no
// Content-Length: a message without a Content-Type is taken to have no body
// then, though RFC 3261 section 20.14 wants the header on a stream.
func (f *Framer) Assumed() bool { return f.assumed }

// Next returns the next message. The slice is good until the next call.
//
// It returns [ErrKeepalive] for a double CRLF between messages, which is to be
// answered with a single one; single line ends are skipped. It returns a
// [*FrameError] when a message cannot be cut out, io.EOF at the end of the
// stream between messages and io.ErrUnexpectedEOF inside of one. Other errors
// are those of the reader; Next may be called again after one that passes, a
// deadline for example, and no byte is lost.
func (f *Framer) Next() (msg []byte, err error) {
	if f.fatal != nil {
		return nil, f.fatal
	}
	f.shrink()
	for {
		if f.skipRest() {
			ping, more := f.skipEnds()
			if ping {
				return nil, ErrKeepalive
			}
			if !more {
				if msg, err = f.cut(); msg != nil || err != nil {
					return msg, err
				}
			}
		}
		if err := f.fill(); err != nil {
			return nil, err
		}
	}
}

// shrink moves what is left to the front, and lets go of a large buffer when
// nothing is.
func (f *Framer) shrink() {
	if f.start == f.end {
		f.start, f.end = 0, 0
		if len(f.buf) > 4*minBuffer {
			f.buf = nil
		}
	}
}

// skipRest reads over the rest of a message that was too large, and reports
// whether that is done.
func (f *Framer) skipRest() (done bool) {
	n := min(f.skip, f.end-f.start)
	f.start += n
	f.skip -= n
	return f.skip == 0
}

// skipEnds reads over line ends between messages. ping is set behind a double
// CRLF; more is set when nothing else is there yet.
func (f *Framer) skipEnds() (ping, more bool) {
	for f.start < f.end {
		c := f.buf[f.start]
		switch {
		case c == '\r' && f.ends%2 == 0, c == '\n' && f.ends%2 == 1:
			f.ends++
		case c == '\r':
			f.ends = 1
		case c == '\n':
			f.ends = 0
		default:
			f.ends = 0
			return false, false
		}
		f.start++
		if f.ends == len("\r\n\r\n") {
			f.ends = 0
			return true, false
		}
	}
	return false, true
}

// cut returns the message at the front of the buffer; nil when it is not all
// there yet.
func (f *Framer) cut() (msg []byte, err error) {
	b := f.buf[f.start:f.end]
	if f.size == 0 {
		if err := f.measure(b); err != nil {
			return nil, err
		}
	}
	if n := f.size; n > 0 && n <= len(b) {
		f.take(n)
		return b[:n:n], nil
	}
	return nil, nil
}

// take moves on by n bytes, to the next message.
func (f *Framer) take(n int) {
	f.start += n
	f.size, f.scanned = 0, 0
}

// measure finds out how large the message at the front of the buffer is, once
// its headers are there.
func (f *Framer) measure(b []byte) error {
	head := f.headLen(b)
	if head < 0 {
		if len(b) > MaxSize {
			return f.lose(&FrameError{Reason: "headers too large", Code: 513, Head: b})
		}
		return nil
	}
	length, fault := bodyLength(b[:head])
	if fault != nil {
		fault.Head = b[:head]
		return f.lose(fault)
	}
	f.assumed = length < 0
	f.size = head + max(length, 0)
	if f.size <= MaxSize {
		return nil
	}
	fault = &FrameError{Reason: "message too large", Code: 513, Head: b[:head]}
	if f.size > maxDiscard {
		return f.lose(fault)
	}
	f.skip = f.size - head
	f.take(head)
	return fault
}

func (f *Framer) lose(e *FrameError) error {
	e.Fatal = true
	f.fatal = e
	return e
}

// headLen returns the length of the start line and the headers, with the empty
// line behind them; -1 when that is not there yet. Bytes seen are not looked at
// again when more arrive.
func (f *Framer) headLen(b []byte) int {
	for i := f.scanned; ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			if len(b)-i > len("\r") { // enough behind the line end before i
				f.scanned = len(b)
			}
			return -1
		}
		i += n + 1
		switch {
		case i < len(b) && b[i] == '\n':
			return i + 1
		case i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
		f.scanned = i - 1
	}
}

// bodyLength reads the Content-Length out of a start line and headers; it is -1
// when there is none and no body is announced either.
func bodyLength(head []byte) (n int, fault *FrameError) {
	pos, _ := lineEnd(head, 0)
	n = -1
	typed := false
	for {
		h, next, _ := scanField(head, pos)
		if next < 0 || h.Line.Empty() {
			break
		}
		pos = next
		typed = typed || h.Kind == ContentType
		if h.Kind != ContentLength {
			continue
		}
		v, ok := parseUint(head[h.Value.Start:h.Value.End], maxDiscard)
		if !ok {
			return 0, &FrameError{Reason: "malformed Content-Length", Code: 400}
		}
		if n >= 0 && int(v) != n {
			return 0, &FrameError{Reason: "two different Content-Lengths", Code: 400}
		}
		n = int(v)
	}
	if n < 0 && typed {
		return 0, &FrameError{Reason: "a body without Content-Length", Code: 400}
	}
	return n, nil
}

// fill reads more.
func (f *Framer) fill() error {
	if f.err != nil {
		err := f.err
		f.err = nil
		return f.atEnd(err)
	}
	if f.end == len(f.buf) {
		f.grow()
	}
	for range maxNoBytes {
		n, err := f.r.Read(f.buf[f.end:])
		if n < 0 || n > len(f.buf)-f.end {
			return io.ErrNoProgress
		}
		f.end += n
		if n > 0 {
			f.err = err
			return nil
		}
		if err != nil {
			return f.atEnd(err)
		}
	}
	return io.ErrNoProgress
}

// atEnd tells the end of the stream inside of a message from the end behind one.
func (f *Framer) atEnd(err error) error {
	if err == io.EOF && (f.start < f.end || f.skip > 0) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// grow makes room behind what was read.
func (f *Framer) grow() {
	if f.start > 0 {
		copy(f.buf, f.buf[f.start:f.end])
		f.start, f.end = 0, f.end-f.start
		return
	}
	size := max(minBuffer, 2*len(f.buf))
	f.buf = append(make([]byte, 0, size), f.buf...)[:size]
}
