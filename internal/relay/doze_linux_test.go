package relay

import (
	"runtime"
	"testing"

	"github.com/siptunnel/siptunnel/internal/doze"
)

// TestDozing has a Poller work in the manner of the programs.
func TestDozing(t *testing.T) {
	before := runtime.GOMAXPROCS(runtime.NumCPU())
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	doze.MakeRoom()
	t.Run("many relays", TestPollerServesManyRelays)
	t.Run("waits", TestPollerWaits)
	t.Run("flood", TestFloodLeavesTurnsToOthers)
	t.Run("signals", TestPollerWokenBySignals)
}
