package sipfwd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// secondPBX gives the rig another target.
func (r *rig) secondPBX() *agent {
	transport := r.pbxSock.transport()
	second := newListeningAgent(r.t, transport)
	r.targets.mu.Lock()
	defer r.targets.mu.Unlock()
	r.targets.targets = append(r.targets.targets, second.addr())
	return second
}

// dead declares a target dead, as its health check would.
func (r *rig) dead(target *agent) {
	r.targets.set(target.addr())
	r.pbx.PBXDown(target.addr())
}

func (r *rig) counted(name string, want uint64) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("%s is %d", name, want), func() bool { return r.counters.Snapshot()[name] == want })
}

// sameButVia fails the test unless two messages differ in the branch of the
// topmost Via only.
func sameButVia(t *testing.T, a, b received) {
	t.Helper()
	viaA, _ := a.TopVia()
	viaB, _ := b.TopVia()
	if string(viaA.Branch) == string(viaB.Branch) {
		t.Errorf("the branch is %s in both", viaA.Branch)
	}
	if strings.Replace(a.raw, string(viaA.Branch), string(viaB.Branch), 1) != b.raw {
		t.Errorf("sent to the first:\n%s\nto the second:\n%s", a.raw, b.raw)
	}
}

// method is the next request with the method; others before it may be repeated.
func (a *agent) method(want string) received {
	a.t.Helper()
	for {
		if m := a.next(); m.IsRequest() && string(m.Method()) == want {
			return m
		}
	}
}

// TestSilentTarget: an INVITE that a target does not answer is made of the next
// one, and is over at the first, even if that wakes up.
func TestSilentTarget(t *testing.T) {
	r := newRig(t)
	second := r.secondPBX()
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	start := time.Now()
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	m := r.pbxSock.next()
	again := second.next()
	if waited := time.Since(start); waited < silentAfter-time.Second {
		t.Errorf("after %v", waited)
	}
	sameButVia(t, m, again)
	r.targets.mu.Lock()
	suspected := slices.Contains(r.targets.suspected, r.pbxSock.addr())
	r.targets.mu.Unlock()
	if !suspected {
		t.Error("nobody was told")
	}
	r.counted("sip.failover.pbx_silent", 1)

	// The first wakes up, and finds that nobody wants the call.
	r.pbxSock.reply(m, "180 Ringing")
	r.pbxSock.method("CANCEL")
	second.reply(again, "200 OK", "Contact: <sip:bob@"+second.addr().String()+">")
	res := phone.next()
	if res.StatusCode() != 200 {
		t.Fatalf("the phone got:\n%s", res.raw)
	}
	c.toTag = "callee"
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+second.addr().String()))
	second.method("ACK")
	phone.send(r.proxy, c.request("BYE", "sip:bob@"+second.addr().String()))
	second.reply(second.method("BYE"), "200 OK")
	if res := phone.next(); res.StatusCode() != 200 {
		t.Errorf("BYE: %d", res.StatusCode())
	}
}

// TestLateAnswerOfALeftTarget: a call that is made twice is ended where it is not
// wanted.
func TestLateAnswerOfALeftTarget(t *testing.T) {
	r := newRig(t)
	second := r.secondPBX()
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	m := r.pbxSock.next()
	from := r.pbxSock.from
	r.dead(r.pbxSock)
	again := second.next()
	r.counted("sip.failover.pbx_down", 1)
	r.pbxSock.send(from, answer(m, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">"))
	got := []string{}
	for range 2 {
		m := r.pbxSock.next()
		got = append(got, string(m.Method()))
	}
	if !slices.Equal(got, []string{"ACK", "BYE"}) {
		t.Errorf("the first got %v", got)
	}
	second.reply(again, "486 Busy Here")
	if res := phone.next(); res.StatusCode() != 486 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
}

