package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
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

// TestCallEnded has the figures of a call, and of each of its streams where there are several.
func TestCallEnded(t *testing.T) {
	audio := sipfwd.MediaStats{PacketsIn: 10, PacketsOut: 9, Lost: 1, Jitter: 406762}
	video := sipfwd.MediaStats{PacketsIn: 200, PacketsOut: 100, Jitter: 2 * time.Millisecond}
	for _, test := range []struct {
		media       []sipfwd.MediaStats
		human, json string
	}{
		{[]sipfwd.MediaStats{audio}, "packets_in=10 packets_out=9 lost=1 jitter=0.4ms\n", `"packets_in":10,"packets_out":9,"lost":1,"jitter":0.000406762}`},
		{
			[]sipfwd.MediaStats{audio, video},
			`packets_in=210 packets_out=109 lost=1 jitter=2ms media="jitter 0.4ms, lost 1, packets_in 10, packets_out 9; jitter 2ms, lost 0, packets_in 200, packets_out 100"` + "\n",
			`"media":[{"packets_in":10,"packets_out":9,"lost":1,"jitter":0.000406762},{"packets_in":200,"packets_out":100,"lost":0,"jitter":0.002}]}`,
		},
	} {
		for format, want := range map[Format]string{Human: test.human, JSON: test.json} {
			var out bytes.Buffer
			Events(New(&out, Info, format)).CallEnded(sipfwd.CallInfo{Media: test.media})
			if !strings.Contains(out.String(), want) {
				t.Errorf("got  %s\nwant %s", out.String(), want)
			}
		}
	}
}

// TestCallEndedWithLegs: one line names the leg that is to blame and has the figures of all, for people and for scripts.
func TestCallEndedWithLegs(t *testing.T) {
	measure := func(name quality.Name, lost uint64, jitter time.Duration) quality.Leg {
		leg, _ := quality.Measure(name, 1000, lost, jitter, 0, quality.Assumed(), true)
		return leg
	}
	up := sipfwd.MediaStats{Legs: []quality.Leg{measure(quality.LANIn, 120, 1500*time.Microsecond), measure(quality.TunnelUp, 0, 0)}}
	down := sipfwd.MediaStats{Legs: []quality.Leg{measure(quality.LANOut, 0, 0)}}
	for _, test := range []struct {
		media       []sipfwd.MediaStats
		human, json []string
	}{
		{
			[]sipfwd.MediaStats{up},
			[]string{` audio="poor: LAN leg, phone to tunnelproxy, lost 12.0 %" legs="lan_in 3.20 12.0% 1.5ms, tunnel_up 4.40 0.0%"` + "\n"},
			[]string{
				`"audio":"poor: LAN leg, phone to tunnelproxy, lost 12.0 %"`,
				`"legs":[{"leg":"lan_in","packets":1000,"lost":120,"loss_percent":12,"jitter_ms":1.5,"mos":3.2,"codec":"G.711 assumed"},{"leg":"tunnel_up","packets":1000,`,
			},
		},
		{
			[]sipfwd.MediaStats{up, down},
			[]string{` legs="stream 1: lan_in 3.20 12.0% 1.5ms, tunnel_up 4.40 0.0%, stream 2: lan_out 4.40 0.0%"`},
			[]string{`{"leg":"lan_in","stream":1,`, `{"leg":"lan_out","stream":2,`},
		},
	} {
		for format, wants := range map[Format][]string{Human: test.human, JSON: test.json} {
			var out bytes.Buffer
			Events(New(&out, Info, format)).CallEnded(sipfwd.CallInfo{Media: test.media})
			for _, want := range wants {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %s in %s", want, out.String())
				}
			}
			if strings.Count(out.String(), "\n") != 1 {
				t.Errorf("more than a line: %s", out.String())
			}
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0ms", 406762: "0.4ms", 20 * time.Millisecond: "20ms", 12345678: "12.3ms", 999999999: "1000ms",
		time.Second: "1s", 92417355917: "1m32.4s", -406762: "-0.4ms",
	} {
		if got := duration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
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

// TestURIWithoutSecrets: some write a password into their URIs.
func TestURIWithoutSecrets(t *testing.T) {
	for in, want := range map[string]string{
		"sip:alice@example.com":                              "sip:alice@example.com",
		"sip:alice:s3cret@example.com:5070;x=y?h=s3cret&a=b": "sip:alice@example.com:5070;x=y",
		"sips:a;b:s3cret@[2001:db8::1]?":                     "sips:a;b@[2001:db8::1]",
		"tel:+4930":                                          "tel:+4930",
		"sip::s3cret@example.com":                            "sip:@example.com",
		"sip:a:s3cret@h:99999?x=s3cret":                      "sip:a@h:99999",
		"sip:a:s3cret@[::1":                                  "sip:a@[::1",
		"sips:a:s3cret@":                                     "sips:a@",
		"s3cret?":                                            "s3cret",
	} {
		if got := uri("from", in).String; got != want {
			t.Errorf("%s is logged as %s, want %s", in, got, want)
		}
	}
}
