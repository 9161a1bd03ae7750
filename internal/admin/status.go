package admin

import (
	"fmt"
	"time"

	"github.com/siptunnel/siptunnel/internal/quality"
)

// The parts of a status that both programs have. Absent times and figures are left out of the JSON. Durations are in
// seconds or milliseconds as their names say, so that scripts need no parser for them.

// Program says what is running.
type Program struct {
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Protocol string    `json:"protocol"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Runtime  Runtime   `json:"runtime"`
}

// Phone is a phone that is registered, or trying to.
type Phone struct {
	Session   string    `json:"session,omitempty"` // of tunneld: whose phone it is
	Key       string    `json:"key"`               // the same on both sides of the tunnel
	AOR       string    `json:"aor,omitempty"`
	Contact   string    `json:"contact,omitempty"`
	Source    string    `json:"source,omitempty"`  // of tunnelproxy: where the phone is in its LAN
	Port      uint16    `json:"port,omitempty"`    // the PBX-side port of the phone
	Address   string    `json:"address,omitempty"` // of tunneld: address and port that the PBX sends to
	UserAgent string    `json:"user_agent,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
}

// Trunk is a PBX of the office that does not register.
type Trunk struct {
	Session string    `json:"session,omitempty"` // of tunneld: whose trunk it is
	Office  string    `json:"office,omitempty"`  // of tunneld: the credential of the session
	Name    string    `json:"name"`
	Peer    string    `json:"peer,omitempty"`    // of tunnelproxy: where the trunk is in its LAN
	Address string    `json:"address,omitempty"` // beside the PBX: address and port that the PBX sends to; empty when it is not open
	Heard   time.Time `json:"heard,omitzero"`    // of tunnelproxy: when the trunk sent something last
}

// Call is a call from its INVITE to its end.
type Call struct {
	Session   string    `json:"session,omitempty"`
	CallID    string    `json:"call_id"`
	From      string    `json:"from"`
	To        string    `json:"to"`
	Direction string    `json:"direction"` // up: from a phone to the PBX; down: the other way
	Started   time.Time `json:"started"`
	Answered  time.Time `json:"answered,omitzero"`
	// Audio says how its speech is, and which leg makes it so; see quality.Verdict. It is empty as long as too little
	// was said.
	Audio string   `json:"audio,omitempty"`
	Media []Medium `json:"media,omitempty"` // one for each m-line of SDP
}

// Medium is one m-line of a call.
type Medium struct {
	Legs []quality.Leg `json:"legs"`
}

// Relay is the pair of RTP and RTCP ports of one medium of a call, with what passed it on its own side of the tunnel:
// the PBX's in tunneld, the phone's in tunnelproxy. PBXAddress is the same in both programs; what one has in, the other
// has out, but for what was lost between them.
type Relay struct {
	Session    string    `json:"session,omitempty"`
	PBXAddress string    `json:"pbx_address"`           // tunneld's port, which the PBX sends to
	LANAddress string    `json:"lan_address,omitempty"` // tunnelproxy's port, which the phone sends to
	Remote     string    `json:"remote,omitempty"`      // who it sends to
	PacketsIn  uint64    `json:"packets_in"`
	PacketsOut uint64    `json:"packets_out"`
	BytesIn    uint64    `json:"bytes_in"`
	BytesOut   uint64    `json:"bytes_out"`
	RTCPIn     uint64    `json:"rtcp_in"`
	RTCPOut    uint64    `json:"rtcp_out"`
	Lost       uint64    `json:"lost"` // missing from the RTP sequence numbers of packets_in
	JitterMS   float64   `json:"jitter_ms"`
	Dropped    uint64    `json:"dropped"`
	Ended      time.Time `json:"ended,omitzero"`

	// Audio and Legs say the same of one medium as those of Call.
	Audio string        `json:"audio,omitempty"`
	Legs  []quality.Leg `json:"legs,omitempty"`

	// Of tunnelproxy, when the PBX has two phones of the office send to each other: the other phone's port, which
	// packets go to at the moment, and how many of packets_in have gone that way so far and not into the tunnel.
	Direct        string `json:"direct,omitempty"`
	PacketsDirect uint64 `json:"packets_direct,omitempty"`
}

// RelayTotals counts all relays since the start of the program, those that are gone too.
type RelayTotals struct {
	Opened     uint64 `json:"opened"`
	PacketsIn  uint64 `json:"packets_in"`
	PacketsOut uint64 `json:"packets_out"`
	Lost       uint64 `json:"lost"`
	Dropped    uint64 `json:"dropped"`
	// PacketsDirect are those of packets_in that stayed in the office.
	PacketsDirect uint64 `json:"packets_direct,omitempty"`
}

// Add counts a relay in.
func (t *RelayTotals) Add(r Relay) {
	t.Opened++
	t.PacketsIn += r.PacketsIn
	t.PacketsOut += r.PacketsOut
	t.Lost += r.Lost
	t.Dropped += r.Dropped
	t.PacketsDirect += r.PacketsDirect
}

