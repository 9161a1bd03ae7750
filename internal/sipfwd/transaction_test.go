package sipfwd

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// sink is a hop that notes what it is sent and when.
type sink struct {
	start  time.Time
	stream bool
	log    []string // "method-or-status@elapsed"
}

func (s *sink) reliable() bool { return s.stream }

func (s *sink) send(msg []byte) {
	var m sipmsg.Message
	if err := m.Parse(msg); err != nil {
		panic(err)
	}
	what := string(m.Method())
	if !m.IsRequest() {
		what = fmt.Sprint(m.StatusCode())
	}
	s.log = append(s.log, fmt.Sprintf("%s@%v", what, time.Since(s.start)))
}

func (s *sink) String() string { return strings.Join(s.log, " ") }

type edgeTest struct {
	mu       sync.Mutex
	edge     *edge
	sink     *sink
	timeouts []string
}

func newEdgeTest(stream bool) *edgeTest {
	e := &edgeTest{sink: &sink{start: time.Now(), stream: stream}}
	e.edge = newEdge(&e.mu, new(counter.Set), new(budget), func(c *clientTx) { e.timeouts = append(e.timeouts, c.key.method) })
	return e
}

func (e *edgeTest) do(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func parsed(t *testing.T, msg string) *sipmsg.Message {
	t.Helper()
	m := new(sipmsg.Message)
	if err := m.Parse([]byte(msg)); err != nil {
		t.Fatal(err)
	}
	return m
}

func testRequest(method, branch string) string {
	return method + " sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h:5060;branch=" + branch +
		"\r\nFrom: <sip:x@y>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: c\r\nCSeq: 1 " + method + "\r\nContent-Length: 0\r\n\r\n"
}

func testResponse(status, method, branch string) string {
	return "SIP/2.0 " + status + "\r\nVia: SIP/2.0/UDP h:5060;branch=" + branch +
		"\r\nFrom: <sip:x@y>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: c\r\nCSeq: 1 " + method + "\r\nContent-Length: 0\r\n\r\n"
}

const testBranch = "z9hG4bK1"

// TestClientTimers follows RFC 3261 sections 17.1.1.2 and 17.1.2.2.
func TestClientTimers(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		stream       bool
		want         string
	}{
		{"INVITE over UDP", "INVITE", false,
			"INVITE@0s INVITE@500ms INVITE@1.5s INVITE@3.5s INVITE@7.5s INVITE@15.5s INVITE@31.5s"},
		{"other over UDP", "MESSAGE", false,
			"MESSAGE@0s MESSAGE@500ms MESSAGE@1.5s MESSAGE@3.5s MESSAGE@7.5s MESSAGE@11.5s MESSAGE@15.5s MESSAGE@19.5s MESSAGE@23.5s MESSAGE@27.5s MESSAGE@31.5s"},
		{"INVITE over TCP", "INVITE", true, "INVITE@0s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdgeTest(tt.stream)
				e.do(func() {
					e.edge.newClient(testBranch, tt.method, txKey{}, []byte(testRequest(tt.method, testBranch)), e.sink)
				})
				time.Sleep(31900 * time.Millisecond)
				e.do(func() {
					if len(e.timeouts) != 0 {
						t.Error("timed out before 64*T1")
					}
				})
				time.Sleep(time.Second)
				e.do(func() {
					if e.sink.String() != tt.want {
						t.Errorf("sent %s\nwant %s", e.sink, tt.want)
					}
					if len(e.timeouts) != 1 || len(e.edge.clients) != 0 {
						t.Errorf("timeouts %v, %d transactions left", e.timeouts, len(e.edge.clients))
					}
				})
			})
		})
	}
}

