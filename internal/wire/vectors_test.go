package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// frame is what every frame can do.
type frame interface{ Append(dst []byte) []byte }

// parse parses the body of any frame.
func parse(t Type, body []byte) (frame, error) {
	switch t {
	case TypeAttach:
		return wrap(ParseAttach(body))
	case TypeAttached:
		return wrap(ParseAttached(body))
	case TypeRefused:
		return wrap(ParseRefused(body))
	case TypeBye:
		return wrap(ParseBye(body))
	case TypeOpenPath:
		return wrap(ParseOpenPath(body))
	case TypePathOpened:
		return wrap(ParsePathOpened(body))
	case TypeAck:
		return wrap(ParseAck(body))
	case TypeSIP:
		return wrap(ParseSIP(body))
	case TypeOpenPhone:
		return wrap(ParseOpenPhone(body))
	case TypePhoneOpened:
		return wrap(ParsePhoneOpened(body))
	case TypePhoneFailed:
		return wrap(ParsePhoneFailed(body))
	case TypeClosePhone:
		return wrap(ParseClosePhone(body))
	case TypePhoneState:
		return wrap(ParsePhoneState(body))
	case TypeOpenRelay:
		return wrap(ParseOpenRelay(body))
	case TypeRelayOpened:
		return wrap(ParseRelayOpened(body))
	case TypeRelayFailed:
		return wrap(ParseRelayFailed(body))
	case TypeCloseRelay:
		return wrap(ParseCloseRelay(body))
	}
	return nil, fmt.Errorf("%v", t)
}

func wrap[F frame](f F, err error) (frame, error) { return f, err }

