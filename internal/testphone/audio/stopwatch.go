package audio

import (
	"sync"
	"time"
)

// stopwatchSize bounds the packets under way that a Stopwatch remembers: 80 s of one stream.
const stopwatchSize = 4096

// mark identifies a packet over every hop that keeps its sequence number and its timestamp. The
// SSRC is not part of it because an echo may send with its own. Both start at random values, so the
// streams of one process do not meet.
type mark struct {
	sequence  uint16
	timestamp uint32
}

// Stopwatch measures how long packets take from one Stream to another of the same process. The zero
// value is ready; it is safe for concurrent use. It remembers the last few thousand packets.
type Stopwatch struct {
	mu    sync.Mutex
	sent  map[mark]time.Time
	order [stopwatchSize]mark
	next  int
}

// start notes that a packet is being sent.
func (w *Stopwatch) start(m mark, now time.Time) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent == nil {
		w.sent = make(map[mark]time.Time, stopwatchSize)
	}
	if len(w.sent) == stopwatchSize {
		delete(w.sent, w.order[w.next])
	}
	w.sent[m] = now
	w.order[w.next] = m
	w.next = (w.next + 1) % stopwatchSize
}

// stop returns how long ago the packet was sent; ok is false for a packet that nobody started.
func (w *Stopwatch) stop(m mark, now time.Time) (delay time.Duration, ok bool) {
	if w == nil {
		return 0, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.sent[m]
	return now.Sub(at), ok
}
