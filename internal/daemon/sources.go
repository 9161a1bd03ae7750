package daemon

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// phoneSources says whose address the PBX sees.
type phoneSources sipfwd.Sources

// UnmarshalText takes shared, office or phone.
func (p *phoneSources) UnmarshalText(text []byte) error {
	switch s := sipfwd.Sources(text); s {
	case sipfwd.SharedSource, sipfwd.OfficeSource, sipfwd.PhoneSource:
		*p = phoneSources(s)
		return nil
	}
	return fmt.Errorf("%q is not one of shared, office, phone", text)
}

func (p phoneSources) shared() bool { return p == phoneSources(sipfwd.SharedSource) }

// checkSources finds out whether phones can have the addresses of phone-source-network. toPBX is this machine's address that
// packets to the PBX leave from: a loopback address when the PBX is there.
func (s *settings) checkSources(toPBX netip.Addr) error {
	network := s.SourceNetwork.Prefix
	if s.PhoneSources.shared() {
		return nil
	}
	refuse := func(remedy, format string, args ...any) error {
		return config.Errorf(config.ExitConfig, remedy, "phone-sources "+string(s.PhoneSources)+": "+format, args...)
	}
	const leaveOut = ", or leave --phone-sources out"
	first, last, ok := sipfwd.SourceRange(network)
	onLoopback := ok && first.IsLoopback()
	switch {
	case !ok:
		return refuse("give --phone-source-network a network like 127.77.0.0/16", "%v is no network for phones", network)
	case onLoopback && !toPBX.IsLoopback():
		return refuse("have the PBX listen on 127.0.0.1 and give --pbx that"+leaveOut,
			"the PBX is not on the loopback of this machine, and could not answer addresses of %v", network)
	case toPBX.Is4() != first.Is4():
		return refuse("give --pbx the PBX's IPv4 address, or --phone-source-network an IPv6 network that is local to this machine"+leaveOut,
			"the PBX is reached from %v, and %v has addresses of the other IP version", toPBX, network)
	case s.PhoneSources == phoneSources(sipfwd.PhoneSource) && sipfwd.SourceCount(network) < s.PhonePorts.Len():
		return refuse("widen --phone-source-network, or narrow --phone-ports",
			"%v has %d addresses for the %d phones of --phone-ports", network, sipfwd.SourceCount(network), s.PhonePorts.Len())
	}
	for _, addr := range []netip.Addr{first, last} {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		if err != nil {
			return &config.Error{Code: config.ExitTaken, Problem: fmt.Sprintf("phone-sources %s: %v is not an address of this machine", s.PhoneSources, addr), Err: err,
				Remedy: fmt.Sprintf("make the network local (ip route add local %v dev lo), and have the PBX route it here", network)}
		}
		conn.Close()
	}
	return nil
}
