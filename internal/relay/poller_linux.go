package relay

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/doze"
)

const (
	// pollBatch is how many sockets are read between two looks at who waits for
	// the Poller to pause.
	pollBatch = 128
	// drainLimit is how many packets are taken before Flush is called: those of
	// 2 ms at 500,000 a second.
	drainLimit = 1024
	// busy is how many packets after a Wait make the Poller go on with another
	// one, and not have the next packet wake it.
	busy = 4
	// wakeSlot is what an event has in place of a slot that Close has caused.
	wakeSlot = -1
)

// A Poller reads the sockets of Relays, all of them in one goroutine: at the
// rates of telephony the wake-ups of a goroutine a socket would cost more than
// the packets. It is safe for concurrent use. Make it with NewPoller.
//
// It sleeps while no socket has anything. When one does it waits for
// PollerConfig.Wait, takes a packet of each socket in turn until none has any,
// and calls Flush. So at high rates it works once a Wait, and no flood toward
// one port keeps the others waiting.
//
// It sleeps in the kernel, and not in the runtime, which would be woken by packets
// while it waits for others, and wakes other threads each time that it is (see package
// doze).
type Poller struct {
	config PollerConfig
	common
	epoll  int
	wake   int  // an eventfd, for Close
	room   bool // to doze
	closed atomic.Bool
	once   sync.Once
	done   chan struct{} // run has ended

	intake intake
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
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		if err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeSlot}); err != nil {
			_ = unix.Close(wake)
		}
	}
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	p := &Poller{
		config: config, common: newCommon(config.Counters),
		epoll: epoll, wake: wake, room: doze.Room(), done: make(chan struct{}),
	}
	go p.run()
	return p, nil
}

// Close stops reading and waits until no Sink is called any more. The Relays are
// to be closed before.
func (p *Poller) Close() error {
	p.once.Do(func() {
		p.closed.Store(true)
		_, _ = unix.Write(p.wake, []byte{0, 0, 0, 0, 0, 0, 0, 1}) // it cannot fail: the counter has room
		<-p.done
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = unix.Close(p.wake)
		_ = unix.Close(p.epoll)
		p.epoll = -1
	})
	return nil
}

func (p *Poller) run() {
	defer close(p.done)
	for {
		n := p.sleep()
		if p.closed.Load() {
			return
		}
		wait := p.config.wait()
		if wait <= 0 {
			p.take(p.events[:n])
			p.flush(n)
			continue
		}
		for taken := busy; taken >= busy; {
			p.nap(wait)
			if p.closed.Load() {
				return
			}
			taken = p.drain()
			p.flush(taken)
		}
	}
}

// flush is called after so many packets. A signal ends the sleep too, maybe before there
// is anybody to flush.
func (p *Poller) flush(taken int) {
	if taken > 0 {
		p.config.flush()
	}
}

// nap waits for packets to come.
func (p *Poller) nap(wait time.Duration) {
	if !p.room {
		// A thread that sleeps in the kernel keeps its processor from the others for
		// a while.
		time.Sleep(wait)
		return
	}
	for until := time.Now().Add(wait); wait > 0; wait = time.Until(until) {
		doze.Nap(wait)
	}
}

// sleep waits until a socket has something, and returns how many of them are in events. A
// Poller that has work dozes; one that has none leaves its processor to others.
func (p *Poller) sleep() int {
	if p.room {
		if n := doze.Wait(p.epoll, p.events[:]); n > 0 {
			return n
		}
	}
	n, err := unix.EpollWait(p.epoll, p.events[:], -1)
	if err != nil {
		return 0
	}
	return n
}

// drain takes what the sockets have.
func (p *Poller) drain() (taken int) {
	for taken < drainLimit {
		n := doze.Poll(p.epoll, p.events[:])
		if n == 0 {
			break
		}
		taken += n
		p.take(p.events[:n])
	}
	return taken
}

// take reads one packet from each of the sockets.
func (p *Poller) take(events []unix.EpollEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range events {
		if events[i].Fd == wakeSlot {
			continue
		}
		slot := &p.slots[events[i].Fd]
		if slot.half == nil || slot.turn != events[i].Pad {
			continue
		}
		if !slot.half.read(&p.intake) {
			p.drop(slot.half)
		}
	}
}

// read takes one packet from the socket, if it has one.
func (h *half) read(in *intake) bool {
	h.mu.Lock()
	n, src, err := h.socket.receive(in)
	packet := in.packet[:n]
	v := pass
	if err == nil {
		v = h.admit(packet, src)
	}
	h.mu.Unlock()
	return h.received(packet, v, err)
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
	if h.slot < 0 {
		return // Its descriptor may be another socket's by now.
	}
	p.drop(h)
	p.slots[h.slot].half = nil
	p.free = append(p.free, h.slot)
	h.slot = -1
}

// drop has the socket read no more. It is called with mu held.
func (p *Poller) drop(h *half) {
	if h.socket.fd >= 0 {
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, h.socket.fd, nil)
	}
}
