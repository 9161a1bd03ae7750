package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/testphone"
)

// Bytes across the tunnel, both ways together. Two phones that hear each other through it have some 38,000 a
// second there, one that hears music half of a half; without audio there are the tunnel's own signs of life.
const (
	quietBytes = 2000
	musicBytes = 5000 // a second, at least
)

// callInOffice has the first phone call the second by way of a PBX with direct media: they hear each other, and
// next to nothing crosses the tunnel. What crosses it is the music of the PBX while one of them is on hold.
func (d *demo) callInOffice(ctx context.Context) error {
	var near, far *testphone.Call
	err := d.step(ctx, "101 calls 102, which answers", func(ctx context.Context) (_ string, err error) {
		near, far, err = dial(ctx, d.first, d.second)
		return "", err
	})
	if err != nil {
		return err
	}
	if err := d.step(ctx, "they hear each other, and the tunnel is quiet", func(ctx context.Context) (string, error) {
		return d.talkInOffice(ctx, near, far)
	}); err != nil {
		return err
	}
	if err := d.step(ctx, "101 holds, and 102 hears the PBX's music through the tunnel", func(ctx context.Context) (string, error) {
		if err := near.Hold(ctx); err != nil {
			return "", err
		}
		bytes, took, err := d.across(func() error { return far.Hear(ctx, musicHz, d.cfg.Talk/2) })
		if err != nil {
			return "", err
		}
		if float64(bytes) < musicBytes*took.Seconds() {
			return "", fmt.Errorf("%d bytes in the tunnel are no music", bytes)
		}
		return fmt.Sprintf("%d bytes", bytes), d.wantJoined(ctx, 0)
	}); err != nil {
		return err
	}
	if err := d.step(ctx, "101 resumes, they hear each other, and the tunnel is quiet", func(ctx context.Context) (string, error) {
		if err := near.Resume(ctx); err != nil {
			return "", err
		}
		return d.talkInOffice(ctx, near, far)
	}); err != nil {
		return err
	}
	return d.step(ctx, "102 hangs up, and no call is left anywhere", func(ctx context.Context) (string, error) {
		if err := far.Hangup(ctx); err != nil {
			return "", err
		}
		select {
		case <-near.Done():
		case <-ctx.Done():
			return "", fmt.Errorf("101 is not told: %w", context.Cause(ctx))
		}
		if err := d.wantJoined(ctx, 0); err != nil {
			return "", err
		}
		return d.countInOffice(ctx, near, far)
	})
}

// talkInOffice waits until both phones have heard each other, and measures the tunnel while they go on.
func (d *demo) talkInOffice(ctx context.Context, near, far *testphone.Call) (string, error) {
	if err := talk(ctx, near, far, d.cfg.Talk/2); err != nil {
		return "", err
	}
	bytes, took, err := d.across(func() error { return talk(ctx, near, far, d.cfg.Talk) })
	if err != nil {
		return "", err
	}
	if bytes > quietBytes {
		return "", fmt.Errorf("%d bytes in the tunnel in %v", bytes, took)
	}
	return fmt.Sprintf("%d bytes there in %.1f s", bytes, took.Seconds()), d.wantJoined(ctx, 2)
}

// across measures what crosses the tunnel meanwhile.
func (d *demo) across(meanwhile func() error) (bytes uint64, took time.Duration, err error) {
	before, began := d.forwarder.bytes(), time.Now()
	err = meanwhile()
	return d.forwarder.bytes() - before, time.Since(began), err
}

// wantJoined checks how many ports tunnelproxy says are joined with another one.
func (d *demo) wantJoined(ctx context.Context, want int) error {
	proxy, err := status[admin.ProxyStatus](ctx, d, "tunnelproxy")
	if err != nil {
		return err
	}
	joined := 0
	for _, r := range proxy.Relays {
		if r.Direct != "" {
			joined++
		}
	}
	if joined != want {
		return fmt.Errorf("tunnelproxy says that %d ports are joined, not %d", joined, want)
	}
	return nil
}

// countInOffice checks the figures of a call that is over.
func (d *demo) countInOffice(ctx context.Context, near, far *testphone.Call) (string, error) {
	if err := d.nothingLeft(ctx, far); err != nil {
		return "", err
	}
	proxy, err := status[admin.ProxyStatus](ctx, d, "tunnelproxy")
	if err != nil {
		return "", err
	}
	sent, heard := near.Stats().Sent+far.Stats().Sent, near.Stats().Received+far.Stats().Received
	switch t := proxy.RelayTotals; {
	case !same(sent, t.PacketsIn):
		return "", fmt.Errorf("the phones sent %d packets, tunnelproxy has got %d", sent, t.PacketsIn)
	case !same(heard, t.PacketsOut):
		return "", fmt.Errorf("the phones heard %d packets, tunnelproxy has sent %d", heard, t.PacketsOut)
	case t.PacketsDirect == 0 || t.PacketsDirect >= t.PacketsIn:
		return "", errors.New("tunnelproxy has not told apart what stayed in the office")
	default:
		return fmt.Sprintf("%d of %d packets of the phones stayed in the office", t.PacketsDirect, t.PacketsIn), nil
	}
}
