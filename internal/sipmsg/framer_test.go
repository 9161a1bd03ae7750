package sipmsg

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// segments is a reader that gives one segment per call.
type segments [][]byte

func (s *segments) Read(b []byte) (int, error) {
	if len(*s) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*s)[0])
	if (*s)[0] = (*s)[0][n:]; len((*s)[0]) == 0 {
		*s = (*s)[1:]
	}
	return n, nil
}

// framed returns all that a Framer makes of r, keepalives as "ping" and errors
// as their text.
func framed(r io.Reader) (got []string) {
	f := NewFramer(r)
	for {
		msg, err := f.Next()
		var fault *FrameError
		switch {
		case err == nil:
			got = append(got, string(msg))
		case err == ErrKeepalive:
			got = append(got, "ping")
		case errors.As(err, &fault):
			if got = append(got, fault.Reason); fault.Fatal {
				return got
			}
		case err == io.EOF:
			return got
		default:
			return append(got, err.Error())
		}
	}
}

func sameStrings(a, b []string) bool {
	return len(a) == len(b) && strings.Join(a, "\x00") == strings.Join(b, "\x00")
}

// TestFramerEverywhere cuts a stream of each message, with its neighbours, into
// two segments at every byte.
func TestFramerEverywhere(t *testing.T) {
	for name, msg := range allTestdata(t) {
		next := readTestdata(t, "3cx-options-qualify.sip")
		want := []string{string(msg), "ping", string(next)}
		stream := slices.Concat([]byte("\r\n"), msg, []byte("\r\n\r\n"), next, []byte("\r\n"))
		for cut := range stream {
			r := segments{stream[:cut:cut], stream[cut:]}
			if cut == 0 {
				r = r[1:]
			}
			if got := framed(&r); !sameStrings(got, want) {
				t.Fatalf("%s cut at %d: %q", name, cut, got)
			}
		}
		if got := framed(iotest.OneByteReader(bytes.NewReader(stream))); !sameStrings(got, want) {
			t.Errorf("%s in single bytes: %q", name, got)
		}
		if got := framed(iotest.DataErrReader(bytes.NewReader(stream))); !sameStrings(got, want) {
			t.Errorf("%s with the error beside the data: %q", name, got)
		}
		// A stream that ends inside of a message.
		for _, cut := range []int{1, len(msg) / 2, len(msg) - 1} {
			got := framed(bytes.NewReader(msg[:cut]))
			if len(got) != 1 || got[0] != io.ErrUnexpectedEOF.Error() {
				t.Errorf("%s ends at %d: %q", name, cut, got)
			}
		}
	}
}