// TestUnavailableTarget has both say 503: the phone gets the last one's.
func TestUnavailableTarget(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			r := newRigOver(t, transport)
			second := r.secondPBX()
			phone := newAgent(t, "127.0.0.1:0")
			c := phoneCall(t, phone, "alice", "bob")
			phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
			m := r.pbxSock.next()
			r.pbxSock.reply(m, "503 Service Unavailable", "Retry-After: 5")
			r.pbxSock.method("ACK")
			again := second.next()
			sameButVia(t, m, again)
			second.reply(again, "503 Full", "Retry-After: 7")
			second.method("ACK")
			res := phone.next()
			if res.StatusCode() != 503 || res.header("Retry-After") != "7" {
				t.Errorf("the phone got:\n%s", res.raw)
			}
			phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
			r.counted("sip.failover.pbx_unavailable", 1)

			// A request of another kind, too; the second one takes it.
			other := phoneCall(t, phone, "alice", "carol")
			phone.send(r.proxy, other.request("MESSAGE", "sip:carol@"+testDomain))
			r.pbxSock.reply(r.pbxSock.method("MESSAGE"), "503 Service Unavailable")
			second.reply(second.method("MESSAGE"), "202 Accepted")
			if res := phone.next(); res.StatusCode() != 202 {
				t.Errorf("the phone got:\n%s", res.raw)
			}
		})
	}
}

