package sipfwd

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	trunkCheck = time.Second      // between looks whether the trunk is open
	trunkRetry = 10 * time.Second // after the PBX side has refused it
	trunkInbox = 1024             // messages of a trunk that wait for it to be served
)

// Trunk is a PBX in the office that does not register: what it sends goes to the
// PBX behind the tunnel as from one phone, and what that sends to this phone's
// port goes to it, whichever user it is for.
type Trunk struct {
	Name string // ValidTrunkName
	// Host, a name or an address, and Port are how URIs name it, with the colon of
	// an IPv6 address in brackets.
	Host      string
	Port      uint16
	Transport string // of requests to it, "UDP" or "TCP"
	// Addr is where it is. The zero Addr says that this is not known yet:
	// SetTrunkAddr.
	Addr netip.Addr
}

// lanTrunk is a Trunk with what it is doing.
type lanTrunk struct {
	Trunk
	phone *lanPhone

	// Guarded by side.mu:
	addr netip.Addr
	// Guarded by phone.mu:
	link    *flow // of TCP, dialled by us; nil when there is none
	heard   time.Time
	refusal string // of the last attempt to open it
}

// openTrunks makes the phones of the trunks, each with goroutines that serve it
// and keep it open.
func (s *LANSide) openTrunks(trunks []Trunk) {
	for _, t := range trunks {
		p := newLANPhone(s, truncateKey(s.cfg.Office+trunkMark+t.Name), netip.Addr{})
		p.inbox = make(chan inbound, trunkInbox)
		p.trunk = &lanTrunk{Trunk: t, phone: p, addr: t.Addr}
		s.trunks = append(s.trunks, p.trunk)
		s.phones[p.key] = p
	}
	for _, t := range s.trunks {
		s.wg.Add(2)
		go t.phone.serve()
		go t.keepOpen()
	}
}

// keepOpen opens the trunk whenever the tunnel is up and it is not.
func (t *lanTrunk) keepOpen() {
	p := t.phone
	defer p.side.wg.Done()
	ticker := time.NewTicker(trunkCheck)
	defer ticker.Stop()
	var notBefore time.Time
	for {
		if p.side.cfg.Tunnel.Up() && !time.Now().Before(notBefore) {
			p.mu.Lock()
			if !p.open() {
				notBefore = time.Now().Add(trunkRetry)
			}
			p.mu.Unlock()
		}
		select {
		case <-ticker.C:
		case <-p.side.done:
			return
		}
	}
}

// opened reports that the tunnel does not open the trunk, once for each reason. It
// is called with the phone's lock held.
func (t *lanTrunk) opened(err error) {
	reason := ""
	if err != nil {
		reason = "not opened: " + err.Error()
	}
	if reason != "" && reason != t.refusal {
		t.phone.side.cfg.Events.TrunkGone(t.info(), reason)
	}
	t.refusal = reason
}

// info is called with the phone's lock held.
func (t *lanTrunk) info() TrunkInfo {
	t.phone.side.mu.Lock()
	addr := t.addr
	t.phone.side.mu.Unlock()
	info := TrunkInfo{Name: t.Name, Heard: t.heard, Peer: t.Transport + ":" + t.Host + ":" + strconv.Itoa(int(t.Port))}
	if !addr.IsValid() {
		info.Peer += " (unknown)"
	}
	if t.phone.conn != nil {
		info.Address = t.phone.conn.LocalAddr().String()
	}
	return info
}

// Trunks lists the office's trunks.
func (s *LANSide) Trunks() []TrunkInfo {
	var infos []TrunkInfo
	for _, t := range s.trunks {
		t.phone.mu.Lock()
		infos = append(infos, t.info())
		t.phone.mu.Unlock()
	}
	return infos
}

