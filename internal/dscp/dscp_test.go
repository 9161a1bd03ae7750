//go:build linux

package dscp

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAcceptedConnections reads back the mark of what a listener accepts.
func TestAcceptedConnections(t *testing.T) {
	for _, c := range []struct {
		network, address string
		level, option    int
	}{
		{"tcp4", "127.0.0.1:0", unix.IPPROTO_IP, unix.IP_TOS},
		{"tcp6", "[::1]:0", unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	} {
		ln, err := net.Listen(c.network, c.address)
		if err != nil {
			t.Logf("%s: %v", c.network, err)
			continue
		}
		ln = Media.Listener(ln)
		defer ln.Close()
		out, err := net.Dial(c.network, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		in, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		raw, err := in.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		_ = raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), c.level, c.option) })
		if got != int(Media) || err != nil {
			t.Errorf("%s: traffic class %#x, %v, want %#x", c.network, got, err, int(Media))
		}
	}
}

func TestControlMarksTheSocket(t *testing.T) {
	for _, network := range []string{"udp4", "tcp4"} {
		lc := net.ListenConfig{Control: Signalling.Control}
		var conn interface {
			Close() error
		}
		var got int
		read := func(fd uintptr) { got, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS) }
		if network == "udp4" {
			c, err := lc.ListenPacket(t.Context(), network, "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			raw, err := c.(*net.UDPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(read)
			conn = c
		} else {
			ln, err := lc.Listen(t.Context(), network, "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			raw, err := ln.(*net.TCPListener).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(read)
			conn = ln
		}
		conn.Close()
		if got != int(Signalling) {
			t.Errorf("%s: traffic class %#x, want %#x", network, got, int(Signalling))
		}
	}
}
