//go:build linux || darwin || freebsd || netbsd || openbsd

package dscp

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Mark marks the socket fd of a network like "udp4", as Control does.
func (c Class) Mark(fd uintptr, network string) {
	if strings.HasSuffix(network, "6") {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(c))
	}
	// A dual-stack socket sends IPv4 too.
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, int(c))
}
