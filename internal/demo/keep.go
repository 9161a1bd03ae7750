package demo

import (
	"context"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/minipbx"
	"github.com/siptunnel/siptunnel/internal/testphone"
)

// keep leaves everything running until ctx ends: the phones stay registered and answer calls.
func (d *demo) keep(ctx context.Context) error {
	user := spareUsers[0]
	r := d.report
	r.line("")
	r.line("Everything goes on running. To try a real phone, set on it:")
	r.line("")
	r.line("  outbound proxy    %s (UDP or TCP)", d.proxySIP)
	r.line("  server, domain    %s", d.pbx.Domain())
	r.line("  user              %s, or %s", user, spareUsers[1])
	r.line("  password          %s, or %s", d.passwords[user], d.passwords[spareUsers[1]])
	r.line("  codec             PCMU (G.711 mu-law)")
	r.line("")
	r.line("and dial")
	r.line("")
	r.line("  %s   echo: hear yourself", minipbx.Echo)
	r.line("  %s   a tone", minipbx.Tone)
	r.line("  %s   busy", minipbx.Busy)
	r.line("  %s   rings and is never answered", minipbx.NoAnswer)
	r.line("  %s   a tone before the answer", minipbx.EarlyMedia)
	r.line("  %s, %s   the phones of the demo, which answer with a tone", firstUser, secondUser)
	r.line("  %s, %s   a second real phone", spareUsers[0], spareUsers[1])
	r.line("")
	r.line("Look:  %s/tunneld status --state-dir %s", d.bin, d.state("tunneld"))
	r.line("       %s/tunnelproxy status --state-dir %s", d.bin, d.state("tunnelproxy"))
	r.line("Logs:  %s/*.log", d.dir)
	r.line("")
	r.line("The accounts are for this run only. End it with Ctrl-C.")

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, p := range []*testphone.Phone{d.first, d.second} {
		wg.Go(func() { d.attend(ctx, p) })
	}
	var err error
	select {
	case <-ctx.Done():
	case <-d.daemon.done:
		err = ErrFailed
		r.line("tunneld has ended: %v", d.daemon.err)
	case <-d.proxy.done:
		err = ErrFailed
		r.line("tunnelproxy has ended: %v", d.proxy.err)
	}
	if err != nil {
		d.showLogs()
	}
	return err
}

// refreshEvery is how often the phones of a kept demo register again, well within their hour.
const refreshEvery = 10 * time.Minute

// attend keeps a phone registered and answers its calls, until ctx ends.
func (d *demo) attend(ctx context.Context, p *testphone.Phone) {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-p.Incoming():
			if err := c.Answer(ctx); err != nil {
				d.report.line("%s could not answer %s: %v", p.User(), c.Remote(), err)
			}
		case <-ticker.C:
			if _, err := p.Register(ctx, time.Hour); err != nil && ctx.Err() == nil {
				d.report.line("%s could not register: %v", p.User(), err)
			}
		}
	}
}
