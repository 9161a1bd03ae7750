package office

import (
	"net/netip"
	"sync"
	"time"
)

// neighboursAge is how old an answer of the kernel may be: many phones of one
// flow are asked for one after the other.
const neighboursAge = 10 * time.Millisecond

// neighbours are the hardware addresses of the hosts on the machine's own
// networks, as its kernel knows them. The zero value is ready; it is safe for
// concurrent use.
type neighbours struct {
	mu    sync.Mutex
	asked time.Time
	table map[netip.Addr]string
}

// of is the hardware address of a, "" where there is none to be known: behind a
// router, on this machine, or where the kernel does not tell.
func (n *neighbours) of(a netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.asked.IsZero() || now.Sub(n.asked) > neighboursAge {
		n.asked, n.table = now, neighbourTable()
	}
	return n.table[a.WithZone("")]
}
