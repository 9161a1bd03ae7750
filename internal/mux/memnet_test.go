package mux

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/udp"
)

// memLatency is how long a datagram takes from one memSocket to another.
const memLatency = time.Millisecond

// A memNet is a network for the bubble of one test, in which time passes only when
// all wait.
type memNet struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*memSocket
}

type memDatagram struct {
	b    []byte
	from netip.AddrPort
	due  time.Time
}

// A memSocket is what this package needs of a udp.Conn, and its tests of a
// net.UDPConn.
type memSocket struct {
	net    *memNet
	local  netip.AddrPort
	in     chan memDatagram
	closed chan struct{}
	once   sync.Once
}

// socket opens a socket with an address of its own.
func (n *memNet) socket(t testing.TB) *memSocket {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sockets == nil {
		n.sockets = map[netip.AddrPort]*memSocket{}
	}
	s := &memSocket{
		net: n, local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(1+len(n.sockets))),
		in: make(chan memDatagram, 1<<14), closed: make(chan struct{}),
	}
	n.sockets[s.local] = s
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *memSocket) LocalAddr() netip.AddrPort { return s.local }

func (s *memSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *memSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.net.mu.Lock()
	peer := s.net.sockets[to]
	s.net.mu.Unlock()
	if peer == nil {
		return len(b), nil
	}
	select {
	case peer.in <- memDatagram{slices.Clone(b), s.local, time.Now().Add(memLatency)}:
	case <-peer.closed:
	case <-s.closed:
		return 0, net.ErrClosed
	}
	return len(b), nil
}

func (s *memSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-s.in:
		time.Sleep(time.Until(d.due))
		return copy(b, d.b), d.from, nil
	case <-s.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (s *memSocket) Receive(f func(datagram []byte, from udp.Route)) error {
	buf := make([]byte, udp.MaxDatagram)
	n, from, err := s.ReadFromUDPAddrPort(buf)
	if err == nil {
		f(buf[:n], udp.Route{Remote: from})
	}
	return err
}

func (s *memSocket) Send(b *udp.Burst, to udp.Route) (int, error) {
	for datagram := range b.All() {
		if _, err := s.WriteToUDPAddrPort(datagram, to.Remote); err != nil {
			return 0, err
		}
	}
	return 0, nil
}