// TestTimerC: a callee that rings for ever is cancelled; provisional responses
// prolong the wait (RFC 3261 section 16.6 step 11).
func TestTimerC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdgeTest(true)
		var c *clientTx
		e.do(func() {
			c = e.edge.newClient(testBranch, "INVITE", txKey{}, []byte(testRequest("INVITE", testBranch)), e.sink)
			e.edge.response(c, parsed(t, testResponse("180 Ringing", "INVITE", testBranch)))
		})
		time.Sleep(3 * time.Minute)
		e.do(func() { e.edge.response(c, parsed(t, testResponse("180 Ringing", "INVITE", testBranch))) })
		time.Sleep(3 * time.Minute)
		e.do(func() {
			if got := e.sink.String(); got != "INVITE@0s" {
				t.Errorf("sent %s", got)
			}
		})
		time.Sleep(6 * time.Second)
		e.do(func() {
			if got := e.sink.String(); got != "INVITE@0s CANCEL@6m5s" {
				t.Errorf("sent %s", got)
			}
		})
		time.Sleep(33 * time.Second)
		e.do(func() {
			if len(e.timeouts) != 1 || len(e.edge.clients) != 0 {
				t.Errorf("timeouts %v, %d transactions left", e.timeouts, len(e.edge.clients))
			}
		})
	})
}

// TestCancelWaitsForProvisional is RFC 3261 section 9.1.
func TestCancelWaitsForProvisional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdgeTest(true)
		e.do(func() {
			c := e.edge.newClient(testBranch, "INVITE", txKey{}, []byte(testRequest("INVITE", testBranch)), e.sink)
			e.edge.cancelClient(c, ownCancel(c.request))
			if got := e.sink.String(); got != "INVITE@0s" {
				t.Errorf("sent %s", got)
			}
			e.edge.response(c, parsed(t, testResponse("100 Trying", "INVITE", testBranch)))
			if got := e.sink.String(); got != "INVITE@0s CANCEL@0s" {
				t.Errorf("sent %s", got)
			}
			e.edge.close()
		})
	})
}

// TestServerTimers: 100 after 200 ms, finals again until the ACK, over UDP.
func TestServerTimers(t *testing.T) {
	for _, tt := range []struct{ name, status, want string }{
		{"2xx", "200 OK", "100@200ms 200@1s 200@1.5s 200@2.5s 200@4.5s"},
		{"refusal", "486 Busy", "100@200ms 486@1s 486@1.5s 486@2.5s 486@4.5s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdgeTest(false)
				var s *serverTx
				e.do(func() { s = e.edge.newServer(parsed(t, testRequest("INVITE", testBranch)), e.sink) })
				time.Sleep(time.Second)
				e.do(func() {
					res := testResponse(tt.status, "INVITE", testBranch)
					m := parsed(t, res)
					e.edge.respond(s, m, []byte(res))
				})
				time.Sleep(4 * time.Second)
				e.do(func() {
					ackBranch := testBranch
					if tt.name == "2xx" {
						ackBranch = "z9hG4bK2"
					}
					ack := strings.Replace(testRequest("ACK", ackBranch), "To: <sip:a@b>", "To: <sip:a@b>;tag=2", 1)
					ended := e.edge.ack(parsed(t, ack))
					if ended != (tt.name == "refusal") {
						t.Errorf("ACK ends here: %v", ended)
					}
				})
				time.Sleep(time.Minute)
				e.do(func() {
					if e.sink.String() != tt.want {
						t.Errorf("sent %s\nwant %s", e.sink, tt.want)
					}
					if n := len(e.edge.servers); n != 0 {
						t.Errorf("%d transactions left", n)
					}
				})
			})
		})
	}
}

