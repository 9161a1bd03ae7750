//go:build linux

// Mediabench measures what a packet of media costs: CPU time, bytes, delay,
// memory, and what becomes of it on a bad path. Calls are set up through the two
// real programs by SIP, RTP goes through real sockets, and what others offer for
// the same purpose runs beside them in the same run, with the same packets.
//
//	go run ./test/mediabench -bin bin -json build/bench.json
//
// It needs Linux, root, and for the peers the Debian packages rtpengine-daemon,
// wireguard-go and openvpn; what is missing is left out with a message. The network
// is made of namespaces:
//
//	office                                     pbx
//	phones   10.9.1.1 (lo)                     PBX     10.9.2.1 (lo)
//	tunnelproxy  10.9.0.1 ======= link ======= tunneld 10.9.0.2
//	                 10.9.3.1 == any VPN == 10.9.3.2
//
// The link is a veth pair where CPU time, delay and memory are measured, and two TUN
// devices with this program between them where bytes are counted and packets lost or
// held up.
//
// CPU time is that of the processes, user and system, divided by the packets that
// arrived. Absolute figures depend on the machine; ratios of one run do less. So that
// all figures of a row are of the same minutes, each system is measured several times
// in turn with the others, each time in processes of its own, and the median counts.
// The program and all that it starts run ahead of what else the machine does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/test/bench/report"
)

func main() {
	bin := flag.String("bin", "bin", "directory of tunneld and tunnelproxy")
	out := flag.String("json", "", "file of JSON rows to add to")
	talkFor := flag.Duration("talk", 2*time.Second, "how long the calls talk in each of the three rounds of a measurement")
	only := flag.String("only", "", "parts of the measurements, with commas between them: cpu, bytes, delay, memory, audio")
	profile := flag.String("profile", "", "measure the CPU time of our programs alone, once more under perf(1), into files DIR/N.perf")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "mediabench: skipped: it makes network namespaces, which takes root")
		return
	}
	defer goAhead()()
	b := &bench{ctx: ctx, bin: *bin, talkFor: *talkFor, profile: *profile, messages: os.Stderr}
	if *profile != "" {
		*only = "cpu"
	}
	err := b.run(*only)
	report.Show(os.Stdout, b.rows)
	if *out != "" {
		err = errors.Join(err, report.Write(*out, b.rows, true))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mediabench:", err)
		os.Exit(1)
	}
}

// goAhead has this program and those that it starts run before what else the
// machine does, until the function that it returns is called.
func goAhead() func() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return func() {}
	}
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, -20)
		}
	}
	// Where the scheduler has groups of a session's processes, they have the priority.
	const group = "/proc/self/autogroup"
	text, err := os.ReadFile(group)
	_, nice, ok := strings.Cut(strings.TrimSpace(string(text)), " nice ")
	if err != nil || !ok {
		return func() {}
	}
	_ = os.WriteFile(group, []byte("-20"), 0)
	return func() { _ = os.WriteFile(group, []byte(nice), 0) }
}

type bench struct {
	ctx      context.Context
	bin      string
	talkFor  time.Duration
	profile  string
	profiles int
	void     bool // what perPacket has measured
	messages io.Writer
	rows     []report.Row
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.messages, "mediabench: "+format+"\n", args...)
}

func (b *bench) add(rows ...report.Row) { b.rows = append(b.rows, rows...) }

// run makes the measurements, all or the ones named.
func (b *bench) run(only string) error {
	for _, part := range []struct {
		name string
		f    func() error
	}{
		{"cpu", b.cpu}, {"bytes", b.bytes}, {"delay", b.delay}, {"memory", b.memory}, {"audio", b.audio},
	} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		began := time.Now()
		if err := part.f(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		b.say("%s: %v", part.name, time.Since(began).Round(time.Second))
	}
	return nil
}

// with has f use a system with so many streams of payload bytes through it, on a
// network of its own. A peer that is not installed is left out.
func (b *bench) with(s system, f func(*setup) error) error {
	n, err := newNetwork(s.wired)
	if err != nil {
		return err
	}
	defer n.close()
	m, err := b.open(n, s)
	if errors.Is(err, errMissing) {
		b.say("left out: %v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	defer m.close()
	if err := f(m); err != nil {
		return fmt.Errorf("%s: %w\n%s", s.name, err, m.logs())
	}
	return nil
}
