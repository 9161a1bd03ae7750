package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	namesInterval   = time.Minute      // between looks at the PBX's names
	healthInterval  = time.Minute      // between looks at its health where there is one target,
	standbyInterval = 10 * time.Second // and where there are several
	suspectInterval = 2 * time.Second  // the least time between two looks at a target
	answersToReturn = 2                // in a row, after which a target that was left is taken again
)

// health is what is known about one target. Its fields are the pbx's to guard.
type health struct {
	down    bool // left, see answersToReturn
	inARow  int  // answers
	answers bool // to the last OPTIONS
	rtt     time.Duration
	checked time.Time // zero: not yet
	problem string
}

// healthOf is that of a target, which is taken to be well until it was asked.
func (b *pbx) healthOf(addr netip.AddrPort) *health {
	if h := b.health[addr]; h != nil {
		return h
	}
	return &health{}
}

// run looks after names and health until ctx is done.
func (b *pbx) run(ctx context.Context) {
	var names sync.WaitGroup
	names.Go(func() { b.watchNames(ctx) })
	b.watchHealth(ctx)
	names.Wait()
}

func (b *pbx) watchNames(ctx context.Context) {
	ticker := time.NewTicker(namesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		found := make([][]target, len(b.endpoints))
		for i, e := range b.endpoints {
			targets, err := b.lookup.targets(ctx, e)
			if err == nil || b.plain(i, err) {
				found[i] = targets
			} else if ctx.Err() == nil {
				b.log.Warn("a name of the PBX does not resolve, its last addresses stay", zap.String("pbx", e.Host), zap.Error(err))
			}
		}
		b.look(found, time.Now())
	}
}

// plain reports whether err is about SRV records that the name of an endpoint did not have before either: it may be in this
// machine's own list of hosts, and no DNS be there to say so.
func (b *pbx) plain(endpoint int, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, aboutServices := errors.AsType[*servicesError](err)
	return aboutServices && !b.lookup.byServices(b.endpoints[endpoint], b.found[endpoint])
}

func (b *pbx) watchHealth(ctx context.Context) {
	for {
		targets := b.view.Load().targets
		var asked sync.WaitGroup
		for _, t := range targets {
			asked.Go(func() { b.check(ctx, t) })
		}
		asked.Wait()
		interval := standbyInterval
		if len(targets) < 2 {
			interval = healthInterval
		}
		next := time.NewTimer(interval)
		for due := false; !due; {
			select {
			case <-ctx.Done():
				next.Stop()
				return
			case suspect := <-b.suspects:
				b.checkSuspect(ctx, suspect)
			case <-b.changed:
				due = true
			case <-next.C:
				due = true
			}
		}
		next.Stop()
	}
}

// checkSuspect asks a target, unless that was done a moment ago.
func (b *pbx) checkSuspect(ctx context.Context, addr netip.AddrPort) {
	for _, t := range b.view.Load().targets {
		if t.addr != addr {
			continue
		}
		b.mu.Lock()
		since := time.Since(b.healthOf(addr).checked)
		b.mu.Unlock()
		if since >= suspectInterval {
			b.check(ctx, t)
		}
	}
}

// check asks a target, leaves it or takes it again, and logs when its health changes.
func (b *pbx) check(ctx context.Context, t target) {
	rtt, err := b.ask(ctx, t, b.domain)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	b.mu.Lock()
	h := b.health[t.addr]
	if h == nil {
		b.mu.Unlock()
		return // it has gone meanwhile
	}
	first, wasDown := h.checked.IsZero(), h.down
	h.answers, h.checked, h.rtt, h.problem = err == nil, time.Now(), rtt, ""
	if err != nil {
		h.inARow, h.down, h.problem = 0, true, err.Error()
	} else if h.inARow++; h.inARow >= answersToReturn || len(b.health) == 1 {
		h.down = false
	}
	down := h.down
	switch {
	case down && !wasDown:
		b.log.Warn(silence(err), zap.Stringer("pbx", t.addr), zap.Error(err))
	case !down && (first || wasDown):
		b.log.Info("the PBX answers", zap.Stringer("pbx", t.addr), zap.Duration("rtt", rtt))
	}
	if down != wasDown {
		b.publish(time.Now())
	}
	b.mu.Unlock()
	if down && !wasDown {
		b.left(t.addr)
	}
}

// silence says what to look at when the PBX was asked in vain.
func silence(err error) string {
	_, unverified := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	_, misnamed := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	if unverified || unknown || misnamed || invalid {
		return "the PBX's certificate is not trusted; give it, or its authority's, as --pbx-tls-ca, and the name that it is for as --pbx"
	}
	return "the PBX does not answer; is --pbx right, and does it allow this machine?"
}
