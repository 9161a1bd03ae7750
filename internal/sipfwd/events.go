package sipfwd

import (
	"time"

	"github.com/siptunnel/siptunnel/internal/quality"
)

// Events receives what an administrator wants to see in a log. Methods are
// called with a phone's lock held: they must be quick and must not call back
// into this package.
type Events interface {
	// PhoneRegistered is called when a phone's address of record becomes
	// reachable, not at every refresh.
	PhoneRegistered(PhoneInfo)
	// PhoneGone is called when the last binding of an address of record has
	// been removed or has expired.
	PhoneGone(p PhoneInfo, reason string)
	// TrunkOpened is called when a trunk has its port beside the PBX.
	TrunkOpened(TrunkInfo)
	// TrunkGone is called when it is no longer served.
	TrunkGone(t TrunkInfo, reason string)
	// CallStarted is called when an INVITE that starts a call is forwarded.
	CallStarted(CallInfo)
	// CallEnded is called once for every started call.
	CallEnded(CallInfo)
}

// PhoneInfo describes a phone, or one of its bindings.
type PhoneInfo struct {
	Key       string    `json:"key"`                  // how the phone is recognised: +sip.instance, else its flow
	AOR       string    `json:"aor,omitempty"`        // address of record, RFC 3261 section 6
	Contact   string    `json:"contact,omitempty"`    // the phone's own Contact URI
	Source    string    `json:"source,omitempty"`     // LAN side: transport and address of the flow
	UserAgent string    `json:"user_agent,omitempty"` // User-Agent header of its last REGISTER
	Port      uint16    `json:"port,omitempty"`       // PBX side: the phone's port there
	Address   string    `json:"address,omitempty"`    // PBX side: address and port there, what the PBX sends to
	Expires   time.Time `json:"expires,omitzero"`     // when the binding ends unless it is refreshed
}

// CallInfo describes one leg of a call, as one half of the proxy sees it.
type CallInfo struct {
	CallID    string        `json:"call_id"`
	From      string        `json:"from"`
	To        string        `json:"to"`
	Direction string        `json:"direction"` // "up": phone to PBX, "down": PBX to phone
	Start     time.Time     `json:"start"`
	Answered  time.Time     `json:"answered,omitzero"`
	Duration  time.Duration `json:"duration"` // from the answer, 0 for calls never answered
	Reason    string        `json:"reason,omitempty"`
	Media     []MediaStats  `json:"media,omitempty"`
}

// MediaStats are the figures of one media stream at one half of the proxy.
type MediaStats struct {
	PacketsIn  uint64        `json:"packets_in"`  // received from the SIP side's peer (phone or PBX)
	PacketsOut uint64        `json:"packets_out"` // sent to it
	Lost       uint64        `json:"lost"`        // missing RTP sequence numbers among PacketsIn
	Jitter     time.Duration `json:"jitter"`      // RFC 3550 section 6.4.1, of PacketsIn
	LastIn     time.Time     `json:"last_in,omitzero"`
	// LAN side: of PacketsIn, those that went straight to another phone of the
	// office and not into the tunnel.
	PacketsDirect uint64 `json:"packets_direct,omitempty"`
	// Legs are how it fares on each part of its way, as far as is known here.
	Legs []quality.Leg `json:"legs,omitempty"`
}

// Legs are those of all media of the call.
func (c CallInfo) Legs() (legs []quality.Leg) {
	for _, m := range c.Media {
		legs = append(legs, m.Legs...)
	}
	return legs
}

// noEvents stands in for a nil Events.
type noEvents struct{}

func (noEvents) PhoneRegistered(PhoneInfo)   {}
func (noEvents) PhoneGone(PhoneInfo, string) {}
func (noEvents) TrunkOpened(TrunkInfo)       {}
func (noEvents) TrunkGone(TrunkInfo, string) {}
func (noEvents) CallStarted(CallInfo)        {}
func (noEvents) CallEnded(CallInfo)          {}
