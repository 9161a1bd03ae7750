package wire

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzFrame parses anything. What is taken must come out again byte for byte,
// what is refused must be refused with the type that says why.
func FuzzFrame(f *testing.F) {
	for _, sample := range samples() {
		whole := sample.Append(nil)
		f.Add(whole[0], whole[HeaderLen:])
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		m, err := parse(Type(kind), body)
		var typed *ParseError
		switch {
		case m == nil: // no such type
		case err == nil:
			again := m.Append(nil)
			if again[0] != kind || !bytes.Equal(again[HeaderLen:], body) {
				t.Errorf("%v: % x became % x", Type(kind), body, again)
			}
		case !errors.As(err, &typed):
			t.Errorf("%v", err)
		}
	})
}

// FuzzStream reads frames from anything: never more than there is, never a
// body beyond the limit, and always the same when the bytes come again.
func FuzzStream(f *testing.F) {
	var all []byte
	for _, sample := range samples() {
		f.Add(sample.Append(nil), 100)
		all = sample.Append(all)
	}
	f.Add(all, MaxBody)
	f.Fuzz(func(t *testing.T, stream []byte, limit int) {
		limit = max(0, min(limit, MaxBody))
		r := bytes.NewReader(stream)
		buf := make([]byte, HeaderLen)
		var again []byte
		for {
			kind, body, next, err := ReadFrame(r, buf, limit)
			if err != nil {
				break
			}
			if len(body) > limit {
				t.Fatalf("%d bytes, limit %d", len(body), limit)
			}
			buf = next
			again = append(appendHeader(again, kind, len(body)), body...)
		}
		if !bytes.HasPrefix(stream, again) {
			t.Error("what was read is not what was there")
		}
	})
}

// FuzzMedia takes packets out of anything: they are the input again, in order.
func FuzzMedia(f *testing.F) {
	f.Add(Media{1 << 31, true, []byte("rtcp")}.Append(Media{1, false, []byte("rtp")}.Append(nil)))
	f.Add([]byte{0x80, 0})
	f.Add(Media{1, false, []byte("rtp")}.Append(AppendMediaMark(nil, 1<<40+5)))
	f.Add([]byte{0, 0, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		rest := stream
		var again []byte
		for {
			if after, next, ok := NextMediaMark(rest); ok {
				again = AppendMediaMark(again, after)
				rest = next
				continue
			}
			m, next, err := NextMedia(rest)
			if err != nil || m.Packet == nil {
				break
			}
			again = m.Append(again)
			rest = next
		}
		if !bytes.Equal(append(again, rest...), stream) {
			t.Error("packets and rest are not the input")
		}
	})
}
