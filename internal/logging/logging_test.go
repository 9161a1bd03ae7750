package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

func TestHumanLine(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, Info, Human).With(zap.String("session", "a1"))
	log.Info("call ended",
		zap.String("from", "101"),
		zap.Duration("duration", 92417355917*time.Nanosecond),
		zap.Int("lost", 3),
		zap.Error(errors.New("no answer")),
		zap.Skip())
	_, line, _ := strings.Cut(out.String(), " ")
	want := "info   call ended  session=a1 from=101 duration=1m32.4s lost=3 error=\"no answer\"\n"
	if line != want {
		t.Errorf("got  %q\nwant %q", line, want)
	}
}

func TestHumanLineCannotBeFaked(t *testing.T) {
	var out bytes.Buffer
	New(&out, Info, Human).Info("phone registered", zap.String("agent", "x\n12:00:00 info y\x1b[2J\u202e"))
	if n := strings.Count(out.String(), "\n"); n != 1 {
		t.Errorf("%d lines: %q", n, out.String())
	}
	if strings.ContainsFunc(strings.TrimSuffix(out.String(), "\n"), func(r rune) bool { return r < ' ' || r >= 0x7f }) {
		t.Errorf("unprintable: %q", out.String())
	}
}

func TestJSONWhereThereIsNoTerminal(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, Warn, Auto)
	log.Info("not written")
	log.Warn("session down", zap.Duration("after", 1500*time.Millisecond))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line["msg"] != "session down" || line["level"] != "warn" || line["after"] != 1.5 {
		t.Errorf("got %v", line)
	}
	if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	var level Level
	var format Format
	for _, name := range []string{"debug", "info", "warn", "error"} {
		if err := level.UnmarshalText([]byte(name)); err != nil || string(level) != name || level.zap().String() != name {
			t.Errorf("%s: %v, %v, %v", name, err, level, level.zap())
		}
	}
	for _, name := range []string{"auto", "human", "json"} {
		if err := format.UnmarshalText([]byte(name)); err != nil || string(format) != name {
			t.Errorf("%s: %v, %v", name, err, format)
		}
	}
	if level.UnmarshalText([]byte("loud")) == nil || format.UnmarshalText([]byte("xml")) == nil {
		t.Error("an unknown name was accepted")
	}
}
