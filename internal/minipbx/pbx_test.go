package minipbx_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/minipbx"
	"github.com/siptunnel/siptunnel/internal/testphone"
	"github.com/siptunnel/siptunnel/internal/testphone/audio"
)

// The tones of the phones, and how long they have to be heard.
const (
	aliceHz = 440
	bobHz   = 660
	pbxHz   = 425
	listen  = 300 * time.Millisecond
)

// bench is a PBX with phones, for one test.
type bench struct {
	*testing.T
	ctx       context.Context
	pbx       *minipbx.PBX
	transport string
}

func newBench(t *testing.T, transport string, cfg minipbx.Config) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	cfg.Users = map[string]string{"alice": "secret of alice", "bob": "secret of bob", "carol": "secret of carol"}
	cfg.EarlyTime = 600 * time.Millisecond
	// Not the context of the test: it ends before the phones are closed.
	pbx, err := minipbx.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b(t, pbx.Close()) })
	return &bench{T: t, ctx: ctx, pbx: pbx, transport: transport}
}

func b(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// must ends the test on an error.
func (t *bench) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *bench) phone(user string, tone float64, change ...func(*testphone.Config)) *testphone.Phone {
	t.Helper()
	cfg := testphone.Config{
		User: user, Password: "secret of " + user, Domain: t.pbx.Domain(),
		Proxy: t.pbx.Addr(), Transport: t.transport, Media: t.pbx.Addr().Addr(), Tone: tone,
	}
	for _, f := range change {
		f(&cfg)
	}
	p, err := testphone.New(cfg)
	t.must(err)
	t.Cleanup(func() { b(t.T, p.Close()) })
	return p
}

func (t *bench) registered(user string, tone float64, change ...func(*testphone.Config)) *testphone.Phone {
	t.Helper()
	p := t.phone(user, tone, change...)
	if _, err := p.Register(t.ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	return p
}

// call has one phone call the other, which answers.
func (t *bench) call(from, to *testphone.Phone) (near, far *testphone.Call) {
	t.Helper()
	near, err := from.Dial(to.User())
	t.must(err)
	far = t.incoming(to)
	t.must(far.Answer(t.ctx))
	t.must(near.Wait(t.ctx))
	return near, far
}

func (t *bench) incoming(p *testphone.Phone) *testphone.Call {
	t.Helper()
	select {
	case c := <-p.Incoming():
		return c
	case <-t.ctx.Done():
		t.Fatalf("%s is not called", p.User())
		return nil
	}
}

func (t *bench) hears(c *testphone.Call, tone float64) {
	t.Helper()
	if err := c.Hear(t.ctx, tone, listen); err != nil {
		t.Error(err)
	}
}

func (t *bench) over(c *testphone.Call) {
	t.Helper()
	select {
	case <-c.Done():
	case <-t.ctx.Done():
		t.Fatalf("the call to or from %s is not over", c.Remote())
	}
}

func (t *bench) idle() {
	t.Helper()
	t.must(t.pbx.Idle(t.ctx))
}

func refused(t *testing.T, err error, code int) {
	t.Helper()
	var status *testphone.StatusError
	if !errors.As(err, &status) || status.Code != code {
		t.Errorf("got %v, want the status %d", err, code)
	}
}

func TestMain(m *testing.M) {
	// Connections of sipgo log to its default logger, whatever logger they are given.
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// overBoth runs a test with the phones on UDP and on TCP.
func overBoth(t *testing.T, cfg minipbx.Config, test func(*bench)) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			test(newBench(t, transport, cfg))
		})
	}
}

func TestRegister(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		alice := t.phone("alice", 0, func(c *testphone.Config) {
			c.Instance = "urn:uuid:00000000-0000-4000-8000-000000000001"
			c.Route = true
		})
		t.must(alice.Options(t.ctx))
		for _, ask := range []time.Duration{time.Minute, 3 * time.Hour} {
			granted, err := alice.Register(t.ctx, ask)
			t.must(err)
			if want := min(ask, time.Hour); granted != want {
				t.Errorf("granted %v, want %v", granted, want)
			}
		}
		second := t.registered("alice", 0)
		if got := t.pbx.Contacts("alice"); len(got) != 2 || got[0] != second.Contact() || got[1] != alice.Contact() {
			t.Errorf("contacts %q", got)
		}
		t.must(alice.Unregister(t.ctx))
		if got := t.pbx.Contacts("alice"); len(got) != 1 || got[0] != second.Contact() {
			t.Errorf("contacts %q after one left", got)
		}
		t.must(alice.UnregisterAll(t.ctx))
		if got := t.pbx.Contacts("alice"); len(got) != 0 {
			t.Errorf("contacts %q after all left", got)
		}
	})
}

