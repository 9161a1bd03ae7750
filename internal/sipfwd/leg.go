package sipfwd

import (
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxCallsPerPhone = 1024 // that go on at once
	maxOtherLegs     = 1024 // dialogs of one phone that are no calls
	maxMediaLines    = 16   // m-lines of one leg that get a relay
	maxLegHeaders    = 2048 // bytes of Call-ID, From and To together
	maxTagLength     = 256
	legCost          = 16 << 10         // bytes that a leg is taken to need at most
	legLinger        = 32 * time.Second // a finished leg still answers retransmissions
	retryLinger      = 4 * time.Second  // a challenged INVITE comes again with credentials
	subscriptionLife = time.Hour        // of a dialog that says nothing of its expiry
	referLife        = 5 * time.Minute
	legCheck         = 30 * time.Second
	mediaSilence     = 5 * time.Minute // a call without RTP for so long is over
	heldSilence      = 24 * time.Hour  // the same while it is held, or has no media
)

// direction of a request through the tunnel.
type direction bool

const (
	up   direction = false // phone to PBX
	down direction = true  // PBX to phone
)

func (d direction) String() string {
	if d == down {
		return "down"
	}
	return "up"
}

// legKey finds the dialog, or the dialog to be, of a phone. A proxying PBX
// gives both legs of a call the same Call-ID and tags, and both may be legs of
// one phone: who sent the first request tells them apart.
type legKey struct {
	callID    string
	initiator direction
	tag       string // From tag of the first request
}

// leg is what one half of the proxy remembers of a dialog of a phone.
type leg struct {
	key     legKey
	first   dialog // what the first request has said
	dialogs []*dialog
	inForce *dialog        // whose media are in force; nil before any is known
	target  netip.AddrPort // PBX side: whose dialog it is, zero while that is not known
	flow    *flow          // LAN side: where the phone was heard last in this dialog
	lines   []*mediaLine
	seq     [2]uint32 // the highest CSeq of the phone and of the PBX

	// peerSends is the direction in which the SIP peer of this half sends.
	peerSends direction
	isCall    bool    // started by INVITE
	held      [2]bool // by the latest SDP of the phone and of the PBX
	ending    bool    // BYE seen or refused
	ended     bool    // reported; nothing may be allocated for it any more

	packets  uint64 // seen at the last check
	activeAt time.Time
	until    time.Time // no call: how long the subscription lives

	from, to              string // URIs
	startedAt, answeredAt time.Time
	reason                string // of its end
	cost                  int    // of the budget
	end, check            slot
}

// size is about how many bytes l needs when its media is gone.
func (l *leg) size() int {
	n := txBase + len(l.key.callID) + len(l.key.tag) + len(l.from) + len(l.to) + len(l.reason) + l.first.size()
	for _, b := range l.dialogs {
		n += b.size()
	}
	return min(n, l.cost)
}

// notePeer keeps what a BYE of our own to the SIP peer, who sent m, would need.
func (l *leg) notePeer(b *dialog, m *sipmsg.Message) {
	if c := contactURI(m); c != "" && l.isCall {
		b.peerTarget = c
	}
}

func (l *leg) snapshot() CallInfo {
	info := CallInfo{
		CallID: l.key.callID, From: l.from, To: l.to, Direction: l.key.initiator.String(),
		Start: l.startedAt, Answered: l.answeredAt, Reason: l.reason, Media: l.stats(),
	}
	if !info.Answered.IsZero() {
		info.Duration = time.Since(info.Answered)
	}
	return info
}

// contactURI is the URI of the message's first Contact, empty when there is none that
// is worth keeping.
func contactURI(m *sipmsg.Message) string {
	if it := m.Values(sipmsg.Contact); it.Next() {
		if a := it.Addr(); !a.Star && len(a.URI) <= maxURILength {
			return string(a.URI)
		}
	}
	return ""
}

func headerText(m *sipmsg.Message, k sipmsg.Kind) string {
	v, _ := m.HeaderValue(k)
	return string(v)
}

func boolIndex(d direction) int {
	if d == down {
		return 1
	}
	return 0
}

func partyName(d direction) string {
	if d == down {
		return "PBX"
	}
	return "phone"
}
