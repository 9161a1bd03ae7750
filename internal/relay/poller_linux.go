package relay

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pollBatch is how many sockets are read between two looks at who waits for
	// the Poller to pause.
	pollBatch = 128
	// drainLimit is how many packets are taken before Flush is called: those of
	// 2 ms at 500,000 a second.
	drainLimit = 1024
)

// A Poller reads the sockets of Relays, all of them in one goroutine: at the
// rates of telephony the wake-ups of a goroutine a socket would cost more than
// the packets. It is safe for concurrent use. Make it with NewPoller.
//
// It sleeps while no socket has anything. When one does it waits for
// PollerConfig.Wait, takes a packet of each socket in turn until none has any,
// and calls Flush. So at high rates it works once a Wait, and no flood toward
// one port keeps the others waiting.
type Poller struct {
	config PollerConfig
	epoll  int
	file   *os.File // epoll, for the runtime to wait for
	raw    syscall.RawConn
	done   chan struct{} // run has ended

	buf    [MaxPacket + 1]byte // one byte more than a packet may have shows the ones that have more
	events [pollBatch]unix.EpollEvent

	mu    sync.Mutex // held while sockets are read and Sinks called
	slots []pollSlot
	free  []int32 // indexes of slots
}

// A pollSlot is a socket's place. Its turn tells apart the sockets that have it
// one after the other: an event may be older than the socket.
type pollSlot struct {
	half *half
	turn int32
}

// NewPoller starts a Poller.
func NewPoller(config PollerConfig) (*Poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	// The runtime waits for descriptors that do not block only.
	if err := unix.SetNonblock(epoll, true); err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &Poller{config: config, epoll: epoll, file: os.NewFile(uintptr(epoll), "epoll"), done: make(chan struct{})}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	go p.run()
	return p, nil
}

// Close stops reading and waits until no Sink is called any more. The Relays are
// not closed.
func (p *Poller) Close() error {
	err := p.file.Close()
	<-p.done
	return err
}

func (p *Poller) run() {
	defer close(p.done)
	readable, drain := p.readable, p.drain // one of each: a method value is an allocation
	for {
		if err := p.raw.Read(readable); err != nil {
			return
		}
		if wait := p.config.wait(); wait > 0 {
			time.Sleep(wait)
		}
		if err := p.raw.Control(drain); err != nil {
			return
		}
		p.config.flush()
	}
}

// readable says whether a socket has something. The events are taken again by
// drain: there are more by then.
func (p *Poller) readable(epoll uintptr) bool { return p.poll(epoll, 1) != 0 }

func (p *Poller) poll(epoll uintptr, limit int) int {
	for {
		n, err := unix.EpollWait(int(epoll), p.events[:limit], 0)
		if err != unix.EINTR {
			return max(n, 0)
		}
	}
}

// drain takes what the sockets have.
func (p *Poller) drain(epoll uintptr) {
	for taken := 0; taken < drainLimit; {
		n := p.poll(epoll, pollBatch)
		if n == 0 {
			return
		}
		taken += n
		p.take(p.events[:n])
	}
}

// take reads one packet from each of the sockets.
func (p *Poller) take(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range events {
		slot := &p.slots[events[i].Fd]
		if slot.half == nil || slot.turn != events[i].Pad {
			continue
		}
		if !slot.half.read(p.buf[:]) {
			p.drop(slot.half)
		}
	}
}

// read takes one packet from the socket, if it has one.
func (h *half) read(buf []byte) bool {
	h.mu.Lock()
	n, src, err := h.socket.receive(buf)
	v := pass
	if err == nil {
		v = h.admit(buf[:n], src)
	}
	h.mu.Unlock()
	return h.received(buf[:n], v, err)
}

// add has the socket of h read from now on.
func (p *Poller) add(h *half) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var index int32
	if n := len(p.free); n > 0 {
		index, p.free = p.free[n-1], p.free[:n-1]
	} else {
		index = int32(len(p.slots))
		p.slots = append(p.slots, pollSlot{})
	}
	slot := &p.slots[index]
	slot.turn++
	slot.half, h.slot = h, index
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: index, Pad: slot.turn}
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, h.socket.fd, &event)
}

// remove ends what add began. When it returns, the socket is not in use.
func (p *Poller) remove(h *half) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(h)
	if h.slot >= 0 {
		p.slots[h.slot].half = nil
		p.free = append(p.free, h.slot)
		h.slot = -1
	}
}

// drop has the socket read no more. It is called with mu held.
func (p *Poller) drop(h *half) {
	if h.socket.fd >= 0 {
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, h.socket.fd, nil)
	}
}
