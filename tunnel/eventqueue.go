package tunnel

import "sync"

// maxEvents bounds the events that wait for OnEvent. A program that does not
// come back from it for so long has no use for the oldest.
const maxEvents = 1024

// eventQueue calls OnEvent from one goroutine, so that whoever adds an event
// neither waits nor holds a lock meanwhile.
type eventQueue struct {
	mu      sync.Mutex
	changed sync.Cond
	events  []Event
	closed  bool
	done    chan struct{}
}

// start begins to call f, which may be nil.
func (q *eventQueue) start(f func(Event)) {
	q.changed.L = &q.mu
	q.done = make(chan struct{})
	if f == nil {
		f = func(Event) {}
	}
	go q.run(f)
}

func (q *eventQueue) run(f func(Event)) {
	defer close(q.done)
	for {
		q.mu.Lock()
		for len(q.events) == 0 && !q.closed {
			q.changed.Wait()
		}
		if len(q.events) == 0 {
			q.mu.Unlock()
			return
		}
		event := q.events[0]
		q.events = q.events[1:]
		q.mu.Unlock()
		f(event)
	}
}

func (q *eventQueue) add(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if len(q.events) >= maxEvents {
		q.events = q.events[1:]
	}
	q.events = append(q.events, e)
	q.changed.Signal()
}

// close waits until what was added has been told.
func (q *eventQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.changed.Signal()
	q.mu.Unlock()
	<-q.done
}
