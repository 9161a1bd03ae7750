package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Times of processes.
const (
	stopTime  = 5 * time.Second       // between SIGTERM and SIGKILL
	pollEvery = 20 * time.Millisecond // while waiting for a process to get somewhere
)

// process is one of the programs, at work.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// start runs a program with its output in a log file.
func (d *demo) start(name string, args ...string) (*process, error) {
	log, err := os.Create(filepath.Join(d.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(d.bin, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	// An interrupt at the terminal is for the demo, which stops the programs in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// stop ends the process and waits for it; nil is none.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended already
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// until waits until a condition holds. It gives up when the process, which may be nil, has ended, or
// with ctx; the error then holds the last one of the condition.
func until(ctx context.Context, p *process, condition func() error) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var ended <-chan struct{}
	if p != nil {
		ended = p.done
	}
	for {
		err := condition()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s has ended: %v", filepath.Base(p.cmd.Path), p.err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// run runs a command of a program to its end and returns its output.
func (d *demo) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, strings.TrimSpace(problems.String()))
	}
	return out.Bytes(), nil
}

// status asks a program how it is.
func status[Status any](ctx context.Context, d *demo, name string) (Status, error) {
	var s Status
	out, err := d.run(ctx, name, "status", "--json", "--state-dir", d.state(name))
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	return s, err
}

// state is the state directory of a program.
func (d *demo) state(name string) string { return filepath.Join(d.dir, name) }

// errNoGo says how to do without the Go tools.
var errNoGo = errors.New("the programs are built with go, which is not there; name a directory that has them with -bin")

// build builds the two programs.
func (d *demo) build(ctx context.Context) error {
	if d.cfg.Bin != "" {
		d.bin = d.cfg.Bin
		return nil
	}
	d.bin = filepath.Join(d.dir, "bin")
	started := time.Now()
	// Not a step: with an empty build cache it may take longer than a step may.
	cmd := exec.CommandContext(ctx, "go", "build", "-o", d.bin+string(filepath.Separator),
		"github.com/siptunnel/siptunnel/cmd/tunneld", "github.com/siptunnel/siptunnel/cmd/tunnelproxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		err = errNoGo
	case err != nil:
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	d.report.step("tunneld and tunnelproxy built", fmt.Sprintf("in %.1f s", time.Since(started).Seconds()), err)
	return err
}
