package mux

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setSockopts sets what package net has no name for. A kernel that does not
// know an option is no reason not to connect.
func setSockopts(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}

// maxSegment is the largest TCP segment, in bytes: what a link with a small MTU
// drops without a word (RFC 2923 section 2.1) should not be sent.
const maxSegment = 1200

// limitSegments makes a socket that is not connected yet, or one that is to
// listen, send and ask for segments of maxSegment at most.
func limitSegments(raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, maxSegment)
	})
}
