// Bench measures the two real programs from outside: phones register and call
// through them over loopback sockets, and the CPU time and memory of their
// processes are read from /proc. SIPp and Kamailio, where they are installed, are
// run beside them.
//
//	go run ./test/bench -bin bin -json build/bench.json
//
// It needs Linux. Absolute figures depend on the machine; those of a peer are from
// the same run.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/siptunnel/siptunnel/test/bench/report"
)

// skip says that rows are missing, and why.
func skip(what, why string) { fmt.Fprintf(os.Stderr, "bench: no %s: %s\n", what, why) }

func main() {
	bin := flag.String("bin", "bin", "directory of tunneld and tunnelproxy")
	out := flag.String("json", "", "file for the figures as JSON")
	talkFor := flag.Duration("talk", 5*time.Second, "how long the calls talk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rows, err := run(ctx, *bin, *talkFor)
	for _, part := range []func() ([]report.Row, error){
		func() ([]report.Row, error) { return signalling(ctx, *bin) },
		func() ([]report.Row, error) { return editing(ctx) },
	} {
		if err == nil {
			var more []report.Row
			more, err = part()
			rows = append(rows, more...)
		}
	}
	report.Show(os.Stdout, rows)
	if err == nil && *out != "" {
		err = report.Write(*out, rows, false)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const (
	registered  = 300 // phones
	calls       = 50  // that talk
	silent      = 250 // more calls, for what each needs
	callMemory  = 15  // kB, both programs: the aim
	mediaPairAt = "127.0.87.1"
	settle      = 300 * time.Millisecond // for the last packets to arrive
)

func run(ctx context.Context, bin string, talkFor time.Duration) ([]report.Row, error) {
	dir, err := os.MkdirTemp("", "siptunnel-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	pbx, err := startPBX()
	if err != nil {
		return nil, err
	}
	defer pbx.close()
	programs, err := startPair(ctx, bin, dir, pbx.addr(), netip.MustParseAddr(mediaPairAt))
	if err != nil {
		return nil, err
	}
	defer programs.stop()
	m := &measurement{programs: programs, pbx: pbx}
	defer m.close()
	for _, step := range []func() error{
		m.idle,
		m.register,
		func() error { return m.call(talkFor) },
		m.manyCalls,
	} {
		if err := step(); err != nil {
			programs.stop() // their logs are complete then
			return m.rows, fmt.Errorf("%w\n%s", err, programs.logs())
		}
	}
	return m.rows, nil
}

type measurement struct {
	programs *pair
	pbx      *pbx
	phones   []*phone
	total    int64 // memory of both programs when it was last looked at
	rows     []report.Row
}

func (m *measurement) close() {
	for _, p := range m.phones {
		p.close()
	}
}

func (m *measurement) add(name string, value float64, unit string) {
	m.rows = append(m.rows, report.Row{Name: name, Value: value, Unit: unit})
}

// memory adds what the programs have in memory, and, unless each is empty, what
// that is more than before for each of n phones or calls, both programs together.
func (m *measurement) memory(when, each string, n int) error {
	time.Sleep(settle)
	total := int64(0)
	for _, p := range []*program{m.programs.tunneld, m.programs.tunnelproxy} {
		b, err := p.memory()
		if err != nil {
			return err
		}
		total += b
		m.rows = append(m.rows, report.Row{Name: "memory of " + p.name + ", " + when, Value: float64(b) / (1 << 20), Unit: "MiB"})
	}
	if each != "" {
		r := report.Row{Name: "memory per " + each + ", both programs", Value: float64(total-m.total) / float64(n) / (1 << 10), Unit: "kB"}
		if each == "call" {
			r = r.AtMost(callMemory)
		}
		m.rows = append(m.rows, r)
	}
	m.total = total
	return nil
}

// idle measures the programs when one phone has shown that all is up.
func (m *measurement) idle() error {
	var first *phone
	err := eventually(func() bool {
		p, err := newPhone(m.programs.sip, registered)
		if err != nil {
			return false
		}
		p.wait = time.Second // the proxy may not listen yet
		if p.register() != nil {
			p.close()
			return false
		}
		first, p.wait = p, answerWithin
		return true
	})
	if err != nil {
		return fmt.Errorf("no phone could register: %w", err)
	}
	m.phones = append(m.phones, first)
	before, err := m.programs.cpu()
	if err != nil {
		return err
	}
	const watch = 3 * time.Second
	time.Sleep(watch)
	after, err := m.programs.cpu()
	if err != nil {
		return err
	}
	m.add("CPU idle, both programs", 100*float64(after-before)/float64(watch), "% of a core")
	return m.memory("idle", "", 0)
}

func (m *measurement) register() error {
	start := time.Now()
	for i := range registered {
		p, err := newPhone(m.programs.sip, i)
		if err != nil {
			return err
		}
		m.phones = append(m.phones, p)
		if err := p.register(); err != nil {
			return fmt.Errorf("phone %d: %w", i, err)
		}
	}
	m.add(fmt.Sprintf("registration of %d new phones, one after the other, each", registered), float64(time.Since(start).Microseconds())/registered/1000, "ms")
	return m.memory(fmt.Sprintf("%d registered phones", registered), "registered phone", registered)
}

func (m *measurement) call(talkFor time.Duration) error {
	var ends []*media
	start := time.Now()
	for i, p := range m.phones[:calls] {
		if err := p.invite(); err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		ends = append(ends, p.call, m.pbx.media(p.id))
	}
	m.add(fmt.Sprintf("setup of %d calls, one after the other, each", calls), float64(time.Since(start).Microseconds())/calls/1000, "ms")
	before, err := m.programs.cpu()
	if err != nil {
		return err
	}
	if err := talk(ends, talkFor); err != nil {
		return err
	}
	after, err := m.programs.cpu()
	if err != nil {
		return err
	}
	time.Sleep(settle)
	sent, received := 0, int64(0)
	for _, e := range ends {
		sent += e.sent
		received += e.received.Load()
	}
	if received == 0 {
		return fmt.Errorf("none of %d packets arrived", sent)
	}
	m.add(fmt.Sprintf("CPU per RTP packet, stream path, both programs, %d calls", calls), float64((after-before).Microseconds())/float64(received), "us")
	m.add("packets sent", float64(sent), "packets")
	m.add("packets lost", 100*float64(int64(sent)-received)/float64(sent), "%")
	return m.memory(fmt.Sprintf("%d calls that talked", calls), "", 0)
}

// manyCalls makes calls that say nothing.
func (m *measurement) manyCalls() error {
	for i, p := range m.phones[calls : calls+silent] {
		if err := p.invite(); err != nil {
			return fmt.Errorf("call %d: %w", calls+i, err)
		}
	}
	return m.memory(fmt.Sprintf("%d calls", calls+silent), "call", silent)
}
