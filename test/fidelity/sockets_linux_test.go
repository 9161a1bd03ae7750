package fidelity

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// sockets asks the kernel about TCP connections, as ss does (sock_diag(7)).
type sockets struct{ fd int }

func newSockets(t *testing.T) *sockets {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Skip("no socket to ask the kernel: ", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &sockets{fd}
}

// unread is how many bytes the owner of the connection from local to remote has
// not read yet.
func (s *sockets) unread(local, remote netip.AddrPort) (int, error) {
	b := make([]byte, 0, 72)
	b = binary.NativeEndian.AppendUint32(b, 72)
	b = binary.NativeEndian.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	b = append(b, unix.AF_INET, unix.IPPROTO_TCP, 0, 0, 0xff, 0xff, 0xff, 0xff)
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, a := range []netip.Addr{local.Addr(), remote.Addr()} {
		b = append(append(b, a.AsSlice()...), make([]byte, 12)...)
	}
	b = append(b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	if err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1024)
	n, _, err := unix.Recvfrom(s.fd, buf, 0)
	if err != nil {
		return 0, err
	}
	const queue = 16 + 4 + 48 + 4 // behind the headers, the addresses and a timer
	if n < queue+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.SOCK_DIAG_BY_FAMILY {
		return 0, fmt.Errorf("no connection from %v to %v", local, remote)
	}
	return int(binary.NativeEndian.Uint32(buf[queue:])), nil
}
