package relay

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// TestPollerServesManyRelays has packets of many sockets come out of the right
// Sinks, while Relays come and go.
func TestPollerServesManyRelays(t *testing.T) {
	const relays, packets = 40, 20
	var flushes atomic.Int64
	poller := newPoller(t, PollerConfig{Flush: func() { flushes.Add(1) }})
	ports := freePorts(t, netip.MustParseAddr("127.0.10.6"), 2*relays, time.Now)
	phone := newPeer(t, "127.0.0.1")
	open := func(sink func(Component, []byte)) *Relay {
		pair, err := ports.Open()
		if err != nil {
			t.Fatal(err)
		}
		r, err := Start(Config{Pair: pair, Poller: poller, Accept: sameIP, Sink: sink})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		r.SetRemote(phone.addr(), phone.addr())
		return r
	}
	var all []*Relay
	got := make([]atomic.Int64, relays)
	done := make(chan struct{}, relays)
	for i := range relays {
		want := fmt.Sprint("to ", i)
		all = append(all, open(func(c Component, packet []byte) {
			if c != RTP || string(packet) != want {
				t.Errorf("relay %d got %v %q", i, c, packet)
			}
			if got[i].Add(1) == packets {
				done <- struct{}{}
			}
		}))
		// One that is gone at once, so that its place is given to the next.
		_ = open(func(Component, []byte) { t.Error("a closed relay got a packet") }).Close()
	}
	for range packets {
		for i, r := range all {
			phone.send(r.LocalAddr(), fmt.Sprint("to ", i))
		}
	}
	for range relays {
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("packets are missing")
		}
	}
	if flushes.Load() == 0 {
		t.Error("Flush was not called")
	}
}

// TestPollerWaits shows that packets that come within Wait are flushed together.
func TestPollerWaits(t *testing.T) {
	const packets = 50
	var since atomic.Int64 // packets since the last Flush
	batches := make(chan int64, packets)
	poller := newPoller(t, PollerConfig{
		Wait:  func() time.Duration { return 300 * time.Millisecond },
		Flush: func() { batches <- since.Swap(0) },
	})
	pair, err := freePorts(t, netip.MustParseAddr("127.0.10.7"), 1, time.Now).Open()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Start(Config{Pair: pair, Poller: poller, Accept: sameIP, Sink: func(Component, []byte) { since.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	phone := newPeer(t, "127.0.0.1")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	for range packets {
		phone.send(r.LocalAddr(), "voice")
	}
	select {
	case n := <-batches:
		// On a machine that stood still for as long the rest comes in the next batch.
		if n < 2 {
			t.Errorf("a batch of %d packets, want several", n)
		}
	case <-time.After(patience):
		t.Fatal("Flush was not called")
	}
}

// TestFloodLeavesTurnsToOthers fills the socket of one relay and sends one packet
// to another one, which must not wait until the first is empty.
func TestFloodLeavesTurnsToOthers(t *testing.T) {
	const flood = 100
	hold := make(chan struct{})
	order := make(chan string, flood+1)
	poller := newPoller(t, PollerConfig{})
	ports := freePorts(t, netip.MustParseAddr("127.0.10.8"), 2, time.Now)
	phone := newPeer(t, "127.0.0.1")
	var pair [2]*Relay
	for i := range pair {
		p, err := ports.Open()
		if err != nil {
			t.Fatal(err)
		}
		pair[i], err = Start(Config{Pair: p, Poller: poller, Accept: sameIP, Sink: func(_ Component, packet []byte) {
			<-hold
			order <- string(packet)
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer pair[i].Close()
		pair[i].SetRemote(phone.addr(), netip.AddrPort{})
	}
	for range flood {
		phone.send(pair[0].LocalAddr(), "flood")
	}
	phone.send(pair[1].LocalAddr(), "voice")
	close(hold)
	for i := range flood + 1 {
		select {
		case packet := <-order:
			if packet == "voice" {
				if i > 2 {
					t.Errorf("%d packets of the flood came before the other's", i)
				}
				return
			}
		case <-time.After(patience):
			t.Fatal("packets are missing")
		}
	}
}
