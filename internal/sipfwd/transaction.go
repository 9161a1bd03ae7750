package sipfwd

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// Timers of RFC 3261 section 17 and its table 4.
const (
	t1            = 500 * time.Millisecond // round-trip estimate
	t2            = 4 * time.Second        // longest interval of a retransmission
	t4            = 5 * time.Second        // how long a message stays in the network
	txTimeout     = 64 * t1                // timers B, F, H and J
	timerC        = 185 * time.Second      // section 16.6: more than three minutes
	tryingAfter   = 200 * time.Millisecond // section 17.2.1: 100 unless the next hop is faster
	maxTxPerPhone = 8192                   // transactions of one phone, each direction: a gateway's linger 32 s each
)

// hop is a SIP peer of one half of the proxy: a phone's flow, or the PBX.
type hop interface {
	// send never blocks; a message that cannot be sent is dropped and counted
	// by the hop.
	send(msg []byte)
	// reliable says that the transport retransmits, so that the transaction
	// must not.
	reliable() bool
}

// txKey identifies a transaction, RFC 3261 section 17.1.3 and 17.2.3.
type txKey struct {
	branch, sentBy, method string
}

// requestKey is the key under which the server transaction of m, or of the
// request that the response m answers, is found. ACK belongs to its INVITE.
func requestKey(m *sipmsg.Message) txKey {
	method := string(m.Method())
	if method == "ACK" {
		method = "INVITE"
	}
	return methodKey(m, method)
}

func methodKey(m *sipmsg.Message, method string) txKey {
	via, _ := m.TopVia()
	sentBy := string(via.Host)
	if via.Port != 0 {
		sentBy += ":" + strconv.Itoa(via.Port)
	}
	k := txKey{branch: string(via.Branch), sentBy: sentBy, method: method}
	if !bytes.HasPrefix(via.Branch, []byte("z9hG4bK")) {
		// An RFC 2543 peer: its branch, if any, need not be unique.
		seq, _ := m.CSeq()
		k.branch += "\x00" + string(m.CallID()) + "\x00" + string(m.FromTag()) + "\x00" + strconv.FormatUint(uint64(seq), 10)
	}
	return k
}

func newBranch() string { return "z9hG4bK" + randomHex() }

// ackBranch is the branch of ours for m, the ACK of a 2xx. It has no transaction:
// when it comes again, for a 2xx that came again, it has the same one (RFC 3261
// section 16.11), so that its receiver takes it for repeated.
func ackBranch(m *sipmsg.Message) string {
	k := requestKey(m)
	sum := sha256.Sum256([]byte(k.branch + "\x00" + k.sentBy + "\x00" + string(m.CallID())))
	return "z9hG4bK" + hex.EncodeToString(sum[:8])
}

