//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/test/bench/report"
)

const (
	rounds  = 3     // of a measurement, of which the median counts
	inTurn  = 3     // measurements of CPU time of each system, likewise
	maxLoss = 0.001 // a round with more is void
)

var errLoss = errors.New("void: more than 0.1 % of the packets were lost")

// perPacket is the CPU time per packet of a system, in microseconds. It is 0 where too many
// were lost, and b.void is set, or where the system is not installed.
func (b *bench) perPacket(s system) (cost float64, err error) {
	b.void = false
	err = b.with(s, func(m *setup) error {
		if _, err := m.streams.talk(talk{last: 1500 * time.Millisecond}); err != nil {
			return err
		}
		var costs []float64
		worst := 0.0
		for range rounds {
			own, switched := ownCPU(), m.switches()
			before, err := m.cpu()
			if err != nil {
				return err
			}
			r, err := m.streams.talk(talk{last: b.talkFor})
			if err != nil {
				return err
			}
			after, err := m.cpu()
			if err != nil {
				return err
			}
			each := float64((after - before).Nanoseconds()) / 1000 / float64(r.received)
			b.say("%s %v, %d streams: %.2f us a packet, %.2f %% lost; %.0f wake-ups a second; the generator took %.0f %% of a core", s.name, s.flags, s.streams, each,
				100*r.loss(), float64(m.switches()-switched)/b.talkFor.Seconds(), 100*(ownCPU()-own).Seconds()/b.talkFor.Seconds())
			if worst = max(worst, r.loss()); r.loss() <= maxLoss {
				costs = append(costs, each)
			}
		}
		if len(costs) == 0 {
			return fmt.Errorf("%w: %.2f %%", errLoss, 100*worst)
		}
		slices.Sort(costs)
		cost = costs[(len(costs)-1)/2]
		if b.profile != "" {
			return b.perf(m)
		}
		return nil
	})
	if errors.Is(err, errLoss) {
		b.say("%s, %d streams: %v", s.name, s.streams, errLoss)
		b.void = true
		return 0, nil
	}
	return cost, err
}

// perf has perf(1) look at the processes for one more round.
func (b *bench) perf(m *setup) error {
	var ids []string
	for _, p := range m.processes {
		ids = append(ids, strconv.Itoa(p.cmd.Process.Pid))
	}
	b.profiles++
	name := filepath.Join(b.profile, fmt.Sprintf("%d.perf", b.profiles))
	cmd := exec.CommandContext(b.ctx, "perf", "record", "-q", "-g", "-F", "1999", "-o", name, "-p", strings.Join(ids, ","), "--", "sleep", fmt.Sprint(b.talkFor.Seconds()))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err := m.streams.talk(talk{last: b.talkFor + time.Second})
	if failed := cmd.Wait(); failed != nil {
		return fmt.Errorf("perf: %w: %s", failed, out.String())
	}
	b.say("perf report -i %s", name)
	return err
}

func ownCPU() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// load is a rate of packets, who else carries it, and what of ours is compared.
type load struct {
	streams int
	peers   []string
	rows    []costRow
}

type costRow struct {
	name   string
	own    system
	limits map[string]float64 // by peer: of its figure
}

func loads() []load {
	return []load{
		{1000, []string{"rtpengine", "wireguard-go", "openvpn"}, []costRow{
			{"", system{}, map[string]float64{"rtpengine": 0.50, "wireguard-go": 0.30, "openvpn": 0.40}},
			{", bundling off", system{flags: []string{"--media-wait", "0s"}}, map[string]float64{"rtpengine": 0.70, "wireguard-go": 0.42}},
			{", UDP blocked", system{blocked: true}, map[string]float64{"rtpengine": 0.80}},
		}},
		{200, []string{"rtpengine"}, []costRow{
			{"", system{}, map[string]float64{"rtpengine": 0.40}},
		}},
	}
}

