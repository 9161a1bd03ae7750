package sipfwd

import (
	"container/heap"
	"sync"
	"time"
)

// alarms are what is to be done later, by one timer of the runtime's for all: most wait
// half a minute for nothing to happen, several for every call, and a timer of their own
// would be three times as large. All methods but ring are called with mu held.
type alarms struct {
	mu    *sync.Mutex
	began time.Time
	queue alarmQueue
	timer *time.Timer // nil: none was set yet
}

// alarm is set as long as it is in the queue.
type alarm struct {
	of    *alarms
	at    time.Duration // since of began
	place int           // in the queue; negative: it is not there
	f     func()
}

// slot holds at most one alarm that is set.
type slot struct{ alarm *alarm }

// arm runs f after d, with mu held, unless s is stopped or armed again before.
func (a *alarms) arm(s *slot, d time.Duration, f func()) {
	s.stop()
	s.alarm = &alarm{of: a, at: time.Since(a.began) + d, f: f}
	heap.Push(&a.queue, s.alarm)
	if s.alarm.place == 0 {
		a.wind()
	}
}

func (s *slot) stop() {
	if s.alarm == nil {
		return
	}
	if a := s.alarm.of; s.alarm.place >= 0 {
		heap.Remove(&a.queue, s.alarm.place)
		if len(a.queue) == 0 {
			a.timer.Stop()
		}
	}
	s.alarm = nil
}

// wind sets the timer for the first alarm. It may go off too early, when that one has
// been stopped.
func (a *alarms) wind() {
	d := a.queue[0].at - time.Since(a.began)
	if a.timer == nil {
		a.timer = time.AfterFunc(d, a.ring)
		return
	}
	a.timer.Reset(d)
}

// ring runs what is due.
func (a *alarms) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for now := time.Since(a.began); len(a.queue) > 0 && a.queue[0].at <= now; {
		heap.Pop(&a.queue).(*alarm).f()
	}
	if len(a.queue) > 0 {
		a.wind()
	}
}

// alarmQueue is a heap.Interface; the first alarm is the next one.
type alarmQueue []*alarm

func (q alarmQueue) Len() int           { return len(q) }
func (q alarmQueue) Less(i, j int) bool { return q[i].at < q[j].at }

func (q alarmQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *alarmQueue) Push(x any) {
	a := x.(*alarm)
	a.place = len(*q)
	*q = append(*q, a)
}

func (q *alarmQueue) Pop() any {
	last := len(*q) - 1
	a := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	a.place = -1
	return a
}