// SetTrunkAddr says where the host of the trunk name is by now.
func (s *LANSide) SetTrunkAddr(name string, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.trunks {
		if t.Name != name || t.addr == addr {
			continue
		}
		t.addr = addr
		for f, p := range s.byFlow {
			// Whoever has the old address now is another, and the trunk was one
			// while its address was not known.
			if (p == t.phone) != s.sameHost(f.remote.Addr(), addr) {
				s.leave(f, p)
			}
		}
	}
}

// trunkAt is the trunk that what comes from from belongs to, nil when it is none.
// The port counts where several are at one address. It is called with mu held.
func (s *LANSide) trunkAt(from netip.AddrPort) *lanPhone {
	var found *lanTrunk
	for _, t := range s.trunks {
		if s.sameHost(from.Addr(), t.addr) && (found == nil || found.Port != from.Port() && t.Port == from.Port()) {
			found = t
		}
	}
	if found == nil {
		return nil
	}
	return found.phone
}

// sameHost says whether a is b, or both are this machine's: a PBX that runs here too
// may send from any of its addresses.
func (s *LANSide) sameHost(a, b netip.Addr) bool {
	here := func(a netip.Addr) bool { return a.IsLoopback() || s.nearby.own(a) }
	return a == b || here(b) && here(a)
}

// isTrunk says whether a is the address of a trunk.
func (s *LANSide) isTrunk(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trunkAt(netip.AddrPortFrom(a, 0)) != nil
}

// toTrunk is the flow for requests to the trunk: always where it was configured to
// be, nil while that is not known. It is called with the phone's lock held.
func (t *lanTrunk) toTrunk() *flow {
	s := t.phone.side
	s.mu.Lock()
	to := netip.AddrPortFrom(t.addr, t.Port)
	s.mu.Unlock()
	at, err := routeSource(to.Addr())
	if !to.Addr().IsValid() || err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.Transport == "UDP" {
		return s.udpFlowTo(to, at, t.phone)
	}
	return t.linkTo(to, at)
}

// udpFlowTo is the flow of the phone p at to, which is reached from our address at.
// It is made when there is none. It is called with mu held.
func (s *LANSide) udpFlowTo(to netip.AddrPort, at netip.Addr, p *lanPhone) *flow {
	sock := s.socketAt(at)
	if sock == nil {
		return nil
	}
	if !sock.wildcard() {
		at = sock.bound.Addr()
	}
	f := s.flows[flowKey{sock, at, to}]
	if f == nil || s.byFlow[f] != p || f.gone.Load() {
		f = s.newUDPFlow(sock, at, to)
		s.link(f, p)
	}
	return f
}

// socketAt is the socket that sends from at, else one of its IP family; nil without
// any. With several the lowest port counts, so that a peer always sees the same one.
// It is called with mu held.
func (s *LANSide) socketAt(at netip.Addr) (best *lanSocket) {
	for _, k := range s.udp {
		if n, m := k.suits(at), best.suits(at); n > m || n == m && n > 0 && k.bound.Port() < best.bound.Port() {
			best = k
		}
	}
	return best
}

// suits says how well k serves for sending from at: 0 is not at all.
func (k *lanSocket) suits(at netip.Addr) int {
	switch {
	case k == nil || k.bound.Addr().Is4() != at.Is4() && !k.both:
		return 0
	case k.bound.Addr() == at:
		return 3
	case k.wildcard():
		return 2
	}
	return 1
}

// linkTo is the connection of ours to to, which is dialled when there is none. It
// is called with the phone's lock and side.mu held.
func (t *lanTrunk) linkTo(to netip.AddrPort, at netip.Addr) *flow {
	s := t.phone.side
	if t.link != nil && !t.link.gone.Load() && t.link.remote == to {
		return t.link
	}
	if s.closed {
		return nil
	}
	if t.link != nil {
		t.link.stream.close()
	}
	st := newStream(nil, s.counters)
	t.link = &flow{
		transport: "TCP", remote: to, local: s.told(netip.AddrPortFrom(at, s.tcpPort)), at: at,
		stream: st, counters: s.counters,
	}
	s.streams[st] = struct{}{}
	s.link(t.link, t.phone)
	s.wg.Add(1)
	go t.runLink(t.link)
	return t.link
}

