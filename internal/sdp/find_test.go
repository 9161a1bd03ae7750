package sdp

import (
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	const sdp = "v=0\r\ns=-\r\n"
	part := func(headers, body string) string { return "--b1\r\n" + headers + "\r\n" + body + "\r\n" }
	const typed = "Content-Type: application/sdp\r\n"
	for _, c := range []struct {
		name, contentType, body string
		want                    []string
	}{
		{"plain", "application/sdp", sdp, []string{sdp}},
		{"any case, white space, parameters", "APPLICATION / sdp ;charset=utf-8", sdp, []string{sdp}},
		{"empty", "application/sdp", "", nil},
		{"other", "application/isup", sdp, nil},
		{"longer", "application/sdpx", sdp, nil},
		{"no type", "", sdp, []string{sdp}},
		{"no type, SDP not in front", "", "\r\n" + sdp, []string{"\r\n" + sdp}},
		{"no type, no SDP", "", "hello", nil},
		{"no type, no body", "", "", nil},
		{"multipart", `multipart/mixed;boundary="b1"`, part(typed, sdp) + part("Content-Type: a/b\r\n", "x") + "--b1--\r\n", []string{sdp}},
		{"multipart, other first", `Multipart/Mixed; x=y ; Boundary=b1`, "preamble\r\n" + part("Content-Type: a/b\r\n", sdp) + part(typed, sdp) + "--b1--\r\nepilogue", []string{sdp}},
		{"two of them", "multipart/alternative;boundary=b1", part(typed, "one") + part(typed, "two") + "--b1--", []string{"one", "two"}},
		{"folded header of a part", "multipart/mixed;boundary=b1", part("X: 1\r\ncontent-TYPE :\r\n application/sdp;\r\n\tx=y\r\n", sdp) + "--b1--", []string{sdp}},
		{"no headers, SDP", "multipart/mixed;boundary=b1", part("", sdp) + "--b1--", []string{sdp}},
		{"no headers, text", "multipart/mixed;boundary=b1", part("", "text") + "--b1--", nil},
		{"bare LF", "multipart/mixed;boundary=b1", strings.ReplaceAll(part(typed, sdp)+"--b1--\r\n", "\r", ""), []string{"v=0\ns=-\n"}},
		{"not closed", "multipart/mixed;boundary=b1", part(typed, sdp), []string{sdp + "\r\n"}},
		{"white space behind the boundary", "multipart/mixed;boundary=b1", "--b1 \t\r\n" + typed + "\r\n" + sdp + "\r\n--b1-- \r\n", []string{sdp}},
		{"comment behind the type", "application/sdp (really)", sdp, []string{sdp}},
		{"behind the last boundary, no SDP", "multipart/mixed;boundary=b1", "--b1--\r\n" + part(typed, "x"), nil},
		{"empty part", "multipart/mixed;boundary=b1", "--b1\r\n" + typed + "\r\n--b1--", nil},
		{"headers without an end", "multipart/mixed;boundary=b1", "--b1\r\n" + typed + "--b1--", nil},
		{"nested", "multipart/mixed;boundary=b1",
			part("Content-Type: multipart/alternative;boundary=b2\r\n", "--b2\r\n"+typed+"\r\none\r\n--b2\r\n"+typed+"\r\ntwo\r\n--b2--") + part(typed, "three") + "--b1--",
			[]string{"one", "two", "three"}},
	} {
		body := []byte(c.body)
		var got []string
		for start, end := range All([]byte(c.contentType), body) {
			got = append(got, string(body[start:end]))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		start, end, ok := Find([]byte(c.contentType), body)
		if ok != (len(c.want) > 0) || ok && string(body[start:end]) != c.want[0] {
			t.Errorf("%s: Find %d %d %t", c.name, start, end, ok)
		}
	}
}

// TestFindDoubtful: where receivers differ about what is a description, all of
// it is found, and refused.
func TestFindDoubtful(t *testing.T) {
	const (
		typed = "Content-Type: application/sdp\r\n"
		other = "Content-Type: text/plain\r\n"
		good  = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n"
		evil  = "v=0\r\nc=IN IP4 203.0.113.9\r\nm=audio 4000 RTP/AVP 0\r\n"
		mixed = "multipart/mixed;boundary=b1"
	)
	first := "--b1\r\n" + typed + "\r\n" + good
	for _, c := range []struct{ name, contentType, body string }{
		{"no type, white space in front", "", "\r\n" + evil},
		{"no boundary", "multipart/mixed", first + "\r\n--b1--"},
		{"no boundary, SDP in front", "multipart/mixed", good + "\r\n" + first + "\r\n--b1--"},
		{"empty boundary", `multipart/mixed;boundary=""`, first + "\r\n--b1--"},
		{"behind the last boundary", mixed, first + "\r\n--b1--\r\n--b1\r\n" + typed + "\r\n" + evil},
		{"longer boundary", mixed, first + "\r\n--b12\r\n" + typed + "\r\n" + evil + "\r\n--b1--"},
		{"boundary within a line", mixed, first + "x--b1\r\n" + typed + "\r\n" + evil + "\r\n--b1--"},
		{"boundary behind a CR", mixed, "--b1\r\n" + other + "\r\nx\r--b1\r\n" + typed + "\r\n" + evil + "\r\n--b1--"},
		{"boundary behind a CR in the preamble", mixed, "v=0\r--b1\r\n" + typed + "\r\n" + evil + "\r\n" + first + "\r\n--b1--"},
		{"two types", mixed, "--b1\r\nv=0\r\n" + other + typed + "\r\n" + evil + "\r\n--b1--"},
		{"type behind a CR", mixed, "--b1\r\nX: 1\r" + typed + "\r\n" + evil + "\r\n--b1--"},
		{"CR that ends the headers", mixed, "--b1\r\n" + typed + "\r" + evil + "\r\n--b1--"},
	} {
		refused := false
		for start, end := range All([]byte(c.contentType), []byte(c.body)) {
			var d Description
			refused = refused || d.Parse([]byte(c.body[start:end])) != nil
		}
		if !refused {
			t.Errorf("%s: nothing is refused", c.name)
		}
	}
}

// TestFindDeep shows that nesting costs no more than its bound.
func TestFindDeep(t *testing.T) {
	body := strings.Repeat("--b\r\nContent-Type: multipart/mixed;boundary=b\r\n\r\n", 1000)
	for range All([]byte("multipart/mixed;boundary=b"), []byte(body)) {
		t.Error("found something")
	}
	body = ""
	for depth := range 6 {
		body += "--" + string(rune('a'+depth)) + "\r\nContent-Type: multipart/mixed;boundary=" + string(rune('b'+depth)) + "\r\n\r\n"
	}
	start, _, ok := Find([]byte("multipart/mixed;boundary=a"), []byte(body+"--g\r\n\r\nv=0\r\n"))
	if !ok || strings.HasPrefix(body[start:], "v=0") {
		t.Errorf("below the bound: %d %t", start, ok)
	}
	var d Description
	if err := d.Parse([]byte(body[start:] + "--g\r\n\r\nv=0\r\n")); err == nil {
		t.Error("below the bound, accepted")
	}
}
