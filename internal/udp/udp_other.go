//go:build !linux

package udp

import (
	"context"
	"net"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// Conn is a UDP socket. Its methods are safe for concurrent use, but for Receive,
// which is for one goroutine at a time.
type Conn struct {
	conn  *net.UDPConn
	local netip.AddrPort
	buf   [MaxDatagram]byte
}

// Listen opens a socket on addr of a network like "udp", "udp4" or "udp6".
func Listen(network, addr string) (*Conn, error) {
	config := net.ListenConfig{Control: dscp.Media.Control}
	packet, err := config.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	conn := packet.(*net.UDPConn)
	return &Conn{conn: conn, local: conn.LocalAddr().(*net.UDPAddr).AddrPort()}, nil
}

// LocalAddr returns the address that the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Mark marks what is sent from now on. Without it datagrams are marked as media.
func (c *Conn) Mark(class dscp.Class) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	return class.Control(network(c.local), "", raw)
}

// Close ends Receive and Send.
func (c *Conn) Close() error { return c.conn.Close() }

// Receive waits for a datagram and hands it to f, valid during the call only. It
// returns an error that wraps net.ErrClosed after Close. Other errors are passing
// ones.
func (c *Conn) Receive(f func(datagram []byte, from Route)) error {
	n, remote, err := c.conn.ReadFromUDPAddrPort(c.buf[:])
	if err != nil {
		return err
	}
	f(c.buf[:n:n], Route{Remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())})
	return nil
}

// Send sends the datagrams of b to a peer. dropped says how many the system
// refused.
func (c *Conn) Send(b *Burst, to Route) (dropped int, err error) {
	for i := 0; i < b.Len(); i++ {
		data, _, _ := b.run(i, 1)
		if _, failed := c.conn.WriteToUDPAddrPort(data, to.Remote); failed != nil {
			dropped++
			err = failed
		}
	}
	return dropped, err
}
