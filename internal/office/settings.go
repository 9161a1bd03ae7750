package office

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/siptunnel/siptunnel/internal/config"
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
	SIPListen     config.Endpoint  `name:"sip-listen" setting:"" placeholder:"[HOST]:PORT" default:":5060" help:"Where phones send SIP, UDP and TCP. Default: ${default}."`
	SIPTLSListen  config.Endpoint  `name:"sip-tls-listen" setting:"" placeholder:"[HOST]:PORT" help:"Where phones send SIP over TLS. Default: off; :5061 with --tls-cert."`
	TLSCert       string           `name:"tls-cert" setting:"" placeholder:"FILE" help:"Certificate for phones over TLS, PEM, with its chain; read again when it is renewed. Default: one of our own making, in the state directory."`
	TLSKey        string           `name:"tls-key" setting:"" placeholder:"FILE" help:"Its key, PEM."`
	LANAddress    config.Address   `name:"lan-address" setting:"" placeholder:"IP" help:"Address of this machine that phones are told. Default: found, when there is only one candidate."`
	MediaPorts    config.PortRange `setting:"" placeholder:"LOW-HIGH" default:"40000-49999" help:"UDP ports for the media of phones, two a call. Default: ${default}."`
	PhoneNetworks []config.Network `setting:"" placeholder:"CIDR" help:"Networks to serve besides private and directly connected ones."`
	LogLevel      logging.Level    `setting:"" placeholder:"LEVEL" default:"info" help:"debug, info, warn or error. Default: ${default}."`
	LogFormat     logging.Format   `setting:"" placeholder:"FORMAT" default:"auto" help:"human, json, or auto: human on a terminal."`
}

// serverFlags name a server without a join link.
type serverFlags struct {
	Server       config.Endpoint `setting:"" placeholder:"HOST[:PORT]" help:"The tunneld to connect to. Default: that of the join link."`
	Name         string          `setting:"" placeholder:"NAME" help:"Name of the credential, with --server. Default: default."`
	PasswordFile string          `setting:"" placeholder:"FILE" help:"File with the password, with --server; - is standard input."`
}

// validate finds settings that contradict each other.
func (s *settings) validate() error {
	sip := s.SIPListen.WithPort(defaultSIPPort).Port
	switch {
	case s.MediaPorts.Pairs() < 2:
		return config.Errorf(config.ExitConfig, "give --media-ports at least four", "media-ports %v has no room for a call", s.MediaPorts)
	case s.MediaPorts.Contains(sip):
		return config.Errorf(config.ExitConfig, "keep --sip-listen out of --media-ports", "sip-listen port %d is one of media-ports %v", sip, s.MediaPorts)
	case s.MediaPorts.Contains(s.tlsListen().Port):
		return config.Errorf(config.ExitConfig, "keep --sip-tls-listen out of --media-ports", "sip-tls-listen port %d is one of media-ports %v", s.tlsListen().Port, s.MediaPorts)
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return config.Errorf(config.ExitConfig, "give both, or none of them", "tls-cert and tls-key belong together")
	case s.tlsListen().Port == sip:
		return config.Errorf(config.ExitConfig, "choose another port for --sip-tls-listen, 5061 for instance", "sip-tls-listen and sip-listen are both on port %d", sip)
	}
	return nil
}

// tlsListen is where TLS is served; zero when it is not.
func (s *settings) tlsListen() config.Endpoint {
	switch {
	case !s.SIPTLSListen.IsZero():
		return s.SIPTLSListen.WithPort(defaultTLSPort)
	case s.TLSCert != "":
		return config.Endpoint{Host: s.SIPListen.Host, Port: defaultTLSPort}
	}
	return config.Endpoint{}
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
	lan    netip.Addr
	listen config.Endpoint
	tls    config.Endpoint // zero: no TLS
	suffix string          // of the names of networks: the listeners are of the family of the LAN's address
}

// survey fills in the settings that were left open.
func (s *settings) survey(candidates func() ([]config.LANCandidate, error)) (*place, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	p := &place{listen: s.SIPListen.WithPort(defaultSIPPort), tls: s.tlsListen(), suffix: "4"}
	var err error
	if p.lan, err = s.lanAddress(candidates); err != nil {
		return nil, err
	}
	if p.lan.Is6() {
		p.suffix = "6"
	}
	for name, listen := range map[string]*config.Endpoint{"sip-listen": &p.listen, "sip-tls-listen": &p.tls} {
		if listen.Host == "localhost" {
			listen.Host = "127.0.0.1"
		}
		if addr, ok := listen.Addr(); ok && addr.Is4() != p.lan.Is4() {
			return nil, config.Errorf(config.ExitConfig, "give both an address of the same family", "%s %v and lan-address %v are IPv4 and IPv6", name, listen, p.lan)
		}
	}
	return p, nil
}

// lanAddress is what was given, else what --sip-listen was given, else the only candidate.
func (s *settings) lanAddress(candidates func() ([]config.LANCandidate, error)) (netip.Addr, error) {
	const remedy = "choose the address that phones reach this machine by"
	if s.LANAddress.IsValid() {
		if !config.IsLocal(s.LANAddress.Addr) {
			return netip.Addr{}, config.Errorf(config.ExitTaken, "choose one of this machine's addresses (ip address lists them)",
				"lan-address %v is not an address of this machine", s.LANAddress)
		}
		return s.LANAddress.Addr, nil
	}
	if !s.SIPListen.IsWildcard() {
		if addr, ok := s.SIPListen.Addr(); ok {
			return addr, nil
		}
	}
	// What the network is like just now is no mistake in the settings: after a power cut it may come up later than this
	// program, which is tried again then.
	found, err := candidates()
	switch {
	case err != nil:
		return netip.Addr{}, &config.Error{Code: config.ExitTaken, Problem: "lan-address is not set and cannot be found", Err: err, Remedy: remedy + " with --lan-address"}
	case len(found) == 0:
		return netip.Addr{}, config.Errorf(config.ExitTaken, "connect it to the LAN, or "+remedy+" with --lan-address", "this machine has no LAN address")
	case len(found) > 1:
		var list []string
		for _, c := range found {
			list = append(list, fmt.Sprintf("%v (%s)", c.Address, c.Interface))
		}
		return netip.Addr{}, config.Errorf(config.ExitTaken, fmt.Sprintf("%s, like --lan-address %v", remedy, found[0].Address),
			"this machine has several addresses: %s", strings.Join(list, ", "))
	}
	return found[0].Address, nil
}
