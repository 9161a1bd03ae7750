// Package cmd_test drives the two programs as they are built, by scripts: what an admin types, sees and gets back.
package cmd_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/minipbx"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/internal/testphone"
)

// patience is how long a step may take on a busy machine; each that should be quick is waited for, not slept for.
const patience = 20 * time.Second

var programs string // directory of the built programs

func TestMain(m *testing.M) {
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "siptunnel-cmd-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(directory)
		programs = directory
		arguments := []string{"build", "-o", directory + string(filepath.Separator)}
		if raceDetector && os.Getenv("CI") == "true" { // It makes Argon2id slow, which at a desk is waited for too often.
			arguments = append(arguments, "-race")
		}
		build := exec.Command("go", append(arguments, "./tunneld", "./tunnelproxy")...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// addresses counts loopback addresses: every script has one of its own, so that ports do not collide.
var addresses atomic.Uint32

// phonePorts is a range of one port toward the PBX that nothing else has: those
// ports are on 127.0.0.1 whatever the script's own address is. It lies outside
// of the default media ports.
func phonePorts() string {
	for range 100 {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			break
		}
		defer conn.Close() // Not before the next one is open, which is another one then.
		tcp, err := net.Listen("tcp4", conn.LocalAddr().String())
		if err != nil {
			continue
		}
		tcp.Close()
		if port := conn.LocalAddr().(*net.UDPAddr).Port; port < 50000 || port > 59999 {
			return fmt.Sprintf("%d-%d", port, port)
		}
	}
	return "6000-6000"
}

func ownAddress() string {
	n, pid := addresses.Add(1), os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 64+pid%60, 1+pid/60%250, n)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", programs+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("IP", ownAddress())
			env.Setenv("PHONES", phonePorts())
			examples, err := filepath.Abs(filepath.Join("..", "deploy", "examples"))
			if err != nil {
				return err
			}
			env.Setenv("EXAMPLES", examples)
			env.Setenv("NO_COLOR", "1")
			env.Values[running{}] = map[string]*process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ask":     ask,
			"call":    call,
			"content": content,
			"end":     end,
			"exits":   exits,
			"minipbx": miniPBX,
			"mode":    mode,
			"pbx":     pbx,
			"peer":    peer,
			"relays":  relays,
			"start":   start,
			"take":    take,
			"until":   until,
		},
	})
}

// exits CODE PROGRAM [ARG...] runs a program and checks its exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// running is the key of a script's processes.
type running struct{}

type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

func processes(ts *testscript.TestScript) map[string]*process {
	return ts.Value(running{}).(map[string]*process)
}

// start NAME PROGRAM [ARG...] starts a program in the background and waits until it says that it is ready, as systemd
// would. Its output goes to NAME.log.
func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM [ARG...]")
	}
	name := args[0]
	socket := ts.MkAbs(name + ".notify")
	os.Remove(socket)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	ts.Check(err)
	log, err := os.Create(ts.MkAbs(name + ".log"))
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command(filepath.Join(programs, args[1]), args[2:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), log, log
	cmd.Env = []string{"HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH"), "NOTIFY_SOCKET=" + socket}
	ts.Check(cmd.Start())
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // ProcessState has it.
		notify.Close()
	}()
	processes(ts)[name] = p
	ts.Defer(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if ts.ReadFile(name+".log") != "" {
			ts.Logf("[%s.log]\n%s", name, ts.ReadFile(name+".log"))
		}
	})
	_ = notify.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 256)
	n, err := notify.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		ts.Fatalf("%s is not ready: %q, %v", name, buf[:n], err)
	}
}

// end NAME [SIGNAL [CODE]] sends a signal (default TERM) to a started program, and checks that it ends within five
// seconds with the code (default 0). With SIGNAL none it only waits.
func end(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: end NAME [SIGNAL [CODE]]")
	}
	p := processes(ts)[args[0]]
	if p == nil {
		ts.Fatalf("%s was not started", args[0])
	}
	name, want := "TERM", 0
	if len(args) > 1 {
		name = args[1]
	}
	if len(args) > 2 {
		code, err := strconv.Atoi(args[2])
		ts.Check(err)
		want = code
	}
	timeout := 5 * time.Second
	if name == "none" {
		timeout = patience
	} else {
		signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}
		ts.Check(p.cmd.Process.Signal(signals[name]))
	}
	if name == "HUP" {
		return // Nothing ends.
	}
	select {
	case <-p.done:
	case <-time.After(timeout):
		ts.Fatalf("%s has not ended after %v", args[0], timeout)
	}
	if code := p.cmd.ProcessState.ExitCode(); name != "KILL" && code != want {
		ts.Fatalf("%s ended with exit code %d, want %d", args[0], code, want)
	}
}