func TestWrongPassword(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		intruder := t.phone("alice", 0, func(c *testphone.Config) { c.Password = "guess" })
		_, err := intruder.Register(t.ctx, time.Minute)
		refused(t.T, err, 403)
		_, err = intruder.Call(t.ctx, minipbx.Echo)
		refused(t.T, err, 403)
		stranger := t.phone("mallory", 0)
		_, err = stranger.Register(t.ctx, time.Minute)
		refused(t.T, err, 403)
		silent := t.phone("alice", 0, func(c *testphone.Config) { c.User = "alice"; c.Password = "" })
		_, err = silent.Register(t.ctx, time.Minute)
		refused(t.T, err, 403)
		if got := t.pbx.Contacts("alice"); len(got) != 0 {
			t.Errorf("contacts %q", got)
		}
	})
}

func testCalls(t *bench) {
	alice, bob := t.registered("alice", aliceHz), t.registered("bob", bobHz)
	for _, test := range []struct {
		from, to   *testphone.Phone
		callerEnds bool
	}{{alice, bob, true}, {alice, bob, false}, {bob, alice, true}, {bob, alice, false}} {
		near, far := t.call(test.from, test.to)
		nearHz, farHz := aliceHz, bobHz
		if test.from == bob {
			nearHz, farHz = bobHz, aliceHz
		}
		t.hears(near, float64(farHz))
		t.hears(far, float64(nearHz))
		if test.callerEnds {
			t.must(near.Hangup(t.ctx))
		} else {
			t.must(far.Hangup(t.ctx))
		}
		t.over(near)
		t.over(far)
		t.idle()
		for _, c := range []*testphone.Call{near, far} {
			// A machine with other things to do may lose packets, but not all the time.
			if s := c.Stats(); s.Lost > s.Received/4 || s.Foreign != 0 || s.Malformed != 0 {
				t.Errorf("audio of the call: %+v", s)
			}
		}
	}
}

func TestCalls(t *testing.T)       { overBoth(t, minipbx.Config{}, testCalls) }
func TestDirectMedia(t *testing.T) { overBoth(t, minipbx.Config{DirectMedia: true}, testCalls) }

func TestMediaAnchoredOrDirect(t *testing.T) {
	for _, direct := range []bool{false, true} {
		bench := newBench(t, "udp", minipbx.Config{DirectMedia: direct})
		alice, bob := bench.registered("alice", aliceHz), bench.registered("bob", bobHz)
		near, far := bench.call(alice, bob)
		bench.hears(near, bobHz)
		bench.hears(far, aliceHz)
		calls := bench.pbx.Calls()
		if len(calls) != 1 || calls[0].From != "alice" || calls[0].To != "bob" || calls[0].CallID != near.CallID() {
			t.Fatalf("calls %+v", calls)
		}
		for i, leg := range calls[0].Legs {
			if through := leg.In > 10 && leg.Out > 10; through == direct || leg.Foreign != 0 {
				t.Errorf("direct %v: leg %d has %+v", direct, i, leg)
			}
		}
	}
}

func TestMusicOnHold(t *testing.T) {
	for _, direct := range []bool{false, true} {
		overBoth(t, minipbx.Config{DirectMedia: direct, MusicHz: pbxHz}, func(t *bench) {
			alice, bob := t.registered("alice", aliceHz), t.registered("bob", bobHz)
			near, far := t.call(alice, bob)
			for _, pair := range [][2]*testphone.Call{{near, far}, {far, near}} {
				holder, held := pair[0], pair[1]
				t.must(holder.Hold(t.ctx))
				t.hears(held, pbxHz)
				if !held.Held() {
					t.Error("does not know that it is held")
				}
				t.must(holder.Resume(t.ctx))
				t.hears(near, bobHz)
				t.hears(far, aliceHz)
			}
			t.must(near.Hold(t.ctx))
			t.must(far.Hangup(t.ctx))
			t.over(near)
			t.idle()
		})
	}
}

