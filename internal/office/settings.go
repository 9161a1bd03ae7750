package office

import (
	"net/netip"
	"slices"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/logging"
)

const (
	defaultServerPort = 5090
	defaultSIPPort    = 5060
	defaultTLSPort    = 5061
)

// settings are the flags of serve and the keys of the configuration file.
type settings struct {
	serverFlags
	SIPListen      endpoints             `name:"sip-listen" setting:"" placeholder:"[HOST]:PORT" default:":5060" help:"Where phones send SIP, UDP and TCP; several with commas between them. Default: ${default}, every address of this machine."`
	SIPTLSListen   endpoints             `name:"sip-tls-listen" setting:"" placeholder:"[HOST]:PORT" help:"Where phones send SIP over TLS. Default: off; port 5061 of the same addresses with --tls-cert."`
	TLSCert        string                `name:"tls-cert" setting:"" placeholder:"FILE" help:"Certificate for phones over TLS, PEM, with its chain; read again when it is renewed. Default: one of our own making, in the state directory."`
	TLSKey         string                `name:"tls-key" setting:"" placeholder:"FILE" help:"Its key, PEM."`
	LANAddress     config.Address        `name:"lan-address" setting:"" placeholder:"IP" help:"Address of this machine that phones are told. Default: the one that each phone uses."`
	MediaWait      config.MediaWait      `setting:"" placeholder:"TIME|auto" default:"2ms" help:"How long a packet of media waits for others to share a datagram: 0 to 20ms, or auto. Default: ${default}."`
	MediaTransport config.MediaTransport `setting:"" placeholder:"auto|tcp" default:"auto" help:"How media crosses the tunnel: as datagrams on UDP whenever that works, or over the TCP connection only. Default: ${default}."`
	MediaDSCP      dscp.Class            `name:"media-dscp" setting:"" placeholder:"DSCP" default:"EF" help:"Mark of media in the IP header, toward phones and tunneld: EF, AF41, CS5 and so on, or a number of 0 to 63; 0 is none. Default: ${default}."`
	SignallingDSCP dscp.Class            `name:"signalling-dscp" setting:"" placeholder:"DSCP" default:"CS3" help:"Mark of SIP and of the tunnel's TCP connection. Default: ${default}."`
	MediaPorts     config.PortRange      `setting:"" placeholder:"LOW-HIGH" default:"40000-49999" help:"UDP ports for the media of phones, two a call. Default: ${default}."`
	PhoneNetworks  []config.Network      `setting:"" placeholder:"CIDR" help:"Networks to serve besides private and directly connected ones."`
	Trunk          []trunk               `setting:"" placeholder:"NAME=HOST[:PORT][;transport=tcp]" help:"A PBX of the office that does not register: calls to and from it, of any user, go through the tunnel as those of one phone."`
	LogLevel       logging.Level         `setting:"" placeholder:"LEVEL" default:"info" help:"debug, info, warn or error. Default: ${default}."`
	LogFormat      logging.Format        `setting:"" placeholder:"FORMAT" default:"auto" help:"human, json, or auto: human on a terminal."`
}

// serverFlags name a server without a join link.
type serverFlags struct {
	Server       config.Endpoint `setting:"" placeholder:"HOST[:PORT]" help:"The tunneld to connect to. Default: that of the join link."`
	Name         string          `setting:"" placeholder:"NAME" help:"Name of the credential, with --server. Default: default."`
	PasswordFile string          `setting:"" placeholder:"FILE" help:"File with the password, with --server; - is standard input."`
}

