//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/test/bench/report"
	"github.com/siptunnel/siptunnel/test/impair"
)

// Computed sizes of IP packets of one G.711 or G.729 packet of 20 ms, in bytes.
const (
	bareG711, wireGuardG711, openVPNG711 = 200, 268, 252
	trunkG711, trunkG729                 = 173.2, 29.6 // IAX2 trunk of 10 calls
)

// bytes is what goes over the WAN as UDP for a packet of calls that talk both ways:
// media, and what the tunnel says about it. What the TCP connection has taken beside
// it is said.
func (b *bench) bytes() error {
	type judge func(report.Row) report.Row
	atMost := func(bound float64) judge {
		return func(r report.Row) report.Row { return r.Beside("bare RTP", bareG711).AtMost(bound) }
	}
	belowTrunk := func(bytes float64) judge {
		return func(r report.Row) report.Row { return r.Beside("IAX2 trunk", bytes).BelowPeer() }
	}
	jobs := []struct {
		name           string
		calls, payload int
		flags          []string
		judge          judge
	}{
		{"G.711, 1 call", 1, 160, nil, atMost(220)},
		{"G.711, 10 calls", 10, 160, nil, atMost(200)},
		{"G.711, 50 calls", 50, 160, nil, atMost(176)},
		{"G.711, 10 calls, wait 20 ms", 10, 160, []string{"--media-wait", "20ms"}, belowTrunk(trunkG711)},
		{"G.729, 10 calls, wait 20 ms", 10, 20, []string{"--media-wait", "20ms"}, belowTrunk(trunkG729)},
	}
	rows := make([]report.Row, len(jobs))
	errs := make([]error, len(jobs))
	var work sync.WaitGroup
	for i, job := range jobs {
		work.Go(func() {
			var all, media float64
			all, media, errs[i] = b.perPacketBytes(system{name: ours, streams: job.calls, payload: job.payload, flags: job.flags, wired: true})
			b.say("%s: %.1f bytes a packet, %.1f of them UDP", job.name, all, media)
			rows[i] = job.judge(report.Row{Name: "bytes of datagrams on the WAN per packet, " + job.name, Value: media, Unit: "bytes"})
		})
	}
	work.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.add(rows...)
	b.add(rows[1].Beside("WireGuard", wireGuardG711), rows[1].Beside("OpenVPN", openVPNG711))
	return nil
}

func (b *bench) perPacketBytes(s system) (all, media float64, err error) {
	err = b.with(s, func(m *setup) error {
		m.network.wire.Set(impair.Conditions{Delay: 5 * time.Millisecond})
		// The two ends tell each other more of a call when it is young.
		if _, err := m.streams.talk(talk{last: 10 * time.Second, both: true}); err != nil {
			return err
		}
		m.network.wire.TakeCounts()
		r, err := m.streams.talk(talk{last: 10 * time.Second, both: true})
		if err != nil {
			return err
		}
		counts := m.network.wire.TakeCounts()
		for _, c := range counts {
			all += float64(c.Bytes)
		}
		all /= float64(r.received)
		media = float64(counts[unix.IPPROTO_UDP].Bytes) / float64(r.received)
		return nil
	})
	return all, media, err
}

const (
	audioCalls = 10
	sameMOS    = 0.05                  // nothing is better than what is perfect: less is no difference
	pathDelay  = 20 * time.Millisecond // each way, so that there is a round trip to wait for
)

// weakPath is a point of the table of audio.
type weakPath struct {
	name string
	impair.Conditions
}

