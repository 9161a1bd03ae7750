package office

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/tunnel"
)

func TestExplain(t *testing.T) {
	a := &access{link: tunnel.Link{Server: "tunnel.example:5090", Name: "berlin", Secret: "very-secret"}, forget: "forget it"}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		err      error
		code     config.Exit
		text     string
		definite bool
	}{
		{tunnel.ErrRefused, config.ExitRefused, `does not accept the name "berlin"`, true},
		{tunnel.ErrServerProof, config.ExitRefused, "does not know the password itself", true},
		{&tunnel.ThrottledError{RetryAfter: 30 * time.Second}, config.ExitRefused, "wait 30s", false},
		{tunnel.ErrKeyChanged, config.ExitKeyChanged, "forget it", true},
		{tunnel.ErrVersion, config.ExitVersion, "same release", true},
		{tunnel.ErrNotTunneld, config.ExitVersion, "is not a tunneld", true},
		{fmt.Errorf("%w (%w)", tunnel.ErrUnreachable, refused), config.ExitUnreachable, "cannot be reached: connect: connection refused (", false},
		{fmt.Errorf("%w (%w)", tunnel.ErrUnreachable, &net.DNSError{Err: "no such host", Name: "tunnel.example"}), config.ExitUnreachable, "no such host", false},
		{errors.New("odd"), config.ExitUnreachable, "odd", false},
	} {
		for _, err := range []error{test.err, fmt.Errorf("dial: %w", test.err)} {
			got := explain(a, err)
			if config.ExitOf(got) != test.code || !strings.Contains(got.Error(), test.text) || !strings.HasPrefix(got.Error(), "tunnel.example:5090 ") {
				t.Errorf("%v: %v", err, got)
			}
			if strings.Contains(got.Error(), "very-secret") {
				t.Errorf("%v: the error shows the secret", err)
			}
			if isDefinite(err) != test.definite {
				t.Errorf("%v: definite is %v", err, isDefinite(err))
			}
		}
	}
	if explain(a, nil) != nil {
		t.Error("nil was explained")
	}
}

func TestPinsAreKeptByServer(t *testing.T) {
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(host string) *access {
		t.Helper()
		a, err := (&serverFlags{Server: config.Endpoint{Host: host}, PasswordFile: password}).access(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	first := open("a.example")
	if first.link.Pin != "" || first.link.Name != "default" || first.link.Server != "a.example:5090" || first.link.Secret != "secret" {
		t.Errorf("%+v", first.link)
	}
	if err := first.keepPin("PIN-A"); err != nil {
		t.Fatal(err)
	}
	if err := open("b.example").keepPin("PIN-B"); err != nil {
		t.Fatal(err)
	}
	if a, b, c := open("a.example"), open("b.example"), open("c.example"); a.link.Pin != "PIN-A" || b.link.Pin != "PIN-B" || c.link.Pin != "" {
		t.Errorf("%s %s %s", a.link.Pin, b.link.Pin, c.link.Pin)
	}
	if err := os.WriteFile(filepath.Join(dir, pinsFileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&serverFlags{Server: config.Endpoint{Host: "a.example"}, PasswordFile: password}).access(dir, nil); config.ExitOf(err) != config.ExitConfig {
		t.Errorf("damaged pins were passed over: %v", err)
	}
}

func TestJoinedAccess(t *testing.T) {
	dir := t.TempDir()
	if _, err := joinedAccess(dir); config.ExitOf(err) != config.ExitConfig {
		t.Errorf("not joined: %v", err)
	}
	path := filepath.Join(dir, serverFileName)
	if err := os.WriteFile(path, []byte(`{"server":"a.example:5090","name":"x","secret":"very-secret"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := joinedAccess(dir); config.ExitOf(err) != config.ExitConfig || strings.Contains(err.Error(), "very-secret") {
		t.Errorf("damaged: %v", err)
	}
	if err := writeJSON(path, stored{Server: "a.example:5090", Name: "x", Secret: "very-secret"}); err != nil {
		t.Fatal(err)
	}
	a, err := joinedAccess(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.keepPin("PIN"); err != nil {
		t.Fatal(err)
	}
	again, err := joinedAccess(dir)
	if err != nil || again.link != (tunnel.Link{Server: "a.example:5090", Name: "x", Secret: "very-secret", Pin: "PIN"}) {
		t.Errorf("%+v, %v", again, err)
	}
}
