package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/minipbx"
	"github.com/siptunnel/siptunnel/internal/testphone"
)

// call has the first phone call the second: both hear each other, everybody has counted the same, and
// the first hangs up.
func (d *demo) call(ctx context.Context) error {
	before, began := d.forwarder.bytes(), time.Now()
	var near, far *testphone.Call
	err := d.step(ctx, "101 calls 102, which rings and answers", func(ctx context.Context) (_ string, err error) {
		near, far, err = dial(ctx, d.first, d.second)
		return "", err
	})
	if err != nil {
		return err
	}
	for _, side := range []struct {
		what string
		call *testphone.Call
		hz   float64
	}{{"102 hears 101", far, firstHz}, {"101 hears 102", near, secondHz}} {
		err := d.step(ctx, side.what, func(ctx context.Context) (string, error) {
			length := d.cfg.Talk / 2
			return fmt.Sprintf("a tone of %.0f Hz for %v", side.hz, length), side.call.Hear(ctx, side.hz, length)
		})
		if err != nil {
			return err
		}
	}
	if err := d.step(ctx, "tunnelproxy and tunneld have counted what the phones sent", func(ctx context.Context) (string, error) {
		return d.count(ctx, near, far)
	}); err != nil {
		return err
	}
	return d.step(ctx, "101 hangs up, and no call is left anywhere", func(ctx context.Context) (string, error) {
		if err := near.Hangup(ctx); err != nil {
			return "", err
		}
		if err := d.nothingLeft(ctx, far); err != nil {
			return "", err
		}
		d.figures.took = time.Since(began)
		d.figures.bytes = d.forwarder.bytes() - before
		return fmt.Sprintf("after %.1f s", d.figures.took.Seconds()), nil
	})
}

// nothingLeft waits until a call is over at the other phone, the PBX and both programs.
func (d *demo) nothingLeft(ctx context.Context, far *testphone.Call) error {
	if far != nil {
		select {
		case <-far.Done():
		case <-ctx.Done():
			return fmt.Errorf("%s is not told: %w", far.Remote(), context.Cause(ctx))
		}
	}
	if err := d.pbx.Idle(ctx); err != nil {
		return err
	}
	return until(ctx, nil, func() error {
		daemon, err := status[admin.DaemonStatus](ctx, d, "tunneld")
		if err != nil {
			return err
		}
		proxy, err := status[admin.ProxyStatus](ctx, d, "tunnelproxy")
		if err != nil {
			return err
		}
		if n, m := len(daemon.Calls), len(proxy.Calls); n+m > 0 {
			return fmt.Errorf("tunneld has %d calls, tunnelproxy %d", n, m)
		}
		return nil
	})
}

// count compares the counts of packets along the chain. Both phones stop sending for that, so that
// nothing is under way.
func (d *demo) count(ctx context.Context, near, far *testphone.Call) (string, error) {
	near.Mute()
	far.Mute()
	if err := settled(ctx, near, far); err != nil {
		return "", err
	}
	daemon, err := status[admin.DaemonStatus](ctx, d, "tunneld")
	if err != nil {
		return "", err
	}
	proxy, err := status[admin.ProxyStatus](ctx, d, "tunnelproxy")
	if err != nil {
		return "", err
	}
	d.figures.tunnelled = [2]testphone.Stats{near.Stats(), far.Stats()}
	sent := near.Stats().Sent + far.Stats().Sent
	heard := near.Stats().Received + far.Stats().Received
	if err := matching(sent, heard, proxy.Relays, daemon.Relays); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d packets up, %d down", sent, heard), nil
}

// settled waits until nothing arrives any more.
func settled(ctx context.Context, near, far *testphone.Call) error {
	const quiet = 10 // polls
	var last uint64
	same := 0
	return until(ctx, nil, func() error {
		heard := near.Stats().Received + far.Stats().Received
		if heard != last {
			last, same = heard, 0
		}
		if same++; same < quiet {
			return errors.New("packets still arrive")
		}
		return nil
	})
}

// matching checks the relays of both programs against each other and against what the phones sent
// and heard.
func matching(sent, heard uint64, proxy, daemon []admin.Relay) error {
	far := make(map[string]admin.Relay)
	for _, r := range daemon {
		far[r.PBXAddress] = r
	}
	var in, out uint64
	used := 0
	for _, r := range proxy {
		if r.PacketsIn+r.PacketsOut == 0 {
			continue // allocated ahead
		}
		used++
		in += r.PacketsIn
		out += r.PacketsOut
		other, ok := far[r.PBXAddress]
		switch {
		case !ok:
			return fmt.Errorf("tunneld has no relay %s", r.PBXAddress)
		case !same(r.PacketsIn, other.PacketsOut):
			return fmt.Errorf("relay %s: %d packets into the tunnel, %d out", r.PBXAddress, r.PacketsIn, other.PacketsOut)
		case !same(other.PacketsIn, r.PacketsOut):
			return fmt.Errorf("relay %s: %d packets from the PBX, %d to the phone", r.PBXAddress, other.PacketsIn, r.PacketsOut)
		}
	}
	switch {
	case used != 2:
		return fmt.Errorf("%d relays were used, one for each phone is expected", used)
	case !same(sent, in):
		return fmt.Errorf("the phones sent %d packets, tunnelproxy has got %d", sent, in)
	case !same(heard, out):
		return fmt.Errorf("the phones heard %d packets, tunnelproxy has sent %d", heard, out)
	}
	return nil
}

// same compares counts. A few packets may be dropped before the answer to a call has told the relays
// where they come from, and one in a hundred may be lost on a machine with other things to do.
func same(a, b uint64) bool {
	return a > 0 && b > 0 && max(a, b)-min(a, b) <= max(5, a/100)
}

// echo has the second phone call the echo.
func (d *demo) echo(ctx context.Context) error {
	var c *testphone.Call
	err := d.step(ctx, "102 calls the echo and hears itself", func(ctx context.Context) (_ string, err error) {
		if c, err = d.second.Call(ctx, minipbx.Echo); err != nil {
			return "", err
		}
		if err := c.Hear(ctx, secondHz, d.cfg.Talk/2); err != nil {
			return "", err
		}
		d.figures.echo = c.Stats()
		return fmt.Sprintf("after %s", milliseconds(d.figures.echo.Delay.Median)), nil
	})
	if err != nil {
		return err
	}
	return d.step(ctx, "102 hangs up, and no call is left anywhere", func(ctx context.Context) (string, error) {
		if err := c.Hangup(ctx); err != nil {
			return "", err
		}
		return "", d.nothingLeft(ctx, nil)
	})
}