// TestUnreachableTarget: nobody waits when a connection is refused.
func TestUnreachableTarget(t *testing.T) {
	r := newRigOver(t, "TCP")
	second := r.secondPBX()
	r.pbxSock.ln.Close()
	phone := newAgent(t, "127.0.0.1:0")
	start := time.Now()
	c := phoneCall(t, phone, "alice", "alice")
	contact := "Contact: <sip:alice@" + phone.addr().String() + ">"
	phone.send(r.proxy, c.request("REGISTER", "sip:"+testDomain, contact))
	m := second.next()
	second.reply(m, "200 OK", "Contact: "+m.header("Contact")+";expires=300")
	if res := phone.next(); res.StatusCode() != 200 || res.header("Contact") != strings.TrimPrefix(contact, "Contact: ")+";expires=300" {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	if time.Since(start) > 2*time.Second {
		t.Errorf("after %v", time.Since(start))
	}
	r.counted("sip.failover.pbx_unreachable", 1)
	second.ln.Close()
	second.hangUp()
	phone.send(r.proxy, c.request("OPTIONS", "sip:"+testDomain))
	if res := phone.next(); res.StatusCode() != 503 || res.header("Retry-After") == "" {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	r.empty()
}

// TestRingingTargetIsLost: a call that rings where nobody is left is made
// elsewhere, over a connection whose end tells.
func TestRingingTargetIsLost(t *testing.T) {
	r := newRigOver(t, "TCP")
	second := r.secondPBX()
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	first := r.pbxSock.next()
	r.pbxSock.reply(first, "180 Ringing")
	if res := phone.next(); res.StatusCode() != 180 {
		t.Fatalf("the phone got:\n%s", res.raw)
	}
	r.pbxSock.ln.Close()
	r.pbxSock.hangUp()
	m := second.next()
	sameButVia(t, first, m)
	second.reply(m, "200 OK", "Contact: <sip:bob@"+second.addr().String()+">")
	if res := phone.next(); res.StatusCode() != 200 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
}

// TestDialogStaysAtItsTarget: new dialogs go to the target of choice, others to
// their own as long as that answers.
func TestDialogStaysAtItsTarget(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			r := newRigOver(t, transport)
			second := r.secondPBX()
			phone := newAgent(t, "127.0.0.1:0")
			r.dead(r.pbxSock)
			// A phone registers and calls by way of the second.
			reg := phoneCall(t, phone, "alice", "alice")
			phone.send(r.proxy, reg.request("REGISTER", "sip:"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
			m := second.next()
			at := strings.Trim(m.header("Contact"), "<>")
			second.reply(m, "200 OK", "Contact: "+m.header("Contact"))
			phone.next()
			out := phoneCall(t, phone, "alice", "bob")
			phone.send(r.proxy, out.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
			m = second.next()
			second.reply(m, "200 OK", "Contact: <sip:bob@"+second.addr().String()+">")
			phone.next()
			out.toTag = "callee"

			// The first is back: it has new dialogs, calls to the phone too.
			r.targets.set()
			phone.send(r.proxy, out.again("ACK", "sip:bob@"+second.addr().String()))
			second.method("ACK")
			message := phoneCall(t, phone, "alice", "carol")
			phone.send(r.proxy, message.request("MESSAGE", "sip:carol@"+testDomain))
			m = r.pbxSock.method("MESSAGE")
			r.pbxSock.reply(m, "200 OK")
			phone.next()
			if transport == "UDP" {
				in := phoneCall(t, r.pbxSock, "dave", "alice")
				r.pbxSock.send(r.pbxSock.from, in.request("INVITE", at, "Contact: <sip:dave@"+r.pbxSock.addr().String()+">"))
				m = phone.next()
				phone.reply(m, "200 OK", "Contact: <sip:alice@"+phone.addr().String()+">")
				r.pbxSock.next()
				in.toTag = "callee"
				r.pbxSock.send(r.pbxSock.from, in.request("ACK", at))
				phone.method("ACK")
				bye := in.reverse(phone.addr())
				bye.transport = "UDP"
				phone.send(r.proxy, bye.request("BYE", "sip:dave@"+r.pbxSock.addr().String()))
				r.pbxSock.reply(r.pbxSock.method("BYE"), "200 OK")
				phone.next()
			}

			// What the call of the second says goes there. 503 is its answer: the
			// first does not know the call.
			phone.send(r.proxy, out.request("INFO", "sip:bob@"+second.addr().String()))
			second.reply(second.method("INFO"), "503 Service Unavailable")
			if res := phone.next(); res.StatusCode() != 503 {
				t.Errorf("the phone got:\n%s", res.raw)
			}
			// Unless that has died, even while it has the request.
			phone.send(r.proxy, out.request("INFO", "sip:bob@"+second.addr().String()))
			second.method("INFO")
			r.dead(second)
			r.pbxSock.reply(r.pbxSock.method("INFO"), "200 OK")
			if res := phone.next(); res.StatusCode() != 200 {
				t.Errorf("the phone got:\n%s", res.raw)
			}
			phone.send(r.proxy, out.request("BYE", "sip:bob@"+second.addr().String()))
			r.pbxSock.reply(r.pbxSock.method("BYE"), "200 OK")
			if res := phone.next(); res.StatusCode() != 200 {
				t.Errorf("the phone got:\n%s", res.raw)
			}
		})
	}
}

// TestCancelledAtADeadTarget: a phone that has given up is told so.
func TestCancelledAtADeadTarget(t *testing.T) {
	r := newRig(t)
	second := r.secondPBX()
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">"))
	m := r.pbxSock.next()
	from := r.pbxSock.from
	phone.send(r.proxy, c.again("CANCEL", "sip:bob@"+testDomain))
	if res := phone.next(); res.StatusCode() != 200 {
		t.Fatalf("the phone got:\n%s", res.raw)
	}
	eventually(t, "the CANCEL has come", func() bool {
		for _, p := range r.pbx.allPhones() {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, c := range p.edge.clients {
				if c.cancel != nil {
					return true
				}
			}
		}
		return false
	})
	r.dead(r.pbxSock)
	if res := phone.next(); res.StatusCode() != 487 {
		t.Errorf("the phone got:\n%s", res.raw)
	}
	phone.send(r.proxy, c.again("ACK", "sip:bob@"+testDomain))
	second.silent(100 * time.Millisecond)
	// It is not as dead as that: the call is cancelled there too.
	r.pbxSock.send(from, answer(m, "180 Ringing"))
	r.pbxSock.method("CANCEL")
}

// TestLinksAreBounded: a PBX whose addresses change all the time leaves nothing
// open.
func TestLinksAreBounded(t *testing.T) {
	r := newRigOver(t, "TCP")
	phone := newAgent(t, "127.0.0.1:0")
	r.register(phone, "alice")
	port := r.pbx.allPhones()[0].port
	for range 2 * maxPortLinks {
		port.linkWith(newListeningAgent(t, "TCP").addr())
	}
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	if len(port.links) > maxPortLinks {
		t.Errorf("%d connections", len(port.links))
	}
}
