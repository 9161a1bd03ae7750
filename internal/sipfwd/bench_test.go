package sipfwd

import (
	"fmt"
	"testing"
)

// BenchmarkCall is INVITE, 200, ACK, BYE and 200 through both halves, over
// loopback sockets toward the phone and the PBX. What the test's own two agents
// need is in it.
func BenchmarkCall(b *testing.B) {
	for _, transport := range []string{"UDP", "TCP"} {
		b.Run(transport, func(b *testing.B) {
			r := newRig(b)
			phone := newAgent(b, "127.0.0.1:0")
			if transport == "TCP" {
				phone = newTCPAgent(b, r.proxy)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if i++; i%100 == 0 {
					b.StopTimer()
					r.forget()
					b.StartTimer()
				}
				r.setUpAndEnd(phone, fmt.Sprint("bench", i), false)
			}
		})
	}
}

// BenchmarkRegister is a refresh, as most of the messages of an office are.
func BenchmarkRegister(b *testing.B) {
	r := newRig(b)
	phone := newAgent(b, "127.0.0.1:0")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; i%100 == 0 {
			b.StopTimer()
			r.expire()
			b.StartTimer()
		}
		r.register(phone, "alice")
	}
}

// forget empties what the fakes keep, too.
func (r *rig) forget() {
	r.expire()
	r.media.mu.Lock()
	defer r.media.mu.Unlock()
	r.media.n, r.media.ports = 0, nil
	clear(r.media.relays)
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	r.events.lines = nil
}
