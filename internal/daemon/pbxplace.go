package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/siptunnel/siptunnel/internal/config"
)

// findPBX looks up what --pbx stands for, and finds the address of this machine that most of that can be reached from: all
// phones have it, or such of the same kind, toward whichever target.
func (p *place) findPBX(ctx context.Context, endpoints []config.Endpoint) error {
	var failed []error
	p.found = make([][]target, len(endpoints))
	for i, e := range endpoints {
		var err error
		if p.found[i], err = p.lookup.targets(ctx, e); err != nil {
			failed = append(failed, err)
			p.doubts = append(p.doubts, fmt.Sprintf("the PBX's name %s does not resolve as it should: %v", e.Host, err))
		}
	}
	targets := slices.Concat(p.found...)
	if len(targets) == 0 {
		return &config.Error{Code: config.ExitUnreachable, Problem: "the PBX's name does not resolve", Err: errors.Join(failed...),
			Remedy: "correct --pbx, or give its address"}
	}
	most, noRoute := 0, error(nil)
	for _, t := range targets {
		source, err := config.RouteSource(t.addr.Addr())
		if err != nil {
			noRoute = err
			continue
		}
		count := 0
		for _, other := range targets {
			if reaches(source, other.addr) == nil {
				count++
			}
		}
		if count > most {
			most, p.phoneAddress = count, source
		}
	}
	if most == 0 {
		return &config.Error{Code: config.ExitUnreachable, Problem: "no route to the PBX at " + targets[0].addr.String(), Err: noRoute,
			Remedy: "correct --pbx, or the network of this machine"}
	}
	return nil
}

// findTargets finds the first target that the phones' ports can reach, and says which they cannot. Other addresses of a name
// that has one are left out without a word: it is of both IP versions mostly.
func (p *place) findTargets() error {
	var unreached []target
	named := map[string]bool{}
	for _, t := range slices.Concat(p.found...) {
		if !p.reaches(t.addr) {
			unreached = append(unreached, t)
			continue
		}
		named[t.name] = true
		if !p.pbx.IsValid() {
			p.pbx = t.addr
		}
	}
	for _, t := range unreached {
		if !named[t.name] {
			p.doubts = append(p.doubts, fmt.Sprintf("the PBX at %v is left out: it cannot be reached from %v, where phones' ports are because of the others", t.addr, p.phoneSource))
		}
	}
	if !p.pbx.IsValid() {
		return config.Errorf(config.ExitUnreachable, "correct --pbx, or the network of this machine", "the PBX cannot be reached from %v", p.phoneSource)
	}
	return nil
}

// targets are those that the phones' ports can reach, the preferred one first.
func (p *place) targets() []target { return usable(p.found, p.reaches) }

func usable(found [][]target, reaches func(netip.AddrPort) bool) []target {
	var targets []target
	for _, t := range slices.Concat(found...) {
		known := slices.ContainsFunc(targets, func(o target) bool { return o.addr == t.addr })
		if !known && len(targets) < maxTargets && reaches(t.addr) {
			targets = append(targets, t)
		}
	}
	return targets
}

// reaches reports whether the phones' ports can send to a target.
func (p *place) reaches(to netip.AddrPort) bool { return reaches(p.phoneSource, to) == nil }

// reaches is an error when packets from an address of this machine cannot go to another machine's: from loopback they leave
// it for none, and each IP version stays by itself. Nothing is sent.
func reaches(from netip.Addr, to netip.AddrPort) error {
	if from.Is4() != to.Addr().Is4() {
		return errors.New("they are of different IP versions")
	}
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	return conn.Close()
}
