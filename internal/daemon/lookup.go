package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
)

const (
	resolveTimeout = 5 * time.Second // for one name
	maxTargets     = 16              // addresses of the PBX that are used
)

// resolver is what is asked of the DNS; a net.Resolver can do it.
type resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// target is an address of the PBX.
type target struct {
	addr netip.AddrPort
	host string // of --pbx, whose certificate it must have over TLS
	name string // host and port that the address was found by
}

// lookup finds the targets that --pbx means, as RFC 3263 section 4 has it for a transport that is configured: without NAPTR.
type lookup struct {
	resolver  resolver
	transport transport
	seed      string // decides between services of the same priority, always in the same way
}

// targets gives the addresses of e, the preferred one first. With targets and an error it is not certain that they are the
// right ones.
func (l lookup) targets(ctx context.Context, e config.Endpoint) ([]target, error) {
	e.Host = strings.TrimSuffix(e.Host, ".")
	var unsure error
	if _, isAddr := e.Addr(); !isAddr && e.Port == 0 && !isLocalhost(e.Host) {
		services, err := l.services(ctx, e.Host)
		if len(services) > 0 || errors.Is(err, errNoService) {
			return l.targetsOf(ctx, e.Host, services, err)
		}
		unsure = err
	}
	found, err := l.targetsOf(ctx, e.Host, []*net.SRV{{Target: e.Host, Port: e.WithPort(l.transport.defaultPort()).Port}}, nil)
	if err == nil && unsure != nil {
		err = &servicesError{unsure}
	}
	return found, err
}

// servicesError comes with the addresses of a name that may have SRV records, which are not known.
type servicesError struct{ error }

func (e *servicesError) Unwrap() error { return e.error }

// byServices reports whether SRV records have led to one of the targets.
func (l lookup) byServices(e config.Endpoint, targets []target) bool {
	plain := e.WithPort(l.transport.defaultPort()).String()
	return slices.ContainsFunc(targets, func(t target) bool { return t.name != plain })
}

// targetsOf gives the addresses of all services. Those that have none are left out, unless no other has.
func (l lookup) targetsOf(ctx context.Context, host string, services []*net.SRV, err error) ([]target, error) {
	var found []target
	var failed []error
	for _, s := range services {
		addresses, err := l.addresses(ctx, s.Target)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		name := net.JoinHostPort(s.Target, strconv.Itoa(int(s.Port)))
		for _, addr := range addresses {
			found = append(found, target{addr: netip.AddrPortFrom(addr, s.Port), host: host, name: name})
		}
	}
	if len(found) > 0 {
		failed = slices.DeleteFunc(failed, isNotFound)
	}
	return found[:min(len(found), maxTargets)], errors.Join(err, errors.Join(failed...))
}

// isNotFound reports whether the DNS has said for certain that there is no such thing.
func isNotFound(err error) bool {
	e, ok := errors.AsType[*net.DNSError](err)
	return ok && e.IsNotFound
}

// errNoService is what an SRV record with the target "." says, RFC 2782.
var errNoService = errors.New("its SRV record says that there is no SIP over this transport")

// services gives the SRV records of host in the order in which they are to be tried, none without an error if there are
// none.
func (l lookup) services(ctx context.Context, host string) ([]*net.SRV, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	service, proto := l.transport.service()
	_, records, err := l.resolver.LookupSRV(ctx, service, proto, host)
	if isNotFound(err) {
		return nil, nil
	}
	if len(records) == 0 {
		return nil, err
	}
	usable := slices.DeleteFunc(slices.Clone(records), func(r *net.SRV) bool { return r.Target == "." || r.Port == 0 })
	if len(usable) == 0 {
		return nil, fmt.Errorf("_%s._%s.%s: %w", service, proto, host, errNoService)
	}
	for i, r := range usable {
		usable[i] = &net.SRV{Target: strings.TrimSuffix(r.Target, "."), Port: r.Port, Priority: r.Priority, Weight: r.Weight}
	}
	l.order(usable)
	return usable, nil
}

// order sorts services by priority, and those of one priority by a draw in which their weights are their chances (RFC
// 2782). The draw is the same each time, and stays so for the others when one comes or goes: phones would else be moved each
// time that the DNS is asked.
func (l lookup) order(services []*net.SRV) {
	draw := func(s *net.SRV) float64 {
		sum := sha256.Sum256([]byte(l.seed + "\x00" + s.Target + "\x00" + strconv.Itoa(int(s.Port))))
		u := (float64(binary.BigEndian.Uint64(sum[:])>>11) + 0.5) / (1 << 53) // in (0, 1)
		return -math.Log(u) / max(float64(s.Weight), 0.01)                    // the least of these is that of s with the chance of its weight
	}
	slices.SortStableFunc(services, func(a, b *net.SRV) int {
		if a.Priority != b.Priority {
			return int(a.Priority) - int(b.Priority)
		}
		if draw(a) < draw(b) {
			return -1
		}
		return 1
	})
}

// addresses gives those of a host, at least one; IPv4 comes before IPv6, as PBXs use it. An address is its own.
func (l lookup) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := l.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	addresses := make([]netip.Addr, 0, len(found))
	for _, addr := range found {
		addresses = append(addresses, addr.Unmap())
	}
	slices.SortStableFunc(addresses, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addresses, nil
}

// isLocalhost reports whether the DNS has no business with a name, RFC 6761 section 6.3.
func isLocalhost(host string) bool {
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
