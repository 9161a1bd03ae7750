package sipfwd

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
)

const (
	// suspectAfter is how long a target may be silent before its health is asked
	// for; the transaction goes on.
	suspectAfter = 3 * t1
	// silentAfter is how long a target may be silent before a request that can be
	// made of another one is: a PBX answers an INVITE 100 at once, and a REGISTER
	// itself.
	silentAfter = 8 * t1
	// maxResent is how often an INVITE that rings is sent again as its connection
	// ends.
	maxResent = 5
)

// PBX says where the PBX is: at one target or at several, which stand in for each
// other. Its methods are safe for concurrent use and do not block; they are called
// with locks held and must not call back.
type PBX interface {
	// Target is where a request goes that belongs to no dialog: without tried the
	// target of choice, which there always is; else the best one that answers and is
	// not among tried, and false if there is none.
	Target(tried ...netip.AddrPort) (netip.AddrPort, bool)
	// Owner is the target that a message from this address and port, which need not
	// be its own, came from; the zero AddrPort if that cannot be told.
	Owner(from netip.AddrPort) netip.AddrPort
	// Down reports that the target is known not to answer.
	Down(target netip.AddrPort) bool
	// Suspect says that the target owes an answer.
	Suspect(target netip.AddrPort)
}

// PBXDown says that target has ceased to answer. What it has not taken up goes to
// another one now rather than when its time is over, or is answered when it has
// been to all of them. A PBX of one target may answer all but what asks for its
// health.
func (s *PBXSide) PBXDown(target netip.AddrPort) {
	for _, p := range s.allPhones() {
		p.mu.Lock()
		for _, c := range slices.Collect(maps.Values(p.edge.clients)) {
			switch {
			case targetOf(c.peer) != target || c.status > 100 || c.left:
			case p.elsewhere(c, "sip.failover.pbx_down"):
			case len(c.tried) > 0: // it has been everywhere
				p.unreachable(c)
			}
		}
		p.mu.Unlock()
	}
}

// target is where a request of the phone in l, which may be nil, goes, whatever it
// says: to whose dialog it is, as long as that answers.
func (p *pbxPhone) target(l *leg) netip.AddrPort {
	pbx := p.side.cfg.PBX
	if l != nil && l.target.IsValid() {
		if !pbx.Down(l.target) {
			return l.target
		}
		if other, ok := pbx.Target(l.target); ok {
			return other
		}
	}
	target, _ := pbx.Target()
	return target
}

// owner is the target that a message came from.
func (p *pbxPhone) owner(from source) netip.AddrPort {
	if target := p.side.cfg.PBX.Owner(from.addr); target.IsValid() {
		return target
	}
	return p.target(nil)
}

// watch looks whether the target that has c answers.
func (p *pbxPhone) watch(c *clientTx) {
	p.edge.arm(&c.patience, suspectAfter, func() {
		if c.status != 0 {
			return
		}
		p.side.cfg.PBX.Suspect(targetOf(c.peer))
		if c.inDialog || !c.invite && c.key.method != "REGISTER" {
			return // may wait for a phone's answer; its target's health decides
		}
		p.edge.arm(&c.patience, silentAfter-suspectAfter, func() {
			if c.status == 0 {
				p.elsewhere(c, "sip.failover.pbx_silent")
			}
		})
	})
}

// elsewhere sends the request of c to the next target, and counts why. It reports
// false when there is none.
func (p *pbxPhone) elsewhere(c *clientTx, why string) bool {
	if c.left || c.key.method == "CANCEL" {
		return false
	}
	if c.cancelled || c.cancel != nil { // nobody waits for the call any more
		p.count(why)
		p.edge.leave(c)
		answerInstead(c, terminated, p.toTunnel, p.legs)
		return true
	}
	tried := append(slices.Clone(c.tried), targetOf(c.peer))
	next, ok := p.side.cfg.PBX.Target(tried...)
	if !ok || !p.edge.retarget(c, p.port.hopTo(next)) {
		return false
	}
	p.count(why)
	c.tried = tried
	p.watch(c)
	return true
}

// unreachable answers c for a PBX that cannot be had at any target.
func (p *pbxPhone) unreachable(c *clientTx) {
	p.count(pbxUnreachable.counter)
	p.edge.leave(c)
	answerInstead(c, pbxUnreachable, p.toTunnel, p.legs)
}

// linkLost says that the connection st to target has ended, or, unless it was
// connected, could not be had. What the PBX has not answered is sent once more
// on a new connection: it may have closed the old one, idle, just then, or have
// been restarted; an INVITE that rings too, which a PBX that knows it takes for
// repeated. What cannot be sent goes to another target, and RFC 3261 section
// 17.1.4 makes 503 of the rest.
func (p *pbxPhone) linkLost(st *stream, target netip.AddrPort, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.port.unlink(st, target)
	for _, c := range slices.Collect(maps.Values(p.edge.clients)) {
		switch h, mine := c.peer.(linkHop); {
		case !mine || h.addr != target || c.status >= 200 || c.left:
		case connected && c.status != 0 && (!c.invite || c.resent >= maxResent):
		case connected && (c.status != 0 || c.resent == 0):
			c.resent++
			c.peer.send(c.request)
		case p.elsewhere(c, "sip.failover.pbx_unreachable"):
		default:
			p.unreachable(c)
		}
	}
	for _, c := range p.edge.clients {
		if !connected && c.left && targetOf(c.peer) == target {
			p.edge.dropClient(c) // it has never been sent
		}
	}
}

// leave ends c. What its peer still makes of an INVITE nobody wants any more: it
// is cancelled there.
func (e *edge) leave(c *clientTx) {
	e.dropClient(c)
	left := &clientTx{
		key: c.key, invite: true, peer: c.peer, cost: txCost(c.request), request: c.request,
		status: c.status, cancelled: c.cancelled, left: true,
	}
	if !c.invite || len(e.clients) >= maxTxPerPhone || !e.budget.take(left.cost) {
		return
	}
	e.clients[left.key] = left
	e.arm(&left.end, txTimeout, func() { e.expireClient(left) })
	if c.cancel == nil {
		c.cancel = ownCancel(c.request)
	}
	e.cancelClient(left, c.cancel)
}

// retarget sends the request of c to another peer, in a transaction with a
// branch of its own (RFC 3261 section 16.7 step 6). It reports false, and changes
// nothing, when there is no room.
func (e *edge) retarget(c *clientTx, peer hop) bool {
	if !e.budget.take(txCost(c.request)) {
		return false
	}
	e.leave(c)
	c.cancel = nil
	branch := newBranch()
	// Our Via is the first, and only it has the branch.
	c.request = bytes.Replace(c.request, []byte(c.key.branch), []byte(branch), 1)
	c.key.branch, c.peer = branch, peer
	c.status, c.interval, c.resent = 0, t1, 0
	e.sendClient(c)
	return true
}