// cpu is the CPU time per packet, beside the peers.
func (b *bench) cpu() error {
	for _, l := range loads() {
		var peers []*costOf
		for _, name := range l.peers {
			if b.profile == "" || name == "rtpengine" {
				peers = append(peers, &costOf{system: system{name: name, streams: l.streams}})
			}
		}
		own := make([]*costOf, len(l.rows))
		for i, r := range l.rows {
			r.own.name, r.own.streams = ours, l.streams
			own[i] = &costOf{system: r.own}
		}
		turns := inTurn
		if b.profile != "" {
			turns = 1
		}
		for range turns {
			for _, c := range slices.Concat(peers, own) {
				if err := b.take(c); err != nil {
					return err
				}
			}
		}
		for i, r := range l.rows {
			for _, peer := range peers {
				if limit, ok := r.limits[peer.system.name]; ok && own[i].median() > 0 && peer.median() > 0 {
					row := report.Row{Name: fmt.Sprintf("CPU per packet, both ends, %d packets/s%s", l.streams*50, r.name), Value: own[i].median(), Unit: "us"}
					b.add(row.Beside(peer.name(l.streams), peer.median()).AtMostOfPeer(limit))
				}
			}
		}
	}
	return nil
}

// costOf is what a packet costs a system, each time that it was measured.
type costOf struct {
	system  system // streams: as many as it carries without loss
	each    []float64
	missing bool // the program
}

// median is 0 where nothing was measured.
func (c *costOf) median() float64 {
	if len(c.each) == 0 {
		return 0
	}
	slices.Sort(c.each)
	return c.each[(len(c.each)-1)/2]
}

// name is the system's, with its rate if it could not carry that of so many streams.
func (c *costOf) name(streams int) string {
	if c.system.streams == streams {
		return c.system.name
	}
	return fmt.Sprintf("%s at %d packets/s", c.system.name, c.system.streams*50)
}

// take measures once more. A peer that loses packets carries half as many from then on, and
// what it cost before does not count.
func (b *bench) take(c *costOf) error {
	for tries := 0; tries < 3 && !c.missing; tries++ {
		cost, err := b.perPacket(c.system)
		switch {
		case err != nil:
			return err
		case cost > 0:
			c.each = append(c.each, cost)
			return nil
		case b.void && c.system.name != ours:
			c.system.streams, c.each = c.system.streams/2, nil
		case b.void:
			return nil
		default:
			c.missing = true
		}
	}
	return nil
}

// delay is what the tunnel adds to the delay of 200 calls' packets without
// bundling.
func (b *bench) delay() error {
	var taken [2]result
	for i, s := range []system{{name: "direct", streams: 200}, {name: ours, streams: 200, flags: []string{"--media-wait", "0s"}}} {
		err := b.with(s, func(m *setup) (err error) {
			if _, err = m.streams.talk(talk{last: time.Second}); err != nil {
				return err
			}
			r, err := m.streams.talk(talk{last: rounds * b.talkFor, delays: true})
			b.say("delay, %s: p50 %v, p99 %v, p99.9 %v, %.2f %% lost", s.name, r.delay(0.5), r.delay(0.99), r.delay(0.999), 100*r.loss())
			taken[i] = r
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, p := range []struct {
		name   string
		share  float64
		target float64 // ms
	}{{"p50", 0.5, 0.5}, {"p99", 0.99, 2}, {"p99.9", 0.999, 5}} {
		without, with := taken[0].delay(p.share), taken[1].delay(p.share)
		b.add(report.Row{Name: "delay added, bundling off, 200 calls, " + p.name, Value: float64((with - without).Microseconds()) / 1000, Unit: "ms"}.
			AtMost(p.target))
	}
	return nil
}

// memory is what a call needs.
func (b *bench) memory() error {
	const calls = 900
	own, err := b.perCall(system{name: ours, streams: calls + warmCalls})
	if err != nil {
		return err
	}
	peer, err := b.perCall(system{name: "rtpengine", streams: calls + warmCalls})
	if err != nil {
		return err
	}
	b.add(report.Row{Name: fmt.Sprintf("memory per call, both ends, %d calls that talk", calls), Value: own, Unit: "kB"}.Beside("rtpengine", peer).AtMost(15))
	return nil
}

const warmCalls = 20 // that are there before

// perCall is the memory per call of a system in kB.
func (b *bench) perCall(s system) (each float64, err error) {
	before := int64(0)
	s.warm = func(m *setup, few *streams) error {
		if _, err := few.talk(talk{last: 2 * time.Second, both: true}); err != nil {
			return err
		}
		before, err = m.memory()
		return err
	}
	err = b.with(s, func(m *setup) error {
		if _, err := m.streams.talk(talk{last: 2 * time.Second, both: true}); err != nil {
			return err
		}
		after, err := m.memory()
		each = float64(after-before) / float64(s.streams-warmCalls) / 1024
		return err
	})
	return each, err
}
