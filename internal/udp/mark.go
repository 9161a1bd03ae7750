package udp

import "github.com/siptunnel/siptunnel/internal/dscp"

// Mark marks what is sent from now on. Without it datagrams are marked as media.
func (c *Conn) Mark(class dscp.Class) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	network := "udp6" // with what a socket of both sends over IPv4
	if c.local.Addr().Is4() {
		network = "udp4"
	}
	return class.Control(network, "", raw)
}
