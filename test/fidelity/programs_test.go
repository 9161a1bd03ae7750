package fidelity

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// patience is how long a step may take on a busy machine; each is waited for,
// not slept for.
const patience = 5 * time.Second

// domain is the PBX's, unlike its address.
const domain = "pbx.example.com"

// phonePorts are those of tunneld toward the PBX.
var phonePorts = struct{ low, high uint16 }{16000, 19999}

var bin string // directory of the built programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "siptunnel-fidelity-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin = dir
		build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../../cmd/tunneld", "../../cmd/tunnelproxy")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// program is one of the two programs, running.
type program struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{}
}

// start runs a program until it says that it is ready, as systemd would.
func start(t *testing.T, name string, args ...string) *program {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	p := &program{cmd: exec.Command(filepath.Join(bin, name), args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState has it
	}()
	t.Cleanup(func() { p.stop(t, name) })
	_ = notify.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 256)
	if n, err := notify.Read(buf); err != nil || !bytes.HasPrefix(buf[:n], []byte("READY=1")) {
		t.Fatalf("%s is not ready: %q, %v", name, buf[:n], err)
	}
	return p
}

func (p *program) stop(t *testing.T, name string) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
		t.Errorf("%s does not end", name)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s ended with exit code %d", name, code)
	}
	if t.Failed() {
		t.Logf("[%s]\n%s", name, p.log.Bytes())
	}
}

// rig is the two programs, connected, and the PBX.
type rig struct {
	pbx    *net.UDPConn
	pbxAt  netip.AddrPort
	proxy  netip.AddrPort
	relays *relays
	inbox  *inbox // of the PBX
	phones int
	branch map[string]bool // that the programs have used
	serial int
	counts map[string]int // messages compared, by direction and transport
}

// network is the part of 127.0.0.0/8 that this process uses.
func network(c, d int) netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, byte(130 + pid%100), byte((pid/100 + c) % 250), byte(d)})
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{branch: make(map[string]bool), counts: make(map[string]int)}
	r.relays = &relays{
		tunneld: ports{network(0, 5), 20000, 23999}, tunnelproxy: ports{network(0, 2), 26000, 29999}, seen: make(map[string][]int),
	}
	var err error
	if r.pbx, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(network(0, 4), 0))); err != nil {
		t.Fatal(err)
	}
	r.pbxAt = r.pbx.LocalAddr().(*net.UDPAddr).AddrPort()
	r.inbox = newInbox()
	readers := make(chan struct{})
	go func() {
		defer close(readers)
		r.readPBX()
	}()
	t.Cleanup(func() {
		r.pbx.Close()
		<-readers
	})
	dir := t.TempDir()
	stateT, stateP := filepath.Join(dir, "tunneld"), filepath.Join(dir, "tunnelproxy")
	listen := netip.AddrPortFrom(network(0, 1), 5090).String()
	start(t, "tunneld", "serve", "--state-dir", stateT, "--listen", listen, "--public-address", network(0, 1).String(),
		"--pbx", r.pbxAt.String(), "--domain", domain, "--log-format", "json",
		"--media-address", network(0, 5).String(), "--media-ports", "20000-23999",
		"--phone-ports", fmt.Sprintf("%d-%d", phonePorts.low, phonePorts.high))
	link := filepath.Join(stateT, "join-link")
	join := exec.Command(filepath.Join(bin, "tunnelproxy"), "join", "--state-dir", stateP, link)
	if out, err := join.CombinedOutput(); err != nil {
		t.Fatalf("tunnelproxy join: %v\n%s", err, out)
	}
	r.proxy = netip.AddrPortFrom(network(0, 2), 5070)
	start(t, "tunnelproxy", "serve", "--state-dir", stateP, "--sip-listen", r.proxy.String(), "--log-format", "json",
		"--lan-address", network(0, 2).String(), "--media-ports", "26000-29999")
	return r
}
