//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/impair"
)

// farAway is a path without faults but its length.
const farAway = 15 * time.Millisecond

// TestMediaLoss: of what a path loses at random next to nothing is missing at the phones. There are enough packets for the
// bounds to be more than three standard deviations away from what is to be expected.
func TestMediaLoss(t *testing.T) {
	t.Parallel()
	l := lab.NewImpaired(t)
	l.Path.Set(impair.Conditions{Delay: farAway, Loss: 0.05})
	v := newVoices(t, l, 20)
	v.tun.datagrams(true)
	for _, step := range []struct {
		what         string
		conditions   impair.Conditions
		settle, talk time.Duration
		missing      float64
	}{
		{"5 % loss", impair.Conditions{Loss: 0.05}, 3 * time.Second, 7 * time.Second, 0.003},
		{"10 % loss", impair.Conditions{Loss: 0.10}, 2 * time.Second, 4 * time.Second, 0.015},
		{"3 % loss", impair.Conditions{Loss: 0.03}, time.Second / 2, 3 * time.Second, 0.003},
		{"1 % loss", impair.Conditions{Loss: 0.01}, time.Second / 2, 2 * time.Second, 0.002},
	} {
		step.conditions.Delay = farAway
		l.Path.Set(step.conditions)
		if h := v.talk(step.settle, nil); h.repeated > 0 || h.disordered > 0 {
			t.Errorf("%s, at first: %v", step.what, h)
		}
		v.expect(step.what, v.talk(step.talk, nil), step.missing, 100*time.Millisecond)
	}
}
