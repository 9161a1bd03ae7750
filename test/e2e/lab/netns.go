//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Do runs f in the namespace of the host. Sockets that f opens stay there after it has returned; goroutines that it starts do
// not run there.
func (h *Host) Do(f func() error) error {
	done := make(chan error)
	go func() { done <- inNamespace(filepath.Join(netnsDir, h.netns), f) }()
	return <-done
}

// inNamespace runs f on a thread that is in the namespace. If the thread cannot be brought back it dies with the goroutine,
// as it stays locked.
func inNamespace(path string, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", path, err)
	}
	failed := f()
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("leave %s: %w", path, err)
	}
	runtime.UnlockOSThread()
	return failed
}

// waitRunning waits until the kernel has noticed that the other end of the link is up too, as on a machine whose network is
// configured.
func (h *Host) waitRunning() {
	h.lab.t.Helper()
	Eventually(h.lab.t, 5*time.Second, h.Link+" of "+h.Name+" runs", func() bool {
		var link *net.Interface
		err := h.Do(func() (err error) {
			link, err = net.InterfaceByName(h.Link)
			return err
		})
		return err == nil && link.Flags&net.FlagRunning != 0
	})
}

// Dial connects from the host, to an IP address and port.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, netip.Addr{}, network, address)
}

// DialFrom connects from one of the addresses of the host, over TCP; a zero address leaves the choice to the kernel.
func (h *Host) DialFrom(ctx context.Context, from netip.Addr, network, address string) (conn net.Conn, err error) {
	dialer := new(net.Dialer)
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	err = h.Do(func() error {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// ListenTCP waits for connections on the host.
func (h *Host) ListenTCP(address string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen("tcp", address)
		return err
	})
	return ln, err
}

// ListenUDP opens a UDP socket on the host.
func (h *Host) ListenUDP(address string) (conn net.PacketConn, err error) {
	err = h.Do(func() error {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	return conn, err
}

func (h *Host) sysctl(name, value string) {
	h.lab.t.Helper()
	err := h.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0) })
	if err != nil {
		h.lab.t.Fatalf("lab: %s: %v", h.Name, err)
	}
}

// Listens tells whether a socket of the host is bound to the port; network is "udp", "tcp", or with a 6 for IPv6 and any.
func (h *Host) Listens(network string, port uint16) bool {
	var table []byte
	err := h.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/" + network)
		return err
	})
	if err != nil {
		h.lab.t.Logf("lab: %s: %v", h.Name, err)
		return false
	}
	// proc(5): "0: 0100007F:13C4 00000000:0000 07 ...": the local address and port, the peer (none), in hexadecimal.
	pattern := fmt.Sprintf(`(?m)^ *\d+: [0-9A-F]+:%04X [0-9A-F]+:0000 `, port)
	return regexp.MustCompile(pattern).Match(table)
}
