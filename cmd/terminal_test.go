package cmd_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal gives both ends of a new pseudo-terminal: what is written to the second is read from the first.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, terminal
}

// TestFirstStartOnATerminal sees the join link on the screen, once, and nowhere else.
func TestFirstStartOnATerminal(t *testing.T) {
	screen, terminal := openTerminal(t)
	address, state := ownAddress(), filepath.Join(t.TempDir(), "state")
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "tunneld"), "serve", "--state-dir", state, "--listen", address+":5090", "--pbx", address)
	cmd.Stdout, cmd.Stderr, cmd.Cancel = terminal, terminal, nil
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	terminal.Close()
	watchdog := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()

	links, isHuman := 0, false
	lines := bufio.NewScanner(screen) // Ends with an error once the program has closed its end.
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if strings.HasPrefix(line, "  siptunnel://default:") && strings.Contains(line, "@"+address+":5090#") {
			links++
		}
		if strings.Contains(line, " info   tunneld is up  ") {
			isHuman = true
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if links != 1 || !isHuman {
		t.Errorf("%d links on the screen, log for people: %v", links, isHuman)
	}
	if _, err := os.Stat(filepath.Join(state, "join-link")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link is in a file too: %v", err)
	}
}

// TestJoinAtATerminal pastes a link, after which there is no end of file.
func TestJoinAtATerminal(t *testing.T) {
	screen, terminal := openTerminal(t)
	state := filepath.Join(t.TempDir(), "state")
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "tunnelproxy"), "join", "--state-dir", state, "--offline", "-")
	var said strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	link := "siptunnel://berlin:correct-zebra-91@tunnel.example.com:5090#" + strings.Repeat("A", 43)
	if _, err := screen.WriteString(link + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(said.String(), "join link: tunnel.example.com:5090 is the server of this office") {
		t.Errorf("ended with %v: %s", err, said.String())
	}
	terminal.Close()
}
