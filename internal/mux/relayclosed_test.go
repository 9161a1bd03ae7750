package mux

import (
	"testing"
	"time"
)

// TestRelayClosedBeforeItsAnswer has the user of a relay give up before the server
// has answered. Nothing may be left of it: streams that the server refuses would
// end the connection once there are many of them.
func TestRelayClosedBeforeItsAnswer(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	s := c.connected(false)
	for channel := range uint32(2 * maxRefusedStreams) {
		if err := s.OpenRelay(channel + 1); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseRelay(channel + 1); err != nil {
			t.Fatal(err)
		}
	}
	const last = 2*maxRefusedStreams + 1
	if err := s.OpenRelay(last); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return s.hasRelay(last) })
	c.cut()
	c.connected(true)
	time.Sleep(100 * time.Millisecond) // for streams to be refused
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.relays) != 1 {
		t.Errorf("the client keeps %d relays, want 1", len(s.relays))
	}
	if n := ts.counters.Counter("tunnel.stream_refused.unknown_channel").Value(); n != 0 {
		t.Errorf("%d streams were refused", n)
	}
}