func TestMixedTransports(t *testing.T) {
	bench := newBench(t, "udp", minipbx.Config{})
	alice := bench.registered("alice", aliceHz)
	bob := bench.registered("bob", bobHz, func(c *testphone.Config) { c.Transport = "tcp" })
	near, far := bench.call(alice, bob)
	bench.hears(near, bobHz)
	bench.hears(far, aliceHz)
	bench.must(far.Hangup(bench.ctx))
	bench.over(near)
}

func TestNumbers(t *testing.T) {
	overBoth(t, minipbx.Config{ToneHz: pbxHz}, func(t *bench) {
		alice := t.phone("alice", aliceHz, func(c *testphone.Config) { c.Stopwatch = new(audio.Stopwatch) })

		echo, err := alice.Call(t.ctx, minipbx.Echo)
		t.must(err)
		t.hears(echo, aliceHz)
		t.must(echo.Hangup(t.ctx))
		if s := echo.Stats(); s.Delay.Samples == 0 {
			t.Errorf("echo: %+v", s)
		}

		tone, err := alice.Call(t.ctx, minipbx.Tone)
		t.must(err)
		t.hears(tone, pbxHz)
		t.must(tone.Hangup(t.ctx))

		_, err = alice.Call(t.ctx, minipbx.Busy)
		refused(t.T, err, 486)
		_, err = alice.Call(t.ctx, "999")
		refused(t.T, err, 404)
		_, err = alice.Call(t.ctx, "bob") // has no phone
		refused(t.T, err, 480)
		t.idle()
	})
}

func TestEarlyMedia(t *testing.T) {
	overBoth(t, minipbx.Config{ToneHz: pbxHz}, func(t *bench) {
		c, err := t.phone("alice", aliceHz).Dial(minipbx.EarlyMedia)
		t.must(err)
		select {
		case <-c.EarlyMedia():
		case <-t.ctx.Done():
			t.Fatal("no early media")
		}
		t.hears(c, pbxHz)
		select {
		case <-c.Answered():
			t.Error("answered before the early media was heard")
		default:
		}
		t.must(c.Wait(t.ctx))
		t.hears(c, pbxHz)
		t.must(c.Hangup(t.ctx))
	})
}

func TestNoAnswer(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		alice, bob := t.registered("alice", 0), t.registered("bob", 0)

		c, err := alice.Dial(minipbx.NoAnswer)
		t.must(err)
		<-c.Ringing()
		t.must(c.Hangup(t.ctx))

		c, err = alice.Dial("bob")
		t.must(err)
		ringing := t.incoming(bob)
		<-c.Ringing()
		giveUp, cancel := context.WithCancel(t.ctx)
		cancel()
		if err := c.Wait(giveUp); !errors.Is(err, context.Canceled) {
			t.Errorf("wait: %v", err)
		}
		t.over(ringing)
		if err := ringing.Answer(t.ctx); !errors.Is(err, testphone.ErrCallOver) {
			t.Errorf("answer to a cancelled call: %v", err)
		}
		t.idle()
	})
}

func TestRefused(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		alice, bob := t.registered("alice", 0), t.registered("bob", 0)
		c, err := alice.Dial("bob")
		t.must(err)
		t.must(t.incoming(bob).Reject(t.ctx, 486, "Busy Here"))
		refused(t.T, c.Wait(t.ctx), 486)
		c, err = alice.Dial("bob")
		t.must(err)
		t.must(t.incoming(bob).Hangup(t.ctx))
		refused(t.T, c.Wait(t.ctx), 603)
	})
}

func TestForkedCall(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		alice := t.registered("alice", aliceHz)
		desk, mobile := t.registered("bob", bobHz), t.registered("bob", bobHz)
		near, err := alice.Dial("bob")
		t.must(err)
		atDesk, atMobile := t.incoming(desk), t.incoming(mobile)
		t.must(atMobile.Answer(t.ctx))
		t.must(near.Wait(t.ctx))
		t.over(atDesk)
		t.hears(near, bobHz)
		t.hears(atMobile, aliceHz)
		t.must(near.Hangup(t.ctx))
		t.over(atMobile)
	})
}