// until TEXT PROGRAM [ARG...] runs a program again and again until its output holds the text.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until TEXT PROGRAM [ARG...]")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for {
		cmd := exec.CommandContext(ctx, args[1], args[2:]...)
		if filepath.Base(args[1]) == args[1] && strings.HasPrefix(args[1], "tunnel") {
			cmd = exec.CommandContext(ctx, filepath.Join(programs, args[1]), args[2:]...)
		}
		cmd.Dir = ts.MkAbs(".")
		out, _ := cmd.CombinedOutput()
		if strings.Contains(string(out), args[0]) {
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
			ts.Fatalf("%q never came; the last output is\n%s", args[0], out)
		}
	}
}

// mode MODE FILE checks the permissions of a file.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode MODE FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// content VARIABLE FILE sets a variable to the text of a file, without white space around it.
func content(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: content VARIABLE FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// take udp|tcp ADDRESS takes a port for the rest of the script.
func take(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: take udp|tcp ADDRESS")
	}
	var taken io.Closer
	var err error
	if args[0] == "udp" {
		taken, err = net.ListenPacket("udp", args[1])
	} else {
		taken, err = net.Listen("tcp", args[1])
	}
	ts.Check(err)
	ts.Defer(func() { taken.Close() })
}

// ask ADDRESS TEXT sends a REGISTER over UDP and checks that the first line or a header of the answer is the text.
func ask(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ask ADDRESS TEXT")
	}
	conn, err := net.Dial("udp", args[0])
	ts.Check(err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "REGISTER sip:%[1]s SIP/2.0\r\nVia: SIP/2.0/UDP %[2]s;branch=z9hG4bK%[3]d\r\nMax-Forwards: 70\r\n"+
		"From: <sip:101@%[1]s>;tag=%[3]d\r\nTo: <sip:101@%[1]s>\r\nCall-ID: %[3]d\r\nCSeq: 1 REGISTER\r\nContact: <sip:101@%[2]s>\r\nContent-Length: 0\r\n\r\n",
		args[0], conn.LocalAddr(), time.Now().UnixNano())
	ts.Check(err)
	ts.Check(conn.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 65535)
	n, err := conn.Read(buf)
	ts.Check(err)
	for line := range strings.SplitSeq(string(buf[:n]), "\r\n") {
		if strings.HasPrefix(line, args[1]) {
			return
		}
	}
	ts.Fatalf("the answer has no %q:\n%s", args[1], buf[:n])
}

// minipbx ADDRESS runs the small PBX with the extensions 101 and 102, for the rest of the script.
func miniPBX(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: minipbx ADDRESS")
	}
	address, err := netip.ParseAddrPort(args[0])
	ts.Check(err)
	running, err := minipbx.Start(context.Background(), minipbx.Config{
		Addr: address, Users: map[string]string{"101": "one-secret", "102": "two-secret"},
	})
	ts.Check(err)
	ts.Defer(func() { running.Close() })
}

// call PROXY DOMAIN udp|tcp has phone 101 register and call 102, both through the proxy; they hear each other and hang up.
func call(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: call PROXY DOMAIN udp|tcp")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	proxy, err := netip.ParseAddrPort(args[0])
	ts.Check(err)
	phone := func(user, password string, tone float64) *testphone.Phone {
		p, err := testphone.New(testphone.Config{
			User: user, Password: password, Domain: args[1], Proxy: proxy, Media: proxy.Addr(), Transport: args[2], Tone: tone,
		})
		ts.Check(err)
		_, err = p.Register(ctx, 10*time.Minute)
		ts.Check(err)
		return p
	}
	caller, callee := phone("101", "one-secret", 440), phone("102", "two-secret", 880)
	defer caller.Close()
	defer callee.Close()
	answered := make(chan error, 1)
	go func() {
		in := <-callee.Incoming()
		err := in.Answer(ctx)
		if err == nil {
			err = in.Hear(ctx, 440, time.Second/2)
		}
		answered <- err
	}()
	out, err := caller.Call(ctx, "102")
	ts.Check(err)
	ts.Check(out.Hear(ctx, 880, time.Second/2))
	ts.Check(<-answered)
	ts.Check(out.Hangup(ctx))
	ts.Check(caller.Unregister(ctx))
	ts.Check(callee.Unregister(ctx))
}

