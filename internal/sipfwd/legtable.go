package sipfwd

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// legTable are the dialogs of one phone; its lock guards them.
type legTable struct {
	edge   *edge
	byKey  map[legKey][]*leg
	count  int
	live   [2]int // calls, and others, that have not ended
	events Events
	// hangUp sends a BYE to the SIP peer of this half.
	hangUp func(l *leg, reason string)
	// peerSends is the direction in which the SIP peer of this half sends.
	peerSends direction
	// elsewhere says that the media of l may take a way that this half does
	// not see. Nil: never.
	elsewhere func(l *leg) bool
}

func newLegTable(e *edge, peerSends direction, events Events, hangUp func(l *leg, reason string)) *legTable {
	return &legTable{edge: e, peerSends: peerSends, byKey: make(map[legKey][]*leg), events: events, hangUp: hangUp}
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

// pickLeg chooses among the branches of a fork that reached the same phone, and
// what an INVITE that was refused has left beside its next attempt: a callee may
// use its tag again.
func pickLeg(legs []*leg, answererTag string) *leg {
	var found *leg
	for _, l := range legs {
		if answererTag != "" && l.tagged(answererTag) != nil && (found == nil || found.ended) {
			found = l
		}
	}
	if found == nil && len(legs) > 0 {
		found = legs[len(legs)-1]
	}
	return found
}

// admit finds or opens the leg of the request m, notes what m says of it, and
// parses the SDP in m. A request outside of any dialog has no leg; nor have
// subscriptions when there are many: they work without.
func (t *legTable) admit(m *sipmsg.Message, d direction, body *sessionBody) (l *leg, has bool, no *refusal) {
	if createsDialog(m) {
		l, no = t.open(m, d)
	} else {
		l = t.find(m, d)
	}
	if no == nil {
		has, no = body.find(m)
	}
	if no == nil && has && (l == nil || l.ended) {
		no = noSuchCall // its relays are gone, or never were
	}
	if no != nil {
		t.edge.counters.Counter(no.counter).Inc()
		t.abandon(l, m, no.reason)
		return nil, false, no
	}
	if l != nil {
		if has {
			l.enter(l.dialogOf(m, d))
		}
		t.request(l, m, d)
	}
	return l, has, nil
}

// open is the leg of m, a request that may create a dialog. An INVITE that
// comes again with credentials keeps its leg; a second fork of the same INVITE
// to this phone gets one of its own.
func (t *legTable) open(m *sipmsg.Message, d direction) (*leg, *refusal) {
	if l := t.find(m, d); l != nil && !l.ended && !t.inviting(l, requestKey(m)) {
		if l.ending {
			l.ending = false
			l.end.stop()
		}
		return l, nil
	}
	l := &leg{
		key:    legKey{string(m.CallID()), d, string(m.FromTag())},
		isCall: string(m.Method()) == "INVITE", peerSends: t.peerSends,
	}
	if no := t.room(l, m); no != nil {
		if !l.isCall {
			return nil, nil
		}
		return nil, no
	}
	l.cost = legCost
	t.byKey[l.key] = append(t.byKey[l.key], l)
	t.count++
	t.live[l.class()]++
	l.from, l.to, l.startedAt = string(m.FromURI()), string(m.ToURI()), time.Now()
	if l.isCall {
		t.events.CallStarted(l.snapshot())
		t.edge.arm(&l.check, legCheck, func() { t.checkMedia(l) })
	}
	return l, nil
}

// room says why l cannot be had, and accounts for it if it can.
func (t *legTable) room(l *leg, m *sipmsg.Message) *refusal {
	from, _ := m.HeaderValue(sipmsg.From)
	to, _ := m.HeaderValue(sipmsg.To)
	if len(m.CallID())+len(from)+len(to) > maxLegHeaders {
		return longHeader
	}
	if t.live[l.class()] >= [2]int{maxOtherLegs, maxCallsPerPhone}[l.class()] || !t.edge.budget.take(legCost) {
		return tooManyCalls
	}
	return nil
}

func (l *leg) class() int {
	if l.isCall {
		return 1
	}
	return 0
}

// inviting says that l has an INVITE under way that is not the one of key.
func (t *legTable) inviting(l *leg, key txKey) bool {
	for _, s := range t.edge.servers {
		if s.leg == l && s.invite && s.status < 200 && s.key != key {
			return true
		}
	}
	for _, c := range t.edge.clients {
		if c.leg == l && c.invite && c.status < 200 && c.up != key {
			return true
		}
	}
	return false
}

// abandon forgets a leg whose first request went nowhere.
func (t *legTable) abandon(l *leg, m *sipmsg.Message, reason string) {
	if l != nil && m.ToTag() == nil && l.answeredAt.IsZero() && createsDialog(m) {
		t.drop(l, reason)
	}
}

// request notes what the request m, sent in direction d by one of the parties,
// says of its leg.
func (t *legTable) request(l *leg, m *sipmsg.Message, d direction) {
	if seq, method := m.CSeq(); string(method) != "ACK" {
		l.seq[boolIndex(d)] = max(l.seq[boolIndex(d)], seq)
	}
	switch {
	case l.ended:
	case string(m.Method()) == "BYE":
		if !l.isLast(l.dialogOf(m, d)) {
			return
		}
		l.ending = true
		l.reason = "hung up by the " + partyName(d)
		t.edge.arm(&l.end, legLinger, func() { t.drop(l, l.reason) })
	case !l.isCall:
		t.prolong(l, m)
	}
}

// response notes what the response m to a request of the leg says. d is the
// direction in which that request travelled.
func (t *legTable) response(l *leg, m *sipmsg.Message, d direction) {
	if l.ended {
		return
	}
	b := t.dialogIn(l, m, d)
	status := m.StatusCode()
	switch {
	case status < 200:
	case string(m.Method()) == "BYE":
		if !l.isLast(b) {
			t.forget(l, b)
			return
		}
		t.finish(l, l.reason)
	case string(m.Method()) == "INVITE":
		t.inviteResponse(l, m, status)
	case !l.isCall:
		t.prolong(l, m)
	}
}

func (t *legTable) inviteResponse(l *leg, m *sipmsg.Message, status int) {
	if !l.answeredAt.IsZero() {
		return
	}
	if status < 300 {
		l.answeredAt = time.Now()
		return
	}
	reason := strconv.Itoa(status) + " " + string(m.Reason())
	if status == 401 || status == 407 {
		l.ending = true
		l.reason = reason
		t.edge.arm(&l.end, retryLinger, func() { t.drop(l, reason) })
	} else {
		t.finish(l, reason)
	}
}

// prolong keeps a leg that is no call for as long as m says that its
// subscription lives (RFC 6665 sections 4.1.2 and 4.2.1.4, RFC 3515), and at
// least for the time that an answer takes.
func (t *legTable) prolong(l *leg, m *sipmsg.Message) {
	now := time.Now()
	switch method := string(m.Method()); {
	case method == "SUBSCRIBE" && m.StatusCode()/100 == 2:
		life := subscriptionLife
		if n, ok := m.Expires(); ok {
			life = seconds(n)
		}
		l.until = now.Add(life)
	case method == "REFER" && m.StatusCode()/100 == 2:
		l.until = now.Add(referLife)
	case method == "NOTIFY" && m.IsRequest():
		if life, ok := subscriptionState(m); ok {
			l.until = now.Add(life)
		}
	}
	wait := max(l.until.Sub(now), 0) + legLinger
	if m.IsRequest() {
		wait = max(wait, 2*txTimeout)
	}
	t.edge.arm(&l.end, wait, func() { t.drop(l, "expired") })
}

// subscriptionState is how long the subscription lives on after the NOTIFY m;
// ok is false when it does not say.
func subscriptionState(m *sipmsg.Message) (life time.Duration, ok bool) {
	v, _ := m.HeaderValue(sipmsg.SubscriptionState)
	params := v[len(v):]
	if i := bytes.IndexByte(v, ';'); i >= 0 {
		v, params = v[:i], v[i:]
	}
	if bytes.EqualFold(bytes.TrimSpace(v), []byte("terminated")) {
		return 0, true
	}
	value, _ := sipmsg.Param(params, "expires")
	n, ok := sipmsg.ParseSeconds(value)
	return seconds(n), ok
}

// seconds is n seconds, at most a day.
func seconds(n int) time.Duration { return time.Duration(min(n, 86400)) * time.Second }

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
	t.edge.budget.give(l.cost)
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
	t.live[l.class()]--
	if l.isCall {
		l.reason = reason
		t.events.CallEnded(l.snapshot())
	}
	l.releaseMedia()
	l.cost = t.edge.budget.exchange(l.cost, l.size())
}

