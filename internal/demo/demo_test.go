package demo_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/demo"
	"github.com/siptunnel/siptunnel/internal/testphone"
)

// bin is a directory with the two programs.
var bin string

func TestMain(m *testing.M) {
	// Connections of sipgo log to its default logger, whatever logger they are given.
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler))
	os.Exit(build(m))
}

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "siptunnel-demo-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../../cmd/tunneld", "../../cmd/tunnelproxy").CombinedOutput()
	if err != nil {
		os.Stderr.Write(out)
		return 1
	}
	bin = dir
	return m.Run()
}

// run runs a short demo and returns its report.
func run(t *testing.T, cfg demo.Config) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var report bytes.Buffer
	cfg.Bin, cfg.Talk, cfg.Out = bin, time.Second, &report
	err := demo.Run(ctx, cfg)
	return report.String(), err
}

func TestDemo(t *testing.T) {
	t.Parallel()
	report, err := run(t, demo.Config{})
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	for _, want := range []string{
		"102 hears 101: a tone of 440 Hz", "101 hears 102: a tone of 660 Hz", "have counted what the phones sent",
		"102 calls the echo and hears itself", "no call is left anywhere", "The tunnel adds", "bytes for the call", "All was heard",
	} {
		if !strings.Contains(report, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(report, "\u2717") {
		t.Error("a step has a cross")
	}
	if t.Failed() {
		t.Log(report)
	}
}

// TestDirectMedia: two phones of one office talk without the tunnel when the PBX says so, and only then.
func TestDirectMedia(t *testing.T) {
	t.Parallel()
	report, err := run(t, demo.Config{DirectMedia: true})
	if err != nil || !strings.Contains(report, "stayed in the office") {
		t.Errorf("%v\n%s", err, report)
	}
	report, err = run(t, demo.Config{DirectMedia: true, Break: demo.Anchor, Patience: 5 * time.Second})
	if !errors.Is(err, demo.ErrFailed) || !strings.Contains(report, "\u2717 they hear each other, and the tunnel is quiet") ||
		!strings.Contains(report, "bytes in the tunnel") {
		t.Errorf("a PBX that stands in the media: %v\n%s", err, report)
	}
}

// TestBrokenLinks shows that the demo cannot pass without each link of the chain, and that it fails
// where it should.
func TestBrokenLinks(t *testing.T) {
	fails := map[demo.Break]string{
		demo.PhoneSIP:   "\u2717 phone 101 registers",
		demo.PhoneAudio: "\u2717 102 hears 101",
		demo.Tunnel:     "\u2717 101 calls 102",
		demo.PBXSIP:     "\u2717 phone 101 registers",
		demo.PBXAudio:   "\u2717 102 hears 101",
		demo.Around:     "\u2717 101 calls 102",
	}
	for _, link := range demo.Breaks() {
		t.Run(string(link), func(t *testing.T) {
			t.Parallel()
			report, err := run(t, demo.Config{Break: link, Patience: 5 * time.Second})
			if !errors.Is(err, demo.ErrFailed) || !strings.Contains(report, fails[link]) {
				t.Errorf("error %v, want %q in\n%s", err, fails[link], report)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts programs")
	}
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	out := &watcher{text: "registers over udp", seen: func() { cancel(stop) }}
	if err := demo.Run(ctx, demo.Config{Bin: bin, Out: out}); !errors.Is(err, stop) {
		t.Errorf("got %v\n%s", err, out.String())
	}
}

// TestKeep does with a phone what the report of a kept demo says.
func TestKeep(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts programs")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	lan := netip.MustParseAddr("127.62.0.1")
	ready := make(chan struct{})
	out := &watcher{text: "End it with Ctrl-C", seen: func() { close(ready) }}
	done := make(chan error, 1)
	demoCtx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		done <- demo.Run(demoCtx, demo.Config{Bin: bin, Out: out, Talk: time.Second, Keep: true, LAN: lan})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("%v\n%s", err, out.String())
	}
	said := func(label string) string {
		_, rest, _ := strings.Cut(out.String(), label)
		return strings.TrimRight(strings.Fields(rest)[0], ",")
	}
	phone, err := testphone.New(testphone.Config{
		User: said("  user "), Password: said("  password "), Domain: said("server, domain "),
		Proxy: netip.MustParseAddrPort(said("outbound proxy ")), Media: lan, Tone: 550,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	if _, err := phone.Register(ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	for number, hz := range map[string]float64{"600": 550, "601": 425, "101": 440, "102": 660} {
		call, err := phone.Call(ctx, number)
		if err != nil {
			t.Fatalf("%s: %v", number, err)
		}
		if err := call.Hear(ctx, hz, 300*time.Millisecond); err != nil {
			t.Errorf("%s: %v", number, err)
		}
		if err := call.Hangup(ctx); err != nil {
			t.Errorf("%s: %v", number, err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// watcher calls a function when a text is written.
type watcher struct {
	bytes.Buffer
	text string
	seen func()
}

func (w *watcher) Write(b []byte) (int, error) {
	w.Buffer.Write(b)
	if bytes.Contains(b, []byte(w.text)) {
		w.seen()
	}
	return len(b), nil
}

func TestMatching(t *testing.T) {
	relay := func(address string, in, out uint64) admin.Relay {
		return admin.Relay{PBXAddress: address, PacketsIn: in, PacketsOut: out}
	}
	proxy := []admin.Relay{relay("a", 100, 90), relay("b", 90, 100), relay("spare", 0, 0)}
	daemon := []admin.Relay{relay("b", 100, 90), relay("a", 90, 100), relay("other", 7, 7)}
	for name, test := range map[string]struct {
		sent, heard   uint64
		proxy, daemon []admin.Relay
		want          string
	}{
		"all match":          {190, 190, proxy, daemon, ""},
		"one too early":      {191, 190, proxy, daemon, ""},
		"nothing at all":     {0, 0, nil, nil, "0 relays were used"},
		"around the tunnel":  {190, 190, []admin.Relay{relay("a", 0, 0)}, daemon, "0 relays were used"},
		"lost before proxy":  {300, 190, proxy, daemon, "the phones sent 300"},
		"lost after proxy":   {190, 100, proxy, daemon, "the phones heard 100"},
		"lost in the tunnel": {190, 190, proxy, []admin.Relay{relay("b", 100, 90), relay("a", 90, 50)}, "100 packets into the tunnel, 50 out"},
		"lost on the way":    {190, 190, proxy, []admin.Relay{relay("b", 100, 90), relay("a", 150, 100)}, "150 packets from the PBX, 90"},
		"unknown to tunneld": {190, 190, proxy, daemon[:1], "tunneld has no relay a"},
	} {
		t.Run(name, func(t *testing.T) {
			err := demo.Matching(test.sent, test.heard, test.proxy, test.daemon)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
