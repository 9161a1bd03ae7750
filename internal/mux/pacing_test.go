package mux

import (
	"testing"
	"testing/synctest"
	"time"
)

// jam makes an end think that its path is short of bandwidth, or that it is not
// any more.
func (e *pathEnd) jam(jammed bool) {
	e.out.Lock()
	defer e.out.Unlock()
	e.out.watch.rtt, e.out.watch.least, e.out.watch.leastAt = time.Millisecond, time.Millisecond, e.now()
	if jammed {
		e.out.watch.rtt = 10 * time.Second
	}
}

// TestFullDatagramsDoNotWait has packets come faster than a wait fills one datagram:
// they must leave all the time, and not only when there is a pause.
func TestFullDatagramsDoNotWait(t *testing.T) {
	for name, pacing := range map[string]Pacing{
		"bundled": {Wait: 20 * time.Millisecond}, "jammed": {Adapt: true}, "nobody flushes": {Manual: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPathPair(t, pacing).ready()
				p.client.jam(pacing.Adapt)
				start := time.Now()
				for n := 0; p.server.received() < 200; n++ {
					if time.Since(start) > 5*time.Second {
						t.Fatalf("%d packets came, %d datagrams wait in the burst", p.server.received(), p.client.waiting())
					}
					for s := range uint32(40) {
						p.client.push(s, false, voice(s, n))
					}
					time.Sleep(time.Millisecond)
				}
			})
		})
	}
}

// waiting is how many datagrams are sealed and not sent.
func (e *pathEnd) waiting() int {
	e.out.Lock()
	defer e.out.Unlock()
	return e.out.burst.Len()
}

// TestFlushKeepsWhatIsOpen has a flush send full datagrams and leave the open one,
// which lies behind them, to take more.
func TestFlushKeepsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{Manual: true, Adapt: true}).ready()
		sent := 0
		for n := range 20 {
			p.client.jam(true)
			for s := range uint32(8) {
				sent++
				p.client.push(s, false, voice(s, n))
			}
			p.client.flush()
			sent++
			p.client.push(8, false, voice(8, n))
			p.client.flush()
			time.Sleep(time.Duration(n) * time.Millisecond)
		}
		p.eventually("all packets have come", func() bool { return p.server.received() == sent })
	})
}

// TestKeptDatagramLeavesWhenTheJamEnds: flush has left a datagram open for which
// nobody calls flush again.
func TestKeptDatagramLeavesWhenTheJamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{Manual: true, Adapt: true}).ready()
		p.client.jam(true)
		p.client.push(1, false, voice(1, 1))
		p.client.flush()
		p.client.jam(false)
		start := time.Now()
		p.eventually("the packet has come", func() bool { return p.server.received() == 1 })
		if took := time.Since(start); took > probeIdle/2 { // the next probe would have taken it along
			t.Errorf("the packet came after %v", took)
		}
	})
}

// TestOpenDatagramSurvivesAMove has the path send what is sealed while a datagram is
// open behind it.
func TestOpenDatagramSurvivesAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPathPair(t, Pacing{Manual: true}).ready()
		for s := range uint32(20) {
			p.client.push(s, false, voice(s, int(s)))
		}
		p.client.out.Lock()
		p.client.transmit()
		p.client.out.Unlock()
		p.client.flush()
		p.eventually("all packets have come", func() bool { return p.server.received() == 20 })
	})
}
