package sipfwd

import (
	"slices"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxDialogs = 16      // of one leg that are remembered
	dialogCost = 8 << 10 // bytes that a dialog beside the first is taken to need at most
)

// dialog is one of those that a request has led to (RFC 3261 section 12.1): where
// it was forked there are several, told apart by the tag of the party that
// answered, and each has an end of its own (section 13.2.2.4).
type dialog struct {
	tag       string
	confirmed bool // by a 2xx to INVITE
	delayed   bool // an offer in a response waits for the answer in ACK or PRACK
	// media is where the answering party wants the media of each m-line, while
	// those of another dialog are in force.
	media []signalled

	contact string // PBX side: the phone's latest Contact URI, its own bytes

	// For a BYE of our own to the SIP peer of this half, should the tunnel be
	// gone for good.
	peerTarget string   // the peer's Contact URI
	routes     []string // LAN side: of what the PBX sends, too
	from, to   string   // From and To as the initiator writes them
}

// answererTag is the tag of the party that answered, in the request m that
// travels in direction d or in a response to it.
func (l *leg) answererTag(m *sipmsg.Message, d direction) string {
	if d == l.key.initiator {
		return string(m.ToTag())
	}
	return string(m.FromTag())
}

// dialogOf is what the leg knows of the dialog of m, a request that travels in
// direction d or a response to it. As long as its tag is not known that is what
// the first request has said.
func (l *leg) dialogOf(m *sipmsg.Message, d direction) *dialog {
	if b := l.tagged(l.answererTag(m, d)); b != nil {
		return b
	}
	return &l.first
}

func (l *leg) tagged(tag string) *dialog {
	for _, b := range l.dialogs {
		if b.tag == tag {
			return b
		}
	}
	return nil
}

// dialogIn is the dialog of the response m to a request that travelled in
// direction d; a response to the initiator may begin one, or confirm it.
func (t *legTable) dialogIn(l *leg, m *sipmsg.Message, d direction) *dialog {
	tag, status := string(m.ToTag()), m.StatusCode()
	if d != l.key.initiator || tag == "" || len(tag) > maxTagLength || status <= 100 || status >= 300 {
		return l.dialogOf(m, d)
	}
	b := l.tagged(tag)
	if b == nil {
		if b = t.newDialog(l); b == nil {
			return &l.first
		}
		b.tag = tag
	}
	if string(m.Method()) != "INVITE" || status < 200 {
		return b
	}
	b.confirmed = true
	if from, to := headerText(m, sipmsg.From), headerText(m, sipmsg.To); len(from)+len(to) <= maxLegHeaders {
		b.from, b.to = from, to
	}
	l.enter(b)
	return b
}

// newDialog adds a dialog to l that knows what its first request has said. One
// that was never confirmed makes room for it. It returns nil when there is none.
func (t *legTable) newDialog(l *leg) *dialog {
	switch {
	case l.ended:
		return nil
	case len(l.dialogs) >= maxDialogs:
		i := slices.IndexFunc(l.dialogs, func(b *dialog) bool { return !b.confirmed && b != l.inForce })
		if i < 0 {
			return nil
		}
		t.forget(l, l.dialogs[i])
	}
	if len(l.dialogs) > 0 {
		if !t.edge.budget.take(dialogCost) {
			return nil
		}
		l.cost += dialogCost
	}
	b := &dialog{contact: l.first.contact, peerTarget: l.first.peerTarget, routes: l.first.routes}
	l.dialogs = append(l.dialogs, b)
	return b
}

// forget removes one dialog of several.
func (t *legTable) forget(l *leg, b *dialog) {
	l.dialogs = slices.DeleteFunc(l.dialogs, func(other *dialog) bool { return other == b })
	t.edge.budget.give(dialogCost)
	l.cost -= dialogCost
	if b != l.inForce {
		return
	}
	for _, other := range slices.Backward(l.dialogs) {
		if other.confirmed {
			l.enter(other)
			return
		}
	}
}

// size is about how many bytes b needs, but for media.
func (b *dialog) size() int {
	n := len(b.tag) + len(b.contact) + len(b.peerTarget) + len(b.from) + len(b.to)
	for _, route := range b.routes {
		n += len(route)
	}
	return n
}

// isLast says that the leg ends with the dialog b: no other one stands, nor can
// any come from an INVITE that is still to be answered.
func (l *leg) isLast(b *dialog) bool {
	if b == &l.first {
		return true
	}
	for _, other := range l.dialogs {
		if other != b && (other.confirmed || l.answeredAt.IsZero()) {
			return false
		}
	}
	return true
}

// enter puts the media of the dialog b in force. The other party has one address
// for all of its dialogs, as it has sent one offer to all.
func (l *leg) enter(b *dialog) {
	if b == l.inForce || b == &l.first {
		return
	}
	if l.inForce != nil {
		l.inForce.media = l.inForce.media[:0]
		for _, line := range l.lines {
			l.inForce.media = append(l.inForce.media, *l.answering(line))
		}
	}
	known := l.inForce == nil // what came before any dialog was known was this one's
	l.inForce = b
	for i, line := range l.lines {
		switch {
		case i < len(b.media):
			*l.answering(line) = b.media[i]
			line.connect(l)
			line.cross()
		case !known:
			// Nothing is in force that its own first offer had to wait for.
			s := l.answering(line)
			s.committed, s.offered = false, nil
		}
	}
}

// answering is where the party that answered wants the media of the line.
func (l *leg) answering(line *mediaLine) *signalled {
	if l.key.initiator != l.peerSends {
		return &line.peer
	}
	return &line.pbx
}
