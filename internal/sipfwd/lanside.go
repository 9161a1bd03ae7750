package sipfwd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxPhones = 1024
	// One host of the LAN cannot take every place: enough for a gateway or a
	// small PBX with many lines.
	maxPhonesPerSource = 512
	maxFlowsPerPhone   = 16               // the oldest is forgotten: a phone may come from ever new addresses
	phoneInbox         = 64               // messages of one phone that wait for it to be served
	phoneIdle          = 10 * time.Minute // a phone without binding, dialog and message is forgotten
	strangerIdle       = time.Minute      // the same for one that has never registered
	openWait           = 5 * time.Second  // for the tunnel to open a phone
	allocWait          = 2 * time.Second  // for the tunnel to allocate a relay
)

// Tunnel is what LANSide needs of the tunnel client.
type Tunnel interface {
	// Up says whether the tunnel is connected now.
	Up() bool
	// OpenPhone gives the phone that key recognises its SIP socket on the PBX
	// side. One packet is one SIP message; the address given to WriteTo is
	// ignored. The same key gets the same port again. state is what State of the
	// connection that it was given last said.
	OpenPhone(ctx context.Context, key string, state []byte) (PhoneConn, error)
	// Domain is the PBX's domain, empty until the tunnel has been up.
	Domain() string
}

// PhoneConn is the SIP socket of one phone on the PBX side.
type PhoneConn interface {
	net.PacketConn
	// Receive hands the next message to f, whose it is during the call. A phone
	// that waits holds no buffer for it.
	Receive(f func(msg []byte)) error
	// State is what OpenPhone wants to have should the PBX side have forgotten the
	// phone by then.
	State() []byte
}

// MediaPort carries one m-line: a port pair on the office's LAN, joined through
// the tunnel to a relay beside the PBX. RTCP ports are one above the RTP ports.
type MediaPort interface {
	LAN() netip.AddrPort // what the phone sends to
	PBX() netip.AddrPort // what the PBX sends to
	// SetPhone says where the phone wants its media, and the address that its
	// signalling comes from. The zero address stops sending.
	SetPhone(rtp, rtcp netip.AddrPort, signalling netip.Addr)
	// Move gives it another port pair on the LAN, at the address lan as of Allocate:
	// the phone is in another network now. What the PBX sends to stays the same.
	// After an error everything is as it was.
	Move(lan netip.Addr) error
	// Join has what the phone sends go to the phone of peer, another port of
	// the same Allocate, instead of into the tunnel. Nil has it go there again.
	// What comes out of the tunnel reaches the phone in either case.
	Join(peer MediaPort)
	Stats() MediaStats
	Close() error
}

// LANSideConfig configures a LANSide. Events and Counters may be nil.
type LANSideConfig struct {
	// Office names this installation, for ever. Phones that have no
	// +sip.instance are known by their LAN address, and two offices that share
	// a credential may use the same addresses.
	Office string
	// LANAddress is what the phones of its family are told to reach us by. The
	// zero Addr tells each the address that it sends to, which differs where this
	// machine is in several networks.
	LANAddress netip.Addr
	Tunnel     Tunnel
	// Allocate makes a MediaPort that the phone reaches at the address lan of
	// this machine. A link-local one has its zone.
	Allocate func(ctx context.Context, lan netip.Addr) (MediaPort, error)
	// Networks are served besides loopback, private, link-local and on-link
	// sources.
	Networks []netip.Prefix
	Trunks   []Trunk // with names that differ
	// Class marks connections to trunks. The sockets that phones send to are the
	// caller's.
	Class dscp.Class
	// Neighbour gives the hardware address of a host of the LAN, "" where it
	// cannot be told. Nil: it never can.
	Neighbour func(netip.Addr) string
	// Kept are the phones of an earlier run: LANSide.Kept.
	Kept []KeptPhone
	// Changed is called when Kept would say something else: now, so that it is
	// worth to be stored, or only of when registrations end. It must be quick and
	// must not call back. Nil: nobody wants to know.
	Changed  func(now bool)
	Events   Events
	Counters *counter.Set
}

