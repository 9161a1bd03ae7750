package sdp

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// descriptions returns the session descriptions in the messages of testdata,
// and in those beside the repository when they are there.
func descriptions(t testing.TB) (all [][]byte) {
	t.Helper()
	for _, pattern := range []string{"../sipmsg/testdata/*.sip", "../../../shared/corpora/*/*.dat", "../../../shared/corpora/*/*.sip"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			msg, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var m sipmsg.Message
			if m.Parse(msg) != nil {
				continue
			}
			for start, end := range All(m.ContentType(), m.Body()) {
				all = append(all, m.Body()[start:end])
			}
		}
	}
	if len(all) < 10 {
		t.Fatalf("only %d descriptions", len(all))
	}
	return all
}

var relays = [...]Target{
	{RTP: netip.MustParseAddrPort("198.51.100.1:50000")},
	{RTP: netip.MustParseAddrPort("198.51.100.2:50002"), RTCP: netip.MustParseAddrPort("198.51.100.2:50003")},
	{RTP: netip.MustParseAddrPort("[2001:db8::1]:50004"), RTCP: netip.MustParseAddrPort("[2001:db8::1]:40000")},
	{RTP: netip.MustParseAddrPort("198.51.100.1:50000"), RTCP: netip.MustParseAddrPort("198.51.100.9:50001")},
	{Refused: true},
}

// choose gives media i one of the relays, or none, by three bits of the choice.
func choose(choice uint64) func(int, Media) (Target, bool) {
	return func(i int, _ Media) (Target, bool) {
		bits := choice >> (3 * (i % 20)) & 7
		to := relays[bits%uint64(len(relays))]
		to.Translated = translates(choice)
		return to, bits < uint64(len(relays))
	}
}

// FuzzRewrite: the media that are rewritten point to their targets, the others
// where they did, and no other line changes.
func FuzzRewrite(f *testing.F) {
	for i, b := range descriptions(f) {
		f.Add(b, uint64(i*2654435761))
	}
	f.Fuzz(func(t *testing.T, b []byte, choice uint64) {
		kept := bytes.Clone(b)
		var d, after Description
		err := d.Parse(b)
		target := choose(choice)
		out := d.Rewrite(nil, target)
		if !bytes.Equal(b, kept) {
			t.Fatal("the received bytes changed")
		}
		if same := d.Rewrite(nil, choose(^uint64(0))); !bytes.Equal(same, b) {
			t.Fatalf("without targets %q became %q", b, same)
		}
		if err != nil {
			return
		}
		if err := after.Parse(out); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		if len(after.Media()) != len(d.Media()) {
			t.Fatalf("%d media became %d", len(d.Media()), len(after.Media()))
		}
		any := false
		for i, m := range d.Media() {
			to, ok := target(i, m)
			if !ok || m.Port == 0 {
				checkSame(t, m, after.Media()[i])
				continue
			}
			any = true
			if to.Refused {
				if after.Media()[i].Port != 0 {
					t.Fatalf("refused, it is %s", describe(after.Media()[i]))
				}
				continue
			}
			checkRewritten(t, m, after.Media()[i], to)
		}
		if any && !slices.Equal(otherLines(string(b), translates(choice)), otherLines(string(out), translates(choice))) || !any && !bytes.Equal(b, out) {
			t.Fatalf("%q became %q", b, out)
		}
		if again := after.Rewrite(nil, target); !bytes.Equal(again, out) {
			t.Fatalf("the second time %q became %q", out, again)
		}
	})
}

func checkSame(t *testing.T, before, after Media) {
	t.Helper()
	if after.Port == 0 && before.Port == 0 {
		return // its address is nobody's
	}
	after.Alternatives = before.Alternatives // those of the session go
	if describe(before) != describe(after) {
		t.Fatalf("left alone, %s became %s", describe(before), describe(after))
	}
}

func checkRewritten(t *testing.T, before, after Media, to Target) {
	t.Helper()
	if after.Port != int(to.RTP.Port()) || after.Direction != before.Direction || after.PortCount != 1 ||
		after.RTCPMux != before.RTCPMux || after.Hold != before.Hold || after.Alternatives ||
		string(after.Type)+string(after.Proto)+string(after.Formats) != string(before.Type)+string(before.Proto)+string(before.Formats) {
		t.Fatalf("%s became %s", describe(before), describe(after))
	}
	if onHold(before.Addr) {
		if after.Addr != before.Addr {
			t.Fatalf("hold: %s became %s", describe(before), describe(after))
		}
		return
	}
	if after.RTPAddr() != to.RTP {
		t.Fatalf("%s became %s, want %v", describe(before), describe(after), to)
	}
	var want netip.AddrPort
	switch {
	case before.rtcpHost != nil && onHold(before.RTCP.Addr()):
		want = before.RTCP
	case before.hasRTCP:
		want = to.rtcp()
	case before.RTCPMux:
		want = to.RTP
	case strings.Contains(string(before.Proto), "RTP"):
		want = to.rtcp()
	default:
		want = above(to.RTP)
	}
	if after.RTCPAddr() != want {
		t.Fatalf("%s became %s, want RTCP to %v", describe(before), describe(after), want)
	}
}

// translates says whether the targets of choose are of the other IP family.
func translates(choice uint64) bool { return choice>>63 == 1 }

// originAddress is what of an o= line may change, with the IP family.
var originAddress = regexp.MustCompile(`^(o=[ \t]*(?:[^ \t]+[ \t]+){3})[^ \t]+[ \t]+(?i:ip[46])[ \t]+[^ \t]+`)

// otherLines returns the lines that no rewriting may touch, without the address of
// o= when that is translated.
func otherLines(s string, translated bool) (lines []string) {
	for line := range strings.Lines(s) {
		text := strings.TrimRight(line, "\r\n")
		name, _, _ := strings.Cut(strings.TrimPrefix(text, "a="), ":")
		switch fold := asciiLower(name); {
		case strings.HasPrefix(text, "m="), strings.HasPrefix(text, "c="):
		case strings.HasPrefix(text, "a=") && (fold == "rtcp" || strings.HasPrefix(fold, "ice-") ||
			slices.Contains([]string{"candidate", "remote-candidates", "end-of-candidates", "altc", "path"}, fold)):
		default:
			if text = strings.TrimSuffix(text, "\r"); translated {
				text = originAddress.ReplaceAllString(text, "$1")
			}
			lines = append(lines, text)
		}
	}
	return lines
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}

// FuzzFind: what is found lies in the body, in order, and nothing panics.
func FuzzFind(f *testing.F) {
	f.Add("application/sdp", []byte("v=0\r\n"))
	f.Add("", []byte("v=0\r\n"))
	f.Add(`multipart/mixed;boundary="b1"`, []byte("--b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b1--\r\n"))
	f.Add("multipart/mixed;boundary=b", []byte("--b\nContent-Type: multipart/x;\n boundary=c\n\n--c\n\nv=0\n--c\ncontent-type: application/sdp\n\nx\n--b--"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		pos := 0
		for start, end := range All([]byte(contentType), body) {
			if start < pos || end <= start || end > len(body) {
				t.Fatalf("found %d to %d behind %d in %d bytes", start, end, pos, len(body))
			}
			pos = end
		}
	})
}
