package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of CPU times in /proc, which Linux fixes at 100 Hz
// toward programs.
const clockTick = 10 * time.Millisecond

// program is one of the two programs under test, running.
type program struct {
	name string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// pair is tunneld and tunnelproxy, connected over loopback.
type pair struct {
	tunneld, tunnelproxy *program
	sip                  netip.AddrPort // where phones send SIP
}

// startPair starts the two programs in bin, at a loopback address of their own. They are stopped again when that
// fails.
func startPair(ctx context.Context, bin, dir string, pbx netip.AddrPort, at netip.Addr) (*pair, error) {
	p := new(pair)
	if err := p.start(ctx, bin, dir, pbx, at); err != nil {
		p.stop()
		return nil, fmt.Errorf("%w\n%s", err, p.logs())
	}
	return p, nil
}

func (p *pair) start(ctx context.Context, bin, dir string, pbx netip.AddrPort, at netip.Addr) error {
	server, err := freePort("tcp", at)
	if err != nil {
		return err
	}
	if p.sip, err = freePort("udp", at); err != nil {
		return err
	}
	stateT, stateP := filepath.Join(dir, "tunneld"), filepath.Join(dir, "tunnelproxy")
	p.tunneld, err = start(ctx, bin, "tunneld", "serve", "--state-dir", stateT, "--listen", server.String(), "--public-address", at.String(),
		"--pbx", pbx.String(), "--domain", domain, "--media-address", at.String(), "--media-ports", "10000-19999", "--phone-ports", "20000-20999")
	if err != nil {
		return err
	}
	link := filepath.Join(stateT, "join-link")
	if err := eventually(func() bool { _, err := os.Stat(link); return err == nil }); err != nil {
		return fmt.Errorf("tunneld wrote no join link: %w", err)
	}
	join := exec.CommandContext(ctx, filepath.Join(bin, "tunnelproxy"), "join", "--state-dir", stateP, link)
	if out, err := join.CombinedOutput(); err != nil {
		return fmt.Errorf("tunnelproxy join: %w\n%s", err, out)
	}
	p.tunnelproxy, err = start(ctx, bin, "tunnelproxy", "serve", "--state-dir", stateP,
		"--sip-listen", p.sip.String(), "--lan-address", at.String(), "--media-ports", "21000-30999")
	return err
}

// logs is what the programs have printed. They must have been stopped.
func (p *pair) logs() string {
	text := ""
	for _, q := range p.programs() {
		text += "--- " + q.name + "\n" + q.log.String()
	}
	return text
}

func (p *pair) programs() []*program {
	var running []*program
	for _, q := range []*program{p.tunnelproxy, p.tunneld} {
		if q != nil {
			running = append(running, q)
		}
	}
	return running
}

func start(ctx context.Context, bin, name string, args ...string) (*program, error) {
	p := &program{name: name, cmd: exec.CommandContext(ctx, filepath.Join(bin, name), args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// stop ends the programs and waits for them. It may be called again.
func (p *pair) stop() {
	for _, q := range p.programs() {
		if q.cmd.ProcessState == nil {
			q.cmd.Process.Signal(syscall.SIGTERM)
			q.cmd.Wait()
		}
	}
}

// cpu is the CPU time, user and system, that both programs have used.
func (p *pair) cpu() (time.Duration, error) {
	t, err := p.tunneld.cpu()
	if err != nil {
		return 0, err
	}
	u, err := p.tunnelproxy.cpu()
	return t + u, err
}

func (p *program) cpu() (time.Duration, error) { return cpuOf(p.cmd.Process.Pid) }

// cpuOf is the CPU time, user and system, that a process has used.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; fields are counted behind it.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err := strconv.Atoi(f[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(f[12])
	return time.Duration(user+system) * clockTick, err
}

// memory is the resident memory of the program in bytes.
func (p *program) memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no VmRSS in its status", p.name)
}

func freePort(network string, at netip.Addr) (netip.AddrPort, error) {
	free := netip.AddrPortFrom(at, 0)
	if network == "udp" {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(free))
		if err != nil {
			return netip.AddrPort{}, err
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort(), nil
	}
	ln, err := net.Listen("tcp4", free.String())
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort(), nil
}

func eventually(f func() bool) error {
	deadline := time.Now().Add(answerWithin)
	for !f() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v", answerWithin)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}