// TestEach2xxWaitsForItsACK: the branches of a fork have tags of their own.
func TestEach2xxWaitsForItsACK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdgeTest(false)
		ok := func(tag string) []byte {
			return []byte(strings.Replace(testResponse("200 OK", "INVITE", testBranch), "tag=2", "tag="+tag, 1))
		}
		var s *serverTx
		e.do(func() {
			s = e.edge.newServer(parsed(t, testRequest("INVITE", testBranch)), e.sink)
			for _, tag := range []string{"2", "3", "2"} {
				if sent := e.edge.respond(s, parsed(t, string(ok(tag))), ok(tag)); sent != (tag != "2" || len(s.oks) == 1) {
					t.Errorf("%s: sent %v", tag, sent)
				}
			}
		})
		ack := func(tag string) {
			e.do(func() {
				m := strings.Replace(testRequest("ACK", "z9hG4bK2"), "To: <sip:a@b>", "To: <sip:a@b>;tag="+tag, 1)
				if e.edge.ack(parsed(t, m)) {
					t.Error("the ACK of a 2xx ends here")
				}
			})
		}
		time.Sleep(600 * time.Millisecond)
		ack("3")
		time.Sleep(time.Second)
		ack("4")
		time.Sleep(2 * time.Second)
		ack("2")
		e.do(func() {
			if !e.edge.respond(s, parsed(t, string(ok("3"))), ok("3")) {
				t.Error("the callee repeats it, so that the ACK was lost behind us, and the caller does not hear of it")
			}
			want := "200@0s 200@0s 200@500ms 200@500ms 200@1.5s 200@3.5s 200@3.6s"
			if e.sink.String() != want {
				t.Errorf("sent %s\nwant %s", e.sink, want)
			}
		})
		time.Sleep(time.Minute)
		e.do(func() {
			if len(e.edge.servers)+len(e.edge.oks) != 0 || e.edge.budget.used.Load() != 0 {
				t.Errorf("left: %d transactions, %d answers, %d bytes", len(e.edge.servers), len(e.edge.oks), e.edge.budget.used.Load())
			}
		})
	})
}

// TestAcknowledged2xxIsForgotten: an INVITE that comes again is answered with the 2xx
// until that has been acknowledged, and absorbed from then on.
func TestAcknowledged2xxIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdgeTest(false)
		invite := parsed(t, testRequest("INVITE", testBranch))
		e.do(func() {
			s := e.edge.newServer(invite, e.sink)
			res := testResponse("200 OK", "INVITE", testBranch)
			e.edge.respond(s, parsed(t, res), []byte(res))
			if !e.edge.retransmission(invite) || s.last == nil {
				t.Error("the 2xx is gone before it was acknowledged")
			}
			e.edge.ack(parsed(t, strings.Replace(testRequest("ACK", "z9hG4bK2"), "To: <sip:a@b>", "To: <sip:a@b>;tag=2", 1)))
			if s.last != nil {
				t.Error("the 2xx is kept though it was acknowledged")
			}
			if !e.edge.retransmission(invite) {
				t.Error("an INVITE that comes again begins a transaction")
			}
			if want := "200@0s 200@0s"; e.sink.String() != want {
				t.Errorf("sent %s\nwant %s", e.sink, want)
			}
		})
		time.Sleep(time.Minute)
	})
}

