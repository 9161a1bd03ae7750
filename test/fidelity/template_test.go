package fidelity

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// template is a message of testdata. Its lines end in LF there and in CRLF on
// the wire; \xHH is a byte. What must differ from call to call, or names the
// peers of this run, stands in double braces:
//
//	{{branch}} {{call}} {{tag}}  of the sender, new for each message; in a dialog its own
//	{{peer}}                     tag of the other party: a message in a dialog
//	{{user}}                     of the phone
//	{{ip}} {{port}}              of the sender; {{addr}} is both
//	{{proxy}} {{domain}} {{pbx}} tunnelproxy, the PBX's domain, the PBX's address
//	{{target}}                   for the PBX: the phone's Contact; for the phone: the PBX's
//	{{length}}                   of the body
//	{{from}} {{to}} {{callid}} {{cseq}} {{reqbranch}}   of the request that is answered, or cancelled
//
// A line with {{vias}}, {{routes}} or {{contacts}} is repeated for each Via or
// Record-Route line, or Contact value, of the request that is answered.
type template struct {
	file, name string
	up         bool
	method     string // of what it answers, for a response
	flags      []string
	text       string
}

func (tp template) has(flag string) bool { return slices.Contains(tp.flags, flag) }

func (tp template) isResponse() bool { return strings.HasPrefix(tp.text, "SIP/2.0 ") }

// firstMethod is the method of a request.
func (tp template) firstMethod() string {
	m, _, _ := strings.Cut(tp.text, " ")
	return m
}

func (tp template) inDialog() bool { return strings.Contains(tp.text, "{{peer}}") }

// templates reads testdata. A section is named "name up|down [METHOD] [flag...]".
func templates(t *testing.T, pattern string) []template {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files testdata/%s: %v", pattern, err)
	}
	var all []template
	for _, f := range files {
		archive, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range archive.Files {
			words := strings.Fields(s.Name)
			if len(words) < 2 || words[1] != "up" && words[1] != "down" {
				t.Fatalf("%s: section %q has no direction", f, s.Name)
			}
			tp := template{
				file: strings.TrimSuffix(filepath.Base(f), ".txtar"), name: words[0], up: words[1] == "up",
				flags: words[2:], text: string(s.Data),
			}
			if tp.isResponse() {
				if len(tp.flags) == 0 {
					t.Fatalf("%s: section %q does not say what it answers", f, s.Name)
				}
				tp.method, tp.flags = tp.flags[0], tp.flags[1:]
			}
			all = append(all, tp)
		}
	}
	return all
}

var byteEscape = regexp.MustCompile(`\\x[0-9A-Fa-f]{2}`)

// vars are the values of a template's names.
type vars map[string]string

func (v vars) with(more vars) vars {
	all := maps.Clone(v)
	maps.Copy(all, more)
	return all
}

// expand makes the message; req is the request that it answers, if any.
func (tp template) expand(t *testing.T, v vars, req *text) []byte {
	t.Helper()
	var b strings.Builder
	for l := range strings.Lines(tp.text) {
		b.WriteString(repeated(l, req))
	}
	s := b.String()
	if !strings.Contains(s, "\n\n") {
		s += "\n"
	}
	for name, value := range v {
		s = strings.ReplaceAll(s, "{{"+name+"}}", value)
	}
	s = byteEscape.ReplaceAllStringFunc(s, func(e string) string {
		n, _ := strconv.ParseUint(e[2:], 16, 8)
		return string([]byte{byte(n)})
	})
	if !tp.has("lf") {
		s = strings.ReplaceAll(s, "\n", "\r\n")
	}
	eol := "\r\n"
	if tp.has("lf") {
		eol = "\n"
	}
	_, body, _ := strings.Cut(s, eol+eol)
	s = strings.ReplaceAll(s, "{{length}}", strconv.Itoa(len(body)))
	if i := strings.Index(s, "{{"); i >= 0 {
		t.Fatalf("%s %s: nothing stands for %.20q", tp.file, tp.name, s[i:])
	}
	return []byte(s)
}

func repeated(l string, req *text) string {
	names := map[string]string{"{{vias}}": "via", "{{routes}}": "record-route", "{{contacts}}": "contact"}
	for name, header := range names {
		if !strings.Contains(l, name) {
			continue
		}
		values := req.lines(header)
		if header == "contact" {
			values = req.values(header)
		}
		var b strings.Builder
		for _, value := range values {
			// The line's own escapes are left to be read later, not the value's.
			b.WriteString(strings.Replace(l, name, strings.ReplaceAll(strings.ReplaceAll(value, "\r\n", "\n"), `\x`, `\x5cx`), 1))
		}
		return b.String()
	}
	return l
}

// message is a template written in a test.
func message(lines ...string) template {
	return template{file: "own", name: "own", text: strings.Join(lines, "\n") + "\n"}
}

// readAll reads the corpora, sorted by name.
func readAll(t *testing.T, pattern string) (names []string, all map[string][]byte) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	all = make(map[string][]byte)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(f); len(bytes.TrimSpace(b)) > 0 {
			names, all[name] = append(names, name), b
		}
	}
	return names, all
}
