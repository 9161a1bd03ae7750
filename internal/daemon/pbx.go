package daemon

import (
	"context"
	"crypto/tls"
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

// pbxRemembered is how long an address that the PBX's names no longer have may still send: its calls go on.
const pbxRemembered = time.Hour

// pbx looks after the PBX: at which addresses it is, its targets, and which of them answer. It is the sipfwd.PBX of all
// offices. Its methods are safe for concurrent use.
type pbx struct {
	domain    string
	endpoints []config.Endpoint // as configured, in order of preference
	way       way
	lookup    lookup
	ask       func(ctx context.Context, t target, domain string) (time.Duration, error)
	reaches   func(netip.AddrPort) bool // from where the phones' ports are
	left      func(netip.AddrPort)      // called when a target has ceased to answer
	log       *zap.Logger

	view     atomic.Pointer[pbxView] // read for every packet from a stranger
	suspects chan netip.AddrPort
	changed  chan struct{} // there are new targets

	mu     sync.Mutex
	found  [][]target // by endpoint
	health map[netip.AddrPort]*health
}

// pbxView is what is known about targets and addresses at one moment; it is not changed once it is stored.
type pbxView struct {
	targets []target // in order of preference
	down    map[netip.AddrPort]bool
	current netip.AddrPort
	seen    map[netip.Addr]sighting // addresses of the PBX, former ones too
	local   map[netip.Addr]bool     // addresses of this machine
}

// sighting is a target, and when it last was one.
type sighting struct {
	target
	at time.Time
}

func newPBX(s *settings, p *place, log *zap.Logger) *pbx {
	b := &pbx{
		domain:    p.domain,
		endpoints: s.PBX,
		way:       p.way,
		lookup:    p.lookup,
		ask:       p.way.askOptions,
		reaches:   p.reaches,
		left:      func(netip.AddrPort) {},
		log:       log,
		suspects:  make(chan netip.AddrPort, maxTargets),
		changed:   make(chan struct{}, 1),
		found:     p.found,
		health:    map[netip.AddrPort]*health{},
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.publish(time.Now())
	return b
}

// Target is part of sipfwd.PBX, as are the methods that follow.
func (b *pbx) Target(tried ...netip.AddrPort) (netip.AddrPort, bool) {
	v := b.view.Load()
	if len(tried) == 0 {
		return v.current, true
	}
	for _, t := range v.targets {
		if !v.down[t.addr] && !slices.Contains(tried, t.addr) {
			return t.addr, true
		}
	}
	return netip.AddrPort{}, false
}

// Owner goes by the address alone where the port is none of a target's: that of a connection, or of another socket.
func (b *pbx) Owner(from netip.AddrPort) netip.AddrPort {
	v := b.view.Load()
	var owner netip.AddrPort
	for _, t := range v.targets {
		switch {
		case t.addr == from:
			return from
		case t.addr.Addr() == from.Addr() && (!owner.IsValid() || t.addr == v.current):
			owner = t.addr
		}
	}
	if !owner.IsValid() {
		owner = v.seen[from.Addr()].addr
	}
	return owner
}

func (b *pbx) Down(target netip.AddrPort) bool { return b.view.Load().down[target] }

func (b *pbx) Suspect(target netip.AddrPort) {
	if len(b.view.Load().targets) < 2 {
		return // there is nothing that could be done about it
	}
	select {
	case b.suspects <- target:
	default: // it is being looked at
	}
}

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

// trust is what the certificate of a target must be.
func (b *pbx) trust(addr netip.AddrPort) *tls.Config {
	v := b.view.Load()
	for _, t := range v.targets {
		if t.addr == addr {
			return b.way.trusted(t.host)
		}
	}
	return b.way.trusted(v.seen[addr.Addr()].host)
}

// Status gives what is known about the PBX's health.
func (b *pbx) Status() admin.PBX {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.view.Load()
	var s admin.PBX
	var all []admin.PBXTarget
	for _, t := range v.targets {
		h := b.health[t.addr]
		one := admin.PBXTarget{
			Name: t.name, Address: t.addr.String(), Current: t.addr == v.current, Down: h.down,
			Answers: h.answers, RTTMS: admin.Milliseconds(h.rtt), Checked: h.checked, Error: h.problem,
		}
		all = append(all, one)
		if one.Current {
			s = admin.PBX{Name: one.Name, Address: one.Address, Answers: one.Answers, RTTMS: one.RTTMS, Checked: one.Checked, Error: one.Error}
		}
	}
	if len(all) > 1 {
		s.Targets = all
	}
	return s
}

// look takes in what the names of the PBX stand for now: by endpoint, nil where that is not known, and then it stays.
func (b *pbx) look(found [][]target, now time.Time) {
	b.mu.Lock()
	for i, targets := range found {
		if len(targets) > 0 {
			b.found[i] = inOrderOf(b.found[i], targets)
		}
	}
	before := b.view.Load()
	b.publish(now)
	unreached := len(usable(b.found, b.reaches)) == 0
	all := addressesOf(slices.Concat(b.found...))
	b.mu.Unlock()
	v := b.view.Load()
	added := func(of, in *pbxView) []string {
		return addressesOf(slices.DeleteFunc(slices.Clone(of.targets), func(t target) bool {
			return slices.ContainsFunc(in.targets, func(o target) bool { return o.addr == t.addr })
		}))
	}
	if unreached {
		b.log.Warn("the PBX is where the phones' ports cannot reach it; restart tunneld", zap.Strings("pbx", all))
	}
	came, went := added(v, before), added(before, v)
	if len(came)+len(went) > 0 {
		b.log.Info("the PBX's names have other addresses", zap.Strings("new", came), zap.Strings("gone", went))
	}
	if len(came) > 0 {
		select {
		case b.changed <- struct{}{}:
		default:
		}
	}
}

func addressesOf(targets []target) []string {
	var texts []string
	for _, t := range targets {
		texts = append(texts, t.addr.String())
	}
	return texts
}

// inOrderOf sorts targets of the same name as they were before, new ones last: the DNS gives them in any order.
func inOrderOf(before, targets []target) []target {
	targets = slices.Clone(targets)
	place := func(t target) int {
		if i := slices.Index(before, t); i >= 0 {
			return i
		}
		return len(before)
	}
	for from := 0; from < len(targets); {
		to := from + 1
		for to < len(targets) && targets[to].name == targets[from].name {
			to++
		}
		slices.SortStableFunc(targets[from:to], func(a, b target) int { return place(a) - place(b) })
		from = to
	}
	return targets
}

// publish makes the view of what is known. It is called with mu held.
func (b *pbx) publish(now time.Time) {
	old := b.view.Load()
	if old == nil {
		old = &pbxView{}
	}
	v := &pbxView{down: map[netip.AddrPort]bool{}, seen: map[netip.Addr]sighting{}, local: localAddresses()}
	maps.Copy(v.seen, old.seen)
	for _, t := range slices.Concat(b.found...) {
		v.seen[t.addr.Addr()] = sighting{t, now}
	}
	if v.targets = usable(b.found, b.reaches); len(v.targets) == 0 {
		v.targets = old.targets // The network may be down: there is nothing better.
	}
	health := map[netip.AddrPort]*health{}
	for _, t := range v.targets {
		health[t.addr] = b.healthOf(t.addr)
		v.down[t.addr] = health[t.addr].down
	}
	b.health = health
	if v.current = v.choose(old.current); old.current.IsValid() && v.current != old.current {
		b.log.Warn("requests go to another address of the PBX", zap.Stringer("from", old.current), zap.Stringer("to", v.current))
	}
	maps.DeleteFunc(v.seen, func(_ netip.Addr, s sighting) bool { return now.Sub(s.at) > pbxRemembered })
	b.view.Store(v)
}

// choose is where requests go that belong to no dialog: the first target that answers. When none does it stays where it
// was.
func (v *pbxView) choose(before netip.AddrPort) netip.AddrPort {
	stays := false
	for _, t := range v.targets {
		if !v.down[t.addr] {
			return t.addr
		}
		stays = stays || t.addr == before
	}
	if stays || len(v.targets) == 0 {
		return before
	}
	return v.targets[0].addr
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