// TestRetarget: a request that has left its peer keeps nobody waiting there, and leaves nothing behind.
func TestRetarget(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		old          string // the response of the peer that was left, after 5 s
		oldSaw       string
	}{
		{"INVITE", "INVITE", "", "INVITE@0s INVITE@500ms INVITE@1.5s INVITE@3.5s"},
		{"INVITE that rings late", "INVITE", "180 Ringing", "INVITE@0s INVITE@500ms INVITE@1.5s INVITE@3.5s CANCEL@5s"},
		{"INVITE that is refused late", "INVITE", "486 Busy", "INVITE@0s INVITE@500ms INVITE@1.5s INVITE@3.5s ACK@5s"},
		{"other", "MESSAGE", "200 OK", "MESSAGE@0s MESSAGE@500ms MESSAGE@1.5s MESSAGE@3.5s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdgeTest(false)
				next := &sink{start: time.Now()}
				up := txKey{branch: "up", method: tt.method}
				var c *clientTx
				e.do(func() {
					c = e.edge.newClient(testBranch, tt.method, up, []byte(testRequest(tt.method, testBranch)), e.sink)
				})
				time.Sleep(4 * time.Second)
				e.do(func() {
					if !e.edge.retarget(c, next) {
						t.Error("there is no room")
					}
					if c.key.branch == testBranch || !strings.Contains(string(c.request), c.key.branch) || strings.Contains(string(c.request), testBranch+"\r") {
						t.Errorf("branch %s in\n%s", c.key.branch, c.request)
					}
				})
				time.Sleep(time.Second)
				e.do(func() {
					if tt.old == "" {
						return
					}
					m := parsed(t, testResponse(tt.old, tt.method, testBranch))
					if left := e.edge.findClient(m); left != nil && e.edge.response(left, m) {
						t.Error("the phone gets the answer of the peer that was left")
					}
				})
				time.Sleep(time.Second)
				e.do(func() {
					m := parsed(t, testResponse("200 OK", tt.method, c.key.branch))
					if found := e.edge.findClient(m); found != c || !e.edge.response(c, m) {
						t.Error("the phone does not get the answer")
					}
				})
				time.Sleep(2 * txTimeout)
				e.do(func() {
					saw, _, _ := strings.Cut(e.sink.String(), " CANCEL@5.5s") // and so on
					if saw != tt.oldSaw {
						t.Errorf("the peer that was left saw %s, want %s", saw, tt.oldSaw)
					}
					if want := fmt.Sprintf("%[1]s@4s %[1]s@4.5s %[1]s@5.5s", tt.method); next.String() != want {
						t.Errorf("the next one saw %s, want %s", next, want)
					}
					if len(e.edge.clients) > 0 || e.edge.budget.used.Load() != 0 {
						t.Errorf("%d transactions, %d bytes", len(e.edge.clients), e.edge.budget.used.Load())
					}
				})
			})
		})
	}
}

// TestBudgetOfAnsweredRequests: what a transaction keeps when it has been answered is
// accounted for, however large requests and later answers are.
func TestBudgetOfAnsweredRequests(t *testing.T) {
	const large = 50_000
	routes := "Record-Route: " + strings.Repeat("a,", large/2) + "a\r\n"
	padding := "Subject: " + strings.Repeat("a", large) + "\r\n"
	with := func(msg, header, toTag string) string {
		return strings.Replace(strings.Replace(msg, "tag=2", "tag="+toTag, 1), "Call-ID:", header+"Call-ID:", 1)
	}
	for _, tt := range []struct {
		name, method, request string
		answers               []string // their headers
		keeps                 int
	}{
		{"OPTIONS with routes", "OPTIONS", routes, []string{""}, 0},
		{"INVITE", "INVITE", padding, []string{""}, 0},
		{"INVITE with routes, which other branches need", "INVITE", routes, []string{""}, large},
		{"a second branch says more", "INVITE", "", []string{"", padding}, large},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEdgeTest(false)
				e.do(func() {
					s := e.edge.newServer(parsed(t, with(testRequest(tt.method, testBranch), tt.request, "")), e.sink)
					for i, header := range tt.answers {
						m := parsed(t, with(testResponse("200 OK", tt.method, testBranch), header, fmt.Sprint("t", i)))
						e.edge.respond(s, m, m.Bytes())
					}
					used, kept := int(e.edge.budget.used.Load()), len(s.request)+len(s.last)
					if kept < tt.keeps || kept > tt.keeps+1000 || used < kept+txBase {
						t.Errorf("%d bytes are kept, and %d accounted for", kept, used)
					}
					if m := parsed(t, testResponse("486 Busy", tt.method, testBranch)); e.edge.respond(s, m, m.Bytes()) || e.edge.respond(s, m, nil) {
						t.Error("a late answer was sent")
					}
					if n := e.edge.counters.Counter("sip.dropped.late_response").Value(); n != 2 {
						t.Errorf("%d late answers were counted", n)
					}
				})
				time.Sleep(2 * txTimeout)
				e.do(func() {
					if len(e.edge.servers) != 0 || e.edge.budget.used.Load() != 0 {
						t.Errorf("%d transactions, %d bytes left", len(e.edge.servers), e.edge.budget.used.Load())
					}
				})
			})
		})
	}
}
