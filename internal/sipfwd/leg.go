package sipfwd

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxLegsPerPhone = 256
	maxMediaLines   = 16               // m-lines of one leg that get a relay
	legLinger       = 32 * time.Second // a finished leg still answers retransmissions
	retryLinger     = 4 * time.Second  // a refused INVITE may come back with credentials
	subscriptionMax = time.Hour        // dialogs without a call and without word of their expiry
	legCheck        = 30 * time.Second
	mediaSilence    = 5 * time.Minute // a call without RTP for so long is over, unless held
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
	flow    *flow // LAN side: where the phone was heard last in this dialog
	lines   []*mediaLine
	delayed bool    // an offer in a response waits for the answer in ACK or PRACK
	held    [2]bool // by the latest SDP of the phone and of the PBX

	packets  uint64 // seen at the last check
	activeAt time.Time

	info   CallInfo
	ending bool // BYE seen or refused
	ended  bool // reported
	end    slot
	check  slot

	// For a BYE of our own to the SIP peer of this half, should the tunnel be
	// gone for good.
	peerTarget []byte // the peer's Contact URI
	routes     []string
	from, to   string // From and To of the dialog as the initiator writes them
	seq        [2]uint32
}

// mediaLine is one m-line of a leg. Addresses are the SIP peer's.
type mediaLine struct {
	port    MediaPort // LAN side
	relay   Relay     // PBX side
	relayAt netip.AddrPort

	remote, offered mediaAddr
	committed       bool // remote is in force
	pending         bool // offered waits for its answer
}

type mediaAddr struct{ rtp, rtcp netip.AddrPort }

// legTable are the dialogs of one phone; its lock guards them.
type legTable struct {
	edge  *edge
	byKey map[legKey][]*leg
	count int
	// closed tells that a leg is over: its media is to be released.
	closed func(l *leg)
	events Events
}

func newLegTable(e *edge, events Events, closed func(*leg)) *legTable {
	return &legTable{edge: e, byKey: make(map[legKey][]*leg), events: events, closed: closed}
}

// find is the leg of the request m that travels in direction d.
func (t *legTable) find(m *sipmsg.Message, d direction) *leg {
	callID, from, to := string(m.CallID()), string(m.FromTag()), string(m.ToTag())
	if l := pickLeg(t.byKey[legKey{callID, d, from}], to); l != nil {
		return l
	}
	if to == "" {
		return nil
	}
	return pickLeg(t.byKey[legKey{callID, !d, to}], from)
}

// pickLeg chooses among the branches of a fork that reached the same phone.
func pickLeg(legs []*leg, answererTag string) *leg {
	for _, l := range legs {
		if answererTag != "" && slices.Contains(l.tags, answererTag) {
			return l
		}
	}
	if len(legs) > 0 {
		return legs[len(legs)-1]
	}
	return nil
}

// open is the leg of m, a request that may create a dialog. An INVITE that
// comes again with credentials keeps its leg; a second fork of the same INVITE
// to this phone gets one of its own. It is nil when there are too many.
func (t *legTable) open(m *sipmsg.Message, d direction) *leg {
	key := legKey{string(m.CallID()), d, string(m.FromTag())}
	if l := t.find(m, d); l != nil && (m.ToTag() != nil || !t.forked(l, m, d)) {
		if l.ending && !l.ended {
			l.ending = false
			l.end.stop()
		}
		return l
	}
	if t.count >= maxLegsPerPhone {
		t.edge.counters.Counter("sip.refused.too_many_dialogs").Inc()
		return nil
	}
	l := &leg{key: key, isCall: string(m.Method()) == "INVITE"}
	t.byKey[key] = append(t.byKey[key], l)
	t.count++
	l.info = CallInfo{
		CallID: key.callID, From: string(m.FromURI()), To: string(m.ToURI()),
		Direction: d.String(), Start: time.Now(),
	}
	if l.isCall {
		t.events.CallStarted(l.info)
		t.edge.arm(&l.check, legCheck, func() { t.checkMedia(l) })
	}
	return l
}

