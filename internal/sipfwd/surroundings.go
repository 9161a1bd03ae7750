package sipfwd

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// surroundingsAge is how old what is known about the machine's interfaces may get:
// a network that is added is served this much later.
const surroundingsAge = 2 * time.Second

// surroundings are the addresses of this machine and the networks that they are in,
// which change while it runs: DHCP, a VLAN that is added. It is safe for concurrent
// use.
type surroundings struct {
	addrs func() ([]net.Addr, error)

	mu       sync.Mutex
	read     time.Time
	prefixes []netip.Prefix // with the machine's own address, not masked
}

// look is what the interfaces are like. A machine that cannot tell stays with what
// it knew.
func (s *surroundings) look() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && time.Since(s.read) < surroundingsAge {
		return s.prefixes
	}
	s.read = time.Now()
	addrs, err := s.addrs()
	if err != nil {
		return s.prefixes
	}
	s.prefixes = nil
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			s.prefixes = append(s.prefixes, p)
		}
	}
	return s.prefixes
}

// onLink says whether a is in a network of this machine's.
func (s *surroundings) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(s.look(), func(p netip.Prefix) bool { return p.Bits() > 0 && p.Contains(a.WithZone("")) })
}

// own says whether a is this machine's.
func (s *surroundings) own(a netip.Addr) bool {
	return slices.ContainsFunc(s.look(), func(p netip.Prefix) bool { return p.Addr() == a && !a.IsLoopback() })
}

// serves is the door: whether a source belongs to the office.
func (s *LANSide) serves(a netip.Addr) bool {
	if a.IsLoopback() || a.IsPrivate() || a.IsLinkLocalUnicast() {
		return true
	}
	within := func(p netip.Prefix) bool { return p.Contains(a) }
	return slices.ContainsFunc(s.cfg.Networks, within) || s.nearby.onLink(a) || s.isTrunk(a)
}
