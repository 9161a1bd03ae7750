package mux

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cpuTime returns what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMedia sends G.711 packets (172 bytes) of several calls from a
// client to a server over TLS on loopback at a given rate and reports the CPU
// time of both ends together for each packet, without what making the packets
// takes, and the delay that a packet has on average between SendMedia and the
// handler.
func BenchmarkMedia(b *testing.B) {
	for _, rate := range []int{1000, 5000, 50000} {
		for _, calls := range []int{10, 100} {
			b.Run(fmt.Sprintf("rate=%d/calls=%d", rate, calls), func(b *testing.B) { benchmarkMedia(b, rate, calls) })
		}
	}
}

func benchmarkMedia(b *testing.B, rate, calls int) {
	ts := newTestServer(b, nil)
	var received, delay atomic.Int64
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	start := time.Now()
	down.onMedia = func(_ uint32, _ bool, packet []byte) {
		received.Add(1)
		sent := time.Duration(0)
		for _, v := range packet[:8] {
			sent = sent<<8 | time.Duration(v)
		}
		delay.Add(int64(time.Since(start) - sent))
	}
	for channel := range calls {
		up.OpenRelay(uint32(channel + 1))
		receive(b, c.events, "a relay")
	}
	packet := make([]byte, 172)
	send := func(channel uint32) {
		now := time.Since(start)
		for i := range 8 {
			packet[i] = byte(now >> (56 - 8*i))
		}
		up.SendMedia(channel, false, packet)
	}
	for channel := range calls {
		want := received.Load() + 1
		until(b, func() bool {
			send(uint32(channel + 1))
			time.Sleep(time.Millisecond)
			return received.Load() >= want
		})
	}
	time.Sleep(10 * time.Millisecond)
	received.Store(0)
	delay.Store(0)
	b.ResetTimer()
	idle := generate(b.N, rate, func(int) {})
	busy := generate(b.N, rate, func(i int) { send(uint32(i%calls + 1)) })
	cpu := cpuTime()
	for deadline := time.Now().Add(time.Second); received.Load() < int64(b.N) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	busy += cpuTime() - cpu
	b.ReportMetric(float64(busy-idle)/float64(b.N), "cpu-ns/packet")
	b.ReportMetric(float64(delay.Load())/float64(max(1, received.Load()))/1e3, "delay-us")
	b.ReportMetric(100*float64(int64(b.N)-received.Load())/float64(b.N), "%lost")
	b.ReportMetric(0, "ns/op")
}

// generate calls send n times, spread over time as the packets of calls that
// know nothing of each other are, and returns the CPU time that passed.
func generate(n, rate int, send func(i int)) time.Duration {
	cpu, begin := cpuTime(), time.Now()
	for sent := 0; sent < n; {
		due := min(n, 1+int(time.Since(begin)*time.Duration(rate)/time.Second))
		for ; sent < due; sent++ {
			send(sent)
		}
		time.Sleep(time.Second / time.Duration(min(rate, 2000)))
	}
	return cpuTime() - cpu
}
