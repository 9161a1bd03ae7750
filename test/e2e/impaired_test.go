//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/impair"
)

const (
	// farAway is a path without faults but its length.
	farAway = 15 * time.Millisecond
	// late is when a packet is of no use to a phone that waits as long as it can.
	late = 200 * time.Millisecond
)

// impairedStep is a path, and what of the packets may be missing on it.
type impairedStep struct {
	what         string
	conditions   impair.Conditions
	settle, talk time.Duration
	missing      float64
	hole         time.Duration
}

// impairedSteps has voices talk over one path after the other.
func (v *voices) impairedSteps(steps ...impairedStep) {
	v.t.Helper()
	v.tun.datagrams(true)
	for _, step := range steps {
		step.conditions.Delay = farAway
		v.tun.Path.Set(step.conditions)
		v.expect(step.what, step.missing, step.hole, func() *heardVoices { return v.talk(step.settle, step.talk, nil) })
	}
}

// TestMediaLoss: of what a path loses at random next to nothing is missing at the phones. There are so many packets that the
// bounds are three standard deviations and more above what is to be expected: one copy of each packet leaves the square of the
// loss, and second copies, once the loss is known to be above 3.9 %, leave 0.15 %.
func TestMediaLoss(t *testing.T) {
	t.Parallel()
	v := newVoices(t, lab.NewImpaired(t), 20)
	const hole = 100 * time.Millisecond
	v.impairedSteps(
		impairedStep{"5 % loss", impair.Conditions{Loss: 0.05}, 2 * time.Second, 10 * time.Second, 0.003, hole},
		impairedStep{"10 % loss", impair.Conditions{Loss: 0.10}, time.Second, 3 * time.Second, 0.015, hole},
		impairedStep{"3 % loss", impair.Conditions{Loss: 0.03}, time.Second / 2, 2 * time.Second, 0.003, hole},
		impairedStep{"1 % loss", impair.Conditions{Loss: 0.01}, time.Second / 2, 2 * time.Second, 0.002, hole},
	)
}

// TestMediaJitter: a path whose delay varies, that reorders packets, or loses two in a row, loses nothing of a call.
func TestMediaJitter(t *testing.T) {
	t.Parallel()
	v := newVoices(t, lab.NewImpaired(t), 10)
	const jitter = 50 * time.Millisecond
	v.impairedSteps(
		impairedStep{"delay", impair.Conditions{}, time.Second, 2 * time.Second, 0, 0},
		impairedStep{"50 ms jitter", impair.Conditions{Jitter: jitter}, time.Second, 3 * time.Second, 0, 0},
		// A packet that is overtaken for the first time may be late: nobody has waited for it.
		impairedStep{"50 ms jitter, out of order", impair.Conditions{Jitter: jitter, Overtake: true}, 2 * time.Second, 4 * time.Second, 0.001, 2 * frame},
		// Copies begin when half a percent of the last ten seconds is lost.
		impairedStep{"bursts of two", impair.Conditions{Bursts: 60}, 4 * time.Second, 4 * time.Second, 0, 0},
	)
}

// TestMediaHeldBack: UDP stands still, again and again, and then all of it arrives at once. Media has taken the connection by
// then. What a phone hears has a hole, but stays in order, and nothing comes twice.
func TestMediaHeldBack(t *testing.T) {
	t.Parallel()
	v := newVoices(t, lab.NewImpaired(t), 10)
	v.tun.datagrams(true)
	normal := impair.Conditions{Delay: farAway}
	v.tun.Path.Set(normal)
	before := v.overtaken()
	for _, stall := range []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond} {
		// The path is left 140 ms and a round trip after the last datagram that was reported, and reports come every 40 ms.
		v.expect("UDP held back for "+stall.String(), 0.1, 280*time.Millisecond, func() *heardVoices {
			v.tun.datagrams(true)
			return v.talk(time.Second, 3*time.Second, func(passed time.Duration) {
				held := normal
				held.HoldUDP = passed >= 1500*time.Millisecond && passed < 1500*time.Millisecond+stall
				v.tun.Path.Set(held)
			})
		})
	}
	if n := v.overtaken() - before; n == 0 {
		t.Error("no packet was overtaken: nothing was shown")
	} else {
		t.Logf("%d packets came too late to be in order", n)
	}
}

// TestMediaOnTCP: without UDP, on a path that loses packets, media is what TCP makes of it, with either congestion control: what
// is lost comes a round trip later or more, what has waited for longer than 100 ms is left out, and nothing is left behind.
func TestMediaOnTCP(t *testing.T) {
	t.Parallel()
	for _, control := range []string{"cubic", "bbr"} {
		t.Run(control, func(t *testing.T) {
			t.Parallel()
			l := lab.NewImpaired(t)
			l.CongestionControl(control)
			path := impair.Conditions{Delay: 25 * time.Millisecond, NoUDP: true}
			l.Path.Set(path)
			v := newVoices(t, l, 5)
			for _, h := range []*lab.Host{l.Office, l.PBX} {
				if out, err := h.Run("ss", "-tin", "state", "established", "( sport = 5090 or dport = 5090 )"); err != nil || !strings.Contains(out, control) {
					t.Errorf("%s: %v: %s", h.Name, err, out)
				}
			}
			v.expect("no loss", 0, 0, func() *heardVoices { return v.talk(500*time.Millisecond, time.Second, nil) })
			path.Loss = 0.01
			l.Path.Set(path)
			v.expect("1 % loss", 0.005, 200*time.Millisecond, func() *heardVoices { return v.talk(500*time.Millisecond, 5*time.Second, nil) })
			if daemon, proxy := v.tun.statuses(); daemon.Sessions[0].Path.Datagrams || proxy.Tunnel.Path.Datagrams {
				t.Error("media goes as datagrams where there is no UDP")
			}
		})
	}
}
