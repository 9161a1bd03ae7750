package relay

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// Quarantine is how long a pair of ports rests after use. The peer of the last
// call may go on sending for a while, and a device that reboots for longer; the
// next call must not hear it.
const Quarantine = 60 * time.Second

// What is asked for per socket, in bytes. To receive: 100 ms of video at 10
// Mbit/s. To send: little, since whatever waits in the kernel for a slow link or
// an unknown neighbour is late when it leaves; Linux makes of it room for about
// 80 packets of voice.
const (
	receiveBuffer = 128 << 10
	sendBuffer    = 32 << 10
)

// ErrNoPorts is returned by Open when every pair of the range is in use, in
// quarantine, or held by another program.
var ErrNoPorts = errors.New("no pair of media ports is free: widen --media-ports")

// Ports gives out pairs of UDP ports, RTP on the even and RTCP on the odd port
// above it, of one address. The pairs come in no predictable order. All methods
// are safe for concurrent use.
type Ports struct {
	addr  netip.Addr
	first uint16 // even; pair i is first+2*i and the port after it
	now   func() time.Time
	class dscp.Class
	began time.Time

	mu    sync.Mutex
	pairs []time.Duration // until when each rests, since began; or open
}

const open time.Duration = math.MaxInt64 // in place of a time: the pair is in use

// NewPorts returns the pairs that lie within the ports lo to hi, both included.
// addr must be a single address of this host, as SDP will name it; an IPv4
// address gives IPv4 sockets. Nothing is bound yet.
func NewPorts(addr netip.Addr, lo, hi uint16) (*Ports, error) {
	return newPorts(addr, lo, hi, time.Now)
}

func newPorts(addr netip.Addr, lo, hi uint16, now func() time.Time) (*Ports, error) {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() {
		return nil, fmt.Errorf("media address %v is not the address of an interface", addr)
	}
	first := int(lo) + int(lo)%2
	if lo == 0 {
		return nil, errors.New("media ports must not start at 0")
	}
	n := (int(hi) - first + 1) / 2
	if n <= 0 {
		return nil, fmt.Errorf("media ports %d-%d hold no even port with the odd one after it", lo, hi)
	}
	return &Ports{addr: addr, first: uint16(first), now: now, class: dscp.Media, began: now(), pairs: make([]time.Duration, n)}, nil
}

// Mark says how sockets are marked in place of dscp.Media. It must be called before
// Open, if at all.
func (p *Ports) Mark(class dscp.Class) { p.class = class }

// Open binds a free pair. Pairs that another program holds are passed over. The
// error is ErrNoPorts when there is none left, else what the system said, such
// as that the address is not on this host (any longer) or that the process has
// no more descriptors.
func (p *Ports) Open() (*Pair, error) {
	n := len(p.pairs)
	start := rand.IntN(n)
	for step := 0; ; step++ {
		if step = p.take(start, step); step == n {
			return nil, ErrNoPorts
		}
		i := (start + step) % n
		pair, err := p.bind(i)
		if err == nil {
			return pair, nil
		}
		p.giveBack(i, 0)
		if !portTaken(err) {
			return nil, fmt.Errorf("open media ports: %w", err)
		}
	}
}

// take marks as open the first free pair at or after the given step from start
// and returns its step, or the number of pairs when there is none.
func (p *Ports) take(start, step int) int {
	now := p.now().Sub(p.began)
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; step < len(p.pairs); step++ {
		if rests := &p.pairs[(start+step)%len(p.pairs)]; now >= *rests {
			*rests = open
			return step
		}
	}
	return step
}

func (p *Ports) giveBack(i int, rest time.Duration) {
	until := p.now().Sub(p.began) + rest
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pairs[i] = until
}

func (p *Ports) bind(i int) (*Pair, error) {
	port := p.first + 2*uint16(i)
	pair := &Pair{addr: netip.AddrPortFrom(p.addr, port), ports: p, index: i}
	for c := range pair.sockets {
		if err := pair.sockets[c].open(netip.AddrPortFrom(p.addr, port+uint16(c)), p.class); err != nil {
			for _, opened := range pair.sockets[:c] {
				_ = opened.close()
			}
			return nil, err
		}
	}
	return pair, nil
}

// Usage says how many pairs are open, how many rest in quarantine, and how many
// there are in all. A pair held by another program counts as neither.
func (p *Ports) Usage() (inUse, resting, total int) {
	now := p.now().Sub(p.began)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rests := range p.pairs {
		switch {
		case rests == open:
			inUse++
		case now < rests:
			resting++
		}
	}
	return inUse, resting, len(p.pairs)
}

// A Pair is two bound sockets, RTP's and RTCP's. It belongs to whoever opened it
// until it is given to a Relay.
type Pair struct {
	addr    netip.AddrPort // RTP's
	sockets [components]socket

	ports *Ports
	index int
	once  sync.Once
	err   error
}

// Addr returns the address of the RTP port. RTCP's is one port higher.
func (p *Pair) Addr() netip.AddrPort { return p.addr }

// Close closes both sockets and sends the ports into quarantine. It can be
// called more than once and from several goroutines; all of them get the result
// of the first.
func (p *Pair) Close() error {
	p.once.Do(func() {
		p.err = errors.Join(p.sockets[RTP].close(), p.sockets[RTCP].close())
		p.ports.giveBack(p.index, Quarantine)
	})
	return p.err
}
