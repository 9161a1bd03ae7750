// Package dscp marks sockets with a traffic class (RFC 2474), so that a network
// that tells voice from downloads can do so.
package dscp

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// Class is a code point as it stands in the IP header: in the upper six bits of the
// octet. 0 is that of everything else.
type Class int

// Code points for voice, RFC 4594 section 2.3.
const (
	Signalling Class = 24 << 2 // CS3
	Media      Class = 46 << 2 // EF
)

// single are the names that stand for themselves: RFC 3246, RFC 5865, RFC 8622, and
// two for none.
var single = map[string]Class{"EF": Media, "VA": 44 << 2, "LE": 1 << 2, "DF": 0, "BE": 0}

// Parse takes the name of a code point, in either case, or its number, 0 to 63.
func Parse(text string) (Class, error) {
	name := strings.ToUpper(text)
	if c, ok := single[name]; ok {
		return c, nil
	}
	within := func(b byte, low, high byte) bool { return low <= b && b <= high }
	switch {
	case len(name) == 3 && strings.HasPrefix(name, "CS") && within(name[2], '0', '7'):
		return Class(name[2]-'0') << 5, nil // RFC 2474
	case len(name) == 4 && strings.HasPrefix(name, "AF") && within(name[2], '1', '4') && within(name[3], '1', '3'):
		return Class(name[2]-'0')<<5 | Class(name[3]-'0')<<3, nil // RFC 2597
	}
	if n, err := strconv.ParseUint(text, 10, 8); err == nil && n < 64 {
		return Class(n) << 2, nil
	}
	return 0, fmt.Errorf("%q is no DSCP: EF, VA, LE, CS0 to CS7, AF11 to AF43, or a number of 0 to 63", text)
}

// UnmarshalText takes what Parse does.
func (c *Class) UnmarshalText(text []byte) (err error) {
	*c, err = Parse(string(text))
	return err
}

// String gives the number, as Parse takes it.
func (c Class) String() string { return strconv.Itoa(int(c >> 2)) }

// Control is a Control of net.ListenConfig and net.Dialer that marks the
// socket. Where the mark is refused packets go out unmarked: that is no reason
// to fail.
func (c Class) Control(network, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) { c.Mark(fd, network) })
}

// Listener has the connections that ln accepts be marked. Over IPv6 they do not
// inherit the mark of the listener's socket.
func (c Class) Listener(ln net.Listener) net.Listener { return &listener{ln, c} }

type listener struct {
	net.Listener
	class Class
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = l.class.Control("tcp6", "", raw) // and IPv4: what does not fit is refused
		}
	}
	return conn, nil
}
