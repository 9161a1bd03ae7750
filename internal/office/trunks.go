package office

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/probe"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

const (
	resolveInterval = time.Minute // between looks at the names of trunks
	resolveTimeout  = 5 * time.Second
)

// trunk is a PBX of the office that does not register.
type trunk struct {
	name      string
	at        config.Endpoint // with its port
	transport string          // "UDP" or "TCP"
}

// UnmarshalText takes NAME=HOST[:PORT][;transport=udp|tcp].
func (t *trunk) UnmarshalText(text []byte) error {
	name, at, found := strings.Cut(string(text), "=")
	at, param, hasParam := strings.Cut(at, ";")
	next := trunk{name: name, transport: "UDP"}
	switch {
	case !found:
		return fmt.Errorf("%q is not NAME=HOST:PORT", text)
	case !sipfwd.ValidTrunkName(name):
		return fmt.Errorf("%q: the name %q is not 1 to 32 letters, digits, hyphens, dots and underscores", text, name)
	}
	switch strings.ToLower(param) {
	case "transport=udp":
	case "transport=tcp":
		next.transport = "TCP"
	default:
		if hasParam {
			return fmt.Errorf("%q: %q is neither transport=udp nor transport=tcp", text, param)
		}
	}
	if err := next.at.UnmarshalText([]byte(at)); err != nil {
		return err
	}
	if next.at.IsWildcard() {
		return fmt.Errorf("%q has no host", text)
	}
	next.at = next.at.WithPort(defaultSIPPort)
	*t = next
	return nil
}

// host is how URIs name it.
func (t *trunk) host() string {
	if addr, ok := t.at.Addr(); ok {
		return probe.Bracketed(addr)
	}
	return t.at.Host
}

