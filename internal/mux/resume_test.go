package mux

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// brittleConn breaks after a number of bytes in either direction, in the
// middle of whatever is under way.
type brittleConn struct {
	net.Conn
	left *atomic.Int64
}

func (c brittleConn) spend(b []byte) []byte {
	left := c.left.Add(-int64(len(b)))
	if left >= 0 {
		return b
	}
	return b[:max(0, left+int64(len(b)))]
}

func (c brittleConn) Write(b []byte) (int, error) {
	rest := c.spend(b)
	n, err := c.Conn.Write(rest)
	if err == nil && n < len(b) {
		c.Close()
		err = net.ErrClosed
	}
	return n, err
}

func (c brittleConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if rest := c.spend(b[:n]); len(rest) < n {
		c.Close()
		return len(rest), net.ErrClosed
	}
	return n, err
}

// TestResumeExactlyOnce sends numbered messages of all sizes both ways while
// the connection breaks again and again at any byte.
func TestResumeExactlyOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ts := newTestServer(t, nil)
	var cuts atomic.Int64
	var lock sync.Mutex
	steady := false // the last connection is to live
	c := ts.client(func(c *ClientConfig) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			lock.Lock()
			defer lock.Unlock()
			if err != nil || steady {
				return conn, err
			}
			cuts.Add(1)
			left := new(atomic.Int64)
			left.Store(5000 + random.Int64N(60000))
			return brittleConn{conn, left}, nil
		}
	})
	var up *ClientSession
	for up == nil {
		// The first connections may break before there is a session.
		if strings.HasPrefix(receive(t, c.events, "a session"), "attached") {
			up = receive(t, c.current, "a session")
		}
	}
	down := ts.session()
	up.OpenPhone(1, "phone", nil)

	const messages = 400
	sizes := rand.New(rand.NewPCG(seed, 1))
	text := func(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("x", sizes.IntN(900))) }
	check := func(what string, in <-chan string, received *atomic.Int64, done chan<- string) {
		for i := range messages {
			select {
			case got := <-in:
				if !strings.HasPrefix(got, fmt.Sprintf("%d ", i)) {
					done <- fmt.Sprintf("%s: got %.8q..., want %d", what, got, i)
					return
				}
				received.Add(1)
			case <-time.After(testTimeout):
				done <- fmt.Sprintf("%s: nothing after %d messages", what, i)
				return
			}
		}
		done <- ""
	}
	var gotUp, gotDown atomic.Int64
	done := make(chan string, 2)
	go check("up", down.sip, &gotUp, done)
	go check("down", c.sip, &gotDown, done)
	// The sender stays ahead of the receiver by less than the session keeps,
	// bytes counted.
	sentUp, sentDown := 0, 0
	until(t, func() bool {
		if sentUp < messages && sentUp < int(gotUp.Load())+200 {
			if err := up.SendSIP(1, []byte(text(sentUp))); err != nil {
				t.Fatal(err)
			}
			sentUp++
		}
		if sentDown < messages && sentDown < int(gotDown.Load())+200 {
			if err := down.s.SendSIP(1, []byte(text(sentDown))); err != nil {
				t.Fatal(err)
			}
			sentDown++
		}
		if sentUp-int(gotUp.Load()) >= 200 || sentDown-int(gotDown.Load()) >= 200 {
			time.Sleep(time.Millisecond)
		}
		return sentUp == messages && sentDown == messages
	})
	lock.Lock()
	steady = true
	lock.Unlock()
	for range 2 {
		if failure := receive(t, done, "the messages"); failure != "" {
			t.Fatal(failure)
		}
	}
	t.Logf("%d connections", cuts.Load())
	if n := len(ts.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
	select {
	case got := <-c.sip:
		t.Errorf("one too many: %.20q", got)
	case got := <-down.sip:
		t.Errorf("one too many: %.20q", got)
	default:
	}
}

