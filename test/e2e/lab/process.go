//go:build linux

package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// outputLimit bounds what is kept of a process's output in memory; the file among the artifacts has all of it.
const outputLimit = 1 << 20

// A Process runs in a host until it ends by itself or is stopped, at the latest with its test.
type Process struct {
	Name string

	t    testing.TB
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// command is not run under a shell, and nsenter replaces itself: the process is the program.
func (h *Host) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--net=" + filepath.Join(netnsDir, h.netns), "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Start starts a program in the host. What it prints is kept under the name among the artifacts, and shown when the test fails.
func (h *Host) Start(name string, args ...string) *Process {
	h.lab.t.Helper()
	return h.start(name, nil, h.command(args...))
}

// start gives the process its output, and its standard output to stdout too if that is not nil.
func (h *Host) start(name string, stdout io.WriteCloser, cmd *exec.Cmd) *Process {
	t := h.lab.t
	t.Helper()
	p := &Process{Name: name, t: t, cmd: cmd, done: make(chan struct{})}
	file, err := os.Create(filepath.Join(h.Dir(), name+".log"))
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	p.out.file = file
	cmd.Stderr = &p.out
	cmd.Stdout = &p.out
	if stdout != nil {
		cmd.Stdout = stdout
	}
	started := make(chan error)
	go func() {
		// The parent's death is that of the thread that started the child: this one lives as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		if stdout != nil {
			_ = stdout.Close()
		}
		_ = file.Close()
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("lab: start %s on %s: %v", name, h.Name, err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s on %s printed at the end:\n%s", name, h.Name, indent(tail(p.Output(), 40)))
		}
	})
	return p
}

// Stop ends the process and its children: politely, then by force. It returns when they are gone.
func (p *Process) Stop() {
	const patience = 5 * time.Second
	pid := p.cmd.Process.Pid
	for _, target := range []struct {
		pid    int
		signal syscall.Signal
	}{{pid, syscall.SIGTERM}, {-pid, syscall.SIGKILL}} {
		if !p.Running() {
			return
		}
		_ = syscall.Kill(target.pid, target.signal)
		select {
		case <-p.done:
		case <-time.After(patience):
		}
	}
}

// Signal sends a signal to the process itself.
func (p *Process) Signal(signal os.Signal) { _ = p.cmd.Process.Signal(signal) }

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Exit waits until the process has ended, and returns its exit code (-1: ended by a signal).
func (p *Process) Exit(limit time.Duration) int {
	p.t.Helper()
	if !Within(limit, func() bool { return !p.Running() }) {
		p.t.Fatalf("%s still runs after %v", p.Name, limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Output returns what the process has printed so far.
func (p *Process) Output() string { return p.out.String() }

// WaitFor waits until the process has printed something that matches the pattern, and returns the match and its groups.
func (p *Process) WaitFor(limit time.Duration, pattern string) []string {
	p.t.Helper()
	var match []string
	compiled := regexp.MustCompile(pattern)
	Eventually(p.t, limit, fmt.Sprintf("%s prints %q", p.Name, pattern), func() bool {
		match = compiled.FindStringSubmatch(p.Output())
		if match == nil && !p.Running() {
			p.t.Fatalf("%s has ended (%v) without printing %q", p.Name, p.err, pattern)
		}
		return match != nil
	})
	return match
}

// Eventually looks at the condition every 10 ms until it holds, and ends the test when that takes longer than the limit.
func Eventually(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	if !Within(limit, holds) {
		t.Fatalf("not within %v: %s", limit, what)
	}
}

// Within looks at the condition every 10 ms, and returns whether it came to hold before the limit.
func Within(limit time.Duration, holds func() bool) bool {
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// output keeps the first outputLimit bytes in memory and writes all to the file.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	file io.Writer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := outputLimit - o.text.Len(); room > 0 {
		o.text.Write(b[:min(room, len(b))])
	}
	return o.file.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func indent(text string) string { return "\t" + strings.ReplaceAll(text, "\n", "\n\t") }
