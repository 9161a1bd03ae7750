//go:build linux

package dscp

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

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
