// Package dscp marks sockets with a traffic class (RFC 2474), so that a network
// that tells voice from downloads can do so.
package dscp

import "syscall"

// Class is a code point as it stands in the IP header.
type Class int

// Code points for voice, RFC 4594 section 2.3.
const (
	Signalling Class = 24 << 2 // CS3
	Media      Class = 46 << 2 // EF
)

// Control is a Control of net.ListenConfig and net.Dialer that marks the
// socket. Where the mark is refused packets go out unmarked: that is no reason
// to fail.
func (c Class) Control(network, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { c.Mark(fd, network) })
}