// samples has one frame of each type. Their bytes are under testdata/frames
// and in PROTOCOL.md.
func samples() map[string]frame {
	id := SessionID{0xa0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	var secret, proof [32]byte
	for i := range secret {
		secret[i], proof[i] = byte(0x40+i), byte(0x80+i)
	}
	port := netip.MustParseAddrPort
	return map[string]frame{
		"attach-new":    Attach{Epoch: 1, Software: "tunnelproxy/1.0"},
		"attach-resume": Attach{Session: id, Epoch: 3, Proof: proof, Received: 1234, Software: "tunnelproxy/1.0"},
		"attached": Attached{
			Session: id, Secret: secret, Epoch: 3, Resumed: true, Grace: 90, Received: 567, MaxPhones: 1024, MaxRelays: 1024,
			PBX: port("192.0.2.10:5060"), Domain: "pbx.example.com", Software: "tunneld/1.0",
		},
		"refused":        Refused{Code: CodeLimit, RetryAfter: 30},
		"bye":            Bye{Code: CodeShutdown, RetryAfter: 1, Text: "restart"},
		"open-path":      OpenPath{Suite: 1, Connection: 0xa1b2c3d4},
		"path-opened":    PathOpened{Connection: 0x01020304, Port: 5090},
		"ack":            Ack{Received: 1234},
		"sip":            SIP{Phone: 1, Message: []byte("OPTIONS sip:pbx.example.com SIP/2.0\r\n\r\n")},
		"open-phone":     OpenPhone{Phone: 1, Key: "urn:uuid:1", State: []byte("state")},
		"phone-opened":   PhoneOpened{Phone: 1, Addr: port("192.0.2.20:6000")},
		"phone-opened-6": PhoneOpened{Phone: 2, Addr: port("[2001:db8::20]:6001")},
		"phone-failed":   PhoneFailed{Phone: 3, Code: CodeUnavailable, Text: "no free port"},
		"close-phone":    ClosePhone{Phone: 1},
		"phone-state":    PhoneState{Phone: 1, State: []byte("state")},
		"open-relay":     OpenRelay{Channel: 7},
		"relay-opened":   RelayOpened{Channel: 7, Addr: port("192.0.2.20:50000")},
		"relay-failed":   RelayFailed{Channel: 8, Code: CodeLimit, Text: "at most 1024 in a session"},
		"close-relay":    CloseRelay{Channel: 7},
	}
}

// readHex reads the hex digits of a vector, whose lines may end in a comment.
func readHex(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVector(t testing.TB, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return readHex(t, string(text))
}

func TestVectors(t *testing.T) {
	for name, f := range samples() {
		want := readVector(t, "testdata", "frames", name+".hex")
		if got := f.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: wrote\n%x, want\n%x", name, got, want)
		}
		kind, body, _, err := ReadFrame(bytes.NewReader(want), make([]byte, HeaderLen), MaxBody)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := parse(kind, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(again.Append([]byte("x")), append([]byte("x"), want...)) {
			t.Errorf("%s: parsed to %+v", name, again)
		}
	}
}

// TestProtocolDocument checks every "hex" block of PROTOCOL.md against the
// vector that it names: those of this package, and the authentication's.
func TestProtocolDocument(t *testing.T) {
	file, err := os.Open(filepath.Join("..", "..", "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	seen := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, ok := strings.CutPrefix(lines.Text(), "```hex ")
		if !ok {
			continue
		}
		var text strings.Builder
		for lines.Scan() && lines.Text() != "```" {
			text.WriteString(lines.Text() + "\n")
		}
		seen[name] = true
		path := filepath.Join("testdata", "frames", name+".hex")
		if auth, ok := strings.CutPrefix(name, "auth/"); ok {
			path = filepath.Join("..", "auth", "testdata", "frames", auth+".hex")
		} else if record, ok := strings.CutPrefix(name, "record/"); ok {
			path = filepath.Join("testdata", "records", record+".hex")
		} else if sealed, ok := strings.CutPrefix(name, "seal/"); ok {
			path = filepath.Join("..", "seal", "testdata", sealed+".hex")
		} else if relay, ok := strings.CutPrefix(name, "relay/"); ok {
			path = filepath.Join("..", "relay", "testdata", relay+".hex")
		}
		if got, want := readHex(t, text.String()), readVector(t, path); !bytes.Equal(got, want) {
			t.Errorf("%s: the document has\n%x, the vector\n%x", name, got, want)
		}
	}
	for name := range samples() {
		if !seen[name] {
			t.Errorf("PROTOCOL.md has no example of %s", name)
		}
	}
	for name := range recordSamples() {
		if !seen["record/"+name] {
			t.Errorf("PROTOCOL.md has no example of the record %s", name)
		}
	}
	for _, name := range []string{"record/datagram-header", "seal/aes-client-0", "seal/aes-client-1", "seal/chacha-server-0", "media-rtp", "media-rtcp", "media-mark", "auth/hello", "auth/params", "auth/share-p", "auth/share-v", "auth/confirm-p", "auth/accept", "auth/refuse-credentials", "relay/report"} {
		if !seen[name] {
			t.Errorf("PROTOCOL.md has no example of %s", name)
		}
	}
}

// TestBadVectors reads files with what is wrong in their first lines.
func TestBadVectors(t *testing.T) {
	reasons := map[string]error{"truncated": ErrTruncated, "trailing": ErrTrailing, "too long": ErrTooLong, "value": ErrValue}
	paths, err := filepath.Glob(filepath.Join("testdata", "bad", "*"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no vectors", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		header, digits, _ := strings.Cut(string(text), "\n\n")
		var field, reason string
		for line := range strings.Lines(header) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch key {
			case "field":
				field = value
			case "reason":
				reason = value
			}
		}
		kind, body, _, err := ReadFrame(bytes.NewReader(readHex(t, digits)), make([]byte, HeaderLen), MaxBody)
		if err == nil {
			_, err = parse(kind, body)
		}
		var got *ParseError
		if !errors.As(err, &got) || got.Field != field || !errors.Is(err, reasons[reason]) {
			t.Errorf("%s: %v, want field %s, %s", path, err, field, reason)
		}
	}
}
