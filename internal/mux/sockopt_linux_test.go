package mux

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/dscp"
)

// TestSocketsOfConnections reads back what both ends of a connection are set to.
func TestSocketsOfConnections(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", dscp.Signalling)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	out, err := dialer(dscp.Signalling).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for name, conn := range map[string]net.Conn{"connected": out, "accepted": in} {
		newRawConn(conn)
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		option := func(level, option int) (value int) {
			if cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, option) }); cerr != nil || err != nil {
				t.Fatal(cerr, err)
			}
			return value
		}
		if n := option(unix.IPPROTO_TCP, unix.TCP_MAXSEG); n > maxSegment {
			t.Errorf("%s: segments of %d bytes, want at most %d", name, n, maxSegment)
		}
		if n := option(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); n != notSentLowat {
			t.Errorf("%s: %d bytes may wait in the kernel, want %d", name, n, notSentLowat)
		}
		if n := option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); n != int(userTimeout.Milliseconds()) {
			t.Errorf("%s: user timeout %d ms", name, n)
		}
		if n := option(unix.IPPROTO_IP, unix.IP_TOS); n>>2 != 24 {
			t.Errorf("%s: DSCP %d, want CS3", name, n>>2)
		}
	}
}
