package udp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/doze"
	"github.com/siptunnel/siptunnel/internal/dscp"
)

const (
	maxSegments = 64 // of one buffer, the kernel's UDP_MAX_SEGMENTS
	receiveSize = 64 << 10
	// socketBuffer holds 100 ms of 50,000 packets a second, in bytes; the
	// system may give less.
	socketBuffer = 1 << 20

	controlSize = 128 // room for the control messages of one call
)

// Conn is a UDP socket. Its methods are safe for concurrent use, but for Receive,
// which is for one goroutine at a time.
//
// It is a bare descriptor that waits in the kernel: the runtime's poller would be told of
// each burst by one thread and have another one woken for it.
type Conn struct {
	local netip.AddrPort
	six   bool // the socket is of IPv6, and maybe of both
	room  bool // to doze
	gso   bool

	closed    atomic.Bool
	receiving sync.Mutex // held while Receive uses fd
	in        call
	quiet     time.Time // of the first signal since a datagram came; zero: there was none
	poll      [1]unix.PollFd
	sending   sync.Mutex // guards out, gso; held while Send uses fd
	out       call
	fd        int
}

// call is one system call with all that it points to, so that none of it is made
// for each.
type call struct {
	message unix.Msghdr
	vector  unix.Iovec
	control [controlSize / 8]uint64 // it begins with numbers
	name    [unix.SizeofSockaddrInet6]byte
	buf     []byte
	n       int
	errno   syscall.Errno
}

func (c *call) controlBytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&c.control[0])), controlSize)
}

// Listen opens a socket on addr of a network like "udp", "udp4" or "udp6".
func Listen(network, addr string) (*Conn, error) {
	config := net.ListenConfig{Control: dscp.Media.Control}
	packet, err := config.ListenPacket(context.Background(), network, addr)
	if err != nil {
		return nil, err
	}
	conn := packet.(*net.UDPConn)
	defer conn.Close() // c has a descriptor of its own
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
	c := &Conn{local: conn.LocalAddr().(*net.UDPAddr).AddrPort(), room: doze.Room()}
	if c.fd, err = blocking(conn); err != nil {
		return nil, err
	}
	c.setOptions()
	c.in.buf = make([]byte, receiveSize)
	c.poll[0] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLIN}
	return c, nil
}

// blocking returns another descriptor of the socket, one that waits: for Receive, and for
// doze.Longest.
func blocking(conn *net.UDPConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	failed := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(failed, err); err != nil {
		return -1, err
	}
	longest := unix.NsecToTimeval(int64(doze.Longest))
	if err := errors.Join(unix.SetNonblock(fd, false), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &longest)); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// setOptions asks for what a system may refuse: all of it can be done without.
func (c *Conn) setOptions() {
	fd := c.fd
	domain, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	c.six = domain == unix.AF_INET6
	if c.six {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	// A router whose next link is narrow cuts a datagram in two rather than to
	// drop it and say so to nobody. IPv6 guarantees 1,280 bytes.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	c.gso = err == nil
}

// LocalAddr returns the address that the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Mark marks what is sent from now on. Without it datagrams are marked as media.
func (c *Conn) Mark(class dscp.Class) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	class.Mark(uintptr(c.fd), network(c.local))
	return nil
}

// Close ends Receive and Send, and waits until they do not use the socket any more.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR) // it says ENOTCONN, but wakes Receive all the same
	c.receiving.Lock()
	defer c.receiving.Unlock()
	c.sending.Lock()
	defer c.sending.Unlock()
	return unix.Close(c.fd)
}

// Receive waits for datagrams and hands them to f one by one, valid during the
// call only. It returns when those are handled that were there, which may be none, or with
// net.ErrClosed after Close. Other errors are passing ones.
func (c *Conn) Receive(f func(datagram []byte, from Route)) error {
	if err := c.receive(); err != nil {
		return err
	}
	if c.in.n == 0 || c.in.message.Flags&unix.MSG_TRUNC != 0 {
		return nil
	}
	segment := c.in.n
	from := Route{Remote: c.in.remote()}
	c.in.eachControl(func(level, kind int32, data []byte) {
		switch {
		case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
			if size := int(binary.NativeEndian.Uint32(data)); size > 0 {
				segment = size
			}
		case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			from.Local = netip.AddrFrom4([4]byte(data[4:8]))
		case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			from.Local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
	})
	for rest := c.in.buf[:c.in.n]; len(rest) > 0; {
		n := min(segment, len(rest))
		f(rest[:n:n], from)
		rest = rest[n:]
	}
	return nil
}

// receive waits for a buffer full.
func (c *Conn) receive() error {
	c.receiving.Lock()
	defer c.receiving.Unlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	in := &c.in
	in.vector.Base = &in.buf[0]
	in.vector.SetLen(len(in.buf))
	in.message = unix.Msghdr{Name: &in.name[0], Namelen: uint32(len(in.name)), Iov: &in.vector, Control: &in.controlBytes()[0]}
	in.message.SetIovlen(1)
	in.message.SetControllen(controlSize)
	in.errno = unix.EAGAIN
	if c.room {
		in.do(unix.SYS_RECVMSG, c.fd, 0)
		if in.errno == unix.EINTR && c.isQuiet() {
			in.errno = unix.EAGAIN
		}
	}
	for in.errno == unix.EAGAIN {
		// There is not much to do.
		if _, err := unix.Poll(c.poll[:], -1); err != nil && err != unix.EINTR {
			return err
		}
		if c.closed.Load() {
			return net.ErrClosed
		}
		in.do(unix.SYS_RECVMSG, c.fd, unix.MSG_DONTWAIT)
	}
	switch in.errno {
	case 0:
		c.quiet = time.Time{}
	case unix.EINTR:
		in.n = 0
	default:
		return in.errno
	}
	if c.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// isQuiet is asked after a signal. It says whether nothing has come for so long that the
// processor is to be left to others. The runtime sends signals all the time to who keeps one.
func (c *Conn) isQuiet() bool {
	now := time.Now()
	if c.quiet.IsZero() {
		c.quiet = now
	}
	return now.Sub(c.quiet) >= doze.Longest
}

// do makes the call without the runtime being told of it: it does not wait, or not long.
func (c *call) do(trap uintptr, fd int, flags uintptr) {
	n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&c.message)), flags)
	c.n, c.errno = int(n), errno
}