func TestHold(t *testing.T) {
	for name, direct := range map[string]bool{"anchored": false, "direct": true} {
		t.Run(name, func(t *testing.T) {
			overBoth(t, minipbx.Config{DirectMedia: direct}, func(t *bench) {
				alice, bob := t.registered("alice", aliceHz), t.registered("bob", bobHz)
				near, far := t.call(alice, bob)
				for _, pair := range [][2]*testphone.Call{{near, far}, {far, near}} {
					holder, held := pair[0], pair[1]
					t.must(holder.Hold(t.ctx))
					if !held.Held() || holder.Held() {
						t.Errorf("held: %v and %v", held.Held(), holder.Held())
					}
					sent := held.Stats().Sent
					hz := float64(aliceHz)
					if holder == far {
						hz = bobHz
					}
					t.hears(held, hz)
					if got := held.Stats().Sent; got != sent {
						t.Errorf("%d packets sent on hold", got-sent)
					}
					t.must(holder.Resume(t.ctx))
					if held.Held() {
						t.Error("still held")
					}
					t.hears(near, bobHz)
					t.hears(far, aliceHz)
				}
				t.must(far.Hangup(t.ctx))
				t.over(near)
			})
		})
	}
}

func TestHoldEcho(t *testing.T) {
	bench := newBench(t, "udp", minipbx.Config{})
	c, err := bench.phone("alice", aliceHz).Call(bench.ctx, minipbx.Echo)
	bench.must(err)
	bench.must(c.Hold(bench.ctx))
	bench.must(c.Resume(bench.ctx))
	bench.hears(c, aliceHz)
	bench.must(c.Hangup(bench.ctx))
}

// TestMediaElsewhere shows that a phone fails a call whose audio would not go where it is told to
// insist on.
func TestMediaElsewhere(t *testing.T) {
	bench := newBench(t, "udp", minipbx.Config{})
	alice := bench.phone("alice", 0, func(c *testphone.Config) { c.Media = netip.MustParseAddr("127.0.0.9") })
	if _, err := alice.Call(bench.ctx, minipbx.Echo); !errors.Is(err, testphone.ErrMediaAddress) {
		t.Errorf("call: %v", err)
	}
	bench.idle()
}

// TestClosePBX closes a PBX under calls in all states.
func TestClosePBX(t *testing.T) {
	overBoth(t, minipbx.Config{}, func(t *bench) {
		alice, bob := t.registered("alice", aliceHz), t.registered("bob", bobHz)
		carol := t.phone("carol", 0)
		near, far := t.call(alice, bob)
		echo, err := carol.Call(t.ctx, minipbx.Echo)
		t.must(err)
		ringing, err := carol.Dial(minipbx.NoAnswer)
		t.must(err)
		<-ringing.Ringing()
		if err := t.pbx.Close(); err != nil {
			t.Error(err)
		}
		for _, c := range []*testphone.Call{near, far, echo, ringing} {
			t.over(c)
		}
		refused(t.T, ringing.Err(), 503)
	})
}

func TestStartEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pbx, err := minipbx.Start(ctx, minipbx.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	b(t, pbx.Close())
}

func TestAddressTaken(t *testing.T) {
	bench := newBench(t, "udp", minipbx.Config{})
	if _, err := minipbx.Start(t.Context(), minipbx.Config{Addr: bench.pbx.Addr()}); err == nil {
		t.Error("two PBXs on one port")
	}
	if _, err := minipbx.Start(t.Context(), minipbx.Config{Addr: netip.MustParseAddrPort("0.0.0.0:0")}); err == nil {
		t.Error("a PBX on no address in particular")
	}
}

// TestNoGoroutineLeft closes phones and PBX and looks for what they left. It does not run beside
// other tests.
func TestNoGoroutineLeft(t *testing.T) {
	t.Run("calls", func(t *testing.T) {
		bench := newBench(t, "tcp", minipbx.Config{})
		alice, bob := bench.registered("alice", aliceHz), bench.registered("bob", bobHz)
		near, _ := bench.call(alice, bob)
		bench.hears(near, bobHz)
	})
	// sipgo's readers of TCP connections are not waited for by anybody; they end when their
	// connection is closed, a moment later.
	var left bytes.Buffer
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		left.Reset()
		b(t, pprof.Lookup("goroutine").WriteTo(&left, 1))
		text := left.String()
		if !strings.Contains(text, "sipgo/sip.") && !strings.Contains(text, "/minipbx.(*") && !strings.Contains(text, "/testphone") {
			return
		}
	}
	t.Errorf("left over:\n%s", left.String())
}
