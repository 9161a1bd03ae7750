package sipfwd

import (
	"errors"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

var (
	errSessionOver   = errors.New("the session is over")
	errTooManyPhones = errors.New("too many phones in this session")
)

// pbxPhone is a phone of a session as the PBX sees it: a user agent at a port
// of its own. The port's reader, the tunnel's reader and timers hold mu while
// they work.
type pbxPhone struct {
	side *PBXSide
	id   uint32
	key  string
	port *phonePort
	// trunk is its name, if the phone is one.
	trunk string

	mu       sync.Mutex
	edge     *edge
	legs     *legTable
	bindings []*pbxBinding
	former   formerUsers
	ended    bool // the session is over, or has lost this phone: answer 480

	msg sipmsg.Message
	sdp sessionBody
	out []byte // of one message, toward the tunnel
}

func newPBXPhone(s *PBXSide, id uint32, key string) *pbxPhone {
	p := &pbxPhone{side: s, id: id, key: key}
	if name, ok := trunkOfKey(key); ok {
		p.trunk = name
	}
	p.edge = newEdge(&p.mu, s.counters, &s.budget, p.timedOut)
	p.legs = newLegTable(p.edge, down, s.cfg.Events, p.hangUp)
	p.legs.elsewhere = p.direct
	return p
}

func (p *pbxPhone) count(name string) { p.side.counters.Counter(name).Inc() }

func (p *pbxPhone) toTunnel(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if p.ended {
		p.count("sip.dropped.tunnel_down")
		return
	}
	p.side.cfg.Send(p.id, msg)
}

// forward sends the edited message p.msg into the tunnel. It reports false when
// our edits of it make no message.
func (p *pbxPhone) forward() bool {
	p.out = forTunnel(p.out[:0], &p.msg, p.side.counters)
	p.toTunnel(p.out)
	return len(p.out) > 0
}

func (p *pbxPhone) transport() string { return p.port.ports.cfg.Transport }

func (p *pbxPhone) via() string { return "SIP/2.0/" + p.transport() + " " + p.port.addr.String() }

// end is the end of the session for this phone: calls are ended toward the PBX,
// and whatever it sends from now on is answered 480.
func (p *pbxPhone) end(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	for _, s := range p.edge.servers {
		if s.status < 200 {
			p.edge.refuse(s, 480, "Office Not Connected")
		}
	}
	for _, c := range p.edge.clients {
		if c.invite && c.status < 200 {
			p.edge.cancelClient(c, ownCancel(c.request))
		}
	}
	p.legs.endAll(reason)
	p.ended = true
	var life time.Duration
	if len(p.edge.clients)+len(p.edge.servers) > 0 {
		life = txTimeout // goodbyes are under way
	}
	for len(p.bindings) > 0 {
		b := p.bindings[0]
		life = max(life, time.Until(b.Expires)+legLinger)
		p.former.add(b.User, b.Expires)
		p.drop(b, reason)
	}
	if p.trunk != "" {
		life = trunkLinger
		p.side.cfg.Events.TrunkGone(p.trunkInfo(), reason)
	}
	p.port.release(p, life)
}

// hangUp tells the PBX that a call is over, in the name of the phone.
func (p *pbxPhone) hangUp(l *leg, reason string) {
	p.edge.sendBye(l, up, p.via(), reason, p.port.hopTo(p.target(l)))
}

// direct says that the PBX has two phones of this session send to each other,
// which the client then does in its office. The silence of such a call is the
// client's to notice, which gives the relays back when it ends the call.
func (p *pbxPhone) direct(l *leg) bool {
	for _, line := range l.lines {
		if line.relay == nil {
			continue
		}
		_, near := p.side.cfg.Relay(line.relayAt)
		_, far := p.side.cfg.Relay(line.peer.now.rtp)
		if near && far {
			return true
		}
	}
	return false
}

// timedOut answers the phone for a PBX that does not.
func (p *pbxPhone) timedOut(c *clientTx) {
	if c.left {
		return
	}
	p.count("sip.timeout.pbx")
	answerTimeout(c, p.toTunnel, p.legs)
}
