package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/probe"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

const (
	defaultListenPort = 5090
	defaultSIPPort    = 5060
	defaultTLSPort    = 5061
)

// settings are the flags of serve and the keys of the configuration file.
type settings struct {
	Listen         config.Endpoint       `setting:"" placeholder:"[HOST]:PORT" default:":5090" help:"Where offices connect to, TCP, and UDP for media. Default: ${default}."`
	PublicAddress  config.Endpoint       `setting:"" placeholder:"HOST[:PORT]" help:"What join links say: the name or address that offices reach this machine by. Default: the address of the default route."`
	PBX            []config.Endpoint     `name:"pbx" setting:"" placeholder:"HOST[:PORT]" default:"127.0.0.1" help:"The PBX, or several that stand in for each other, the preferred one first. Default: ${default}. A name without a port may have SRV records; else the port is 5060, 5061 over TLS."`
	PBXTransport   transport             `name:"pbx-transport" setting:"" placeholder:"udp|tcp|tls" default:"udp" help:"How the PBX takes SIP. Default: ${default}."`
	PBXTLSCA       string                `name:"pbx-tls-ca" setting:"" placeholder:"FILE" help:"The PBX's certificate, or that of its authority, PEM, for --pbx-transport tls. Default: what this machine trusts."`
	PBXTLSInsecure bool                  `name:"pbx-tls-insecure" setting:"" help:"Take any certificate for the PBX's: whoever is between can listen."`
	Domain         config.Domain         `setting:"" placeholder:"NAME" help:"SIP domain of the PBX. Default: the first host of --pbx."`
	MediaAddress   config.Address        `setting:"" placeholder:"IP" help:"Address of this machine that the PBX sends media to. Default: the source address of the default route, of the PBX's IP family."`
	MediaWait      config.MediaWait      `setting:"" placeholder:"TIME|auto" default:"2ms" help:"How long a packet of media waits for others to share a datagram: 0 to 20ms, or auto. Default: ${default}."`
	MediaTransport config.MediaTransport `setting:"" placeholder:"auto|tcp" default:"auto" help:"How media crosses the tunnel: as datagrams on UDP whenever that works, or over the TCP connection only. Default: ${default}."`
	MediaDSCP      dscp.Class            `name:"media-dscp" setting:"" placeholder:"DSCP" default:"EF" help:"Mark of media in the IP header, toward the PBX and offices: EF, AF41, CS5 and so on, or a number of 0 to 63; 0 is none. Default: ${default}."`
	SignallingDSCP dscp.Class            `name:"signalling-dscp" setting:"" placeholder:"DSCP" default:"CS3" help:"Mark of SIP and of the tunnel's TCP connection. Default: ${default}."`
	MediaPorts     config.PortRange      `setting:"" placeholder:"LOW-HIGH" default:"50000-59999" help:"UDP ports for media, two a call. Default: ${default}."`
	PhonePorts     config.PortRange      `setting:"" placeholder:"LOW-HIGH" default:"6000-6999" help:"Ports toward the PBX, UDP and TCP, one a phone. Default: ${default}."`
	PhoneSources   phoneSources          `setting:"" placeholder:"shared|office|phone" default:"shared" help:"Whose address the PBX sees: this machine's for all phones, one for each office (credential), or one for each phone. Default: ${default}."`
	SourceNetwork  config.Network        `name:"phone-source-network" setting:"" placeholder:"CIDR" default:"127.77.0.0/16" help:"Network of these addresses, for a PBX on this machine's loopback; another one must be local to this machine. Default: ${default}."`
	TrunkPort      []trunkPort           `setting:"" placeholder:"CREDENTIAL/TRUNK=PORT" help:"Port toward the PBX of a trunk of an office, inside of --phone-ports or not. Default: one of --phone-ports, the same again each time."`
	LogLevel       logging.Level         `setting:"" placeholder:"LEVEL" default:"info" help:"debug, info, warn or error. Default: ${default}."`
	LogFormat      logging.Format        `setting:"" placeholder:"FORMAT" default:"auto" help:"human, json, or auto: human on a terminal."`
}

