package relay

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// MaxPacket is the largest packet that a relay carries, in bytes.
const MaxPacket = 1500

// maxReadErrors is how many errors in a row a reader survives. A socket reports
// a passing condition, such as an interface that went down, once.
const maxReadErrors = 100

// Errors of Send, beside net.ErrClosed and what the system says.
var (
	ErrPacketSize = errors.New("packet is empty or larger than 1500 bytes")
	ErrQueueFull  = errors.New("the kernel's send queue is full, packet dropped")
	ErrComponent  = errors.New("no such component")
)

// A Component is one of the two halves of a media stream that have a port each
// (the term is RFC 8445's).
type Component uint8

// The components.
const (
	RTP  Component = 0
	RTCP Component = 1

	components = 2
)

// String returns "RTP" or "RTCP".
func (c Component) String() string {
	switch c {
	case RTP:
		return "RTP"
	case RTCP:
		return "RTCP"
	}
	return "unknown component"
}

// Config says what a Relay works with.
type Config struct {
	// Pair is the sockets. The Relay owns them from Start on and closes them.
	Pair *Pair

	// Accept says which sources may be the peer's; see the package's text. Nil
	// accepts the signalled address and port alone.
	Accept Policy

	// Sink is given every packet that is taken in. The packet is valid during
	// the call only. Sink is called by one goroutine per component, must not
	// block, and must not call Close. Nil discards.
	Sink func(c Component, packet []byte)

	// Counters counts what is dropped, as media.dropped.REASON. It may be nil.
	Counters *counter.Set
}

// A Relay joins one peer's media ports to a Sink and to Send. Its methods are
// safe for concurrent use.
type Relay struct {
	pair  *Pair
	local netip.AddrPort
	sink  func(Component, []byte)
	began time.Time
	now   func() time.Duration // since began

	halves  [components]half
	drops   dropCounter
	lastIn  atomic.Int64 // time.Duration since began, plus 1; 0: never
	readers sync.WaitGroup
}

// A half is what a relay has for one component.
type half struct {
	conn   *net.UDPConn
	sender sender

	mu    sync.Mutex // guards what follows
	latch latch
	in    meter
	out   meter
}

// Start begins to relay. As long as SetRemote has named no address, all packets
// are dropped.
func Start(config Config) *Relay {
	began := time.Now()
	return start(config, began, func() time.Duration { return time.Since(began) })
}

func start(config Config, began time.Time, now func() time.Duration) *Relay {
	r := &Relay{
		pair:  config.Pair,
		local: config.Pair.Addr(),
		sink:  config.Sink,
		began: began,
		now:   now,
	}
	if r.sink == nil {
		r.sink = func(Component, []byte) {}
	}
	r.drops.init(config.Counters)
	for c, conn := range [components]*net.UDPConn{RTP: config.Pair.RTP, RTCP: config.Pair.RTCP} {
		h := &r.halves[c]
		h.conn = conn
		h.latch.accept = config.Accept
		h.sender.init(conn)
		r.readers.Go(func() { r.read(Component(c), h) })
	}
	return r
}

// LocalAddr returns the address of the RTP port. RTCP's is one port higher.
func (r *Relay) LocalAddr() netip.AddrPort { return r.local }

// SetRemote takes the addresses that the peer's SDP names, of the first SDP and
// of every later one. The same address again keeps what was latched, another one
// opens the latch. A zero AddrPort (or port 0, or one that is no
// unicast address) means none: nothing goes in or out. 0.0.0.0 or :: with a
// port means hold: nothing goes out, and the peer is known still when it comes
// back.
func (r *Relay) SetRemote(rtp, rtcp netip.AddrPort) {
	for c, addr := range [components]netip.AddrPort{RTP: rtp, RTCP: rtcp} {
		h := &r.halves[c]
		h.mu.Lock()
		h.latch.setRemote(addr)
		h.mu.Unlock()
	}
}

// Send sends a packet to the latched, else to the signalled address. It does not
// wait and does not keep packet. With no remote, or on hold, the packet is
// dropped without an error. After any error but net.ErrClosed the next packet may
// well pass. Every drop is counted, up to Close.
func (r *Relay) Send(c Component, packet []byte) error {
	if c >= components {
		return ErrComponent
	}
	if len(packet) == 0 || len(packet) > MaxPacket {
		r.drops.count(dropSize)
		return ErrPacketSize
	}
	h := &r.halves[c]
	at := r.now()
	h.mu.Lock()
	if c == RTP {
		// Before it is known whether it goes out: what is dropped here, on
		// hold above all, was not lost on the way here.
		h.out.measure(packet, at)
	}
	to, v := h.latch.target()
	h.mu.Unlock()
	if v != pass {
		r.drops.count(v)
		return nil
	}
	switch err := h.sender.send(packet, to); {
	case err == nil:
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, ErrQueueFull):
		r.drops.count(dropQueueFull)
		return err
	default:
		r.drops.count(dropSendFailed)
		return err
	}
	h.mu.Lock()
	h.out.pass(packet)
	h.mu.Unlock()
	return nil
}

// Stats returns what was counted up to now.
func (r *Relay) Stats() Stats {
	var s Stats
	rtp, rtcp := &r.halves[RTP], &r.halves[RTCP]

	rtp.mu.Lock()
	s.In, s.Out = rtp.in.traffic(), rtp.out.traffic()
	s.Signalled, s.Latched, s.Held = rtp.latch.signalled, rtp.latch.source, rtp.latch.held
	rtp.mu.Unlock()

	rtcp.mu.Lock()
	s.In.RTCP, s.Out.RTCP = rtcp.in.packets, rtcp.out.packets
	rtcp.mu.Unlock()

	s.Dropped = r.drops.drops()
	if at := r.lastIn.Load(); at != 0 {
		s.LastIn = r.began.Add(time.Duration(at - 1))
	}
	return s
}

// Close closes the ports, which go into quarantine, and waits until the Sink is
// called no more. It can be called more than once.
func (r *Relay) Close() error {
	err := r.pair.Close()
	r.readers.Wait()
	return err
}

// read takes packets in until the socket is closed.
func (r *Relay) read(c Component, h *half) {
	// One byte more than a packet may have shows the ones that have more.
	buf := make([]byte, MaxPacket+1)
	failures := 0
	for failures < maxReadErrors {
		n, src, err := h.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			failures++
			r.drops.count(readFailed)
			continue
		}
		failures = 0
		if v := r.take(c, h, buf[:n], unmap(src)); v != pass {
			r.drops.count(v)
			continue
		}
		r.sink(c, buf[:n])
	}
}

// take decides about a packet and measures it if it passes.
func (r *Relay) take(c Component, h *half, packet []byte, src netip.AddrPort) verdict {
	if len(packet) == 0 || len(packet) > MaxPacket {
		return dropSize
	}
	at := r.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := h.latch.admit(src, at); v != pass {
		return v
	}
	h.in.pass(packet)
	if c == RTP {
		h.in.measure(packet, at)
	}
	r.lastIn.Store(int64(at) + 1)
	return pass
}
