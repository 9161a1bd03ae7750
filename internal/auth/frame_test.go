package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
)

// parse decodes a whole frame and encodes it again.
func parse(t frameType, body []byte) ([]byte, error) {
	switch t {
	case typeHello:
		f, err := parseHello(body)
		return f.append(nil), err
	case typeParams:
		f, err := parseParams(body)
		return f.append(nil), err
	case typeShareP:
		f, err := parseShareP(body)
		return f.append(nil), err
	case typeShareV:
		f, err := parseShareV(body)
		return f.append(nil), err
	case typeConfirmP:
		f, err := parseConfirmP(body)
		return f.append(nil), err
	case typeAccept:
		if len(body) != 0 {
			return nil, ErrProtocol
		}
		return appendAccept(nil), nil
	case typeRefuse:
		f, err := parseRefuse(body)
		return f.append(nil), err
	}
	return nil, ErrProtocol
}

// frames has one of each type, from testdata/frames, which the protocol's
// document quotes.
func frames(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	files, err := filepath.Glob("testdata/frames/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatalf("no frames: %v", err)
	}
	for _, file := range files {
		b, err := hex.DecodeString(strings.TrimSpace(string(readFile(t, file))))
		if err != nil || len(b) < frameHeader {
			t.Fatalf("%s: %v", file, err)
		}
		out[strings.TrimSuffix(filepath.Base(file), ".hex")] = b
	}
	return out
}

// golden compares with a file of testdata; with UPDATE_TESTDATA set it writes it.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	text := hex.EncodeToString(got) + "\n"
	if os.Getenv("UPDATE_TESTDATA") != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := string(readFile(t, path)); text != want {
		t.Errorf("%s\n got %swant %s", path, text, want)
	}
}

func TestRefuseFrames(t *testing.T) {
	for name, f := range map[string]refuse{
		"refuse-malformed":   {code: codeMalformed},
		"refuse-credentials": {code: codeCredentials},
		"refuse-throttled":   {code: codeThrottled, retryAfter: 120},
		"refuse-proof":       {code: codeProof},
		"refuse-unavailable": {code: codeUnavailable},
	} {
		golden(t, "testdata/frames/"+name+".hex", f.append(nil))
	}
}

// TestFramesCut cuts every frame at every byte, and adds one.
func TestFramesCut(t *testing.T) {
	for name, frame := range frames(t) {
		t.Run(name, func(t *testing.T) {
			typ := frameType(frame[2])
			got, err := readFrame(bytes.NewReader(frame), typ)
			if typ == typeRefuse {
				var refused *refusedBy
				if !errors.As(err, &refused) {
					t.Fatal(err)
				}
				got, err = refused.append(nil), nil
			}
			if err != nil || !bytes.Equal(got, frame) {
				t.Fatalf("%x, %v", got, err)
			}
			for n := range frame {
				_, err := readFrame(bytes.NewReader(frame[:n]), typ)
				if want := map[bool]error{true: io.EOF, false: io.ErrUnexpectedEOF}[n == 0]; !errors.Is(err, want) {
					t.Errorf("cut at %d: %v", n, err)
				}
			}
			body := frame[frameHeader:]
			for n := range body {
				if _, err := parse(typ, body[:n]); !errors.Is(err, ErrProtocol) {
					t.Errorf("body cut at %d: %v", n, err)
				}
			}
			if _, err := parse(typ, append(bytes.Clone(body), 0)); !errors.Is(err, ErrProtocol) {
				t.Errorf("a byte more: %v", err)
			}
			if typ == typeHello {
				return
			}
			for _, change := range []int{-1, 1} { // of the length that the header claims
				wrong := append(bytes.Clone(frame), 0)
				wrong[1] += byte(change)
				if _, err := readFrame(bytes.NewReader(wrong), typ); !errors.Is(err, ErrProtocol) {
					t.Errorf("length off by %d: %v", change, err)
				}
			}
		})
	}
}

// TestReadFrameStops sees that a frame out of turn or out of bounds is not read,
// and that nothing after a frame is.
func TestReadFrameStops(t *testing.T) {
	for _, header := range [][]byte{
		{0, 0, 1},        // no type inside the length
		{0, 1, 1},        // Hello without a body
		{0, 66, 1},       // Hello one byte too long
		{0xff, 0xff, 1},  // Hello of 64 KiB
		{0xff, 0xff, 7},  // Refuse of 64 KiB
		{0, 131, 3},      // another frame
		{0, 2, 0},        // unknown types
		{0, 2, 8},        //
		{0, 2, 255},      //
		[]byte("GET"),    // another protocol
		{0x16, 0x03, 1},  // TLS inside TLS
		[]byte("SSH-2."), //
	} {
		r := bytes.NewReader(append(header[:3:3], make([]byte, 1<<10)...))
		if _, err := readFrame(r, typeHello); !errors.Is(err, ErrProtocol) {
			t.Errorf("%x: %v", header, err)
		}
		if r.Len() != 1<<10 {
			t.Errorf("%x: %d bytes of the body were read", header, 1<<10-r.Len())
		}
	}
	r := bytes.NewReader(append(hello{testName}.append(nil), "next protocol"...))
	if _, err := readFrame(r, typeHello); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "next protocol" {
		t.Errorf("left %q", rest)
	}
}

