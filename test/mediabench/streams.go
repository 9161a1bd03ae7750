//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	packetTime = 20 * time.Millisecond
	rtpHeader  = 12
)

// A stream is RTP from one socket to another, each of its own.
type stream struct {
	from, at int            // sockets
	to       netip.AddrPort // of at, or of who forwards to it
	name     unix.RawSockaddrInet4
	packet   []byte
	sequence uint16
	back     *stream // what is said the other way, between the same sockets
}

// streams are the media of calls.
type streams struct {
	all  []*stream // from the office to the PBX
	sink *sink
}

// newStreams opens the sockets of n streams with so many bytes of payload, at one
// address each.
func newStreams(from host, fromAddr string, at host, atAddr string, n, payload int) (*streams, error) {
	s := &streams{}
	var err error
	if s.sink, err = newSink(); err != nil {
		return nil, err
	}
	fromSockets, err := udpSockets(from, fromAddr, n)
	if err != nil {
		return nil, err
	}
	atSockets, err := udpSockets(at, atAddr, n)
	if err != nil {
		return nil, err
	}
	for i := range n {
		st := newStream(fromSockets[i], atSockets[i], payload, uint32(0x5100+i))
		st.back = newStream(atSockets[i], fromSockets[i], payload, uint32(0x15100+i))
		s.all = append(s.all, st)
		if err := errors.Join(s.sink.add(st.at), s.sink.add(st.from)); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	go s.sink.run()
	return s, nil
}

func newStream(from, at, payload int, ssrc uint32) *stream {
	st := &stream{from: from, at: at, packet: make([]byte, rtpHeader+payload), sequence: uint16(ssrc * 7)}
	st.packet[0] = 0x80
	st.packet[1] = 0 // PCMU
	if payload < 160 {
		st.packet[1] = 18 // G.729
	}
	binary.BigEndian.PutUint32(st.packet[8:], ssrc)
	return st
}

func (s *streams) close() error {
	s.sink.close()
	for _, st := range s.all {
		_ = unix.Close(st.from)
		_ = unix.Close(st.at)
	}
	return nil
}

// udpSockets opens n sockets. Entering a namespace takes milliseconds, so it is done
// once.
func udpSockets(h host, addr string, n int) (sockets []int, err error) {
	err = h.do(func() error {
		for range n {
			fd, err := udpSocket(addr)
			if err != nil {
				return err
			}
			sockets = append(sockets, fd)
		}
		return nil
	})
	return sockets, err
}

func udpSocket(addr string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	a := netip.MustParseAddr(addr).As4()
	// Time stamps of the kernel: when a packet came, not when this program looked.
	for _, option := range []struct{ name, value int }{{unix.SO_RCVBUF, 1 << 18}, {unix.SO_TIMESTAMPNS, 1}} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option.name, option.value); err != nil {
			return -1, errors.Join(err, unix.Close(fd))
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: a}); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func addrOf(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	in4 := name.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), uint16(in4.Port)), nil
}

// aim sets where the stream's packets go.
func (st *stream) aim(to netip.AddrPort) {
	st.to = to
	st.name = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&st.name.Port))[:], to.Port())
}

// send sends one packet, which says when.
func (st *stream) send() error {
	st.sequence++
	binary.BigEndian.PutUint16(st.packet[2:], st.sequence)
	binary.BigEndian.PutUint32(st.packet[4:], uint32(st.sequence)*160)
	if len(st.packet) >= rtpHeader+8 {
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_REALTIME, &now)
		binary.BigEndian.PutUint64(st.packet[rtpHeader:], uint64(now.Nano()))
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(st.from), uintptr(unsafe.Pointer(&st.packet[0])), uintptr(len(st.packet)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&st.name)), unix.SizeofSockaddrInet4)
	if errno != 0 && errno != unix.EAGAIN && errno != unix.ENOBUFS && errno != unix.ECONNREFUSED {
		return errno
	}
	return nil
}

// result is what became of the packets of one run.
type result struct {
	sent, received int
	delays         []time.Duration // of those received, sorted; only if they were asked for
}