// forked says that l has an INVITE under way that is not m's.
func (t *legTable) forked(l *leg, m *sipmsg.Message, d direction) bool {
	if d == up {
		for _, s := range t.edge.servers {
			if s.leg == l && s.invite && s.status < 200 {
				return true
			}
		}
		return false
	}
	for _, c := range t.edge.clients {
		if c.leg == l && c.invite && c.status < 200 && c.up != requestKey(m) {
			return true
		}
	}
	for _, s := range t.edge.servers {
		if s.leg == l && s.invite && s.status < 200 && s.key != requestKey(m) {
			return true
		}
	}
	return false
}

// request notes what the request m, sent in direction d by one of the parties,
// says of its leg.
func (t *legTable) request(l *leg, m *sipmsg.Message, d direction) {
	if seq, method := m.CSeq(); string(method) != "ACK" {
		l.seq[boolIndex(d)] = max(l.seq[boolIndex(d)], seq)
	}
	switch string(m.Method()) {
	case "BYE":
		l.ending = true
		l.info.Reason = "hung up by the " + partyName(d)
		t.edge.arm(&l.end, legLinger, func() { t.drop(l, l.info.Reason) })
	case "INVITE":
	default:
		if !l.isCall {
			t.refresh(l, m)
		}
	}
}

// response notes what the response m to a request of the leg says. method is
// the request's, d the direction in which that request travelled.
func (t *legTable) response(l *leg, m *sipmsg.Message, d direction) {
	if tag := string(m.ToTag()); tag != "" && d == l.key.initiator && !slices.Contains(l.tags, tag) && len(l.tags) < 16 {
		l.tags = append(l.tags, tag)
	}
	status := m.StatusCode()
	switch string(m.Method()) {
	case "INVITE":
		t.inviteResponse(l, m, status)
	case "BYE":
		if status >= 200 {
			t.finish(l, l.info.Reason)
		}
	default:
		if !l.isCall && status >= 200 {
			t.refresh(l, m)
		}
	}
}

