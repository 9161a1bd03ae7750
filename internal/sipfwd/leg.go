package sipfwd

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxCallsPerPhone = 1024 // that go on at once
	maxOtherLegs     = 1024 // dialogs of one phone that are no calls
	maxMediaLines    = 16   // m-lines of one leg that get a relay
	maxLegHeaders    = 2048 // bytes of Call-ID, From and To together
	maxTags          = 16   // branches of a fork in one leg
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
	isCall  bool   // started by INVITE
	contact []byte // PBX side: the phone's latest Contact URI, its own bytes
	tags    []string
	target  netip.AddrPort // PBX side: whose dialog it is, zero while that is not known
	flow    *flow          // LAN side: where the phone was heard last in this dialog
	lines   []*mediaLine
	delayed bool    // an offer in a response waits for the answer in ACK or PRACK
	held    [2]bool // by the latest SDP of the phone and of the PBX

	packets  uint64 // seen at the last check
	activeAt time.Time

	cost   int // of the budget
	info   CallInfo
	until  time.Time // no call: how long the subscription lives
	ending bool      // BYE seen or refused
	ended  bool      // reported; nothing may be allocated for it any more
	end    slot
	check  slot

	// For a BYE of our own to the SIP peer of this half, should the tunnel be
	// gone for good.
	peerTarget []byte   // the peer's Contact URI
	routes     []string // LAN side: of what the PBX sends, too
	from, to   string   // From and To of the dialog as the initiator writes them
	seq        [2]uint32
}

// answeredTags notes what the response m to a request of the initiator says of
// the dialog's identity.
func (l *leg) answeredTags(m *sipmsg.Message) {
	if tag := m.ToTag(); tag != nil && len(tag) <= maxTagLength && !l.hasTag(string(tag)) && len(l.tags) < maxTags {
		l.tags = append(l.tags, string(tag))
	}
	if string(m.Method()) != "INVITE" || m.StatusCode()/100 != 2 {
		return
	}
	if from, to := headerText(m, sipmsg.From), headerText(m, sipmsg.To); len(from)+len(to) <= maxLegHeaders {
		l.from, l.to = from, to
	}
}

// size is about how many bytes l needs when its media is gone.
func (l *leg) size() int {
	n := txBase + len(l.key.callID) + len(l.key.tag) + len(l.contact) + len(l.peerTarget) + len(l.from) + len(l.to) +
		len(l.info.From) + len(l.info.To) + len(l.info.Reason)
	for _, s := range slices.Concat(l.tags, l.routes) {
		n += len(s)
	}
	return min(n, legCost)
}

func (l *leg) hasTag(tag string) bool {
	for _, have := range l.tags {
		if have == tag {
			return true
		}
	}
	return false
}

// notePeer keeps what a BYE of our own to the SIP peer, who sent m, would need.
func (l *leg) notePeer(m *sipmsg.Message) {
	if c := contactURI(m); c != nil && l.isCall {
		l.peerTarget = c
	}
}

func (l *leg) snapshot() CallInfo {
	info := l.info
	info.Media = l.stats()
	if !info.Answered.IsZero() {
		info.Duration = time.Since(info.Answered)
	}
	return info
}

// contactURI is a copy of the URI of the message's first Contact, nil when there
// is none that is worth keeping.
func contactURI(m *sipmsg.Message) []byte {
	if it := m.Values(sipmsg.Contact); it.Next() {
		if a := it.Addr(); !a.Star && len(a.URI) <= maxURILength {
			return bytes.Clone(a.URI)
		}
	}
	return nil
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