// inFlight is how many packets of 20 ms may be on their way when a call ends.
const inFlight = 5

// relays N DAEMON-STATE-DIR PROXY-STATE-DIR waits until N relays have carried something and are gone, and checks that what
// one program took in the other gave out, but for what was on its way when the call ended.
func relays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: relays N DAEMON-STATE-DIR PROXY-STATE-DIR")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ended := func(program, directory string) map[string]admin.Relay {
		command := exec.Command(filepath.Join(programs, program), "status", "--json", "--state-dir", ts.MkAbs(directory))
		out, err := command.Output()
		ts.Check(err)
		var status struct {
			EndedRelays []admin.Relay `json:"ended_relays"`
		}
		ts.Check(json.Unmarshal(out, &status))
		byAddress := map[string]admin.Relay{}
		for _, relay := range status.EndedRelays {
			byAddress[relay.PBXAddress] = relay
		}
		return byAddress
	}
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(patience); ; <-pause.C {
		daemon, proxy := ended("tunneld", args[1]), ended("tunnelproxy", args[2])
		if len(daemon) < want || len(proxy) < want {
			if time.Now().After(deadline) {
				ts.Fatalf("%d relays ended in tunneld and %d in tunnelproxy, want %d", len(daemon), len(proxy), want)
			}
			continue
		}
		for address, d := range daemon {
			p := proxy[address]
			same := func(in, out uint64) bool { return out > 0 && in >= out && in <= out+inFlight }
			if !same(d.PacketsIn, p.PacketsOut) || !same(p.PacketsIn, d.PacketsOut) {
				ts.Fatalf("relay %s: tunneld has %d in and %d out, tunnelproxy %d in and %d out", address, d.PacketsIn, d.PacketsOut, p.PacketsIn, p.PacketsOut)
			}
		}
		return
	}
}

// pbx ADDRESS answers every request at a UDP address with 200, for the rest of the script.
func pbx(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pbx ADDRESS")
	}
	conn, err := net.ListenPacket("udp", args[0])
	ts.Check(err)
	var served sync.WaitGroup
	served.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			reply := []byte("SIP/2.0 200 OK\r\n")
			for line := range bytes.SplitSeq(buf[:n], []byte("\r\n")) {
				for _, name := range []string{"Via:", "From:", "To:", "Call-ID:", "CSeq:"} {
					if bytes.HasPrefix(line, []byte(name)) {
						reply = append(append(reply, line...), "\r\n"...)
					}
				}
			}
			_, _ = conn.WriteTo(append(reply, "Content-Length: 0\r\n\r\n"...), from)
		}
	})
	ts.Defer(func() { conn.Close(); served.Wait() })
}

// peer KIND ADDRESS listens on a TCP address as something other than the tunneld that a client expects, for the rest of
// the script. KIND is version (a tunneld of another protocol version) or web (a web server).
func peer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: peer version|web ADDRESS")
	}
	ln, err := net.Listen("tcp", args[1])
	ts.Check(err)
	var serve func(net.Conn)
	switch args[0] {
	case "version":
		certificate, _, err := mux.NewCertificate()
		ts.Check(err)
		other := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"siptunnel/999"}}
		serve = func(conn net.Conn) { _ = tls.Server(conn, other).Handshake() }
	case "web":
		serve = func(conn net.Conn) {
			_, _ = bufio.NewReader(conn).ReadByte()
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
		}
	default:
		ts.Fatalf("unknown kind of peer %s", args[0])
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(conn)
			})
		}
	})
	ts.Defer(func() { ln.Close(); served.Wait() })
}
