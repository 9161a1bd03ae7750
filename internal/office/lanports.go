package office

import (
	"errors"
	"net/netip"
	"sync"

	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/relay"
)

// maxLANAddresses bounds the addresses of this machine that have media ports at one time.
const maxLANAddresses = 64

var errTooManyAddresses = errors.New("media ports are in use at too many addresses of this machine")

// lanPorts has the media ports of every address of this machine that phones use. Each address has the whole range: a socket
// that is bound to one takes nothing that was sent to another, and what it sends has the source that the phone expects.
// It is safe for concurrent use.
type lanPorts struct {
	low, high uint16
	class     dscp.Class // of what goes to phones

	mu sync.Mutex
	at map[netip.Addr]*relay.Ports
}

// open takes a pair of ports at addr. An address of IPv6 that is link-local needs its zone.
func (p *lanPorts) open(addr netip.Addr) (*relay.Pair, error) {
	ports, err := p.of(addr.Unmap())
	if err != nil {
		return nil, err
	}
	return ports.Open()
}

func (p *lanPorts) of(addr netip.Addr) (*relay.Ports, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ports := p.at[addr]; ports != nil {
		return ports, nil
	}
	if len(p.at) >= maxLANAddresses {
		p.forgetUnused()
	}
	if len(p.at) >= maxLANAddresses {
		return nil, errTooManyAddresses
	}
	ports, err := relay.NewPorts(addr, p.low, p.high)
	if err != nil {
		return nil, err
	}
	ports.Mark(p.class)
	if p.at == nil {
		p.at = make(map[netip.Addr]*relay.Ports)
	}
	p.at[addr] = ports
	return ports, nil
}

// forgetUnused drops the addresses that nothing is known of any more: no port is open there, none rests. It is called with
// mu held.
func (p *lanPorts) forgetUnused() {
	for addr, ports := range p.at {
		if open, resting, _ := ports.Usage(); open == 0 && resting == 0 {
			delete(p.at, addr)
		}
	}
}