func TestResumeKeepsPhonesAndRelays(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	up.OpenPhone(1, "alice", nil)
	expect(t, c.events, "phone 1 127.0.0.1:6001")
	up.OpenRelay(7)
	expect(t, c.events, "relay 7 127.0.0.1:50014")

	c.cut()
	expect(t, c.events, "detached")
	// Asked for while there is no connection.
	up.OpenPhone(2, "bob", nil)
	up.SendSIP(2, []byte("INVITE"))
	if again := c.connected(true); again != up {
		t.Fatal("another session")
	}
	expect(t, c.events, "phone 2 127.0.0.1:6002")
	expect(t, down.sip, "INVITE")
	until(t, func() bool {
		down.s.SendMedia(7, false, []byte("down"))
		select {
		case got := <-c.media:
			return got == "7 false down"
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
	expect(t, down.events, "attached")
	expect(t, down.events, `open 1 alice ""`)
	if e := receive(t, down.events, "detached"); !strings.HasPrefix(e, "detached: ") {
		t.Errorf("event %q", e)
	}
	expect(t, down.events, "attached")
	if infos := ts.Sessions(); len(infos) != 1 || infos[0].Resumes != 1 {
		t.Errorf("%+v", infos)
	}
}

func TestGraceExpires(t *testing.T) {
	ts := newTestServer(t, func(c *ServerConfig) { c.Grace = time.Second })
	gate := make(chan struct{})
	first := true
	c := ts.client(func(c *ClientConfig) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if !first {
				select {
				case <-gate:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			first = false
			return dial(ctx, network, address)
		}
	})
	up := c.connected(false)
	down := ts.session()
	c.cut()
	for {
		e := receive(t, down.events, "the end")
		if e == "closed: "+ErrGrace.Error() {
			break
		}
	}
	for {
		if e := receive(t, c.events, "the loss"); e == "lost: "+ErrGrace.Error() {
			break
		}
	}
	if err := up.SendSIP(1, []byte("x")); err != ErrSessionLost {
		t.Errorf("SendSIP: %v", err)
	}
	if err := down.s.SendSIP(1, []byte("x")); err != ErrSessionLost {
		t.Errorf("SendSIP: %v", err)
	}
	close(gate)
	c.connected(false)
}

func TestServerRestart(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	c.connected(false)
	addr, config := ts.addr, ts.config
	ts.stop()
	for {
		if e := receive(t, c.events, "the loss"); strings.HasPrefix(e, "lost: ") {
			if !strings.Contains(e, wire.CodeShutdown.String()) {
				t.Errorf("event %q", e)
			}
			break
		}
	}
	ts.session()
	ts.served = make(chan error, 1)
	ts.Server = NewServer(config)
	ts.start(addr)
	c.connected(false)
	ts.session()
}

func TestServerCrash(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	c.connected(false)
	// A server that knows nothing of the session is put in the place of the
	// old one, which goes without a word.
	other := newTestServer(t, func(s *ServerConfig) {
		s.Store, s.Certificate = ts.store, ts.config.Certificate
	})
	ts.stopAccepting()
	c.redirect(other.addr)
	c.cut()
	for {
		if e := receive(t, c.events, "the loss"); strings.HasPrefix(e, "lost: ") {
			if e != "lost: "+errForgotten.Error() {
				t.Errorf("event %q", e)
			}
			break
		}
	}
	c.connected(false)
}

// TestFence attaches to a session whose old connection still stands.
func TestFence(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	c.redirect("") // no fighting back
	epoch := up.epoch
	config := c.config
	config.Dial = new(net.Dialer).DialContext
	thief := &Client{config: config, pin: ts.pin, ctx: t.Context()}
	twin := newClientSession(thief, up.attached)
	twin.until = time.Now().Add(time.Minute)
	twin.epoch = epoch + 5
	conn, err := thief.connect(twin)
	if err != nil {
		t.Fatal(err)
	}
	if !conn.attached.Resumed || conn.attached.Epoch != epoch+6 {
		t.Errorf("%+v", conn.attached)
	}
	expect(t, down.events, "attached")
	expect(t, down.events, "detached: "+ErrFenced.Error())
	expect(t, down.events, "attached")
	conn.ys.Close()

	// A connection with an older epoch comes too late; a wrong proof gives a
	// new session.
	twin.epoch = epoch
	if _, err := thief.connect(twin); err == nil || !strings.Contains(err.Error(), wire.CodeStale.String()) {
		t.Errorf("stale epoch: %v", err)
	}
	twin.epoch = epoch + 100
	twin.secret[0] ^= 1
	conn, err = thief.connect(twin)
	if err != nil {
		t.Fatal(err)
	}
	if conn.attached.Resumed || conn.attached.Session == up.id {
		t.Errorf("resumed with a wrong proof: %+v", conn.attached)
	}
	conn.ys.Close()
}

func TestResumeNeedsTheCredential(t *testing.T) {
	ts := newTestServer(t, nil)
	secret, err := ts.store.Add("other", "")
	if err != nil {
		t.Fatal(err)
	}
	c := ts.client(nil)
	up := c.connected(false)
	config := c.config
	config.Name, config.Password = "other", auth.NewPassword([]byte(secret))
	thief := &Client{config: config, pin: ts.pin, ctx: t.Context()}
	twin := newClientSession(thief, up.attached)
	twin.until = time.Now().Add(time.Minute)
	conn, err := thief.connect(twin)
	if err != nil {
		t.Fatal(err)
	}
	if conn.attached.Resumed {
		t.Error("another credential resumed the session")
	}
	conn.ys.Close()
}

// TestOverflow keeps sending while there is no connection.
func TestOverflow(t *testing.T) {
	ts := newTestServer(t, nil)
	c := ts.client(nil)
	up := c.connected(false)
	down := ts.session()
	ts.stopAccepting()
	c.cut()
	expect(t, down.events, "attached")
	if e := receive(t, down.events, "detached"); !strings.HasPrefix(e, "detached") {
		t.Fatal(e)
	}
	until(t, func() bool { return down.s.SendSIP(1, []byte("SIP")) != nil })
	expect(t, down.events, "closed: "+ErrOverflow.Error())
	var err error
	until(t, func() bool { err = up.SendSIP(1, make([]byte, 60000)); return err != nil })
	if err != ErrOverflow {
		t.Errorf("SendSIP: %v", err)
	}
	for {
		if e := receive(t, c.events, "the loss"); strings.HasPrefix(e, "lost: ") {
			if e != "lost: "+ErrOverflow.Error() {
				t.Errorf("event %q", e)
			}
			break
		}
	}
}

// stopAccepting closes the listeners and nothing else.
func (ts *testServer) stopAccepting() {
	ts.mu.Lock()
	for ln := range ts.listeners {
		ln.Close()
	}
	ts.mu.Unlock()
	<-ts.served
	ts.served = nil
}