func (r result) loss() float64 { return 1 - float64(r.received)/float64(r.sent) }

// delay is what the share of the packets had at most.
func (r result) delay(share float64) time.Duration {
	if len(r.delays) == 0 {
		return 0
	}
	return r.delays[min(int(share*float64(len(r.delays))), len(r.delays)-1)]
}

// talk is how streams talk.
type talk struct {
	last   time.Duration
	both   bool          // ways
	delays bool          // note them
	settle time.Duration // for the last ones to arrive
}

// talk sends, each stream a packet every 20 ms and each at its own moment of them, as
// phones do that know nothing of each other: bursts would be a gift to who is woken by
// each packet.
func (s *streams) talk(how talk) (result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return result{}, err
	}
	s.sink.begin(how.delays)
	r := result{}
	start := time.Now()
	for at := time.Duration(0); at < how.last; at += packetTime {
		for i, st := range s.all {
			due := start.Add(at + packetTime*time.Duration(i)/time.Duration(len(s.all)))
			nap(time.Until(due))
			if err := st.send(); err != nil {
				return r, err
			}
			r.sent++
			if how.both {
				if err := st.back.send(); err != nil {
					return r, err
				}
				r.sent++
			}
		}
	}
	time.Sleep(max(how.settle, 300*time.Millisecond))
	r.received, r.delays = s.sink.end()
	if r.received == 0 {
		return r, fmt.Errorf("none of %d packets arrived", r.sent)
	}
	return r, nil
}

// nap sleeps to the microsecond, which time.Sleep does not.
func nap(d time.Duration) {
	if d > 0 {
		wait := unix.NsecToTimespec(int64(d))
		_ = unix.Nanosleep(&wait, nil)
	}
}

// A sink counts what comes to many sockets.
type sink struct {
	epoll    int
	done     chan struct{}
	stop     atomic.Bool
	received atomic.Int64
	timed    atomic.Bool
	delays   []time.Duration // the sink's goroutine's, but between end and begin
}

func newSink() (*sink, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &sink{epoll: epoll, done: make(chan struct{})}, err
}

func (s *sink) add(fd int) error {
	return unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (s *sink) begin(delays bool) {
	s.delays = nil
	s.received.Store(0)
	s.timed.Store(delays)
}

func (s *sink) end() (int, []time.Duration) {
	s.timed.Store(false)
	time.Sleep(20 * time.Millisecond) // the goroutine is through with its turn
	slices.Sort(s.delays)
	return int(s.received.Load()), s.delays
}

func (s *sink) close() {
	s.stop.Store(true)
	<-s.done
	_ = unix.Close(s.epoll)
}

// run looks once a millisecond: being woken for packets would be paid by who sends
// them, which is who is measured. When they came the kernel says.
func (s *sink) run() {
	defer close(s.done)
	events := make([]unix.EpollEvent, 256)
	buf, control := make([]byte, 2048), make([]byte, 128)
	for !s.stop.Load() {
		n, err := unix.EpollWait(s.epoll, events, 0)
		if err != nil && err != unix.EINTR {
			return
		}
		for i := range max(n, 0) {
			s.read(int(events[i].Fd), buf, control)
		}
		if n <= 0 {
			nap(time.Millisecond)
		}
	}
}

func (s *sink) read(fd int, buf, control []byte) {
	vector := unix.Iovec{Base: &buf[0]}
	vector.SetLen(len(buf))
	message := unix.Msghdr{Iov: &vector, Control: &control[0]}
	message.SetIovlen(1)
	message.SetControllen(len(control))
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&message)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return
	}
	s.received.Add(1)
	if !s.timed.Load() || n < rtpHeader+8 || message.Controllen < uint64(unix.CmsgLen(16)) {
		return
	}
	at := int64(binary.NativeEndian.Uint64(control[unix.CmsgLen(0):]))*1e9 + int64(binary.NativeEndian.Uint64(control[unix.CmsgLen(0)+8:]))
	s.delays = append(s.delays, time.Duration(at-int64(binary.BigEndian.Uint64(buf[rtpHeader:]))))
}
