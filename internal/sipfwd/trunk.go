package sipfwd

import (
	"bytes"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// A trunk is a phone that does not register: another PBX in the office, which
// takes and makes calls of many users. Its key says that it is one, so that the
// PBX side passes on what the PBX sends to its port, whomever that is for; the
// LAN side knows where the other PBX is.

const (
	trunkMark = "trunk:" // of keys, behind the name of the office
	// trunkLinger is how long the port of a trunk whose session is over answers
	// 480: nothing that the PBX has granted ends by itself.
	trunkLinger    = longestLife
	maxTrunkName   = 32
	trunkNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
)

// ValidTrunkName says whether name, of letters, digits, hyphens, underscores and
// dots, can be a trunk's.
func ValidTrunkName(name string) bool {
	return name != "" && len(name) <= maxTrunkName && strings.Trim(name, trunkNameBytes) == ""
}

// trunkOfKey is the name of the trunk that key, which may have the name of an
// office in front, is for. ok is false for the key of a phone.
func trunkOfKey(key string) (name string, ok bool) {
	office, name, found := strings.Cut(key, trunkMark)
	isOffice := office == "" || strings.IndexByte(office, ':') == len(office)-1 && office != instancePrefix
	return name, found && isOffice && ValidTrunkName(name)
}

// TrunkID names a trunk of a tunnel credential.
type TrunkID struct{ Credential, Name string }

// TrunkInfo describes a trunk.
type TrunkInfo struct {
	Name    string
	Peer    string    // LAN side: transport and address of the PBX in the office
	Address string    // beside the PBX: address and port that it sends to; empty while it is not open
	Heard   time.Time // LAN side: when the PBX in the office was heard last
}

// Trunks lists the trunks of the session.
func (s *PBXSide) Trunks() []TrunkInfo {
	var infos []TrunkInfo
	for _, p := range s.allPhones() {
		p.mu.Lock()
		if p.trunk != "" && !p.ended { // else another session has it
			infos = append(infos, p.trunkInfo())
		}
		p.mu.Unlock()
	}
	return infos
}

func (p *pbxPhone) trunkInfo() TrunkInfo {
	return TrunkInfo{Name: p.trunk, Address: p.port.addr.String()}
}

// fixed is the port that is configured for id, and how id is known then: an
// office that was set up anew has another key for the same trunk.
func (p *PhonePorts) fixed(id phoneID) (phoneID, uint16, bool) {
	name, ok := trunkOfKey(id.Key)
	if !ok {
		return id, 0, false
	}
	port, ok := p.cfg.TrunkPorts[TrunkID{id.Credential, name}]
	if ok {
		id.Key = trunkMark + name
	}
	return id, port, ok
}

// isFixed says whether port is configured for a trunk.
func (p *PhonePorts) isFixed(port uint16) bool {
	for _, n := range p.cfg.TrunkPorts {
		if n == port {
			return true
		}
	}
	return false
}

// stripOwnRoutes removes the leading Route entries of m, which comes from the
// PBX, that name the phone's port: a PBX may have it for an outbound proxy (RFC
// 3261 section 16.4).
func (p *pbxPhone) stripOwnRoutes(m *sipmsg.Message) {
	leading := true
	m.RemoveValues(sipmsg.Route, func(at sipmsg.Values) bool {
		u, ok := sipmsg.ParseURI(at.Addr().URI)
		leading = leading && ok && u.Port == int(p.port.addr.Port()) && string(bytes.Trim(u.Host, "[]")) == p.port.addr.Addr().String()
		return leading
	})
}