// audio is what the phones get over a bad path: through the tunnel over UDP, over
// TCP, and without it.
func (b *bench) audio() error {
	points := []weakPath{}
	for _, loss := range []float64{0, 1, 3, 5, 10} {
		points = append(points, weakPath{fmt.Sprintf("%g %% loss", loss), impair.Conditions{Delay: pathDelay, Loss: loss / 100}})
	}
	points = append(points, weakPath{"50 ms jitter", impair.Conditions{Delay: pathDelay, Jitter: 50 * time.Millisecond}})
	systems := []system{
		{name: ours, streams: audioCalls, wired: true},
		{name: ours, streams: audioCalls, wired: true, flags: []string{"--media-transport", "tcp"}},
		{name: "direct", streams: audioCalls, wired: true},
	}
	heard := make([][]hearing, len(systems))
	errs := make([]error, len(systems))
	var work sync.WaitGroup
	for i, s := range systems {
		work.Go(func() { heard[i], errs[i] = b.hear(s, points) })
	}
	work.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i, p := range points {
		own, tcp, bare := heard[0][i], heard[1][i], heard[2][i]
		for _, peer := range []struct {
			name string
			hearing
		}{{"bare RTP", bare}, {"over TCP", tcp}} {
			b.add(report.Row{Name: "audio, " + p.name + ", never delivered", Value: 100 * own.lost, Unit: "%"}.Beside(peer.name, 100*peer.lost))
			r := report.Row{Name: "audio, " + p.name + ", estimated MOS", Value: own.mos, Unit: "MOS"}.Beside(peer.name, peer.mos)
			b.add(r.NotBelowPeer(sameMOS))
		}
	}
	return nil
}

// hear has the calls of a system talk over all the paths in turn.
func (b *bench) hear(s system, points []weakPath) (heard []hearing, err error) {
	err = b.with(s, func(m *setup) error {
		for _, p := range points {
			m.network.wire.Set(p.Conditions)
			// So that the tunnel knows what the path is like.
			if _, err := m.streams.talk(talk{last: 3 * time.Second, both: true}); err != nil {
				return err
			}
			r, err := m.streams.talk(talk{last: 8 * time.Second, both: true, delays: true, settle: time.Second})
			if err != nil {
				return err
			}
			h := hear(r)
			b.say("%s %v, %s: %.2f %% never delivered; with a buffer of %v %.2f %% missing, MOS %.2f", s.name, s.flags, p.name, 100*h.lost, h.buffer,
				100*h.missing, h.mos)
			heard = append(heard, h)
		}
		return nil
	})
	return heard, err
}

// hearing is what a phone can make of what came.
type hearing struct {
	lost    float64       // never came
	buffer  time.Duration // how long the phone's buffer is: the best for it
	missing float64       // came too late for that, or not at all
	mos     float64
}

// hear chooses the length of the jitter buffer, as a phone that adapts it does, and
// estimates what that sounds like. The fastest packet waits for the whole of it.
func hear(r result) hearing {
	best := hearing{}
	for buffer := 20 * time.Millisecond; buffer <= 500*time.Millisecond; buffer += 10 * time.Millisecond {
		last := r.delay(0) + buffer
		inTime, _ := slices.BinarySearch(r.delays, last+1)
		h := hearing{lost: max(r.loss(), 0), buffer: buffer, missing: max(1-float64(inTime)/float64(r.sent), 0)}
		if h.mos = mos(last, h.missing); h.mos > best.mos {
			best = h
		}
	}
	return best
}

// mos estimates by the E-model (ITU-T G.107) with G.711 and concealment of losses
// (G.113 appendix I: Ie 0, Bpl 25.1): delay is mouth to ear without the packet's own
// 20 ms, loss that of packets at random.
func mos(delay time.Duration, loss float64) float64 {
	const bpl = 25.1
	d := float64((delay + packetTime).Microseconds()) / 1000
	impaired := 0.024 * d
	if d > 177.3 {
		impaired += 0.11 * (d - 177.3)
	}
	percent := 100 * loss
	rating := 93.2 - impaired - 95*percent/(percent+bpl)
	switch {
	case rating <= 0:
		return 1
	case rating >= 100:
		return 4.5
	}
	return 1 + 0.035*rating + rating*(rating-60)*(100-rating)*7e-6
}
