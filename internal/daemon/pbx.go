package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
)

const (
	pbxInterval    = time.Minute     // between looks at the PBX's name and health
	resolveTimeout = 5 * time.Second // for the name
	pbxRemembered  = time.Hour       // an address that the name no longer has may send this long: its calls go on
)

// resolver finds the addresses of a host, at least one, the preferred one first.
type resolver func(ctx context.Context, host string) ([]netip.Addr, error)

// resolveHost asks the system's resolver; IPv4 comes before IPv6, as PBXs use it. An address is its own result.
func resolveHost(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	for i := range addresses {
		addresses[i] = addresses[i].Unmap()
	}
	slices.SortStableFunc(addresses, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addresses, nil
}

// pbx looks after the PBX: which addresses its name has, and whether it answers. Its methods are safe for concurrent use.
type pbx struct {
	endpoint config.Endpoint // with its port
	domain   string
	resolve  resolver
	ask      func(ctx context.Context, pbx netip.AddrPort, domain string) (time.Duration, error)
	moved    func(now netip.AddrPort) // called when the PBX is at another address
	log      *zap.Logger

	view atomic.Pointer[pbxView] // read for every packet from a stranger

	mu     sync.Mutex
	health admin.PBX
}

// pbxView is what is known about addresses at one moment; it is not changed once it is stored.
type pbxView struct {
	current netip.AddrPort
	seen    map[netip.Addr]time.Time // all addresses of the name, by when it last had them
	local   map[netip.Addr]bool      // addresses of this machine
}

func newPBX(s *settings, p *place, log *zap.Logger) *pbx {
	b := &pbx{
		endpoint: s.PBX.WithPort(s.PBXTransport.defaultPort()),
		domain:   p.domain,
		resolve:  resolveHost,
		ask:      p.way.askOptions,
		moved:    func(netip.AddrPort) {},
		log:      log,
		health:   admin.PBX{Name: s.PBX.WithPort(s.PBXTransport.defaultPort()).String(), Address: p.pbx.String()},
	}
	b.look(p.pbxAll, time.Now())
	return b
}

// Addr is where requests go.
func (b *pbx) Addr() netip.AddrPort { return b.view.Load().current }

// Is reports whether addr is, or was a while ago, the PBX's.
func (b *pbx) Is(addr netip.Addr) bool {
	_, ok := b.view.Load().seen[addr.Unmap()]
	return ok
}

// IsLocal reports whether addr is one of this machine's, as of the last minute.
func (b *pbx) IsLocal(addr netip.Addr) bool {
	addr = addr.Unmap()
	return addr.IsLoopback() || b.view.Load().local[addr]
}

// Status gives what is known about the PBX's health.
func (b *pbx) Status() admin.PBX {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.health
}

// run looks at the PBX now and every minute until ctx is done.
func (b *pbx) run(ctx context.Context) {
	ticker := time.NewTicker(pbxInterval)
	defer ticker.Stop()
	for {
		b.check(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		addresses, err := b.resolve(ctx, b.endpoint.Host)
		if err != nil {
			if ctx.Err() == nil {
				b.log.Warn("the PBX's name does not resolve, its last address stays", zap.String("pbx", b.endpoint.Host), zap.Error(err))
			}
			addresses = nil
		}
		if b.look(addresses, time.Now()) {
			b.log.Warn("the PBX has another address, sessions are opened again", zap.String("pbx", b.endpoint.Host), zap.Stringer("address", b.Addr()))
			b.moved(b.Addr())
		}
	}
}

// look takes in the present addresses of the name (none: unknown) and of this machine, and reports whether the PBX has
// moved. An address stays the current one as long as the name has it, in whatever order they come.
func (b *pbx) look(addresses []netip.Addr, now time.Time) (moved bool) {
	next := &pbxView{seen: map[netip.Addr]time.Time{}, local: localAddresses()}
	if old := b.view.Load(); old != nil {
		next.current = old.current
		maps.Copy(next.seen, old.seen)
	}
	for _, addr := range addresses {
		next.seen[addr] = now
	}
	if len(addresses) > 0 && !slices.Contains(addresses, next.current.Addr()) {
		moved = next.current.IsValid()
		next.current = netip.AddrPortFrom(addresses[0], b.endpoint.Port)
	}
	maps.DeleteFunc(next.seen, func(addr netip.Addr, last time.Time) bool {
		return addr != next.current.Addr() && now.Sub(last) > pbxRemembered
	})
	b.view.Store(next)
	return moved
}

// check asks the PBX and logs when its health changes.
func (b *pbx) check(ctx context.Context) {
	address := b.Addr()
	rtt, err := b.ask(ctx, address, b.domain)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	b.mu.Lock()
	first, before := b.health.Checked.IsZero(), b.health.Answers
	b.health.Address, b.health.Answers, b.health.Checked = address.String(), err == nil, time.Now()
	b.health.RTTMS, b.health.Error = admin.Milliseconds(rtt), ""
	if err != nil {
		b.health.Error = err.Error()
	}
	b.mu.Unlock()
	switch {
	case err != nil && (first || before):
		b.log.Warn("the PBX does not answer; is --pbx right, and does it allow this machine?", zap.Stringer("pbx", address), zap.Error(err))
	case err == nil && (first || !before):
		b.log.Info("the PBX answers", zap.Stringer("pbx", address), zap.Duration("rtt", rtt))
	}
}

func localAddresses() map[netip.Addr]bool {
	local := map[netip.Addr]bool{}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return local // Loopback is known all the same.
	}
	for _, a := range addresses {
		if prefix, ok := a.(*net.IPNet); ok {
			addr, _ := netip.AddrFromSlice(prefix.IP)
			local[addr.Unmap()] = true
		}
	}
	return local
}
