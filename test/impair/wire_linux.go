package impair

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An End is where a Wire ends: a network namespace and the name of the device that the Wire makes there. Do runs a function
// in the namespace.
type End struct {
	Do     func(func() error) error
	Device string
}

// A Wire joins two network namespaces by a TUN device in each, without addresses and not up. All packets pass through this
// program, which counts them and treats them as Set says. It is safe for concurrent use.
type Wire struct {
	began time.Time
	ends  [2]int // descriptors of the devices
	tasks sync.WaitGroup
	stop  atomic.Bool

	mu         sync.Mutex
	conditions Conditions
	counts     map[byte]Count
}

// Count is of IP packets, their headers included.
type Count struct{ Packets, Bytes int }

// New makes the devices and carries packets until Close.
func New(seed uint64, a, b End) (*Wire, error) {
	w := &Wire{began: time.Now(), ends: [2]int{-1, -1}, counts: map[byte]Count{}}
	for i, end := range []End{a, b} {
		err := end.Do(func() (err error) { w.ends[i], err = openTUN(end.Device); return err })
		if err != nil {
			w.Close()
			return nil, err
		}
	}
	for i := range w.ends {
		w.tasks.Go(func() { w.carry(newLine(seed, uint64(i)), w.ends[i], w.ends[1-i]) })
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

// Close takes the devices away. A nil Wire has none.
func (w *Wire) Close() {
	if w == nil {
		return
	}
	w.stop.Store(true)
	w.tasks.Wait()
	for _, fd := range w.ends {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// Set changes what happens to packets from now on.
func (w *Wire) Set(c Conditions) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conditions = c
}

// TakeCounts returns what has gone both ways since it was last called, by IP protocol. What was lost counts too.
func (w *Wire) TakeCounts() map[byte]Count {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := w.counts
	w.counts = map[byte]Count{}
	return counts
}

// count counts a packet, and returns what is to happen to it.
func (w *Wire) count(packet []byte) Conditions {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.counts[protocol(packet)]
	w.counts[protocol(packet)] = Count{c.Packets + 1, c.Bytes + len(packet)}
	return w.conditions
}

func (w *Wire) present() Conditions {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conditions
}

// carry takes packets one way until Close.
func (w *Wire) carry(l *line, from, to int) {
	const longestSleep = 5 * time.Millisecond // after which changed conditions are seen
	buf := make([]byte, 65535)
	readable := []unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}
	for !w.stop.Load() {
		for {
			n, err := unix.Read(from, buf)
			if err != nil || n <= 0 {
				break
			}
			if protocol(buf[:n]) != 0 {
				l.take(time.Since(w.began), buf[:n], w.count(buf[:n]))
			}
		}
		c, now := w.present(), time.Since(w.began)
		for packet := l.arrived(now, c); packet != nil; packet = l.arrived(now, c) {
			_, _ = unix.Write(to, packet)
		}
		sleep := unix.NsecToTimespec(int64(l.next(time.Since(w.began), longestSleep)))
		_, _ = unix.Ppoll(readable, &sleep, nil)
	}
}
