package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/minipbx"
)

const password = "secret of 101"

// startPBX starts a PBX with a tunneld beside it, and returns the file with the join link.
func startPBX(t *testing.T, ctx context.Context) (pbx *minipbx.PBX, link string) {
	t.Helper()
	pbx, err := minipbx.Start(context.Background(), minipbx.Config{Users: map[string]string{"101": password}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pbx.Close() })

	dir := t.TempDir()
	tunneld := filepath.Join(dir, "tunneld")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", tunneld, "../../cmd/tunneld").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	// A port that was free a moment ago.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := ln.Addr().String()
	ln.Close()

	state := filepath.Join(dir, "state")
	cmd := exec.Command(tunneld, "serve", "--state-dir", state, "--listen", listen, "--public-address", listen,
		"--pbx", pbx.Addr().String(), "--media-address", "127.0.0.1",
		"--media-ports", "20000-29999", "--phone-ports", "12000-12999")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	up, done := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(done)
		defer close(up)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			t.Log(lines.Text())
			if strings.Contains(lines.Text(), "tunneld is up") {
				up <- true
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		_ = cmd.Wait()
	})
	select {
	case ok := <-up:
		if !ok {
			t.Fatal("tunneld has ended")
		}
	case <-ctx.Done():
		t.Fatal("tunneld does not get up")
	}
	return pbx, filepath.Join(state, "join-link")
}

func write(t *testing.T, content string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSoftphone(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts tunneld")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	pbx, link := startPBX(t, ctx)
	right := settings{link: link, user: "101", passwordFile: write(t, password), number: minipbx.Echo, timeout: 20 * time.Second}
	for name, test := range map[string]struct {
		change func(*settings)
		fails  string
		prints string
	}{
		"echo":           {func(*settings) {}, "", "the tone of 440 Hz comes back"},
		"another tone":   {func(s *settings) { s.number = minipbx.Tone }, "the tone does not come back", "601 answers"},
		"busy":           {func(s *settings) { s.number = minipbx.Busy }, "486", "registered 101@"},
		"PBX's password": {func(s *settings) { s.passwordFile = write(t, "another") }, "403", "connected"},
		"link's secret": {func(s *settings) {
			s.link = write(t, "siptunnel://default:not-the-secret-of-it@"+linkRest(t, link))
		}, "password", ""},
		"no link": {func(s *settings) { s.link = write(t, "hello") }, "link", ""},
		"no file": {func(s *settings) { s.link = "does-not-exist" }, "no such file", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := right
			test.change(&s)
			var out bytes.Buffer
			err := run(ctx, s, &out)
			if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("error %v, want %q", err, test.fails)
			}
			if !strings.Contains(out.String(), test.prints) {
				t.Errorf("printed %q, want %q", out.String(), test.prints)
			}
			if err := pbx.Idle(ctx); err != nil {
				t.Error(err)
			}
			if left := pbx.Contacts("101"); len(left) > 0 {
				t.Errorf("still registered: %q", left)
			}
		})
	}
}

// linkRest is what follows the secret in a link.
func linkRest(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(strings.TrimSpace(string(content)), "@")
	return rest
}

func TestMuLaw(t *testing.T) {
	for sample := -32768.0; sample <= 32767; sample++ {
		decoded := linear(muLaw(sample))
		if diff := decoded - sample; max(diff, -diff) > max(sample, -sample)/16+8 {
			t.Fatalf("%v decodes as %v", sample, decoded)
		}
	}
}
