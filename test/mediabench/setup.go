//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// A system is something that carries media, and what it is to carry.
type system struct {
	name    string // of the program, or direct
	streams int
	payload int      // bytes; 0: 160, G.711
	flags   []string // for both of our programs
	blocked bool     // no UDP between the hosts
	wired   bool     // the link is a wire
	// warm is called when the first warmCalls are there, if it is not nil.
	warm func(m *setup, few *streams) error
}

const ours = "siptunnel"

// setup is a system under measurement with streams through it.
type setup struct {
	network   *network
	streams   *streams
	processes []*process
	closers   []func()
}

func (m *setup) close() {
	for i := len(m.closers) - 1; i >= 0; i-- {
		m.closers[i]()
	}
}

func (m *setup) cpu() (sum time.Duration, err error) {
	for _, p := range m.processes {
		c, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += c
	}
	return sum, nil
}

// switches is how often the processes have slept.
func (m *setup) switches() (sum int) {
	for _, p := range m.processes {
		sum += p.switches()
	}
	return sum
}

func (m *setup) memory() (sum int64, err error) {
	for _, p := range m.processes {
		b, err := p.memory()
		if err != nil {
			return 0, err
		}
		sum += b
	}
	return sum, nil
}

func (m *setup) logs() string {
	var text strings.Builder
	for _, p := range m.processes {
		fmt.Fprintf(&text, "--- %s\n%s", p.name, p.log.String())
	}
	return text.String()
}

// open starts a system.
func (b *bench) open(n *network, s system) (*setup, error) {
	m := &setup{network: n}
	if s.payload == 0 {
		s.payload = 160
	}
	if err := b.build(m, s); err != nil {
		err = fmt.Errorf("%w\n%s", err, m.logs())
		m.close()
		return nil, err
	}
	return m, nil
}

func (b *bench) build(m *setup, s system) (err error) {
	n := m.network
	streamsTo := func(from, at string) error {
		if m.streams, err = newStreams(n.office, from, n.pbx, at, s.streams, s.payload); err == nil {
			m.closers = append(m.closers, func() { _ = m.streams.close() })
		}
		return err
	}
	if s.blocked {
		if err := n.pbx.nft("table ip bench { chain in { type filter hook prerouting priority -300; iifname wan0 ip protocol udp drop; }; }"); err != nil {
			return err
		}
	}
	switch s.name {
	case ours:
		if err := streamsTo(lanAddr, pbxAddr); err != nil {
			return err
		}
		t, err := startTunnel(b.ctx, n, b.bin, s.flags...)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, t.close)
		m.processes = t.processes()
		return m.call(s, func(few *streams, first int) error { return t.call(n, few, first) })
	case "rtpengine":
		if err := streamsTo(linkOffice, pbxAddr); err != nil {
			return err
		}
		r, err := startRTPEngine(b.ctx, n)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, r.close)
		m.processes = []*process{r.process}
		return m.call(s, r.call)
	case "wireguard-go", "openvpn":
		start := startWireGuard
		if s.name == "openvpn" {
			start = startOpenVPN
		}
		v, err := start(b.ctx, n)
		if err != nil {
			return err
		}
		m.closers = append(m.closers, v.close)
		m.processes = v.ends
		if err := streamsTo(vpnOffice, vpnPBX); err != nil {
			return err
		}
		return m.streams.aimAtSink()
	case "direct":
		if err := streamsTo(linkOffice, linkPBX); err != nil {
			return err
		}
		return m.streams.aimAtSink()
	}
	return fmt.Errorf("no system %q", s.name)
}

// call has f make the calls from first on.
func (m *setup) call(s system, f func(few *streams, first int) error) error {
	if s.warm == nil {
		return f(m.streams, 0)
	}
	few := &streams{all: m.streams.all[:warmCalls], sink: m.streams.sink}
	if err := f(few, 0); err != nil {
		return err
	}
	if err := s.warm(m, few); err != nil {
		return err
	}
	return f(m.streams, warmCalls)
}

// aimAtSink has the streams go straight to where they are counted.
func (s *streams) aimAtSink() error {
	for _, st := range s.all {
		at, err := addrOf(st.at)
		if err != nil {
			return err
		}
		from, err := addrOf(st.from)
		if err != nil {
			return err
		}
		st.aim(at)
		st.back.aim(from)
	}
	return nil
}