func TestFramer(t *testing.T) {
	with := func(headers, body string) string { return request(headers, body) }
	sized := with("Content-Length: 3\r\n", "abc")
	large := strings.Repeat("x", MaxSize)
	for _, c := range []struct {
		name, stream string
		want         []string
	}{
		{"nothing", "", nil},
		{"one", sized, []string{sized}},
		{"two", sized + sized, []string{sized, sized}},
		{"single line ends", "\r\n" + sized + "\n" + sized + "\r\n", []string{sized, sized}},
		{"ping", "\r\n\r\n", []string{"ping"}},
		{"pings", "\r\n\r\n\r\n\r\n\r\n" + sized + "\r\n\r\n", []string{"ping", "ping", sized, "ping"}},
		{"odd ends", "\n\r\r\n\r\n" + sized, []string{"ping", sized}},
		{"bare LF", strings.ReplaceAll(sized, "\r", "") + sized, []string{strings.ReplaceAll(sized, "\r", ""), sized}},
		{"compact, folded, any case", with("L:\r\n 3\r\n", "abc") + with("cOnTent-lengtH  : 003 \r\n", "abc"),
			[]string{with("L:\r\n 3\r\n", "abc"), with("cOnTent-lengtH  : 003 \r\n", "abc")}},
		{"length in a body", with("Content-Length: 19\r\n", "Content-Length: 9\r\n") + sized,
			[]string{with("Content-Length: 19\r\n", "Content-Length: 9\r\n"), sized}},
		{"badly formed but framed", "nonsense\r\nl: 2\r\n\r\nab" + sized, []string{"nonsense\r\nl: 2\r\n\r\nab", sized}},
		{"the same length twice", with("l: 3\r\nContent-Length: 03\r\n", "abc") + sized,
			[]string{with("l: 3\r\nContent-Length: 03\r\n", "abc"), sized}},
		{"two lengths", with("l: 3\r\nContent-Length: 4\r\n", "abc") + sized, []string{"two different Content-Lengths"}},
		{"two lengths, none in bounds", with("l: 9999999\r\nl: 99999999\r\n", "abc"), []string{"message too large"}},
		{"no length", with("", "") + sized, []string{with("", ""), sized}},
		{"no length but a type", with("c: application/sdp\r\n", "") + sized, []string{"a body without Content-Length"}},
		{"negative", with("Content-Length: -3\r\n", "abc") + sized, []string{"malformed Content-Length"}},
		{"garbage", with("Content-Length: 3, 3\r\n", "abc") + sized, []string{"malformed Content-Length"}},
		{"empty", with("Content-Length:\r\n", "abc") + sized, []string{"malformed Content-Length"}},
		{"overflow", with("Content-Length: 18446744073709551619\r\n", "abc") + sized, []string{"message too large"}},
		{"read over", with("Content-Length: 65535\r\n", large) + sized + "\r\n\r\n", []string{"message too large", sized, "ping"}},
		{"ends while read over", with("Content-Length: 65535\r\n", large[:99]), []string{"message too large", io.ErrUnexpectedEOF.Error()}},
		{"not read over", with("Content-Length: 1048576\r\n", large) + sized, []string{"message too large"}},
		{"no end of headers", large + large, []string{"headers too large"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := framed(strings.NewReader(c.stream)); !sameStrings(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if len(c.stream) > 1<<16 {
				return
			}
			if got := framed(iotest.OneByteReader(strings.NewReader(c.stream))); !sameStrings(got, c.want) {
				t.Errorf("in single bytes: %q, want %q", got, c.want)
			}
		})
	}
}

func TestFramerLargest(t *testing.T) {
	head := request("Content-Length: 65000\r\n", "")
	msg := head + strings.Repeat("x", 65000)
	msg = msg[:len(head)+65000]
	var want []string
	var stream strings.Builder
	for range 3 {
		stream.WriteString(msg)
		want = append(want, msg)
	}
	f := NewFramer(strings.NewReader(stream.String()))
	for range want {
		got, err := f.Next()
		if err != nil || string(got) != msg {
			t.Fatalf("%v, %d bytes", err, len(got))
		}
	}
	if n := len(f.buf); n > 4*MaxSize {
		t.Errorf("the buffer grew to %d bytes", n)
	}
	if _, err := f.Next(); err != io.EOF {
		t.Error(err)
	}
	if n := len(f.buf); n > 4*minBuffer {
		t.Errorf("%d bytes of buffer kept by an idle connection", n)
	}
}

func TestFramerErrors(t *testing.T) {
	head := request("Content-Length: 70000\r\n", "")
	f := NewFramer(strings.NewReader(head + strings.Repeat("x", 70000)))
	_, err := f.Next()
	var fault *FrameError
	if !errors.As(err, &fault) || fault.Fatal || fault.Code != 513 || string(fault.Head) != head {
		t.Errorf("%v: %+v", err, fault)
	}
	if fault.Error() == "" {
		t.Error("an error without a text")
	}

	head = request("Content-Length: x\r\n", "")
	f = NewFramer(strings.NewReader(head + "abc"))
	for range 2 { // it does not get better
		_, err := f.Next()
		if !errors.As(err, &fault) || !fault.Fatal || fault.Code != 400 || string(fault.Head) != head {
			t.Errorf("%v: %+v", err, fault)
		}
	}

	f = NewFramer(strings.NewReader(request("", "") + request("l: 0\r\n", "")))
	for _, want := range []bool{true, false} {
		if _, err := f.Next(); err != nil || f.Assumed() != want {
			t.Errorf("%v, Assumed is %t", err, f.Assumed())
		}
	}
}

// TestFramerDeadline shows that a reader's passing error loses nothing.
func TestFramerDeadline(t *testing.T) {
	msg := request("Content-Length: 3\r\n", "abc")
	f := NewFramer(&stutter{data: []byte(msg + "\r\n\r\n" + msg)})
	var got []string
	for {
		m, err := f.Next()
		switch {
		case err == nil:
			got = append(got, string(m))
		case err == ErrKeepalive:
			got = append(got, "ping")
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err == io.EOF:
			if !sameStrings(got, []string{msg, "ping", msg}) {
				t.Errorf("%q", got)
			}
			return
		default:
			t.Fatal(err)
		}
	}
}

// stutter gives a few bytes, with the error of a deadline or before it.
type stutter struct {
	data []byte
	turn int
}

func (s *stutter) Read(b []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	if s.turn++; s.turn%3 == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b[:min(len(b), 7)], s.data)
	s.data = s.data[n:]
	if s.turn%3 == 1 {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

func TestFramerNoProgress(t *testing.T) {
	f := NewFramer(readerFunc(func([]byte) (int, error) { return 0, nil }))
	if _, err := f.Next(); err != io.ErrNoProgress {
		t.Error(err)
	}
	f = NewFramer(readerFunc(func(b []byte) (int, error) { return len(b) + 1, nil }))
	if _, err := f.Next(); err == nil {
		t.Error("a reader that lies was believed")
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
