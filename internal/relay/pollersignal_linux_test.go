package relay

import (
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPollerWokenBySignals has signals end the sleep of a Poller, as the runtime and
// others send them at any time. There is nothing to flush then, nor maybe anybody
// yet whom Flush could call: the programs make their Poller first.
func TestPollerWokenBySignals(t *testing.T) {
	var flushes atomic.Int64
	before := make(chan int64, 1) // how often Flush was called when the packet came
	poller := newPoller(t, PollerConfig{Flush: func() { flushes.Add(1) }})
	pair, err := freePorts(t, netip.MustParseAddr("127.0.10.9"), 1, time.Now).Open()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Start(Config{Pair: pair, Poller: poller, Accept: sameIP, Sink: func(Component, []byte) { before <- flushes.Load() }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	phone := newPeer(t, "127.0.0.1")
	r.SetRemote(phone.addr(), netip.AddrPort{})
	for range 100 {
		signalThreads(t)
	}
	phone.send(r.LocalAddr(), "voice")
	select {
	case n := <-before:
		if n != 0 {
			t.Errorf("Flush was called %d times before there was a packet", n)
		}
	case <-time.After(patience):
		t.Fatal("the packet is missing")
	}
}

// signalThreads sends each thread of the process the signal by which the runtime
// itself interrupts them.
func signalThreads(t *testing.T) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Tgkill(os.Getpid(), id, unix.SIGURG) // it may have ended
	}
}
