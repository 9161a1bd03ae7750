package sipmsg

import "strings"

// A second, slow reader of messages, that shares nothing with the first: the
// oracle of the fuzz tests.

type refField struct{ name, value string }

// refParse splits a well-formed message. Values keep their folds.
func refParse(msg string) (start string, fields []refField, body string) {
	var lines []string
	for {
		n := strings.Index(msg, "\n") + 1
		if n == 0 {
			panic("no empty line")
		}
		line := msg[:n]
		msg = msg[n:]
		if line == "\n" || line == "\r\n" {
			break
		}
		if n := len(lines); n > 0 && (line[0] == ' ' || line[0] == '\t') {
			lines[n-1] += line
			continue
		}
		lines = append(lines, line)
	}
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			name, value = "", line
		}
		fields = append(fields, refField{refTrim(name), refTrim(value)})
	}
	return refTrim(lines[0]), fields, msg
}

func refTrim(s string) string { return strings.Trim(s, " \t\r\n") }

var refCompact = map[string]string{
	"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
	"c": "content-type", "e": "content-encoding", "k": "supported", "r": "refer-to", "b": "referred-by",
	"x": "session-expires", "o": "event",
}

func refName(name string) string {
	name = refLower(name)
	if long, ok := refCompact[name]; ok {
		return long
	}
	return name
}

// refLower is strings.ToLower for ASCII alone.
func refLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}

// refValues splits the values of all fields of that name at their commas.
func refValues(fields []refField, name string) (values []string) {
	for _, f := range fields {
		if refName(f.name) == name {
			values = append(values, refSplit(f.value)...)
		}
	}
	return values
}

// refSplit splits at the commas outside of quotes and brackets.
func refSplit(s string) (values []string) {
	var quoted, escaped, bracket bool
	start := 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == ',' && !quoted && !bracket:
			if v := refTrim(s[start:i]); v != "" {
				values = append(values, v)
			}
			start = i + 1
		case escaped:
			escaped = false
		case quoted:
			escaped = s[i] == '\\'
			quoted = s[i] != '"'
		case bracket:
			bracket = s[i] != '>'
		default:
			quoted = s[i] == '"'
			bracket = s[i] == '<'
		}
	}
	return values
}