// validate finds settings that contradict each other.
func (s *settings) validate() error {
	listen := s.Listen.WithPort(defaultListenPort).Port
	switch {
	case s.MediaPorts.Pairs() < 2:
		return config.Errorf(config.ExitConfig, "give --media-ports at least four", "media-ports %v has no room for a call", s.MediaPorts)
	case s.MediaPorts.Overlaps(s.PhonePorts):
		return config.Errorf(config.ExitConfig, "keep --media-ports and --phone-ports apart", "media-ports %v and phone-ports %v overlap", s.MediaPorts, s.PhonePorts)
	case s.MediaPorts.Contains(listen):
		return config.Errorf(config.ExitConfig, "keep --listen out of --media-ports", "listen port %d is one of media-ports %v", listen, s.MediaPorts)
	case s.PhonePorts.Contains(listen):
		return config.Errorf(config.ExitConfig, "keep --listen out of --phone-ports", "listen port %d is one of phone-ports %v", listen, s.PhonePorts)
	case len(s.PBX) == 0 || len(s.PBX) > maxTargets:
		return config.Errorf(config.ExitConfig, fmt.Sprintf("give --pbx one host, or up to %d", maxTargets), "pbx has %d hosts", len(s.PBX))
	case !s.PublicAddress.IsZero() && s.PublicAddress.IsWildcard():
		return config.Errorf(config.ExitConfig, "give --public-address the name or address that offices reach this machine by",
			"public-address %v is no address to connect to", s.PublicAddress)
	}
	for _, e := range s.PBX {
		if e.Host == "" {
			return config.Errorf(config.ExitConfig, "give --pbx a host, like 127.0.0.1:5060", "pbx %v has no host", e)
		}
		if e.IsWildcard() {
			return config.Errorf(config.ExitConfig, "give --pbx the PBX's own address", "pbx %v is no address to send to", e)
		}
	}
	return s.checkTrunkPorts()
}

// place is where this machine and the PBX are: what settings leave open, found out.
type place struct {
	listen       config.Endpoint
	public       config.Endpoint // what join links say; zero when that is not known
	domain       string
	pbx          netip.AddrPort // its first target
	found        [][]target     // what each --pbx stands for
	doubts       []string       // about the PBX
	lookup       lookup
	way          way
	phoneAddress netip.Addr // this machine as the PBX's SIP sees it
	phoneSource  netip.Addr // one of the addresses that phones have
	mediaAddress netip.Addr
}

// survey fills in the settings that were left open. Errors say which setting would help.
func (s *settings) survey(ctx context.Context, dns resolver) (*place, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	p := &place{listen: s.Listen.WithPort(defaultListenPort), domain: string(s.Domain)}
	if p.domain == "" {
		p.domain = strings.TrimSuffix(s.PBX[0].Host, ".") // SIP has no use for a name that is complete
		if addr, ok := s.PBX[0].Addr(); ok {
			p.domain = probe.Bracketed(addr)
		}
	}
	var err error
	if p.way, err = s.wayToPBX(); err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // without one the order is that of all other machines without
	p.lookup = lookup{resolver: dns, transport: s.PBXTransport, seed: host}
	if err := p.findPBX(ctx, s.PBX); err != nil {
		return nil, err
	}
	if err := s.checkSources(p.phoneAddress); err != nil {
		return nil, err
	}
	p.phoneSource = p.phoneAddress
	if first, _, ok := sipfwd.SourceRange(s.SourceNetwork.Prefix); ok && !s.PhoneSources.shared() {
		p.phoneSource = first
	}
	if err := p.findTargets(); err != nil {
		return nil, err
	}
	if p.mediaAddress, err = s.mediaAddress(p.phoneAddress); err != nil {
		return nil, err
	}
	p.public = s.publicAddress(p.listen.Port, config.DefaultSource)
	return p, nil
}

// mediaAddress is of the IP family that the PBX uses for SIP. It falls back to the address that the PBX's SIP comes to where
// there is no default route.
func (s *settings) mediaAddress(phoneAddress netip.Addr) (netip.Addr, error) {
	if !s.MediaAddress.IsValid() {
		family := 4
		if phoneAddress.Is6() {
			family = 6
		}
		if addr, err := config.DefaultSourceOf(family); err == nil {
			return addr, nil
		}
		return phoneAddress, nil
	}
	if !config.IsLocal(s.MediaAddress.Addr) {
		return netip.Addr{}, config.Errorf(config.ExitTaken, "choose one of this machine's addresses (ip address lists them)",
			"media-address %v is not an address of this machine", s.MediaAddress)
	}
	return s.MediaAddress.Addr, nil
}

// publicAddress is what was given, else what --listen was given, else the address of the default route. Without one it is
// zero: a link that names this machine by its loopback address would lead an office to itself.
func (s *settings) publicAddress(listenPort uint16, source func() (netip.Addr, error)) config.Endpoint {
	if !s.PublicAddress.IsZero() {
		return s.PublicAddress.WithPort(listenPort)
	}
	if !s.Listen.IsWildcard() {
		return s.Listen.WithPort(listenPort)
	}
	if addr, err := source(); err == nil {
		return config.Endpoint{Host: addr.String(), Port: listenPort}
	}
	return config.Endpoint{}
}

// publicDoubt says what is doubtful about the address in join links, or nothing.
func (s *settings) publicDoubt(p *place) string {
	addr, isAddr := p.public.Addr()
	switch {
	case p.public.IsZero():
		return "this machine has no address that join links could name"
	case isAddr && !config.IsPublic(addr):
		return "join links say " + p.public.String() + ", which cannot be reached from the internet"
	case s.PublicAddress.IsZero():
		return "join links say " + p.public.String() + ", a guess"
	}
	return ""
}

const publicRemedy = "set --public-address to the name or address that offices reach this machine by"
