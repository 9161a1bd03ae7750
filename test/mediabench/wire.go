//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A wire joins two hosts by a TUN device in each. All packets pass through this
// program, which counts them, loses some, and delivers them late.
type wire struct {
	ends [2]int // descriptors of the devices
	done sync.WaitGroup
	stop atomic.Bool

	mu     sync.Mutex
	weak   conditions
	counts map[byte]count // by IP protocol
}

// conditions are what a wire does to packets in each direction.
type conditions struct {
	delay  time.Duration
	jitter time.Duration // up to that much more, in order: what overtakes waits
	loss   float64
	noUDP  bool
}

// count is of IP packets, their headers included.
type count struct{ packets, bytes int }

func newWire(a, b host) (*wire, error) {
	w := &wire{ends: [2]int{-1, -1}, counts: map[byte]count{}}
	for i, h := range []host{a, b} {
		err := h.do(func() (err error) { w.ends[i], err = openTUN("wan0"); return err })
		if err != nil {
			w.close()
			return nil, err
		}
	}
	for i := range w.ends {
		w.done.Add(1)
		go w.carry(w.ends[i], w.ends[1-i])
	}
	return w, nil
}

func openTUN(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("TUN device: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("TUN device: %w", err)
	}
	return fd, nil
}

func (w *wire) close() {
	if w == nil {
		return
	}
	w.stop.Store(true)
	w.done.Wait()
	for _, fd := range w.ends {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (w *wire) set(c conditions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.weak = c
}

// takeCounts returns what has gone both ways since it was last called.
func (w *wire) takeCounts() map[byte]count {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := w.counts
	w.counts = map[byte]count{}
	return counts
}

// late is a packet on its way.
type late struct {
	due    time.Time
	packet []byte
}

// carry takes packets one way until stop.
func (w *wire) carry(from, to int) {
	defer w.done.Done()
	const step = 500 * time.Microsecond
	const longest = 20000 // packets on their way
	buf := make([]byte, 65535)
	var queue []late
	var last time.Time
	for !w.stop.Load() {
		for {
			n, err := unix.Read(from, buf)
			if err != nil || n < 20 {
				break
			}
			if due, ok := w.judge(buf[:n]); ok && len(queue) < longest {
				if due.Before(last) {
					due = last
				}
				last = due
				queue = append(queue, late{due, append([]byte(nil), buf[:n]...)})
			}
		}
		now := time.Now()
		for len(queue) > 0 && !queue[0].due.After(now) {
			_, _ = unix.Write(to, queue[0].packet)
			queue = queue[1:]
		}
		nap(step)
	}
}

// judge counts a packet and says when it arrives, if it does.
func (w *wire) judge(packet []byte) (due time.Time, ok bool) {
	protocol := packet[9] // of IPv4; what else goes is ARP's and IPv6's own business
	w.mu.Lock()
	defer w.mu.Unlock()
	if packet[0]>>4 != 4 {
		return due, false
	}
	c := w.counts[protocol]
	w.counts[protocol] = count{c.packets + 1, c.bytes + len(packet)}
	if rand.Float64() < w.weak.loss || w.weak.noUDP && protocol == unix.IPPROTO_UDP {
		return due, false
	}
	due = time.Now().Add(w.weak.delay)
	if w.weak.jitter > 0 {
		due = due.Add(rand.N(w.weak.jitter))
	}
	return due, true
}
