package mux

import "testing"

// TestRelayClosedBeforeItsAnswer has the user of relays give up before the server
// has answered. Nothing may be left of them.
func TestRelayClosedBeforeItsAnswer(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	s := c.connected(false)
	const many = 128
	for channel := range uint32(many) {
		if err := s.OpenRelay(channel + 1); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseRelay(channel + 1); err != nil {
			t.Fatal(err)
		}
	}
	const last = many + 1
	if err := s.OpenRelay(last); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return s.hasRelay(last) })
	c.cut()
	c.connected(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.relays) != 1 {
		t.Errorf("the client keeps %d relays, want 1", len(s.relays))
	}
}
