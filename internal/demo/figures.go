package demo

import (
	"fmt"
	"time"

	"github.com/siptunnel/siptunnel/internal/testphone"
)

// bareSize is what one packet of the demo has on a LAN: IPv4, UDP, RTP and 20 ms of PCMU.
const bareSize = 20 + 8 + 12 + 160

// figures are what the demo has measured. In pairs, the first is the phone that calls.
type figures struct {
	direct    [2]testphone.Stats // the call without the tunnel
	tunnelled [2]testphone.Stats
	echo      testphone.Stats
	took      time.Duration // the tunnelled call, from INVITE to the end
	bytes     uint64        // on the connection, both ways, in that time
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func (f *figures) print(r *report) {
	r.line("The call between the two phones: %.1f s", f.took.Seconds())
	r.line("  %-28s %10s %10s", "", "101", "102")
	row := func(name string, value func(testphone.Stats) any) {
		r.line("  %-28s %10v %10v", name, value(f.tunnelled[0]), value(f.tunnelled[1]))
	}
	row("packets sent", func(s testphone.Stats) any { return s.Sent })
	row("packets heard", func(s testphone.Stats) any { return s.Received })
	row("packets lost", func(s testphone.Stats) any { return s.Lost })
	row("jitter", func(s testphone.Stats) any { return milliseconds(s.Jitter) })
	row("delay, median", func(s testphone.Stats) any { return milliseconds(s.Delay.Median) })
	row("delay, worst of a hundred", func(s testphone.Stats) any { return milliseconds(s.Delay.P99) })
	r.line("")

	var with, without time.Duration
	for i := range f.tunnelled {
		with += f.tunnelled[i].Delay.Median / 2
		without += f.direct[i].Delay.Median / 2
	}
	r.line("Delay from phone to phone: %s, %s without the tunnel.", milliseconds(with), milliseconds(without))
	r.line("The tunnel adds %s; each packet goes through it twice, up to the PBX and down again.", milliseconds(with-without))

	var crossings uint64
	for _, s := range f.tunnelled {
		crossings += s.Sent + s.Received
	}
	r.line("On the connection: %d bytes for the call, signalling and all, both ways; %.0f for each of %d packets",
		f.bytes, float64(f.bytes)/float64(max(crossings, 1)), crossings)
	r.line("that crossed it (TLS, without TCP/IP). Bare, over IPv4 and UDP, a packet has %d.", bareSize)
}