// endAll ends every leg, and tells the SIP peer of those that are calls.
func (t *legTable) endAll(reason string) {
	for _, l := range t.all() {
		if l.isCall && !l.ended && !l.answeredAt.IsZero() {
			t.hangUp(l, `SIP;cause=503;text="Tunnel lost"`)
		}
		t.drop(l, reason)
	}
}

// checkMedia ends a call whose media has been silent for long: the other end
// has vanished without a BYE. It also ends one that waits for no answer any
// more, should an INVITE have got lost between the halves.
func (t *legTable) checkMedia(l *leg) {
	t.edge.arm(&l.check, legCheck, func() { t.checkMedia(l) })
	if l.answeredAt.IsZero() {
		if !l.ending && !t.inviting(l, txKey{}) {
			t.drop(l, "no answer to INVITE")
		}
		return
	}
	var packets uint64
	stats := l.stats()
	for _, s := range stats {
		packets += s.PacketsIn + s.PacketsOut
	}
	if packets != l.packets || l.activeAt.IsZero() || t.elsewhere != nil && t.elsewhere(l) {
		l.packets, l.activeAt = packets, time.Now()
		return
	}
	limit := mediaSilence
	if l.held[0] || l.held[1] || len(stats) == 0 {
		limit = heldSilence
	}
	if time.Since(l.activeAt) > limit {
		t.edge.counters.Counter("sip.ended.media_silence").Inc()
		t.hangUp(l, `SIP;cause=408;text="No media"`)
		t.drop(l, "no media for "+limit.String())
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