// Path is the way of media through the tunnel.
type Path struct {
	Datagrams bool    `json:"datagrams"` // on UDP; or else over the connection
	RTTMS     float64 `json:"rtt_ms,omitempty"`
	Loss      float64 `json:"loss"` // of the datagrams that this program has sent in the last 10 s, as a share of them
}

// Describe gives the path in words.
func (p Path) Describe() string {
	if !p.Datagrams {
		return "TCP"
	}
	text := "UDP"
	if p.RTTMS > 0 {
		text += ", " + millis(p.RTTMS)
	}
	if p.Loss > 0 {
		text += fmt.Sprintf(", %.1f %% lost", 100*p.Loss)
	}
	return text
}

// Session is an office that is, or a moment ago was, connected to tunneld.
type Session struct {
	ID         string    `json:"id"`
	Credential string    `json:"credential"`
	Remote     string    `json:"remote"`
	Since      time.Time `json:"since"`
	Attached   bool      `json:"attached"` // false: its connection is gone and it may come back within the grace
	RTTMS      float64   `json:"rtt_ms,omitempty"`
	Path       Path      `json:"path"`
	BytesIn    uint64    `json:"bytes_in"`
	BytesOut   uint64    `json:"bytes_out"`
	Phones     int       `json:"phones"`
	Calls      int       `json:"calls"`
}

// PBX is what tunneld knows about the health of the PBX.
type PBX struct {
	Name    string    `json:"name"`    // as configured, or as the DNS has it for that
	Address string    `json:"address"` // what the name resolved to
	Answers bool      `json:"answers"` // to the last OPTIONS
	RTTMS   float64   `json:"rtt_ms,omitempty"`
	Checked time.Time `json:"checked,omitzero"`
	Error   string    `json:"error,omitempty"`
	// Targets are all of its addresses, the preferred one first, when there are several. The fields above are those of the
	// one that requests go to.
	Targets []PBXTarget `json:"targets,omitempty"`
}

// PBXTarget is one of several addresses of the PBX.
type PBXTarget struct {
	Name    string    `json:"name"` // by which it was found
	Address string    `json:"address"`
	Current bool      `json:"current"` // requests go there that belong to no dialog
	Down    bool      `json:"down"`    // nothing is sent there until it answers again
	Answers bool      `json:"answers"` // to the last OPTIONS
	RTTMS   float64   `json:"rtt_ms,omitempty"`
	Checked time.Time `json:"checked,omitzero"`
	Error   string    `json:"error,omitempty"`
}

// Tunnel is the connection of tunnelproxy.
type Tunnel struct {
	Server    string    `json:"server"`
	Name      string    `json:"name"`
	Pin       string    `json:"pin,omitempty"`
	Session   string    `json:"session,omitempty"` // its name in tunneld's log and status
	Up        bool      `json:"up"`
	Since     time.Time `json:"since,omitzero"` // of the present state
	RTTMS     float64   `json:"rtt_ms,omitempty"`
	Path      Path      `json:"path"`
	BytesIn   uint64    `json:"bytes_in"`
	BytesOut  uint64    `json:"bytes_out"`
	Connects  uint64    `json:"connects"` // connections made so far
	Domain    string    `json:"domain,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

// DaemonStatus is the answer of tunneld to GET /v1/status.
type DaemonStatus struct {
	Program
	Listen        string            `json:"listen"`
	PublicAddress string            `json:"public_address"`
	Pin           string            `json:"pin"`
	MediaAddress  string            `json:"media_address"`
	PBX           PBX               `json:"pbx"`
	Sessions      []Session         `json:"sessions"`
	Phones        []Phone           `json:"phones"`
	Trunks        []Trunk           `json:"trunks"`
	Calls         []Call            `json:"calls"`
	Relays        []Relay           `json:"relays"`
	EndedRelays   []Relay           `json:"ended_relays"` // the latest, newest last
	RelayTotals   RelayTotals       `json:"relay_totals"`
	Counters      map[string]uint64 `json:"counters"`
}

// ProxyStatus is the answer of tunnelproxy to GET /v1/status.
type ProxyStatus struct {
	Program
	SIPListen    []string          `json:"sip_listen"`
	SIPTLSListen []string          `json:"sip_tls_listen,omitempty"` // empty: phones are not served over TLS
	PhonesUse    []string          `json:"phones_use"`               // addresses of this machine, one for each network of phones, at the moment
	Tunnel       Tunnel            `json:"tunnel"`
	Phones       []Phone           `json:"phones"`
	Trunks       []Trunk           `json:"trunks"`
	Calls        []Call            `json:"calls"`
	Relays       []Relay           `json:"relays"`
	EndedRelays  []Relay           `json:"ended_relays"`
	RelayTotals  RelayTotals       `json:"relay_totals"`
	Counters     map[string]uint64 `json:"counters"`
}
