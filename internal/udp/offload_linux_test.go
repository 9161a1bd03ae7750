package udp

import (
	"net/netip"
	"testing"
)

// TestOffloadOutlivesAPeer: a peer that cannot be reached does not make bursts to
// the others one call a datagram.
func TestOffloadOutlivesAPeer(t *testing.T) {
	c := listen(t, "udp4", "0.0.0.0:0")
	if !c.gso {
		t.Skip("the system has no segmentation offload")
	}
	for name, route := range map[string]Route{
		"port 0":                 {Remote: netip.MustParseAddrPort("127.0.0.1:0")},
		"from another's address": {Remote: netip.MustParseAddrPort("127.0.0.1:9"), Local: netip.MustParseAddr("192.0.2.1")},
	} {
		if dropped, err := c.Send(burst(100, 100, 100), route); dropped != 3 || err == nil {
			t.Errorf("%s: %d dropped, %v; want all", name, dropped, err)
		}
	}
	if !c.gso {
		t.Error("bursts are sent one by one from now on")
	}
}
