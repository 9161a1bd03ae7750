package relay

import (
	"net/netip"
	"time"
)

// RelatchAfter is the silence of the latched source after which another source
// that the policy accepts may take its place: a peer that restarted its media
// without new SDP. It is longer than RTCP is silent between two reports (5 s,
// and up to half as much again by chance, RFC 3550 section 6.2), since the latch
// of RTCP must not open after each of them.
const RelatchAfter = 10 * time.Second

// A latch decides, for one component, whose packets are let in and where packets
// go. It knows neither sockets nor a clock: times are handed in as the time
// since any fixed moment. It is not safe for concurrent use. The zero value has
// no remote.
type latch struct {
	accept Policy // nil: the signalled address alone

	signalled netip.AddrPort // from SDP; zero: none
	source    netip.AddrPort // learnt from a packet; zero: the latch is open
	heard     time.Duration  // when source was heard last
	held      bool
}

// setRemote takes what SDP says. The same address again changes nothing, another
// one opens the latch. An unspecified address with a port is the hold of old
// (RFC 3264 section 8.4): nothing is sent until the address comes back, and as
// the peer has not moved, its latch is kept. Anything that cannot be a unicast
// peer, port 0 and the zero AddrPort included, takes the remote away.
func (l *latch) setRemote(addr netip.AddrPort) {
	addr = unmap(addr)
	ip := addr.Addr()
	if ip.IsUnspecified() && addr.Port() != 0 {
		l.held = true
		return
	}
	l.held = false
	if addr.Port() == 0 || ip.IsMulticast() || ip == broadcast() {
		addr = netip.AddrPort{}
	}
	if addr != l.signalled {
		l.signalled = addr
		l.source = netip.AddrPort{}
	}
}

// admit decides about a packet from src at the time now.
func (l *latch) admit(src netip.AddrPort, now time.Duration) verdict {
	switch {
	case !l.signalled.IsValid():
		return dropNoRemote
	case src == l.source:
		l.heard = now
		return pass
	case src == l.signalled:
		// Better evidence than any other source can give: it takes the
		// latch from a stray packet that came first.
	case l.source.IsValid() && now-l.heard < RelatchAfter:
		return dropUnknownSource
	}
	if !l.accepts(src) {
		return dropUnknownSource
	}
	l.source, l.heard = src, now
	return pass
}

func (l *latch) accepts(src netip.AddrPort) bool {
	if l.accept == nil {
		return src == l.signalled
	}
	return l.accept(src, l.signalled)
}

// target returns where packets go: to the latched, else to the signalled
// address.
func (l *latch) target() (netip.AddrPort, verdict) {
	switch {
	case l.held:
		return netip.AddrPort{}, dropHeld
	case l.source.IsValid():
		return l.source, pass
	case l.signalled.IsValid():
		return l.signalled, pass
	}
	return netip.AddrPort{}, dropNoRemote
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func broadcast() netip.Addr {
	return netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
