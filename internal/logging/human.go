package logging

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
)

// humanCore writes lines like
//
//	15:04:05 info   phone registered  phone=101 source=192.0.2.7:5060
//
// with fields in the order in which they were given. It is for a terminal, where a line is rare and its reader slow.
type humanCore struct {
	zapcore.LevelEnabler
	out  zapcore.WriteSyncer
	with []zapcore.Field
}

func (c *humanCore) With(fields []zapcore.Field) zapcore.Core {
	return &humanCore{LevelEnabler: c.LevelEnabler, out: c.out, with: append(slices.Clip(c.with), fields...)}
}

func (c *humanCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *humanCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	var line bytes.Buffer
	fmt.Fprintf(&line, "%s %-5s  %s", entry.Time.Format(time.TimeOnly), entry.Level, entry.Message)
	for i, list := range [2][]zapcore.Field{c.with, fields} {
		for j, field := range list {
			if i == 0 && j == 0 || i == 1 && j == 0 && len(c.with) == 0 {
				line.WriteByte(' ')
			}
			appendField(&line, field)
		}
	}
	line.WriteByte('\n')
	_, err := c.out.Write(line.Bytes())
	return err
}

func (c *humanCore) Sync() error { return c.out.Sync() }

// appendField writes " key=value" for each value that the field stands for: none for a skipped one, several for an
// inlined object.
func appendField(line *bytes.Buffer, field zapcore.Field) {
	if list, ok := field.Interface.(fmt.Stringer); ok && field.Type == zapcore.ArrayMarshalerType {
		fmt.Fprintf(line, " %s=%s", field.Key, plain(list.String()))
		return
	}
	values := zapcore.NewMapObjectEncoder()
	field.AddTo(values)
	for _, key := range slices.Sorted(maps.Keys(values.Fields)) {
		fmt.Fprintf(line, " %s=%s", key, plain(values.Fields[key]))
	}
}

// plain gives a value without surprises for a terminal: quoted as Go would when it holds a space, a quote, an equals
// sign or anything that is not printable ASCII.
func plain(value any) string {
	text := inWords(value)
	special := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '=' }
	if text == "" || strings.ContainsFunc(text, special) {
		return strconv.QuoteToASCII(text)
	}
	return text
}

func inWords(value any) string {
	var parts []string
	switch v := value.(type) {
	case time.Duration:
		return duration(v)
	case time.Time:
		return v.Format(time.RFC3339)
	case []any:
		for _, item := range v {
			parts = append(parts, inWords(item))
		}
		return strings.Join(parts, "; ")
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, key+" "+inWords(v[key]))
		}
		return strings.Join(parts, ", ")
	}
	return fmt.Sprint(value)
}

// duration is without digits that nobody reads, and in ASCII: 1m32.4s and 0.4ms, not 1m32.417355917s and 406.762us.
func duration(d time.Duration) string {
	if d.Abs() >= time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return strconv.FormatFloat(float64(d.Round(100*time.Microsecond))/float64(time.Millisecond), 'f', -1, 64) + "ms"
}