func randomHex() string {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// serverTx is the server transaction for a request received from the SIP peer
// and forwarded into the tunnel.
type serverTx struct {
	key  txKey
	peer hop
	cost int // of the budget
	// As received, with received and rport: what responses of our own are made
	// from. Nil when there will be none: after any final response to a request
	// other than INVITE, and a 2xx to an INVITE whose Record-Route is not needed for
	// those of other branches.
	request []byte
	leg     *leg // nil outside dialogs
	invite  bool
	creates bool // it may create a dialog
	secure  bool // its Request-URI is of sips
	routed  bool // it has a Record-Route
	offer   bool // it carried SDP that is no answer
	cancel  bool // a CANCEL has been forwarded

	status   int    // of the last response sent, 0 = none
	last     []byte // the last response sent; nil when it was a 2xx that has been acknowledged
	interval time.Duration
	resend   slot       // timer G
	oks      []*success // of an INVITE
	end      slot
}

// size is about how many bytes s needs.
func (s *serverTx) size() int { return txBase + len(s.request) + len(s.last) }

// success is a 2xx to an INVITE, which waits for its own ACK: a fork has several
// (RFC 3261 section 13.3.1.4).
type success struct {
	key      ackKey
	server   *serverTx
	msg      []byte
	cost     int // of the budget
	interval time.Duration
	resend   slot
}

// ackKey is what an ACK and the 2xx that it means have in common.
type ackKey struct {
	callID, fromTag, toTag string
	cseq                   uint32
}

func ackKeyOf(m *sipmsg.Message) ackKey {
	seq, _ := m.CSeq()
	return ackKey{string(m.CallID()), string(m.FromTag()), string(m.ToTag()), seq}
}

// clientTx is the client transaction for a request that came out of the tunnel
// and was sent to the SIP peer.
type clientTx struct {
	key     txKey // our branch
	up      txKey // the request's key as it came out of the tunnel
	peer    hop
	cost    int    // of the budget
	request []byte // as sent; nil when an INVITE has been answered with 2xx
	leg     *leg
	// PBX side: the bindings that a REGISTER means, by the phone's own URIs.
	contacts map[string]*pbxBinding
	// PBX side: the targets that have failed the request, and the watch over the
	// one that has it.
	tried    []netip.AddrPort
	patience slot // runs until there is an answer

	invite    bool
	inDialog  bool
	offer     bool
	left      bool // an INVITE that has gone to another target since
	cancelled bool
	resent    uint8 // times, on another connection than the first

	status   int
	cancel   []byte // waits for the first provisional response, RFC 3261 section 9.1
	interval time.Duration
	resend   slot // timers A and E
	end      slot // timers B, C, D, F, K
}

// edge runs the transactions between one half of the proxy and its SIP peer
// for one phone. Every method is called with mu held.
type edge struct {
	alarms
	servers  map[txKey]*serverTx
	clients  map[txKey]*clientTx
	oks      map[ackKey]*success // that have not been acknowledged
	counters *counter.Set
	budget   *budget
	// timedOut tells that c ended without a final response.
	timedOut func(c *clientTx)
}

func newEdge(mu *sync.Mutex, counters *counter.Set, b *budget, timedOut func(*clientTx)) *edge {
	return &edge{
		alarms:   alarms{mu: mu, began: time.Now()},
		counters: counters, budget: b, timedOut: timedOut,
		servers: make(map[txKey]*serverTx), clients: make(map[txKey]*clientTx),
		oks: make(map[ackKey]*success),
	}
}

// close forgets all transactions.
func (e *edge) close() {
	for _, s := range e.servers {
		e.dropServer(s)
	}
	for _, c := range e.clients {
		e.dropClient(c)
	}
}

// --- server transactions ---------------------------------------------------

// retransmission says whether m, a request other than ACK, belongs to a
// transaction that exists, and answers it with what was answered before.
func (e *edge) retransmission(m *sipmsg.Message) bool {
	s := e.servers[requestKey(m)]
	if s == nil {
		return false
	}
	e.counters.Counter("sip.absorbed.retransmission").Inc()
	switch {
	case s.last != nil:
		s.peer.send(s.last)
	case s.invite:
		e.sendTrying(s)
	}
	return true
}

// newServer starts the server transaction of m, to which the Via parameters
// received and rport have been added; nil when there are too many, or when m has
// become larger with them than the tunnel carries, which peer is told.
func (e *edge) newServer(m *sipmsg.Message, peer hop) *serverTx {
	request := m.AppendTo(nil)
	if len(request) > maxMessage {
		e.counters.Counter(tooLarge.counter).Inc()
		peer.send(answerTo(m, tooLarge))
		return nil
	}
	if len(e.servers) >= maxTxPerPhone || !e.budget.take(txCost(m.Bytes())) {
		e.counters.Counter(noRoomLeft.counter).Inc()
		peer.send(answerTo(m, noRoomLeft))
		return nil
	}
	s := &serverTx{
		key: requestKey(m), invite: string(m.Method()) == "INVITE",
		creates: createsDialog(m), secure: isSIPS(m.RequestURI()),
		peer: peer, cost: txCost(m.Bytes()),
		request: request,
	}
	_, s.routed = m.Header(sipmsg.RecordRoute)
	e.servers[s.key] = s
	if s.invite {
		e.arm(&s.resend, tryingAfter, func() { e.sendTrying(s) })
		e.arm(&s.end, timerC+txTimeout, func() { e.dropServer(s) })
	} else {
		e.arm(&s.end, txTimeout+t4, func() { e.dropServer(s) })
	}
	return s
}

func (e *edge) sendTrying(s *serverTx) {
	if s.status == 0 {
		s.resend.stop()
		s.status = 100
		s.last = ownResponse(s.request, 100, "Trying", "")
		s.peer.send(s.last)
	}
}

func (e *edge) dropServer(s *serverTx) {
	s.resend.stop()
	s.end.stop()
	for _, ok := range s.oks {
		e.acknowledged(ok)
	}
	if e.servers[s.key] == s {
		delete(e.servers, s.key)
		e.budget.give(s.cost)
	}
}

// respond sends msg, which was made of the response m, to the request of s. It must not
// be changed afterwards; a final one that is empty becomes 500. It reports whether the
// response was sent.
func (e *edge) respond(s *serverTx, m *sipmsg.Message, msg []byte) bool {
	status := m.StatusCode()
	switch {
	case len(msg) == 0 && status >= 200: // our edits of it made nothing
		status, msg = 500, ownResponse(s.request, 500, "Response Too Complex", randomHex())
	case len(msg) > 0 && s.invite && status/100 == 2:
		return e.succeed(s, m, msg)
	}
	return e.answer(s, status, msg)
}

// answer is respond for what is no 2xx to INVITE.
func (e *edge) answer(s *serverTx, status int, msg []byte) bool {
	switch {
	case s.status >= 200:
		e.counters.Counter("sip.dropped.late_response").Inc()
		return false
	case len(msg) == 0:
		return false
	}
	s.status, s.last = status, msg
	s.peer.send(msg)
	switch {
	case status < 200:
		s.resend.stop()
		if s.invite {
			e.arm(&s.end, timerC+txTimeout, func() { e.dropServer(s) })
		}
	case s.invite:
		s.resend.stop()
		if !s.peer.reliable() {
			s.interval = t1 // timer G
			e.arm(&s.resend, s.interval, func() { e.resendResponse(s) })
		}
		e.arm(&s.end, txTimeout, func() { e.dropServer(s) })
	case s.peer.reliable():
		e.dropServer(s)
	default:
		s.resend.stop()
		s.request = nil
		s.cost = e.budget.exchange(s.cost, s.size())
		e.arm(&s.end, txTimeout, func() { e.dropServer(s) })
	}
	return true
}

// succeed sends a 2xx to the INVITE of s, which is end to end. Over UDP it is
// repeated until its ACK, in place of the callee, whose own transport may be one
// that never retransmits. The callee's own retransmission is needed only once our
// peer has shown by its ACK that it had the first.
func (e *edge) succeed(s *serverTx, m *sipmsg.Message, msg []byte) bool {
	key := ackKeyOf(m)
	ok := e.oks[key]
	if ok != nil && bytes.Equal(ok.msg, msg) {
		return false
	}
	if s.status < 200 {
		s.resend.stop()
		s.status = m.StatusCode()
		if !s.routed {
			s.request = nil
		}
		e.arm(&s.end, txTimeout, func() { e.dropServer(s) })
	}
	if s.status < 300 {
		s.last = msg
		s.cost = e.budget.exchange(s.cost, s.size())
	}
	s.peer.send(msg)
	switch {
	case ok != nil:
		ok.msg, ok.cost = msg, e.budget.exchange(ok.cost, len(msg))
	case !s.peer.reliable() && len(s.oks) < maxDialogs && !s.knows(key) && e.budget.take(len(msg)):
		ok = &success{key: key, server: s, msg: msg, cost: len(msg), interval: t1}
		s.oks, e.oks[key] = append(s.oks, ok), ok
		e.arm(&ok.resend, ok.interval, func() { e.resendOK(s, ok) })
	}
	return true
}

// lastIs says whether msg is the last response sent, and not one like it.
func (s *serverTx) lastIs(msg []byte) bool {
	return len(s.last) > 0 && len(msg) > 0 && &s.last[0] == &msg[0]
}

// knows says whether a 2xx of key has been sent before.
func (s *serverTx) knows(key ackKey) bool {
	return slices.ContainsFunc(s.oks, func(ok *success) bool { return ok.key == key })
}

func (e *edge) resendOK(s *serverTx, ok *success) {
	s.peer.send(ok.msg)
	ok.interval = min(2*ok.interval, t2)
	e.arm(&ok.resend, ok.interval, func() { e.resendOK(s, ok) })
}

// acknowledged ends the repetitions of ok.
func (e *edge) acknowledged(ok *success) {
	ok.resend.stop()
	e.budget.give(ok.cost)
	ok.msg, ok.cost = nil, 0
	if e.oks[ok.key] == ok {
		delete(e.oks, ok.key)
	}
}

func (e *edge) resendResponse(s *serverTx) {
	s.peer.send(s.last)
	s.interval = min(2*s.interval, t2)
	e.arm(&s.resend, s.interval, func() { e.resendResponse(s) })
}

// refuse answers the request of s ourselves.
func (e *edge) refuse(s *serverTx, status int, reason string, headers ...string) {
	e.answer(s, status, ownResponse(s.request, status, reason, randomHex(), headers...))
}

// refuseFor does so for a reason that has been counted.
func (e *edge) refuseFor(s *serverTx, no *refusal) { e.refuse(s, no.status, no.reason, no.headers...) }

// ack handles an ACK from the peer. It reports true when the ACK ends here,
// because it acknowledges a response other than 2xx; else it is to be
// forwarded, RFC 3261 section 13.2.2.4.
func (e *edge) ack(m *sipmsg.Message) bool {
	if bytes.HasPrefix(m.ToTag(), []byte(statelessTag)) {
		return true
	}
	if s := e.servers[requestKey(m)]; s != nil && s.status >= 300 {
		s.resend.stop()
		e.arm(&s.end, t4, func() { e.dropServer(s) }) // timer I
		return true
	}
	if ok := e.oks[ackKeyOf(m)]; ok != nil {
		if s := ok.server; s.lastIs(ok.msg) {
			s.last = nil // who has it does not ask for it again
			s.cost = e.budget.exchange(s.cost, s.size())
		}
		e.acknowledged(ok)
	}
	return false
}

// --- client transactions ---------------------------------------------------

// unsendable says why msg can never be sent to: what fits into a stream need not fit
// into a datagram, and edits that exclude each other, or are too many, make nothing.
func unsendable(to hop, msg []byte) *refusal {
	switch {
	case len(msg) == 0:
		return tooComplex
	case !to.reliable() && len(msg) > maxDatagramUDP:
		return tooLargeForUDP
	}
	return nil
}

// newClient sends request, which carries branch on top, and starts its client
// transaction; nil when there are too many. The request must not be changed
// afterwards.
func (e *edge) newClient(branch, method string, up txKey, request []byte, peer hop) *clientTx {
	if len(request) == 0 || len(e.clients) >= maxTxPerPhone || !e.budget.take(txCost(request)) {
		e.counters.Counter(noRoomLeft.counter).Inc()
		return nil
	}
	c := &clientTx{
		key: txKey{branch: branch, method: method}, up: up, invite: method == "INVITE",
		peer: peer, cost: txCost(request), request: request, interval: t1,
	}
	e.sendClient(c)
	return c
}

func (e *edge) sendClient(c *clientTx) {
	e.clients[c.key] = c
	c.peer.send(c.request)
	if !c.peer.reliable() {
		e.arm(&c.resend, c.interval, func() { e.resendRequest(c) })
	}
	e.arm(&c.end, txTimeout, func() { e.expireClient(c) })
}

func (e *edge) resendRequest(c *clientTx) {
	c.peer.send(c.request)
	c.interval *= 2
	if !c.invite {
		c.interval = min(c.interval, t2)
	}
	e.arm(&c.resend, c.interval, func() { e.resendRequest(c) })
}

func (e *edge) expireClient(c *clientTx) {
	if c.invite && c.status >= 100 && c.status < 200 && !c.cancelled {
		// Timer C: the callee rings for ever. Cancel, then wait for its answer.
		e.cancelClient(c, ownCancel(c.request))
		return
	}
	e.dropClient(c)
	if c.status < 200 && c.key.method != "CANCEL" {
		e.timedOut(c)
	}
}

func (e *edge) dropClient(c *clientTx) {
	c.patience.stop()
	c.resend.stop()
	c.end.stop()
	if e.clients[c.key] == c {
		delete(e.clients, c.key)
		e.budget.give(c.cost)
	}
}

// findClient is the client transaction that the response m belongs to.
func (e *edge) findClient(m *sipmsg.Message) *clientTx {
	via, _ := m.TopVia()
	return e.clients[txKey{branch: string(via.Branch), method: string(m.Method())}]
}

// findUp is the INVITE's client transaction that a CANCEL out of the tunnel
// means.
func (e *edge) findUp(up txKey) *clientTx {
	for _, c := range e.clients {
		if c.up == up && c.invite {
			return c
		}
	}
	return nil
}

// response handles the response m of the peer to c and reports whether it is
// to be forwarded into the tunnel: not when the request was our own.
func (e *edge) response(c *clientTx, m *sipmsg.Message) bool {
	return e.advance(c, m) && c.up != (txKey{})
}

func (e *edge) advance(c *clientTx, m *sipmsg.Message) bool {
	status := m.StatusCode()
	if c.key.method == "CANCEL" {
		if status >= 200 {
			e.dropClient(c)
		}
		return false
	}
	c.patience.stop()
	if status < 200 {
		return e.provisional(c, status)
	}
	first := c.status < 200
	success := status < 300
	if !first && !(c.invite && success && c.status < 300) {
		if c.invite && !success {
			c.peer.send(ownACK(c.request, m)) // our ACK was lost
		}
		return false
	}
	c.status = status
	c.resend.stop()
	switch {
	case c.invite && success:
		if first { // RFC 6026: later 2xx are forwarded too
			c.request = nil
			c.cost = e.budget.exchange(c.cost, txBase)
			e.arm(&c.end, txTimeout, func() { e.dropClient(c) })
		}
	case c.invite:
		c.peer.send(ownACK(c.request, m))
		fallthrough
	default:
		if c.peer.reliable() {
			e.dropClient(c)
		} else if c.invite {
			e.arm(&c.end, txTimeout, func() { e.dropClient(c) }) // timer D
		} else {
			e.arm(&c.end, t4, func() { e.dropClient(c) }) // timer K
		}
	}
	return true
}

func (e *edge) provisional(c *clientTx, status int) bool {
	if c.status >= 200 {
		return false
	}
	first := c.status == 0
	c.status = status
	if c.invite {
		c.resend.stop()
		if !c.cancelled && (first || status > 100) {
			e.arm(&c.end, timerC, func() { e.expireClient(c) })
		}
		if c.cancel != nil {
			e.cancelClient(c, c.cancel)
		}
	} else {
		c.interval = t2
	}
	return status > 100
}

// cancelClient sends msg, the CANCEL of c, now or after the first provisional
// response.
func (e *edge) cancelClient(c *clientTx, msg []byte) {
	if c.status >= 200 || c.cancelled {
		return
	}
	if c.status == 0 {
		c.cancel = msg
		return
	}
	c.cancelled, c.cancel = true, nil
	e.newClient(c.key.branch, "CANCEL", txKey{}, msg, c.peer)
	e.arm(&c.end, txTimeout, func() { e.expireClient(c) })
}
