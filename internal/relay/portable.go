//go:build !linux

package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// portTaken says whether a bind may have failed because another program has the
// port. The systems differ in how they say it, so every failure counts as such.
func portTaken(error) bool { return true }

var errWouldBlock = errors.New("nothing to read")

// A socket is a bound UDP socket.
type socket struct {
	conn *net.UDPConn
}

func (s *socket) open(addr netip.AddrPort, class dscp.Class) error {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	config := net.ListenConfig{Control: class.Control}
	conn, err := config.ListenPacket(context.Background(), network, addr.String())
	if err != nil {
		return err
	}
	s.conn = conn.(*net.UDPConn)
	_ = s.conn.SetReadBuffer(receiveBuffer)
	_ = s.conn.SetWriteBuffer(sendBuffer)
	return nil
}

func (s *socket) close() error {
	if err := s.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (s *socket) receive(buf []byte) (int, netip.AddrPort, error) {
	n, src, err := s.conn.ReadFromUDPAddrPort(buf)
	return n, unmap(src), err
}

func (s *socket) send(packet []byte, to netip.AddrPort) error {
	_, err := s.conn.WriteToUDPAddrPort(packet, to)
	return err
}

// A Poller reads the sockets of Relays, each in a goroutine of its own here. It
// is safe for concurrent use. Make it with NewPoller.
type Poller struct {
	config PollerConfig
	common
	mu      sync.Mutex // held while Sinks are called
	closed  bool
	readers sync.WaitGroup
}

// NewPoller starts a Poller.
func NewPoller(config PollerConfig) (*Poller, error) {
	return &Poller{config: config, common: newCommon(config.Counters)}, nil
}

// Close has no Sink called any more.
func (p *Poller) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

func (p *Poller) add(h *half) error {
	h.slot = 0
	p.readers.Go(func() {
		buf := make([]byte, MaxPacket+1)
		for {
			n, src, err := h.socket.receive(buf)
			p.mu.Lock()
			alive := !p.closed && h.slot >= 0 && h.read(buf[:n], src, err)
			p.mu.Unlock()
			if !alive {
				return
			}
			p.config.flush()
		}
	})
	return nil
}

func (h *half) read(packet []byte, src netip.AddrPort, err error) bool {
	v := pass
	if err == nil {
		h.mu.Lock()
		v = h.admit(packet, src)
		h.mu.Unlock()
	}
	return h.received(packet, v, err)
}

// remove ends what add began. The goroutine ends with the socket.
func (p *Poller) remove(h *half) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h.slot = -1
}
