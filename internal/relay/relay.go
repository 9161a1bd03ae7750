package relay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
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

	// Poller reads the sockets. It may serve many Relays and must be closed
	// after them.
	Poller *Poller

	// Accept says which sources may be the peer's; see the package's text. Nil
	// accepts the signalled address and port alone.
	Accept Policy

	// Sink is given every packet that is taken in. The packet is valid during
	// the call only. Sink is called by the Poller, must not block, and must not
	// call Close. Nil discards.
	Sink func(c Component, packet []byte)

	// Report has the Relay tell the other end of the tunnel what it measures, and
	// learn what that measures. Without, it does so once the other end has begun.
	Report bool

	// Replaces is the Relay in whose place this one is, with another Pair for the same
	// peer and with the same Poller. Start closes it, and this one goes on with what that
	// has measured; whoever still sends there is told so (net.ErrClosed). On an error it
	// stays as it is. Nil: none.
	Replaces *Relay
}

// A Relay joins one peer's media ports to a Sink and to Send. Its methods are
// safe for concurrent use.
//
// A program has as many as calls. What only one of them uses at a time is the Poller's.
type Relay struct {
	pair   *Pair
	poller *Poller // times are since it began
	sink   func(Component, []byte)

	halves [components]half
	drops  dropCounter
	lastIn atomic.Int64 // time.Duration, plus 1; 0: never

	findings // guarded by mu of the RTP half

	// Guarded by mu of the RTCP half: packets passed on.
	rtcpIn, rtcpOut uint64

	aside     atomic.Uint64 // packets; see Aside
	reportGap atomic.Int64  // time.Duration from one report to the next, less than firstReport before the first
	reportAt  atomic.Int64  // time.Duration: when the next report is due; 0: firstReport after the next packet
}

// findings are what a relay has measured and been told.
type findings struct {
	in, out meter
	control control              // what is known beyond RTP
	far     [reportLegsSize]byte // of the other end's latest report
	hasFar  bool
}

// A half is what a relay has for one component.
type half struct {
	relay     *Relay
	component Component
	failures  uint8 // in a row; the Poller's
	slot      int32 // the Poller's; negative: none

	mu      sync.Mutex // guards what follows
	socket  *socket
	latch   latch
	in, out *meter // the Relay's; nil: RTCP
}

// Start begins to relay. As long as SetRemote has named no address, all packets
// are dropped. On an error the Pair is closed.
func Start(config Config) (*Relay, error) {
	r := &Relay{pair: config.Pair, poller: config.Poller, sink: config.Sink}
	if r.sink == nil {
		r.sink = func(Component, []byte) {}
	}
	if !config.Report {
		r.reportAt.Store(silent)
	}
	r.drops.program = &r.poller.dropped
	for c := range r.halves {
		h := &r.halves[c]
		h.relay, h.component, h.socket = r, Component(c), &config.Pair.sockets[c]
		h.latch.accept = config.Accept
		h.slot = -1
	}
	r.halves[RTP].in, r.halves[RTP].out = &r.in, &r.out
	for c := range r.halves {
		if err := r.poller.add(&r.halves[c]); err != nil {
			return nil, errors.Join(fmt.Errorf("media socket: %w", err), r.Close())
		}
	}
	if config.Replaces != nil {
		r.replace(config.Replaces)
	}
	return r, nil
}

// replace closes old and takes from it what it has measured, before r has a remote
// address and so anything of its own to measure.
func (r *Relay) replace(old *Relay) {
	_ = old.Close() // that of its ports
	old.halves[RTP].mu.Lock()
	found := old.findings
	old.findings = findings{} // Who still sends there measures for nobody.
	old.halves[RTP].mu.Unlock()
	r.halves[RTP].mu.Lock()
	r.findings = found
	r.halves[RTP].mu.Unlock()

	old.halves[RTCP].mu.Lock()
	in, out := old.rtcpIn, old.rtcpOut
	old.halves[RTCP].mu.Unlock()
	r.halves[RTCP].mu.Lock()
	r.rtcpIn, r.rtcpOut = in, out
	r.halves[RTCP].mu.Unlock()

	r.drops.add(&old.drops)
	r.lastIn.Store(old.lastIn.Load())
	r.aside.Store(old.aside.Load())
	r.reportGap.Store(old.reportGap.Load())
	r.reportAt.Store(old.reportAt.Load())
}