func (t *legTable) inviteResponse(l *leg, m *sipmsg.Message, status int) {
	switch {
	case status < 200:
	case status < 300:
		if l.info.Answered.IsZero() {
			l.info.Answered = time.Now()
		}
		l.from, l.to = headerText(m, sipmsg.From), headerText(m, sipmsg.To)
	case l.info.Answered.IsZero():
		l.ending = true
		reason := strconv.Itoa(status) + " " + string(m.Reason())
		l.info.Reason = reason
		if status == 401 || status == 407 {
			t.edge.arm(&l.end, retryLinger, func() { t.drop(l, reason) })
		} else {
			t.finish(l, reason)
		}
	}
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

// refresh prolongs a leg that is no call: a subscription, mostly.
func (t *legTable) refresh(l *leg, m *sipmsg.Message) {
	life := subscriptionMax
	if n, ok := m.Expires(); ok {
		life = max(life, time.Duration(min(n, 86400))*time.Second)
	}
	t.edge.arm(&l.end, life+legLinger, func() { t.drop(l, "expired") })
}

// finish reports the end of l and releases its media; the record lingers for
// retransmissions.
func (t *legTable) finish(l *leg, reason string) {
	t.report(l, reason)
	t.edge.arm(&l.end, legLinger, func() { t.drop(l, reason) })
}

func (t *legTable) drop(l *leg, reason string) {
	t.report(l, reason)
	l.end.stop()
	legs := t.byKey[l.key]
	i := slices.Index(legs, l)
	if i < 0 {
		return
	}
	legs = slices.Delete(legs, i, i+1)
	t.count--
	if len(legs) == 0 {
		delete(t.byKey, l.key)
		return
	}
	t.byKey[l.key] = legs
}

func (t *legTable) report(l *leg, reason string) {
	if l.ended {
		return
	}
	l.ended, l.ending = true, true
	l.check.stop()
	if l.isCall {
		l.info = l.snapshot()
		l.info.Reason = reason
		t.events.CallEnded(l.info)
	}
	t.closed(l)
}

// checkMedia ends a call whose media has been silent for long: the other end
// has vanished without a BYE.
func (t *legTable) checkMedia(l *leg) {
	t.edge.arm(&l.check, legCheck, func() { t.checkMedia(l) })
	var packets uint64
	stats := l.stats()
	for _, s := range stats {
		packets += s.PacketsIn + s.PacketsOut
	}
	if packets != l.packets || l.activeAt.IsZero() || l.info.Answered.IsZero() || l.held[0] || l.held[1] {
		l.packets, l.activeAt = packets, time.Now()
		return
	}
	if len(stats) > 0 && time.Since(l.activeAt) > mediaSilence {
		t.edge.counters.Counter("sip.ended.media_silence").Inc()
		t.drop(l, "no media for "+mediaSilence.String())
	}
}

func (t *legTable) all() []*leg {
	var legs []*leg
	for _, ls := range t.byKey {
		legs = append(legs, ls...)
	}
	return legs
}

// calls are the calls that have not ended.
func (t *legTable) calls() []CallInfo {
	var infos []CallInfo
	for _, l := range t.all() {
		if l.isCall && !l.ended {
			infos = append(infos, l.snapshot())
		}
	}
	return infos
}

func (l *leg) snapshot() CallInfo {
	info := l.info
	info.Media = l.stats()
	if !info.Answered.IsZero() {
		info.Duration = time.Since(info.Answered)
	}
	return info
}

func (l *leg) stats() []MediaStats {
	var all []MediaStats
	for _, line := range l.lines {
		switch {
		case line.port != nil:
			all = append(all, line.port.Stats())
		case line.relay != nil:
			all = append(all, line.relay.Stats())
		}
	}
	return all
}

// line is the leg's i-th m-line, made when it is new.
func (l *leg) line(i int) *mediaLine {
	for len(l.lines) <= i {
		l.lines = append(l.lines, new(mediaLine))
	}
	return l.lines[i]
}

// peerSDP notes the addresses that the SIP peer of this half signals in a
// message that travels in direction from. An answer is in force at once; an
// offer when it is answered, unless nothing is in force yet: media may come
// before the answer (RFC 3264 section 5.1).
func (l *leg) peerSDP(d *sdp.Description, from direction, answer bool) {
	l.noteHold(d, from)
	for i, m := range d.Media() {
		if i >= maxMediaLines {
			break
		}
		line := l.line(i)
		line.offered = mediaAddr{}
		if a := m.RTPAddr(); m.Port != 0 && a.IsValid() { // 0.0.0.0 is hold, and the relay's to know
			line.offered = mediaAddr{a, m.RTCPAddr()}
		}
		line.pending = true
		if answer || !line.committed {
			line.commit(l)
		}
	}
}

func (l *leg) noteHold(d *sdp.Description, from direction) {
	hold := false
	for _, m := range d.Media() {
		hold = hold || m.Hold
	}
	l.held[boolIndex(from)] = hold
}

// answered puts into force what the peer offered.
func (l *leg) answered() {
	for _, line := range l.lines {
		if line.pending {
			line.commit(l)
		}
	}
}

// rejected forgets what the peer offered.
func (l *leg) rejected() {
	for _, line := range l.lines {
		line.pending = false
	}
}

func (line *mediaLine) commit(l *leg) {
	line.pending = false
	line.committed = line.committed || line.offered.rtp.IsValid() && !line.offered.rtp.Addr().IsUnspecified()
	line.remote = line.offered
	line.connect(l)
}

func (line *mediaLine) connect(l *leg) {
	switch {
	case line.port != nil:
		line.port.SetPhone(line.remote.rtp, line.remote.rtcp, l.signalling())
	case line.relay != nil:
		line.relay.SetRemote(line.remote.rtp, line.remote.rtcp)
	}
}

func (l *leg) signalling() netip.Addr {
	if l.flow == nil {
		return netip.Addr{}
	}
	return l.flow.remote.Addr()
}

// bye builds the request that ends l toward this half's peer; sender is the
// party in whose name it is sent.
func (l *leg) bye(sender direction, viaSentBy, reason string) bye {
	b := bye{
		from: l.from, to: l.to, callID: l.key.callID, cseq: l.seq[boolIndex(sender)] + 1,
		target: string(l.peerTarget), routes: l.routes,
		viaSentBy: viaSentBy, branch: newBranch(), reason: reason,
	}
	if sender != l.key.initiator {
		b.from, b.to = b.to, b.from
	}
	return b
}

// contactURI is the URI of the message's first Contact, nil when there is none.
func contactURI(m *sipmsg.Message) []byte {
	it := m.Values(sipmsg.Contact)
	if it.Next() {
		if a := it.Addr(); !a.Star {
			return a.URI
		}
	}
	return nil
}
