package sipfwd

import (
	"bytes"
	"errors"
	"net"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// lanSocket is a UDP socket that phones send to. One that is bound to no address
// takes what is sent to any of this machine, knows which one it was, and sends
// from that: a phone takes SIP only from where it has sent its own.
type lanSocket struct {
	conn  *net.UDPConn
	out   datagrams      // conn
	bound netip.AddrPort // the address is unspecified in a wildcard
	both  bool           // a wildcard of IPv6 takes IPv4 too
	oob   []byte         // of one datagram that is read
}

// datagrams is how a *net.UDPConn sends.
type datagrams interface {
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	WriteMsgUDPAddrPort(b, control []byte, to netip.AddrPort) (n, oobn int, err error)
}

func newLANSocket(conn *net.UDPConn) (*lanSocket, error) {
	k := &lanSocket{conn: conn, out: conn, bound: addrPort(conn.LocalAddr())}
	if !k.wildcard() {
		return k, nil
	}
	k.oob = make([]byte, controlSize)
	k.both = k.bound.Addr().Is6() && takesIPv4(conn)
	return k, tellLocal(conn)
}

func (k *lanSocket) wildcard() bool { return k.bound.Addr().IsUnspecified() }

// read reads one datagram, and is for one goroutine. at is the address of this
// machine that it was sent to, with its zone; invalid where the system does not
// say.
func (k *lanSocket) read(b []byte) (n int, from netip.AddrPort, at netip.Addr, err error) {
	if !k.wildcard() {
		n, from, err = k.conn.ReadFromUDPAddrPort(b)
		return n, unmapped(from), k.bound.Addr(), err
	}
	n, oobn, _, from, err := k.conn.ReadMsgUDPAddrPort(b, k.oob)
	if err != nil {
		return 0, netip.AddrPort{}, netip.Addr{}, err
	}
	from = unmapped(from)
	if at = localOf(k.oob[:oobn]); at.Is6() && at.IsLinkLocalUnicast() {
		at = at.WithZone(from.Addr().Zone())
	}
	return n, from, at, nil
}

// sendFrom is what has send take at for the source.
func (k *lanSocket) sendFrom(at netip.Addr) []byte {
	if !k.wildcard() {
		return nil
	}
	return fromLocal(at)
}

// send sends b to to. control is of sendFrom. An address that this machine has
// lost is no reason to be silent: the system's choice may do.
func (k *lanSocket) send(b []byte, to netip.AddrPort, control []byte) error {
	if len(control) > 0 {
		if _, _, err := k.out.WriteMsgUDPAddrPort(b, control, to); err == nil {
			return nil
		}
	}
	_, err := k.out.WriteToUDPAddrPort(b, to)
	return err
}

// ServeUDP takes SIP from phones on conn until Close. The proxy owns conn.
func (s *LANSide) ServeUDP(conn *net.UDPConn) error {
	sock, err := newLANSocket(conn)
	if err != nil {
		conn.Close()
		return err
	}
	if !s.addCloser(conn, sock.bound.Port()) {
		return nil
	}
	defer s.wg.Done()
	s.mu.Lock()
	s.udp = append(s.udp, sock)
	s.mu.Unlock()
	s.attach(sock)
	buf := make([]byte, maxMessage)
	var m sipmsg.Message
	for {
		n, from, at, err := sock.read(buf)
		if err != nil {
			if s.closing() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.counters.Counter("sip.dropped.receive_failed").Inc()
			continue
		}
		if !s.serves(from.Addr()) {
			s.counters.Counter("sip.dropped.foreign_source").Inc()
			continue
		}
		if !at.IsValid() {
			at, _ = routeSource(from.Addr())
		}
		if !at.IsValid() || at.IsMulticast() {
			s.counters.Counter("sip.dropped.not_unicast").Inc()
			continue
		}
		s.datagram(sock, at, from, buf[:n], &m)
	}
}

// datagram handles b, which from has sent to at.
func (s *LANSide) datagram(sock *lanSocket, at netip.Addr, from netip.AddrPort, b []byte, m *sipmsg.Message) {
	if isSTUN(b) {
		answer := answerSTUN(b, from)
		if answer == nil {
			s.counters.Counter("sip.dropped.stun").Inc()
			return
		}
		_ = sock.send(answer, from, sock.sendFrom(at))
		return
	}
	if len(bytes.Trim(b, "\r\n\x00 ")) == 0 {
		if bytes.Equal(b, []byte("\r\n\r\n")) { // RFC 5626 section 3.5.1, as many phones do over UDP too
			_ = sock.send([]byte("\r\n"), from, sock.sendFrom(at))
		}
		return
	}
	f := s.flowAt(flowKey{sock, at, from})
	if f == nil {
		if to := hearsAt(b, from, m); to != from {
			from = to
			f = s.flowAt(flowKey{sock, at, from})
		}
	}
	if f == nil {
		f = s.newUDPFlow(sock, at, from)
	}
	s.deliver(f, b, m)
}

func (s *LANSide) newUDPFlow(sock *lanSocket, at netip.Addr, remote netip.AddrPort) *flow {
	return &flow{
		transport: "UDP", remote: remote, local: s.told(netip.AddrPortFrom(at, sock.bound.Port())), at: at,
		sock: sock, from: sock.sendFrom(at), counters: s.counters,
	}
}

func (s *LANSide) flowAt(key flowKey) *flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flows[key]
}

// hearsAt is where a phone hears that has sent b from from. A phone that wants its
// answers at another port than it sends from wants everything there.
func hearsAt(b []byte, from netip.AddrPort, m *sipmsg.Message) netip.AddrPort {
	if m.Parse(b) != nil || !m.IsRequest() {
		return from
	}
	via, ok := m.TopVia()
	if !ok {
		return from
	}
	return replyAddr(via, from)
}

// told is what a phone that uses our address local is told to reach us by. SIP and
// SDP have no room for a zone; a phone in the same link needs none of ours.
func (s *LANSide) told(local netip.AddrPort) netip.AddrPort {
	a := local.Addr().WithZone("")
	if given := s.cfg.LANAddress; given.IsValid() && given.Is4() == a.Is4() {
		a = given
	}
	return netip.AddrPortFrom(a, local.Port())
}

// mediaNear is the address of ours for a phone that uses lan for SIP and wants its
// media at a. It is lan, unless a is of the other IP family and in a network of this
// machine: from further away the phone's own media has to show a way, and it can
// only come over the family that it uses for SIP.
func (s *LANSide) mediaNear(a, lan netip.Addr) netip.Addr {
	if !a.IsValid() || a.IsUnspecified() || a.Is4() == lan.Is4() || !s.nearby.onLink(a) {
		return lan
	}
	if source, err := routeSource(a); err == nil {
		return source
	}
	return lan
}

// routeSource is the address of this machine that packets to dst leave from.
// Nothing is sent.
func routeSource(dst netip.Addr) (netip.Addr, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	return addrPort(conn.LocalAddr()).Addr(), nil
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