// runLink dials and reads the connection, and tells the phone when it is over.
func (t *lanTrunk) runLink(f *flow) {
	s := t.phone.side
	defer s.wg.Done()
	conn, err := s.dial(f.remote)
	if err == nil {
		f.stream.attach(conn)
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			f.stream.write()
		}()
		var m sipmsg.Message
		f.stream.receive(streamIdle, func(b []byte) { s.deliver(f, b, &m) })
	}
	f.stream.close()
	f.gone.Store(true)
	s.mu.Lock()
	delete(s.streams, f.stream)
	s.mu.Unlock()
	s.forget(f)
	t.phone.afterwards(func() { t.phone.linkLost(f, err == nil) })
}

// dial connects to the trunk. It ends with the proxy.
func (s *LANSide) dial(to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialWait)
	defer cancel()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	dialer := net.Dialer{Control: s.cfg.Class.Control}
	return dialer.DialContext(ctx, "tcp", to.String())
}

// linkLost says that the connection f to the trunk has ended, or, unless it was
// connected, could not be had. What the trunk has not answered is sent once more
// on a new connection, as toward the PBX, or answered 503.
func (p *lanPhone) linkLost(f *flow, connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.edge.clients {
		switch {
		case c.peer != hop(f) || c.status != 0: // its answer comes on a connection of the trunk's
		case connected && c.resent == 0 && p.moveClient(c):
			c.resent++
			c.peer.send(c.request)
		default:
			p.side.counters.Counter(trunkAway.counter).Inc()
			p.edge.dropClient(c)
			answerInstead(c, trunkAway, p.toTunnel, p.legs)
		}
	}
}

// reconnect sees to a connection for what is to be sent about c, a request to the
// trunk that it has begun to answer.
func (p *lanPhone) reconnect(c *clientTx) {
	if p.trunk != nil && c.peer.(*flow).gone.Load() {
		p.moveClient(c)
	}
}

// moveClient has c go on over a new connection, and reports false where there can
// be none.
func (p *lanPhone) moveClient(c *clientTx) bool {
	f := p.trunk.toTrunk()
	if f != nil {
		c.peer = f
	}
	return f != nil
}

// names says whether uri is the trunk's PBX-side address, or, outside of a dialog,
// a name for it.
func (t *lanTrunk) names(uri []byte, inDialog bool) bool {
	u, ok := sipmsg.ParseURI(uri)
	if !ok || t.phone.conn == nil {
		return false
	}
	at := addrPort(t.phone.conn.LocalAddr())
	a, err := netip.ParseAddr(string(bytes.Trim(u.Host, "[]")))
	return u.Port == int(at.Port()) && (err == nil && a == at.Addr() || err != nil && !inDialog)
}

// retarget puts the trunk's own address in place of its PBX-side one into the
// Request-URI of m, a request of the PBX. A URI that names something else is none
// of ours to change.
func (t *lanTrunk) retarget(m *sipmsg.Message) {
	if t == nil || !t.names(m.RequestURI(), m.ToTag() != nil) {
		return
	}
	u, _ := sipmsg.ParseURI(m.RequestURI())
	out := append(append([]byte(nil), u.Scheme...), ':')
	if len(u.User) > 0 {
		out = append(append(out, u.User...), '@')
	}
	out = append(append(out, t.Host...), portSuffix(int(t.Port))...)
	out = appendParams(out, u.Params, "transport")
	if t.Transport != "UDP" {
		out = append(out, ";transport="+strings.ToLower(t.Transport)...)
	}
	if len(u.Headers) > 0 {
		out = append(append(out, '?'), u.Headers...)
	}
	m.SetRequestURI(out)
}