func TestRefuseMeaning(t *testing.T) {
	for f, want := range map[refuse]error{
		{code: codeMalformed}:   ErrProtocol,
		{code: codeCredentials}: ErrRefused,
		{code: codeUnavailable}: ErrUnavailable,
	} {
		if err := f.err(); !errors.Is(err, want) {
			t.Errorf("code %d: %v", f.code, err)
		}
	}
	for seconds, want := range map[uint16]time.Duration{
		0: time.Second, 1: time.Second, 42: 42 * time.Second, 65535: MaxRetryAfter,
	} {
		var throttled *ThrottledError
		if err := (refuse{codeThrottled, seconds}).err(); !errors.As(err, &throttled) || throttled.RetryAfter != want {
			t.Errorf("%d s: %v", seconds, err)
		}
	}
	for _, code := range []refuseCode{0, codeProof, 6, 65535} {
		var refusal *Refusal
		if err := (refuse{code: code}).err(); !errors.As(err, &refusal) || refusal.Code != uint16(code) {
			t.Errorf("code %d: %v", code, err)
		}
	}
}

func TestValidName(t *testing.T) {
	for _, name := range []string{"a", "0", "default", "office-berlin", "a.b_c-", strings.Repeat("x", maxName)} {
		if !ValidName(name) {
			t.Errorf("%q is not valid", name)
		}
	}
	for _, name := range []string{"", "A", "-a", ".a", "_a", "a b", "a\n", "a\x00", "\u00fc", "a/b", strings.Repeat("x", maxName+1)} {
		if ValidName(name) {
			t.Errorf("%q is valid", name)
		}
	}
}

func TestRefuseThrottled(t *testing.T) {
	for wait, want := range map[time.Duration]uint16{0: 1, time.Second: 1, 90 * time.Second: 90, 100 * time.Hour: 65535} {
		conn := newScript(hello{testName}.append(nil))
		if err := RefuseThrottled(conn, &ThrottledError{RetryAfter: wait}); err != nil {
			t.Fatal(err)
		}
		if got := conn.written.Bytes(); !bytes.Equal(got, refuse{codeThrottled, want}.append(nil)) {
			t.Errorf("%v: %x", wait, got)
		}
	}
	if err := RefuseThrottled(&endless{b: 1}, &ThrottledError{}); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

// fuzzParser fuzzes the parser of one type of frame. What it accepts, it must
// encode to the same bytes; what is of the wrong length, it must refuse.
func fuzzParser(f *testing.F, typ frameType) {
	for _, frame := range frames(f) {
		f.Add(frame[frameHeader:])
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, bodySizes[typ].most))
	f.Fuzz(func(t *testing.T, body []byte) {
		frame, err := parse(typ, body)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("%T", err)
			}
			return
		}
		if !bytes.Equal(frame[frameHeader:], body) {
			t.Fatalf("%x encodes as %x", body, frame[frameHeader:])
		}
		if l := bodySizes[typ]; len(body) < l.least || len(body) > l.most {
			t.Fatalf("accepted a body of %d bytes", len(body))
		}
		if again, err := readFrame(bytes.NewReader(frame), typ); typ != typeRefuse && (err != nil || !bytes.Equal(again, frame)) {
			t.Fatalf("%x is read as %x, %v", frame, again, err)
		}
	})
}

func FuzzHello(f *testing.F)    { fuzzParser(f, typeHello) }
func FuzzParams(f *testing.F)   { fuzzParser(f, typeParams) }
func FuzzShareP(f *testing.F)   { fuzzParser(f, typeShareP) }
func FuzzShareV(f *testing.F)   { fuzzParser(f, typeShareV) }
func FuzzConfirmP(f *testing.F) { fuzzParser(f, typeConfirmP) }
func FuzzRefuse(f *testing.F)   { fuzzParser(f, typeRefuse) }

// FuzzVerify gives a server anything: it never accepts, never reads more than
// the largest frames of a client, and says nothing but its own frames.
func FuzzVerify(f *testing.F) {
	all := frames(f)
	for _, frame := range all {
		f.Add(frame)
	}
	f.Add(bytes.Join([][]byte{all["hello"], all["share-p"], all["confirm-p"]}, nil))
	f.Add(bytes.Join([][]byte{all["hello"], all["share-p"], all["refuse-proof"]}, nil))
	f.Add(bytes.Join([][]byte{all["hello"], all["refuse-malformed"]}, nil))
	s := testStore(f)
	const most = 3*frameHeader + 1 + maxName + runs*spake2plus.ShareSize + 1 + spake2plus.ConfirmSize
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(append(b, make([]byte, 1<<10)...))
		conn := &script{Reader: r}
		if name, err := s.Verify(conn, Binding{}); err == nil || name != "" {
			t.Fatalf("accepted %q, %v", name, err)
		}
		if taken := len(b) + 1<<10 - r.Len(); taken > most {
			t.Fatalf("read %d bytes", taken)
		}
		for out := conn.written.Bytes(); len(out) > 0; {
			n := 2 + int(out[0])<<8 + int(out[1])
			if again, err := parse(frameType(out[2]), out[frameHeader:n]); err != nil || !bytes.Equal(again, out[:n]) {
				t.Fatalf("wrote %x", out)
			}
			out = out[n:]
		}
	})
}