// LANSide is the half of the proxy that faces the phones of an office. Its
// methods are safe for concurrent use.
type LANSide struct {
	cfg      LANSideConfig
	counters *counter.Set
	nearby   surroundings
	done     chan struct{}
	wg       sync.WaitGroup
	budget   budget
	crossbar crossbar

	mu        sync.Mutex
	closed    bool
	closers   []io.Closer
	ports     map[int]bool // that we listen on, in any transport
	phones    map[string]*lanPhone
	flows     map[flowKey]*flow // of UDP
	byFlow    map[*flow]*lanPhone
	lines     map[string][]*line // by address of record
	streams   map[*stream]struct{}
	streamsAt map[netip.Addr]int // of a host
	udp       []*lanSocket       // where phones send to
	tcpPort   uint16             // likewise

	trunks []*lanTrunk // for ever the same
}

type flowKey struct {
	sock   *lanSocket
	at     netip.Addr
	remote netip.AddrPort
}

// NewLANSide returns a proxy half that serves nobody yet: see ServeUDP, ServeTCP
// and ServeTLS.
func NewLANSide(cfg LANSideConfig) *LANSide {
	if cfg.Events == nil {
		cfg.Events = noEvents{}
	}
	if cfg.Counters == nil {
		cfg.Counters = new(counter.Set)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(bool) {}
	}
	s := &LANSide{
		cfg: cfg, counters: cfg.Counters, nearby: surroundings{addrs: net.InterfaceAddrs}, done: make(chan struct{}),
		ports: make(map[int]bool), phones: make(map[string]*lanPhone), flows: make(map[flowKey]*flow),
		byFlow: make(map[*flow]*lanPhone), lines: make(map[string][]*line), streams: make(map[*stream]struct{}), streamsAt: make(map[netip.Addr]int),
	}
	s.openTrunks(cfg.Trunks)
	s.restore(cfg.Kept)
	return s
}

func (s *LANSide) closing() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// addCloser registers a listener on port and accounts for the goroutine that
// serves it.
func (s *LANSide) addCloser(c io.Closer, port uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.closers = append(s.closers, c)
	s.ports[int(port)] = true
	s.wg.Add(1)
	return true
}

// listensOn says whether phones can reach us at port.
func (s *LANSide) listensOn(port int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ports[port]
}

// deliver hands b, one message from f, to the phone that it belongs to. b and m
// are the caller's again afterwards.
func (s *LANSide) deliver(f *flow, b []byte, m *sipmsg.Message) {
	s.mu.Lock()
	p := s.byFlow[f]
	if p == nil {
		if p = s.trunkAt(f.remote); p != nil {
			s.link(f, p)
		}
	}
	var sharers []*lanPhone
	if len(f.phones) > 1 {
		sharers = slices.Clone(f.phones)
	}
	s.mu.Unlock()
	registers := bytes.HasPrefix(bytes.TrimLeft(b, "\r\n"), []byte("REGISTER "))
	if p == nil || p.trunk == nil && registers {
		// A flow is new, or may have changed hands.
		if err := m.Parse(b); err != nil {
			s.malformed(f, m, err)
			return
		}
		if p == nil && !m.IsRequest() {
			p = s.answering(f, m)
		} else {
			p, f = s.phoneOf(f, m, p)
		}
		if p == nil && !m.IsRequest() {
			s.counters.Counter("sip.dropped.stray_response").Inc()
			return
		}
		if p == nil {
			if string(m.Method()) != "ACK" {
				f.send(responseTo(m, 503, "Too Many Phones", randomHex(), "Retry-After", "60"))
			}
			return
		}
	}
	if sharers != nil && !registers && m.Parse(b) == nil {
		p = s.sharer(m, p, sharers)
	}
	in := inbound{flow: f, b: bytes.Clone(b)}
	select {
	case p.inbox <- in:
		return
	default:
	}
	if f.stream == nil {
		s.counters.Counter("sip.dropped.inbox_full").Inc()
		return
	}
	// Nobody repeats what came over a stream: its peer waits, as TCP has it.
	select {
	case p.inbox <- in:
	case <-s.done:
	}
}

// malformed answers what can be answered. Nothing else notices.
func (s *LANSide) malformed(f *flow, m *sipmsg.Message, err error) {
	s.counters.Counter("sip.refused.malformed").Inc()
	if res := badRequest(m, err, f.remote); res != nil {
		f.send(res)
	}
}

