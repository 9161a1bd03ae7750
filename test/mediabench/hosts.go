//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/test/impair"
)

// Addresses of the two hosts: on the link between them, of the office's LAN, of
// the PBX, and within the VPNs.
const (
	linkOffice, linkPBX = "10.9.0.1", "10.9.0.2"
	lanAddr             = "10.9.1.1"
	pbxAddr             = "10.9.2.1"
	vpnOffice, vpnPBX   = "10.9.3.1", "10.9.3.2"
)

// A host is a network namespace.
type host struct{ name string }

// network is the office and the PBX's site, joined by one link.
type network struct {
	office, pbx host
	wire        *impair.Wire // the link, if it is one of ours
}

var networks atomic.Int32

// newNetwork makes the namespaces. The link is a veth pair, or a wire if what goes
// over it is to be counted or disturbed. close removes them.
func newNetwork(wired bool) (*network, error) {
	prefix := fmt.Sprintf("mb%d-%d", os.Getpid(), networks.Add(1))
	n := &network{office: host{prefix + "office"}, pbx: host{prefix + "pbx"}}
	if err := n.make(wired); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *network) make(wired bool) error {
	o, p := n.office.name, n.pbx.name
	if err := ip("netns add "+o, "netns add "+p); err != nil {
		return err
	}
	if wired {
		var err error
		if n.wire, err = impair.New(rand.Uint64(), impair.End{Do: n.office.do, Device: "wan0"}, impair.End{Do: n.pbx.do, Device: "wan0"}); err != nil {
			return err
		}
	} else if err := ip("link add wan0 netns " + o + " type veth peer name wan0 netns " + p); err != nil {
		return err
	}
	return ip(
		"-n "+o+" addr add "+linkOffice+"/24 dev wan0", "-n "+p+" addr add "+linkPBX+"/24 dev wan0",
		"-n "+o+" link set lo up", "-n "+p+" link set lo up",
		"-n "+o+" addr add "+lanAddr+"/24 dev lo", "-n "+p+" addr add "+pbxAddr+"/24 dev lo",
		"-n "+o+" link set wan0 up", "-n "+p+" link set wan0 up",
		"-n "+o+" route add default dev wan0", "-n "+p+" route add default dev wan0",
	)
}

func ip(lines ...string) error {
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

func (n *network) close() {
	n.wire.Close()
	for _, h := range []host{n.office, n.pbx} {
		_ = exec.Command("ip", "netns", "del", h.name).Run()
	}
}

// do runs f in the namespace. Sockets that f opens stay there.
func (h host) do(f func() error) error {
	done := make(chan error)
	go func() { done <- h.enter(f) }()
	return <-done
}

func (h host) enter(f func() error) error {
	runtime.LockOSThread() // A thread that cannot come back ends with the goroutine.
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(filepath.Join("/run/netns", h.name))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	failed := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	return failed
}

// run runs a command in the namespace to its end.
func (h host) run(args ...string) error {
	out, err := exec.Command("ip", append([]string{"netns", "exec", h.name}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// nft sets rules, in place of those that were there.
func (h host) nft(rules string) error {
	cmd := exec.Command("ip", "netns", "exec", h.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader("flush ruleset\n" + rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// A process runs in a namespace.
type process struct {
	name string
	cmd  *exec.Cmd
	log  output
}

// output is what a process has written.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (h host) start(ctx context.Context, name string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(name)}
	err := h.do(func() error {
		p.cmd = exec.CommandContext(ctx, name, args...)
		p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
		p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
		p.cmd.WaitDelay = 10 * time.Second
		return p.cmd.Start()
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the process and waits for it.
func (p *process) stop() {
	if p == nil || p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	killed := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer killed.Stop()
	_ = p.cmd.Wait()
}

// cpu is the CPU time, user and system, that the process has used, to the
// nanosecond.
func (p *process) cpu() (time.Duration, error) {
	// The clock of another process, as clock_getcpuclockid(3) makes it.
	clock := int32(^p.cmd.Process.Pid<<3 | 2)
	var t unix.Timespec
	if err := unix.ClockGettime(clock, &t); err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// memory is the proportional set size of the process in bytes.
func (p *process) memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Pss:"); ok {
			var kB int64
			_, err := fmt.Sscanf(v, "%d kB", &kB)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no Pss in its smaps", p.name)
}

// switches is how often the threads of the process that are there have slept.
func (p *process) switches() (sum int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	for _, name := range files {
		b, _ := os.ReadFile(name)
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(v))
				sum += n
			}
		}
	}
	return sum
}
