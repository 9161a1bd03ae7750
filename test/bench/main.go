// Bench measures the two real programs from outside: phones register and call
// through them over loopback sockets, and the CPU time and memory of their
// processes are read from /proc.
//
//	go run ./test/bench -bin bin -json build/bench.json
//
// It needs Linux. Absolute figures depend on the machine.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"text/tabwriter"
	"time"
)

// row is one figure.
type row struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

func main() {
	bin := flag.String("bin", "bin", "directory of tunneld and tunnelproxy")
	out := flag.String("json", "", "file for the figures as JSON")
	talkFor := flag.Duration("talk", 5*time.Second, "how long the calls talk")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	rows, err := run(ctx, *bin, *talkFor)
	show(rows)
	if err == nil && *out != "" {
		err = write(*out, rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const (
	registered = 100
	calls      = 50
	settle     = 300 * time.Millisecond // for the last packets to arrive
)

func run(ctx context.Context, bin string, talkFor time.Duration) ([]row, error) {
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
	programs, err := startPair(ctx, bin, dir, pbx.addr())
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
	rows     []row
}

func (m *measurement) close() {
	for _, p := range m.phones {
		p.close()
	}
}

func (m *measurement) add(name string, value float64, unit string) {
	m.rows = append(m.rows, row{Name: name, Value: value, Unit: unit})
}

func (m *measurement) memory(when string) error {
	for _, p := range []*program{m.programs.tunneld, m.programs.tunnelproxy} {
		b, err := p.memory()
		if err != nil {
			return err
		}
		m.add("memory of "+p.name+", "+when, float64(b)/(1<<20), "MiB")
	}
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
	return m.memory("idle")
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
	return m.memory(fmt.Sprintf("%d registered phones", registered))
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
	return m.memory(fmt.Sprintf("%d calls", calls))
}

func show(rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%.2f\t%s\n", r.Name, r.Value, r.Unit)
	}
	w.Flush()
}

func write(name string, rows []row) error {
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, append(b, '\n'), 0o644)
}
