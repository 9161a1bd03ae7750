// Package impair is a network path that behaves badly on purpose: packets take longer, overtake each other, are lost or held
// back, all of it by a seed. A Wire carries the packets of two network namespaces; this is for tests and benchmarks, where the
// kernel has no netem.
package impair

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"
)

// Conditions are what a path does to the packets of either direction. The zero value does nothing.
type Conditions struct {
	Delay time.Duration
	// Jitter is by how much a packet may take longer, at random. Packets that would be overtaken hold up those behind them
	// unless Overtake is set.
	Jitter   time.Duration
	Overtake bool
	// Loss is the share of packets that are lost, at random.
	Loss float64
	// Bursts, if it is not 0, has two UDP packets in a row be lost again and again, with so many others to twice as many between.
	Bursts int
	// NoUDP loses all UDP.
	NoUDP bool
	// HoldUDP keeps UDP back until it is false again; then all of it arrives at once.
	HoldUDP bool
}

const (
	// longest bounds the packets on their way in a direction.
	longest = 20_000

	udp = 17
)

// A line is one direction of a path. It is a state machine without a clock or a device of its own. What it does to the packets
// depends on its seed and their number alone, not on when they come.
type line struct {
	random *rand.Rand
	queue  flights
	number uint64        // of packets so far, which breaks ties
	last   time.Duration // when the latest packet of those that keep their order arrives
	held   [][]byte
	quiet  int // UDP packets until the next burst
	burst  int // that are to be lost of the present one
}

func newLine(seed, direction uint64) *line {
	return &line{random: rand.New(rand.NewPCG(seed, direction))}
}

// flight is a packet on its way.
type flight struct {
	due    time.Duration
	number uint64
	packet []byte
}

type flights []flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	return f[i].due < f[j].due || f[i].due == f[j].due && f[i].number < f[j].number
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	last := len(*f) - 1
	x := (*f)[last]
	(*f)[last] = flight{}
	*f = (*f)[:last]
	return x
}

// take takes an IP packet, which it copies.
func (l *line) take(now time.Duration, packet []byte, c Conditions) {
	l.release(now, c)
	isUDP := protocol(packet) == udp
	lost := l.random.Float64() < c.Loss
	jitter := time.Duration(l.random.Float64() * float64(c.Jitter))
	if isUDP && c.Bursts > 0 && l.inBurst(c.Bursts) || isUDP && c.NoUDP {
		lost = true
	}
	if lost || len(l.queue)+len(l.held) >= longest {
		return
	}
	packet = slices.Clone(packet)
	if isUDP && c.HoldUDP {
		l.held = append(l.held, packet)
		return
	}
	due := now + c.Delay + jitter
	if !c.Overtake {
		due = max(due, l.last)
		l.last = due
	}
	l.send(due, packet)
}

func (l *line) send(due time.Duration, packet []byte) {
	l.number++
	heap.Push(&l.queue, flight{due, l.number, packet})
}

// inBurst says of each UDP packet whether it is one of a burst of two that is lost.
func (l *line) inBurst(between int) bool {
	switch {
	case l.burst > 0:
		l.burst--
		return true
	case l.quiet > 0:
		l.quiet--
		return false
	}
	l.quiet = between + l.random.IntN(between)
	l.burst = 1
	return true
}

// release lets what was held back arrive once it is not any more.
func (l *line) release(now time.Duration, c Conditions) {
	if c.HoldUDP {
		return
	}
	for _, packet := range l.held {
		l.send(now, packet)
	}
	l.held = nil
}

// arrived returns the next packet that has arrived, nil if none has.
func (l *line) arrived(now time.Duration, c Conditions) []byte {
	l.release(now, c)
	if len(l.queue) == 0 || l.queue[0].due > now {
		return nil
	}
	return heap.Pop(&l.queue).(flight).packet
}

// next returns how long it is until arrived has a packet, at most the limit.
func (l *line) next(now, limit time.Duration) time.Duration {
	if len(l.queue) == 0 {
		return limit
	}
	return min(max(l.queue[0].due-now, 0), limit)
}

// protocol is that of an IP packet, 0 if that cannot be told.
func protocol(packet []byte) byte {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return packet[9]
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return packet[6]
	}
	return 0
}
