package sipfwd

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// TestConnectionLostWhileThePBXWaits is RFC 3261 section 16.9: the PBX can turn to
// the phone's next Contact at once.
func TestConnectionLostWhileThePBXWaits(t *testing.T) {
	for _, method := range []string{"INVITE", "MESSAGE"} {
		t.Run(method, func(t *testing.T) {
			r := newRig(t)
			phone := newTCPAgent(t, r.proxy)
			uri := r.register(phone, "alice")
			c := phoneCall(t, r.pbxSock, "bob", "alice")
			r.pbxSock.send(r.pbxSock.from, c.request(method, uri))
			phone.next()
			phone.tcp.Close()
			if m := r.pbxSock.next(); m.StatusCode() != 480 {
				t.Errorf("the PBX got:\n%s", m.raw)
			}
			p := r.lan.allPhones()[0]
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, l := range p.legs.all() {
				if !l.ended {
					t.Error("the call goes on")
				}
			}
			if len(p.edge.clients) != 0 {
				t.Errorf("%d transactions wait", len(p.edge.clients))
			}
		})
	}
}

// TestRingingOutlivesAConnection: the phone answers on its next one.
func TestRingingOutlivesAConnection(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	uri := r.register(phone, "alice")
	c := phoneCall(t, r.pbxSock, "bob", "alice")
	r.pbxSock.send(r.pbxSock.from, c.request("INVITE", uri))
	invite := phone.next()
	phone.send(r.proxy, answer(invite, "180 Ringing"))
	r.pbxSock.next()
	phone.tcp.Close()
	next := newTCPAgent(t, r.proxy)
	r.register(next, "alice")
	next.send(r.proxy, answer(invite, "200 OK", "Contact: <sip:alice@"+next.addr().String()+">"))
	if m := r.pbxSock.next(); m.StatusCode() != 200 || string(m.Method()) != "INVITE" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestAnswerFindsTheNextConnection is RFC 3261 section 18.2.2.
func TestAnswerFindsTheNextConnection(t *testing.T) {
	r := newRig(t)
	phone := newTCPAgent(t, r.proxy)
	r.register(phone, "alice")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	invite := r.pbxSock.next()
	phone.tcp.Close()
	next := newTCPAgent(t, r.proxy)
	r.register(next, "alice")
	r.pbxSock.reply(invite, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">")
	if m := next.next(); m.StatusCode() != 200 || string(m.Method()) != "INVITE" {
		t.Errorf("the phone got:\n%s", m.raw)
	}
}

// TestSlowTunnelStallsNobody: while the tunnel takes its time with a phone, that
// phone hears 100, its stream loses nothing, and others do not notice.
func TestSlowTunnelStallsNobody(t *testing.T) {
	r := newRig(t)
	other := newAgent(t, "127.0.0.1:0")
	r.register(other, "carol")
	gate := make(chan struct{})
	r.tunnel.gate.Store(&gate)
	phone := newTCPAgent(t, r.proxy)
	first := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, first.request("INVITE", "sip:bob@"+testDomain))
	const more = 3 * phoneInbox
	for i := range more {
		c := phoneCall(t, phone, "alice", fmt.Sprint("n", i))
		phone.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	}
	if m := phone.any(5 * time.Second); m.StatusCode() != 100 {
		t.Errorf("the phone got:\n%s", m.raw)
	}
	r.register(other, "carol")
	if n := len(r.lan.Phones()); n != 1 {
		t.Errorf("%d phones", n)
	}
	close(gate)
	for range 1 + more {
		r.pbxSock.next()
	}
	if n := r.counters.Snapshot()["sip.dropped.inbox_full"]; n != 0 {
		t.Errorf("%d messages were dropped", n)
	}
}

// TestOneHostLeavesRoomForConnections: too many of one host are refused.
func TestOneHostLeavesRoomForConnections(t *testing.T) {
	r := newRig(t)
	host := newTCPAgent(t, r.proxy)
	r.register(host, "alice")
	r.lan.mu.Lock()
	r.lan.streamsAt[host.addr().Addr()] += maxStreamsPerSource - 1
	r.lan.mu.Unlock()
	if _, err := newTCPAgent(t, r.proxy).in.ReadByte(); err == nil {
		t.Error("one more was answered")
	}
	if r.counters.Snapshot()["sip.refused.too_many_streams"] != 1 {
		t.Error("not counted")
	}
}

// TestStreamIsBounded: a peer that reads nothing loses its connection, and what
// waits for it costs no more than the bound.
func TestStreamIsBounded(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	counters := new(counter.Set)
	st := newStream(near, counters)
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.write()
	}()
	msg := make([]byte, 60_000)
	for !st.ended() {
		st.send(msg)
	}
	st.send(msg)
	st.mu.Lock()
	if st.bytes > streamBytes {
		t.Errorf("%d bytes wait", st.bytes)
	}
	st.mu.Unlock()
	<-done // in streamFlush
	if n := counters.Snapshot(); n["sip.dropped.stream_queue_full"] != 1 || n["sip.dropped.flow_gone"] != 1 {
		t.Error(n)
	}
}

// TestAnswerBeforeTheEnd: what a phone has said before it closed its connection
// counts.
func TestAnswerBeforeTheEnd(t *testing.T) {
	r := newRig(t)
	for i := range 50 {
		phone := newTCPAgent(t, r.proxy)
		at := r.register(phone, "alice")
		r.pbxSock.send(r.pbxSock.from, phoneCall(t, r.pbxSock, "carol", strconv.Itoa(i)).request("MESSAGE", at))
		m := phone.next()
		phone.reply(m, "200 OK")
		phone.tcp.Close()
		if res := r.pbxSock.next(); res.StatusCode() != 200 {
			t.Fatalf("the PBX got, the %dth time:\n%s", i, res.raw)
		}
	}
}
