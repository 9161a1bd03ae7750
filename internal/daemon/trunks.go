package daemon

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// trunkPort gives a trunk of an office a port toward the PBX that does not change.
type trunkPort struct {
	trunk sipfwd.TrunkID
	port  uint16
}

// UnmarshalText takes CREDENTIAL/TRUNK=PORT.
func (t *trunkPort) UnmarshalText(text []byte) error {
	id, portText, found := strings.Cut(string(text), "=")
	credential, name, hasName := strings.Cut(id, "/")
	port, err := strconv.ParseUint(strings.TrimSpace(portText), 10, 16)
	name = strings.TrimSpace(name)
	switch {
	case !found || !hasName:
		return fmt.Errorf("%q is not CREDENTIAL/TRUNK=PORT", text)
	case !auth.ValidName(credential):
		return fmt.Errorf("%q: %q is not the name of a credential", text, credential)
	case !sipfwd.ValidTrunkName(name):
		return fmt.Errorf("%q: %q is not the name of a trunk", text, name)
	case err != nil || port < 1024:
		return fmt.Errorf("%q has no valid port; it is 1024 to 65535", text)
	}
	*t = trunkPort{trunk: sipfwd.TrunkID{Credential: credential, Name: name}, port: uint16(port)}
	return nil
}

// checkTrunkPorts finds ports that are meant for two things.
func (s *settings) checkTrunkPorts() error {
	trunks, ports := map[sipfwd.TrunkID]bool{}, map[uint16]bool{}
	for _, t := range s.TrunkPort {
		name := t.trunk.Credential + "/" + t.trunk.Name
		switch {
		case trunks[t.trunk]:
			return config.Errorf(config.ExitConfig, "leave one out", "trunk-port has two ports for %s", name)
		case ports[t.port]:
			return config.Errorf(config.ExitConfig, "give each its own", "trunk-port gives port %d to two trunks", t.port)
		case s.MediaPorts.Contains(t.port):
			return config.Errorf(config.ExitConfig, "keep --trunk-port out of --media-ports", "trunk-port %d of %s is one of media-ports %v", t.port, name, s.MediaPorts)
		case s.Listen.WithPort(defaultListenPort).Port == t.port:
			return config.Errorf(config.ExitConfig, "choose another --trunk-port", "trunk-port %d of %s is the listen port", t.port, name)
		}
		trunks[t.trunk], ports[t.port] = true, true
	}
	return nil
}

// trunkPorts gives the configured ports as sipfwd takes them.
func (s *settings) trunkPorts() map[sipfwd.TrunkID]uint16 {
	ports := make(map[sipfwd.TrunkID]uint16, len(s.TrunkPort))
	for _, t := range s.TrunkPort {
		ports[t.trunk] = t.port
	}
	return ports
}