// resolve finds where the trunk is. Of several addresses that counts at which it was before, else the first one, and IPv4
// before IPv6: the DNS gives them in any order.
func (t *trunk) resolve(ctx context.Context, before netip.Addr) (netip.Addr, error) {
	if addr, ok := t.at.Addr(); ok {
		return addr, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var found []netip.Addr
	var err error
	for _, network := range []string{"ip4", "ip6"} {
		if found, err = net.DefaultResolver.LookupNetIP(ctx, network, t.at.Host); err == nil && len(found) > 0 {
			return preferred(found, before), nil
		}
	}
	return netip.Addr{}, err
}

func preferred(found []netip.Addr, before netip.Addr) netip.Addr {
	for _, addr := range found {
		if addr.Unmap() == before {
			return before
		}
	}
	return found[0].Unmap()
}

// locate is resolve, but refuses a name that leads to this program itself: what it sent there would come back to it.
func (s *settings) locate(ctx context.Context, t *trunk, before netip.Addr) (netip.Addr, error) {
	addr, err := t.resolve(ctx, before)
	if err == nil && s.isOwn(netip.AddrPortFrom(addr, t.at.Port)) {
		return netip.Addr{}, t.isOurselves()
	}
	return addr, err
}

// checkTrunks finds trunks that contradict each other, or are this program itself.
func (s *settings) checkTrunks() error {
	for i, t := range s.Trunk {
		for _, other := range s.Trunk[:i] {
			if other.name == t.name {
				return config.Errorf(config.ExitConfig, "give each its own name", "trunk %s is there twice", t.name)
			}
			if t.isWhere(&other) {
				return config.Errorf(config.ExitConfig, "remove one, or give them different ports",
					"trunks %s and %s are both at %v: what comes from there could be either's", other.name, t.name, t.at)
			}
		}
		if addr, isAddr := t.at.Addr(); isAddr && s.isOwn(netip.AddrPortFrom(addr, t.at.Port)) {
			return t.isOurselves()
		}
	}
	return nil
}

// isWhere reports whether t is certain to be where other is, over whichever transport. All addresses of this machine are one
// place: what runs here may send from any.
func (t *trunk) isWhere(other *trunk) bool {
	if t.at.Port != other.at.Port {
		return false
	}
	addr, isAddr := t.at.Addr()
	another, isAnother := other.at.Addr()
	if !isAddr || !isAnother {
		return isAddr == isAnother && strings.EqualFold(strings.TrimSuffix(t.at.Host, "."), strings.TrimSuffix(other.at.Host, "."))
	}
	return samePlace(addr, another)
}

func samePlace(a, b netip.Addr) bool {
	return a.Unmap() == b.Unmap() || config.IsLocal(a) && config.IsLocal(b)
}

// elsewhere finds fault with a trunk whose name has led to where another one is, of those whose addresses are known.
func (s *settings) elsewhere(t *trunk, addr netip.Addr, known map[string]netip.Addr) error {
	for _, other := range s.Trunk {
		at, ok := other.at.Addr()
		if !ok {
			at = known[other.name]
		}
		if other.name != t.name && other.at.Port == t.at.Port && at.IsValid() && samePlace(at, addr) {
			return fmt.Errorf("it is at %v, where trunk %s is", netip.AddrPortFrom(addr, t.at.Port), other.name)
		}
	}
	return nil
}

// isOwn reports whether at is where this program itself takes SIP.
func (s *settings) isOwn(at netip.AddrPort) bool {
	return config.IsLocal(at.Addr()) && slices.ContainsFunc(s.SIPListen.withPort(defaultSIPPort), func(listen config.Endpoint) bool {
		addr, _ := listen.Addr()
		return listen.Port == at.Port() && (listen.IsWildcard() || addr == at.Addr())
	})
}

func (t *trunk) isOurselves() error {
	return config.Errorf(config.ExitConfig, "give --sip-listen another port than the PBX has that runs here", "trunk %s: %v is where tunnelproxy itself listens", t.name, t.at)
}

// trunks gives the configured trunks as sipfwd takes them. Those with a name have no address yet.
func (s *settings) trunks() []sipfwd.Trunk {
	var all []sipfwd.Trunk
	for _, t := range s.Trunk {
		addr, _ := t.at.Addr()
		all = append(all, sipfwd.Trunk{Name: t.name, Host: t.host(), Port: t.at.Port, Transport: t.transport, Addr: addr})
	}
	return all
}

// watchTrunks looks the names of trunks up, now and every minute. An address stays when its name does not resolve.
func (p *proxy) watchTrunks(ctx context.Context) {
	known := map[string]netip.Addr{}
	for {
		named := false
		for _, t := range p.settings.Trunk {
			if _, isAddr := t.at.Addr(); isAddr {
				continue
			}
			named = true
			addr, err := p.settings.locate(ctx, &t, known[t.name])
			if err == nil {
				err = p.settings.elsewhere(&t, addr, known)
			}
			switch {
			case err != nil && ctx.Err() == nil:
				p.log.Warn("the host of a trunk cannot be used; correct --trunk, or give its address", zap.String("trunk", t.name), zap.String("host", t.at.Host), zap.Error(err))
			case err == nil && known[t.name] != addr:
				known[t.name] = addr
				p.side.SetTrunkAddr(t.name, addr)
				p.log.Info("trunk found", zap.String("trunk", t.name), zap.String("host", t.at.Host), zap.Stringer("address", addr))
			}
		}
		if !named {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(resolveInterval):
		}
	}
}

// check asks each trunk whether it is there.
func (c *checkCommand) checkTrunks(ctx context.Context, list *config.Checklist) {
	known := map[string]netip.Addr{}
	for _, t := range c.Trunk {
		addr, err := c.locate(ctx, &t, netip.Addr{})
		if err == nil {
			err = c.elsewhere(&t, addr, known)
		}
		known[t.name] = addr
		if err != nil {
			list.Fail("trunk", &config.Error{Code: config.ExitUnreachable, Problem: t.name + ": its host cannot be used", Err: err, Remedy: "correct --trunk, or give its address"})
			continue
		}
		to := netip.AddrPortFrom(addr, t.at.Port)
		rtt, err := probe.Options(ctx, probe.Peer{Addr: to, Transport: t.transport, Host: t.host(), Port: t.at.Port})
		if err != nil {
			list.Fail("trunk", &config.Error{Code: config.ExitUnreachable, Problem: fmt.Sprintf("%s: %v", t.name, to), Err: err,
				Remedy: "start it, correct --trunk, or have it accept SIP over " + t.transport + " from this machine"})
			continue
		}
		list.OK("trunk", "%s: %v answers OPTIONS over %s in %.1f ms", t.name, to, t.transport, admin.Milliseconds(rtt))
	}
}