// LocalAddr returns the address of the RTP port. RTCP's is one port higher.
func (r *Relay) LocalAddr() netip.AddrPort { return r.pair.Addr() }

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
	if c == RTCP && IsReport(packet) {
		r.reported(packet)
		return nil
	}
	h := &r.halves[c]
	at := r.poller.now()
	h.mu.Lock()
	// Measured before it is known whether it goes out: what is dropped here, on hold
	// above all, was not lost on the way here.
	measured := c == RTP && h.out.measure(packet, at)
	to, v := h.latch.target()
	var err error
	if v == pass {
		if err = h.socket.send(packet, to); err == nil {
			h.sent(packet)
		}
	}
	if measured {
		h.out.note(v == pass)
	}
	h.mu.Unlock()
	if v == pass && isRTCP(packet) {
		r.passedRTCP(packet, at)
	}
	switch {
	case v != pass:
		r.drops.count(v)
		return nil
	case err == nil:
		return nil
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, ErrQueueFull):
		r.drops.count(dropQueueFull)
	default:
		r.drops.count(dropSendFailed)
	}
	return err
}

// Stats returns what was counted up to now.
func (r *Relay) Stats() Stats {
	var s Stats
	rtp, rtcp := &r.halves[RTP], &r.halves[RTCP]

	rtp.mu.Lock()
	s.In, s.Out = rtp.in.traffic(), rtp.out.traffic()
	s.Quality = rtp.quality()
	s.Signalled, s.Latched, s.Held = rtp.latch.signalled, rtp.latch.source, rtp.latch.held
	rtp.mu.Unlock()

	rtcp.mu.Lock()
	s.In.RTCP, s.Out.RTCP = r.rtcpIn, r.rtcpOut
	rtcp.mu.Unlock()

	s.Dropped = r.drops.drops()
	if at := r.lastIn.Load(); at != 0 {
		s.LastIn = r.poller.began.Add(time.Duration(at - 1))
	}
	return s
}

// Close closes the ports, which go into quarantine, and waits until the Sink is
// called no more. It can be called more than once.
func (r *Relay) Close() error {
	rtp, rtcp := &r.halves[RTP], &r.halves[RTCP]
	r.poller.remove(rtp)
	r.poller.remove(rtcp)
	rtp.mu.Lock()
	defer rtp.mu.Unlock()
	rtcp.mu.Lock()
	defer rtcp.mu.Unlock()
	return r.pair.Close()
}

// received is told what the socket gave, or admit's verdict about it. It says
// false when the socket has failed too often in a row to be asked again.
func (h *half) received(packet []byte, v verdict, err error) bool {
	r := h.relay
	switch {
	case err == nil:
		h.failures = 0
	case errors.Is(err, errWouldBlock):
		return true
	case errors.Is(err, net.ErrClosed):
		return false
	default:
		h.failures++
		r.drops.count(readFailed)
		return h.failures < maxReadErrors
	}
	if v != pass {
		r.drops.count(v)
		return true
	}
	at := time.Duration(r.lastIn.Load() - 1) // admit's
	if isRTCP(packet) {
		r.heardRTCP(packet, at)
	}
	r.sink(h.component, packet)
	if r.reportIsDue(at) {
		r.report()
	}
	return true
}

// heardRTCP reads what the peer has sent, passedRTCP what was sent to it.
func (r *Relay) heardRTCP(packet []byte, at time.Duration) {
	h := &r.halves[RTP]
	h.mu.Lock()
	defer h.mu.Unlock()
	r.control.heard(h.out, packet, at)
}

func (r *Relay) passedRTCP(packet []byte, at time.Duration) {
	h := &r.halves[RTP]
	h.mu.Lock()
	defer h.mu.Unlock()
	r.control.passed(packet, at)
}

// admit decides about a packet and measures it if it passes. It is called with
// mu held.
func (h *half) admit(packet []byte, src netip.AddrPort) verdict {
	if len(packet) == 0 || len(packet) > MaxPacket {
		return dropSize
	}
	at := h.relay.poller.now()
	if v := h.latch.admit(src, at); v != pass {
		return v
	}
	if h.component == RTCP && IsReport(packet) {
		return dropReport
	}
	if h.component == RTP {
		h.in.pass(packet)
		h.in.measure(packet, at)
	} else {
		h.relay.rtcpIn++
	}
	h.relay.lastIn.Store(int64(at) + 1)
	return pass
}

// sent counts a packet that went to the peer. It is called with mu held.
func (h *half) sent(packet []byte) {
	if h.component == RTP {
		h.out.pass(packet)
	} else {
		h.relay.rtcpOut++
	}
}