// validate finds settings that contradict each other.
func (s *settings) validate() error {
	if s.MediaPorts.Pairs() < 2 {
		return config.Errorf(config.ExitConfig, "give --media-ports at least four", "media-ports %v has no room for a call", s.MediaPorts)
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		return config.Errorf(config.ExitConfig, "give both, or none of them", "tls-cert and tls-key belong together")
	}
	if err := s.checkTrunks(); err != nil {
		return err
	}
	plain := map[uint16]bool{}
	for _, at := range s.SIPListen.withPort(defaultSIPPort) {
		plain[at.Port] = true
		if s.MediaPorts.Contains(at.Port) {
			return config.Errorf(config.ExitConfig, "keep --sip-listen out of --media-ports", "sip-listen port %d is one of media-ports %v", at.Port, s.MediaPorts)
		}
	}
	for _, at := range s.tlsListen() {
		if s.MediaPorts.Contains(at.Port) {
			return config.Errorf(config.ExitConfig, "keep --sip-tls-listen out of --media-ports", "sip-tls-listen port %d is one of media-ports %v", at.Port, s.MediaPorts)
		}
		if plain[at.Port] {
			return config.Errorf(config.ExitConfig, "choose another port for --sip-tls-listen, 5061 for instance", "sip-tls-listen and sip-listen are both on port %d", at.Port)
		}
	}
	return nil
}

// tlsListen is where TLS is served; empty when it is not.
func (s *settings) tlsListen() endpoints {
	if len(s.SIPTLSListen) == 0 && s.TLSCert != "" {
		var all endpoints
		for _, at := range s.SIPListen {
			all = append(all, config.Endpoint{Host: at.Host, Port: defaultTLSPort})
		}
		return all
	}
	return s.SIPTLSListen.withPort(defaultTLSPort)
}

// networks gives the configured networks as other packages take them.
func (s *settings) networks() []netip.Prefix {
	prefixes := make([]netip.Prefix, 0, len(s.PhoneNetworks))
	for _, n := range s.PhoneNetworks {
		prefixes = append(prefixes, n.Prefix)
	}
	return prefixes
}

// place is where this machine is in its LAN.
type place struct {
	lan    netip.Addr // what all phones of its family are told; zero: what each of them uses
	listen endpoints
	tls    endpoints // empty: no TLS
}

// survey fills in the settings that were left open.
func (s *settings) survey() (*place, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	// What the network is like just now is no mistake in the settings: after a power cut it may come up later than this
	// program, which is tried again then.
	if s.LANAddress.IsValid() && !config.IsLocal(s.LANAddress.Addr) {
		return nil, config.Errorf(config.ExitTaken, "choose one of this machine's addresses (ip address lists them), or leave it out",
			"lan-address %v is not an address of this machine", s.LANAddress)
	}
	return &place{lan: s.LANAddress.Addr, listen: s.SIPListen.withPort(defaultSIPPort), tls: s.tlsListen()}, nil
}

// addresses are those of this machine that phones may use now, with the port that listen has for them: what is told to
// people. Every address of interfaces toward a LAN stands for a wildcard.
func (p *place) addresses(listen endpoints, candidates func() ([]config.LANCandidate, error)) []netip.AddrPort {
	var all []netip.AddrPort
	add := func(addr netip.Addr, port uint16) {
		if at := netip.AddrPortFrom(addr, port); !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	for _, at := range listen {
		addr, isAddr := at.Addr()
		if !at.IsWildcard() {
			if isAddr {
				add(addr, at.Port)
			}
			continue
		}
		takes := func(a netip.Addr) bool { return !isAddr || a.Is4() == addr.Is4() }
		if p.lan.IsValid() && takes(p.lan) {
			add(p.lan, at.Port)
		}
		found, _ := candidates() // People are told of none then.
		for _, c := range found {
			if takes(c.Address) && (!p.lan.IsValid() || p.lan.Is4() != c.Address.Is4()) {
				add(c.Address, at.Port)
			}
		}
	}
	return all
}

// endpoints are addresses to listen on.
type endpoints []config.Endpoint

// withPort gives those a port that have none.
func (e endpoints) withPort(port uint16) endpoints {
	all := make(endpoints, 0, len(e))
	for _, at := range e {
		if at = at.WithPort(port); at.Host == "localhost" {
			at.Host = "127.0.0.1"
		}
		all = append(all, at)
	}
	return all
}

// texts gives host:port of each.
func (e endpoints) texts() []string {
	all := make([]string, 0, len(e))
	for _, at := range e {
		all = append(all, at.String())
	}
	return all
}