// remote reads the struct sockaddr_in or sockaddr_in6 of the sender.
func (c *call) remote() netip.AddrPort {
	port := binary.BigEndian.Uint16(c.name[2:])
	if binary.NativeEndian.Uint16(c.name[:]) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(c.name[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(c.name[8:24])).Unmap(), port)
}

// eachControl calls f for each control message that came.
func (c *call) eachControl(f func(level, kind int32, data []byte)) {
	rest := c.controlBytes()[:min(int(c.message.Controllen), controlSize)]
	for len(rest) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&rest[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(rest) {
			return
		}
		f(h.Level, h.Type, rest[unix.CmsgLen(0):length])
		rest = rest[min(unix.CmsgSpace(length-unix.CmsgLen(0)), len(rest)):]
	}
}

// Send sends the datagrams of b to a peer. What the system has no room for is
// dropped: the error is ErrQueueFull then, and dropped says how many. b is as it
// was.
func (c *Conn) Send(b *Burst, to Route) (dropped int, err error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.closed.Load() {
		return b.Len(), net.ErrClosed
	}
	limit := 1
	if c.gso {
		limit = maxSegments
	}
	for i := 0; i < b.Len(); {
		data, size, next := b.run(i, limit)
		failed := c.sendRun(data, size, to)
		if next-i > 1 && cannotCut(failed) {
			// EIO is for good: there is a device that cannot do it. The others may
			// be this peer's route, a narrow one for instance.
			c.gso = c.gso && !errors.Is(failed, unix.EIO)
			limit = 1
			continue
		}
		if failed != nil {
			dropped += next - i
			err = failed
		}
		i = next
	}
	return dropped, err
}

// cannotCut says whether a run failed for what a single datagram need not fail for.
func cannotCut(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.EOPNOTSUPP)
}

// sendRun sends data, cut into datagrams of size bytes.
func (c *Conn) sendRun(data []byte, size int, to Route) error {
	out := &c.out
	nameLength, err := out.setName(to.Remote, c.six)
	if err != nil {
		return err
	}
	out.vector.Base = &data[0]
	out.vector.SetLen(len(data))
	out.message = unix.Msghdr{Name: &out.name[0], Namelen: nameLength, Iov: &out.vector}
	out.message.SetIovlen(1)
	used := 0
	if len(data) > size {
		used = out.putControl(used, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(out.controlBytes()[used-unix.CmsgSpace(2)+unix.CmsgLen(0):], uint16(size))
	}
	if to.Local.IsValid() {
		used = out.putSource(used, to.Local, c.six)
	}
	if used > 0 {
		out.message.Control = &out.controlBytes()[0]
		out.message.SetControllen(used)
	}
	for out.do(unix.SYS_SENDMSG, c.fd, unix.MSG_DONTWAIT); out.errno == unix.EINTR; {
		out.do(unix.SYS_SENDMSG, c.fd, unix.MSG_DONTWAIT)
	}
	switch out.errno {
	case 0:
		return nil
	case unix.EAGAIN, unix.ENOBUFS:
		return ErrQueueFull
	}
	return out.errno
}

// putControl begins a control message of n bytes behind the used ones and returns
// where the next one begins.
func (c *call) putControl(used int, level, kind int32, n int) int {
	space := unix.CmsgSpace(n)
	b := c.controlBytes()[used : used+space]
	clear(b)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return used + space
}

// putSource asks for the address that the datagram comes from.
func (c *call) putSource(used int, local netip.Addr, six bool) int {
	if six {
		next := c.putControl(used, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		ip := local.As16()
		copy(c.controlBytes()[used+unix.CmsgLen(0):], ip[:])
		return next
	}
	next := c.putControl(used, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	ip := local.As4()
	copy(c.controlBytes()[used+unix.CmsgLen(0)+4:], ip[:]) // ipi_spec_dst
	return next
}

// setName makes name the struct sockaddr_in or sockaddr_in6 of to.
func (c *call) setName(to netip.AddrPort, six bool) (length uint32, err error) {
	clear(c.name[:])
	binary.BigEndian.PutUint16(c.name[2:], to.Port())
	if !six {
		if !to.Addr().Unmap().Is4() {
			return 0, unix.EAFNOSUPPORT
		}
		binary.NativeEndian.PutUint16(c.name[:], unix.AF_INET)
		ip := to.Addr().Unmap().As4()
		copy(c.name[4:], ip[:])
		return unix.SizeofSockaddrInet4, nil
	}
	binary.NativeEndian.PutUint16(c.name[:], unix.AF_INET6)
	ip := to.Addr().As16()
	copy(c.name[8:], ip[:])
	if zone := to.Addr().Zone(); zone != "" {
		if ifi, err := net.InterfaceByName(zone); err == nil {
			binary.NativeEndian.PutUint32(c.name[24:], uint32(ifi.Index))
		}
	}
	return unix.SizeofSockaddrInet6, nil
}