// phoneOf finds or makes the phone that the request m on f belongs to; p is the
// one that f belonged to. The flow that it returns is m's from then on. The phone
// is nil when there are too many.
func (s *LANSide) phoneOf(f *flow, m *sipmsg.Message, p *lanPhone) (*lanPhone, *flow) {
	if p != nil {
		return s.registers(f, m, p)
	}
	var known *lanPhone
	if f.stream != nil {
		known = s.onOtherFlow(f, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var q *lanPhone
	if known != nil && s.phones[known.key] == known {
		q = known
	} else if q = s.reconnected(f, m); q == nil {
		q = s.phoneFor(s.phoneKey(f, m), f)
	}
	if q == nil {
		return nil, f
	}
	s.link(f, q)
	return q, f
}

// phoneFor finds or makes the phone that key recognises, nil when there are too
// many. f is where it was heard from. It is called with mu held.
func (s *LANSide) phoneFor(key string, f *flow) *lanPhone {
	if q := s.phones[key]; q != nil {
		return q
	}
	if s.closed || len(s.phones) >= maxPhones || s.phonesAt(f.remote.Addr()) >= maxPhonesPerSource {
		s.counters.Counter("sip.refused.too_many_phones").Inc()
		return nil
	}
	q := newLANPhone(s, key, f.remote.Addr())
	s.phones[key] = q
	s.wg.Add(1)
	go q.serve()
	return q
}

// link notes that f is q's. It is called with mu held.
func (s *LANSide) link(f *flow, q *lanPhone) {
	s.byFlow[f] = q
	if !slices.Contains(f.phones, q) {
		f.phones = append(f.phones, q)
	}
	if f.sock != nil {
		s.flows[f.key()] = f
	}
	s.note(f, q)
}

// leave notes that f is not q's any more. It is called with mu held.
func (s *LANSide) leave(f *flow, q *lanPhone) {
	own := func(p *lanPhone) bool { return p == q }
	f.phones = slices.DeleteFunc(f.phones, own)
	q.flows = slices.DeleteFunc(q.flows, func(g *flow) bool { return g == f })
	if s.byFlow[f] != q {
		return
	}
	if n := len(f.phones); n > 0 {
		s.byFlow[f] = f.phones[n-1]
		return
	}
	s.unlink(f)
}

// sharer is which of the phones that share a flow the message m is of: p where it
// does not say.
func (s *LANSide) sharer(m *sipmsg.Message, p *lanPhone, phones []*lanPhone) *lanPhone {
	best := 0
	for _, q := range phones {
		if n := q.claim(m); n > best || n == best && q == p {
			p, best = q, n
		}
	}
	return p
}

// note adds f to the flows of q, which may be found by another one yet. It is
// called with mu held.
func (s *LANSide) note(f *flow, q *lanPhone) {
	if slices.Contains(q.flows, f) {
		return
	}
	q.flows = append(q.flows, f)
	if len(q.flows) > maxFlowsPerPhone {
		s.leave(q.flows[0], q)
	}
}

// phonesAt counts the phones that were first heard from a. It is called with mu
// held.
func (s *LANSide) phonesAt(a netip.Addr) int {
	n := 0
	for _, p := range s.phones {
		if p.source == a {
			n++
		}
	}
	return n
}

// onOtherFlow finds the phone that has opened the connection f for m alone, a
// request too large for the UDP that it uses otherwise (RFC 3261 section
// 18.1.1), or has connected again and not registered yet. It is nil when several
// phones of the host may be meant.
func (s *LANSide) onOtherFlow(f *flow, m *sipmsg.Message) *lanPhone {
	if string(m.Method()) == "REGISTER" {
		return nil // it says who it is, and may be another phone of the user's
	}
	var found *lanPhone
	best := 0
	for _, p := range s.phonesOn(f.remote.Addr()) {
		switch n := p.claim(m); {
		case n > best:
			found, best = p, n
		case n == best:
			found = nil
		}
	}
	return found
}

// phonesOn are the phones of a host.
func (s *LANSide) phonesOn(host netip.Addr) []*lanPhone {
	s.mu.Lock()
	defer s.mu.Unlock()
	var there []*lanPhone
	for _, p := range s.phones {
		if p.source == host || slices.ContainsFunc(p.flows, func(g *flow) bool { return g.remote.Addr() == host }) {
			there = append(there, p)
		}
	}
	return there
}

// answering finds the phone that the response m is from when it comes from another
// port of its host than the one that was asked: nil when no phone owes it.
func (s *LANSide) answering(f *flow, m *sipmsg.Message) *lanPhone {
	host := f.remote.Addr()
	for _, p := range s.phonesOn(host) {
		p.mu.Lock()
		c := p.edge.findClient(m)
		p.mu.Unlock()
		if c != nil && c.peer.(*flow).remote.Addr() == host {
			return p
		}
	}
	return nil
}

const instancePrefix = "instance:"

// phoneKey recognises a phone: by its +sip.instance, which survives reboots and
// new addresses, else by its flow. Over TCP and TLS a phone's own port changes with
// every connection, so its user stands in for that.
func (s *LANSide) phoneKey(f *flow, m *sipmsg.Message) string {
	it := m.Values(sipmsg.Contact)
	for it.Next() {
		if v, ok := sipmsg.Param(it.Addr().Params, "+sip.instance"); ok {
			return truncateKey(instancePrefix + strings.Trim(string(v), `"`))
		}
	}
	if f.transport == "UDP" {
		return truncateKey(s.cfg.Office + "udp:" + f.remote.String())
	}
	user := ""
	if u, ok := sipmsg.ParseURI(m.FromURI()); ok {
		user = string(u.User)
	}
	return truncateKey(s.cfg.Office + "tcp:" + f.remote.Addr().String() + ":" + user)
}

// truncateKey keeps a key within what the tunnel carries.
func truncateKey(k string) string { return k[:min(len(k), 255)] }

// forget drops what refers to the flow f, which is gone, and returns whose it was.
func (s *LANSide) forget(f *flow) []*lanPhone {
	s.mu.Lock()
	defer s.mu.Unlock()
	phones := slices.Clone(f.phones)
	for _, p := range phones {
		s.leave(f, p)
	}
	return phones
}

// unlink is called with mu held.
func (s *LANSide) unlink(f *flow) {
	delete(s.byFlow, f)
	f.phones = nil
	if f.sock != nil && s.flows[f.key()] == f {
		delete(s.flows, f.key())
	}
}

// remove forgets a phone that has been idle.
func (s *LANSide) remove(p *lanPhone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.phones, p.key)
	for _, f := range slices.Clone(p.flows) {
		s.leave(f, p)
	}
}

func (s *LANSide) allPhones() []*lanPhone {
	s.mu.Lock()
	defer s.mu.Unlock()
	phones := make([]*lanPhone, 0, len(s.phones))
	for _, p := range s.phones {
		phones = append(phones, p)
	}
	return phones
}

// Reset says that the tunnel session was lost for good: calls are ended toward
// the phones and what waits for the PBX is answered. Registrations stay.
func (s *LANSide) Reset(reason error) {
	for _, p := range s.allPhones() {
		p.reset(reason)
	}
}

// Phones lists the bindings of the office's phones.
func (s *LANSide) Phones() []PhoneInfo {
	var infos []PhoneInfo
	for _, p := range s.allPhones() {
		infos = append(infos, p.infos()...)
	}
	slices.SortFunc(infos, func(a, b PhoneInfo) int { return strings.Compare(a.AOR+a.Contact, b.AOR+b.Contact) })
	return infos
}

// Calls lists the calls that go on.
func (s *LANSide) Calls() []CallInfo {
	var infos []CallInfo
	for _, p := range s.allPhones() {
		p.mu.Lock()
		infos = append(infos, p.legs.calls()...)
		p.mu.Unlock()
	}
	return infos
}

// Close ends the calls toward the phones, closes the listeners and waits for
// every goroutine.
func (s *LANSide) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	closers := s.closers
	s.mu.Unlock()
	for _, p := range s.allPhones() {
		p.reset(errShutdown)
	}
	close(s.done)
	for _, c := range closers {
		c.Close()
	}
	s.mu.Lock()
	for st := range s.streams {
		st.close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

var errShutdown = errors.New("tunnelproxy is stopping")
