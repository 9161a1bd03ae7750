package demo

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"

	"github.com/siptunnel/siptunnel/internal/config"
)

// place says which address each part has. All differ, apart from the phones' and tunnelproxy's with
// Keep.
type place struct {
	phones [2]netip.Addr
	lan    netip.Addr // tunnelproxy
	server netip.Addr // tunneld, and the forwarder before it
	pbx    netip.Addr
}

// locate takes loopback addresses that hardly anybody else uses at the moment.
func (d *demo) locate() error {
	a, b := byte(64+rand.N(128)), byte(rand.N(256))
	at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{127, a, b, last}) }
	d.place = place{phones: [2]netip.Addr{at(11), at(12)}, lan: at(2), server: at(3), pbx: at(4)}
	if !d.cfg.Keep {
		return nil
	}
	lan := d.cfg.LAN
	if !lan.IsValid() {
		var err error
		if lan, err = config.DefaultSource(); err != nil {
			return fmt.Errorf("this machine has no default route; say with -lan which address real phones can reach: %w", err)
		}
	}
	if !config.IsLocal(lan) {
		return fmt.Errorf("%s is no address of this machine", lan)
	}
	d.place.lan = lan
	d.place.phones = [2]netip.Addr{lan, lan}
	return nil
}

func (p place) drawing() string {
	return strings.Join([]string{
		"",
		"  phones            tunnelproxy          tunneld             PBX",
		fmt.Sprintf("  %-17s %-20s %-19s %s", p.phones[0], p.lan, p.server, p.pbx),
		fmt.Sprintf("  %-17s", p.phones[1]),
		"     '---- SIP, RTP ---'====== one TCP ======'---- SIP, RTP ---'",
		"",
	}, "\n")
}

// portAttempts bounds the search for a free port.
const portAttempts = 100

// freePort returns the first port from the given one on that nobody has at the moment. The programs
// keep the usual ports apart from each other, so it is a usual one if possible.
func freePort(addr netip.Addr, first uint16) (uint16, error) {
	for port := first; port < first+portAttempts; port++ {
		if isFree(netip.AddrPortFrom(addr, port)) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port at %s from %d on", addr, first)
}

// isFree reports whether an address can be bound, over UDP and TCP.
func isFree(addr netip.AddrPort) bool {
	udp, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		return false
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", addr.String())
	if err != nil {
		return false
	}
	defer tcp.Close()
	return true
}
