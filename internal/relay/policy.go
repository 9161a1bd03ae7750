package relay

import "net/netip"

// A Policy says whether packets from src may belong to the peer whose SDP named
// the address signalled. It is asked about sources that are not the latched one
// only, but an attacker decides how often: it must be cheap and must not block.
// It is called from the goroutines of the relay, never twice at once for one
// component.
type Policy func(src, signalled netip.AddrPort) bool

// LANPolicy is the policy toward a phone. It accepts, with any port, the address
// in the phone's SDP, the address that the phone's SIP comes from, and those in
// networks: a phone may sit behind a NAT or have several addresses.
//
// signalling returns the phone's SIP address at the time of asking, or the zero
// Addr as long as it is not known; it must be safe for concurrent use and may be
// nil.
func LANPolicy(signalling func() netip.Addr, networks ...netip.Prefix) Policy {
	networks = append([]netip.Prefix(nil), networks...)
	return func(src, signalled netip.AddrPort) bool {
		addr := src.Addr()
		if addr == signalled.Addr() {
			return true
		}
		if signalling != nil && addr == signalling().Unmap() {
			return true
		}
		// A Prefix holds no zones and contains no address that has one.
		addr = addr.WithZone("")
		for _, n := range networks {
			if n.Contains(addr) {
				return true
			}
		}
		return false
	}
}

// PBXPolicy is the policy toward the PBX. It accepts, with any port, the address
// in the PBX's SDP and the addresses for which isPBX is true, those configured
// as the PBX's. Where SDP names this host (a loopback address or one for which
// isLocal is true) the PBX runs here, and packets from any address of this host
// are accepted: SDP may say 127.0.0.1 and the packets come from the address of
// an interface, or the other way round. Either function may be nil.
func PBXPolicy(isPBX, isLocal func(netip.Addr) bool) Policy {
	here := func(a netip.Addr) bool {
		return a.IsLoopback() || isLocal != nil && isLocal(a)
	}
	return func(src, signalled netip.AddrPort) bool {
		addr := src.Addr()
		if addr == signalled.Addr() || isPBX != nil && isPBX(addr) {
			return true
		}
		return here(signalled.Addr()) && here(addr)
	}
}
