package sipfwd

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// moodyPBX answers everything at once, or nothing while it is dead. Now and then
// it says 503, or hangs up.
type moodyPBX struct {
	udp  *net.UDPConn
	tcp  net.Listener
	dead atomic.Bool
	seen atomic.Int64
}

func newMoodyPBX(t *testing.T) *moodyPBX {
	b := new(moodyPBX)
	b.udp, b.tcp = listenBoth(t)
	var running sync.WaitGroup
	done := make(chan struct{})
	running.Go(func() {
		buf := make([]byte, maxMessage)
		for {
			n, from, err := b.udp.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, res := range b.answers(buf[:n]) {
				_, _ = b.udp.WriteToUDPAddrPort([]byte(res), from)
			}
		}
	})
	running.Go(func() {
		for {
			conn, err := b.tcp.Accept()
			if err != nil {
				return
			}
			running.Go(func() { <-done; conn.Close() })
			running.Go(func() {
				defer conn.Close()
				framer := sipmsg.NewFramer(conn)
				for {
					msg, err := framer.Next()
					if err != nil || rand.IntN(20) == 0 {
						return
					}
					for _, res := range b.answers(msg) {
						_, _ = conn.Write([]byte(res))
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		close(done)
		b.udp.Close()
		b.tcp.Close()
		running.Wait()
	})
	return b
}

func (b *moodyPBX) addr() netip.AddrPort { return addrPort(b.udp.LocalAddr()) }

func (b *moodyPBX) answers(msg []byte) []string {
	r := received{raw: string(msg)}
	if r.Parse(msg) != nil || !r.IsRequest() || b.dead.Load() {
		return nil
	}
	b.seen.Add(1)
	switch method := string(r.Method()); {
	case method == "ACK":
		return nil
	case r.ToTag() == nil && rand.IntN(8) == 0:
		return []string{answer(r, "503 Service Unavailable")}
	case method == "INVITE":
		ok := answer(r, "200 OK", fmt.Sprintf("Contact: <sip:b@%v>", b.addr()))
		return []string{answer(r, "100 Trying"), answer(r, "180 Ringing"), ok}[rand.IntN(3):]
	}
	return []string{answer(r, "200 OK")}
}

// TestFailoverStorm: two PBXs die in turns under the calls of several phones.
// Every request of a phone is answered, and nothing is left behind.
func TestFailoverStorm(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			r := newRigOver(t, transport)
			pbxs := [2]*moodyPBX{newMoodyPBX(t), newMoodyPBX(t)}
			r.targets.mu.Lock()
			r.targets.targets = []netip.AddrPort{pbxs[0].addr(), pbxs[1].addr()}
			r.targets.mu.Unlock()
			var all sync.WaitGroup
			over := make(chan struct{})
			all.Go(func() {
				defer close(over)
				moment := func() { time.Sleep(time.Duration(5+rand.IntN(40)) * time.Millisecond) }
				for i := range 12 {
					b := pbxs[i%2]
					b.dead.Store(true)
					moment()
					r.targets.set(b.addr())
					r.pbx.PBXDown(b.addr())
					moment()
					b.dead.Store(false)
					r.targets.set()
				}
			})
			for i := range 5 {
				all.Go(func() { stormyPhone(t, r, i, over) })
			}
			all.Wait()
			if pbxs[0].seen.Load() == 0 || pbxs[1].seen.Load() == 0 {
				t.Errorf("%d and %d requests", pbxs[0].seen.Load(), pbxs[1].seen.Load())
			}
			if !strings.Contains(fmt.Sprint(r.counters.Snapshot()), "sip.failover.pbx_down") {
				t.Errorf("nothing went elsewhere: %v", r.counters.Snapshot())
			}
			r.empty()
		})
	}
}

// stormyPhone calls, and does other things, until the storm is over.
func stormyPhone(t *testing.T, r *rig, i int, over <-chan struct{}) {
	a := newAgent(t, "127.0.0.1:0")
	final := func(method string) (status int, toTag string) {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
			b := a.read(time.Until(deadline))
			if b == nil {
				break
			}
			m := received{raw: string(b)}
			if err := m.Parse(b); err != nil {
				t.Errorf("%v in:\n%s", err, b)
			}
			if _, of := m.CSeq(); m.StatusCode() >= 200 && string(of) == method {
				return m.StatusCode(), string(m.ToTag())
			}
		}
		t.Errorf("phone %d: no answer to %s", i, method)
		return 0, ""
	}
	for n := 0; ; n++ {
		select {
		case <-over:
			return
		default:
		}
		c := phoneCall(t, a, fmt.Sprint("user", i), "bob")
		c.id = fmt.Sprintf("storm-%s-%d-%d", t.Name(), i, n)
		uri := "sip:bob@" + testDomain
		if n%3 == 0 {
			a.send(r.proxy, c.request("MESSAGE", uri))
			final("MESSAGE")
			continue
		}
		a.send(r.proxy, c.request("INVITE", uri, "Contact: <sip:a@"+a.addr().String()+">"))
		if n%3 == 1 {
			a.send(r.proxy, c.again("CANCEL", uri))
		}
		status, tag := final("INVITE")
		if status == 0 {
			return
		}
		c.toTag = tag
		if status >= 300 {
			a.send(r.proxy, c.again("ACK", uri))
			continue
		}
		a.send(r.proxy, c.request("ACK", uri))
		a.send(r.proxy, c.request("BYE", uri))
		final("BYE")
	}
}
