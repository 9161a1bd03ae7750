package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func addr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, byte(18 + i>>16), byte(i >> 8), byte(i)})
}

// try makes an attempt and returns the error of Begin.
func try(t *Throttle, src netip.Addr, success bool) error {
	release, err := t.Begin(src)
	if err == nil {
		release(success)
	}
	return err
}

// wait is the time that a source has to wait, 0 if it need not.
func wait(t *testing.T, th *Throttle, src netip.Addr) time.Duration {
	t.Helper()
	release, err := th.Begin(src)
	if err == nil {
		release(true) // as a success it changes no score, but earns trust: ask last
		return 0
	}
	var throttled *ThrottledError
	if !errors.As(err, &throttled) {
		t.Fatal(err)
	}
	return throttled.RetryAfter
}

func TestThrottleStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		a := addr(1)
		for i := range 10 {
			if err := try(&th, a, false); err != nil {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		for range 3 { // asking again changes nothing
			if got := wait(t, &th, a); got != 2*time.Minute {
				t.Fatalf("wait %v", got)
			}
		}
		time.Sleep(2*time.Minute - time.Second)
		if got := wait(t, &th, a); got != time.Second {
			t.Fatalf("wait %v", got)
		}
		// From now on one guess per two minutes, however long it goes on.
		guesses := 0
		start := time.Now()
		for time.Since(start) < 24*time.Hour {
			time.Sleep(time.Second)
			if try(&th, a, false) == nil {
				guesses++
			}
		}
		if guesses != 720 {
			t.Errorf("%d guesses a day", guesses)
		}
		if err := try(&th, addr(2), false); err != nil {
			t.Errorf("another source: %v", err)
		}
		// All is forgiven after twenty minutes.
		time.Sleep(20 * time.Minute)
		for i := range 10 {
			if err := try(&th, a, false); err != nil {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
	})
}

func TestThrottleTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		a := addr(1)
		if err := try(&th, a, true); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := try(&th, a, false); err != nil {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
		if got := wait(t, &th, a); got != 10*time.Second {
			t.Fatalf("wait %v", got)
		}
		time.Sleep(10 * time.Second)
		// A login does not buy more guesses.
		if err := try(&th, a, true); err != nil {
			t.Fatal(err)
		}
		if err := try(&th, a, false); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, &th, a); got != 10*time.Second {
			t.Fatalf("wait %v after a login", got)
		}
		// A check of the port every twelve seconds keeps nobody out.
		time.Sleep(time.Hour)
		for range 1000 {
			time.Sleep(12 * time.Second)
			if err := try(&th, a, false); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(trustTime)
		for range 10 {
			if err := try(&th, a, false); err != nil {
				t.Fatal(err)
			}
		}
		if got := wait(t, &th, a); got != 2*time.Minute {
			t.Errorf("after the trust has ended: wait %v", got)
		}
	})
}

// TestThrottleParallel has one source ask for many at once.
func TestThrottleParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		var releases []func(bool)
		for range 10 {
			release, err := th.Begin(addr(1))
			if err != nil {
				t.Fatal(err)
			}
			releases = append(releases, release)
		}
		if got := wait(t, &th, addr(1)); got != time.Second {
			t.Errorf("wait %v", got)
		}
		for _, release := range releases {
			release(false)
			release(true) // only the first call counts
		}
		if got := wait(t, &th, addr(1)); got != 2*time.Minute {
			t.Errorf("wait %v", got)
		}
		if th.active != 0 {
			t.Errorf("%d active", th.active)
		}
	})
}

// TestThrottleFlood has strangers fill the place of all that have not
// authenticated: others are dropped, first at random and then always, and trusted
// sources get through.
func TestThrottleFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		for i := range trustedReserve {
			if err := try(&th, addr(i), true); err != nil {
				t.Fatal(err)
			}
		}
		dropped := 0
		for i := 0; th.active < startupsFull; i++ {
			_, err := th.Begin(addr(1000 + i))
			if err != nil {
				dropped++
			}
			if err != nil && (th.active < startupsBegin || !errors.Is(err, ErrTooManyStartups)) {
				t.Fatalf("with %d active: %v", th.active, err)
			}
		}
		if dropped == 0 {
			t.Error("nothing was dropped early")
		}
		for i := range 100 {
			if err := try(&th, addr(100000+i), false); !errors.Is(err, ErrTooManyStartups) {
				t.Fatal(err)
			}
		}
		for i := range trustedReserve {
			if _, err := th.Begin(addr(i)); err != nil {
				t.Fatalf("trusted source %d: %v", i, err)
			}
		}
		if _, err := th.Begin(addr(0)); !errors.Is(err, ErrTooManyStartups) {
			t.Errorf("beyond the reserve: %v", err)
		}
	})
}

// TestThrottleEarlyDrop measures the chance at the begin, in the middle and at the
// end of the range.
func TestThrottleEarlyDrop(t *testing.T) {
	for active, want := range map[int]float64{0: 0, startupsBegin - 1: 0, startupsBegin: 0.3, (startupsBegin + startupsFull) / 2: 0.65, startupsFull: 1, startupsFull + 1: 1} {
		th := Throttle{active: active}
		const n = 20000
		dropped := 0
		for range n {
			if !th.room(false) {
				dropped++
			}
		}
		if got := float64(dropped) / n; got < want-0.03 || got > want+0.03 {
			t.Errorf("with %d active %.2f are dropped, want %.2f", active, got, want)
		}
		if !th.room(true) {
			t.Errorf("with %d active a trusted source is dropped", active)
		}
	}
}

// TestThrottleCrowd has more strangers fail than are remembered: a trusted source
// is still trusted, and the memory is bounded.
func TestThrottleCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		if err := try(&th, addr(0), true); err != nil {
			t.Fatal(err)
		}
		// One that is under way while it is forgotten.
		release, err := th.Begin(addr(1))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 * maxSources {
			if err := try(&th, addr(2+i), false); err != nil {
				t.Fatal(err)
			}
		}
		release(false)
		if n := len(th.known.byPrefix); n != maxSources || th.known.recent.Len() != n {
			t.Errorf("%d strangers, %d in order", n, th.known.recent.Len())
		}
		for range 11 {
			if err := try(&th, addr(0), false); err != nil {
				t.Fatalf("the trusted source: %v", err)
			}
		}
		for i := range 2 * maxSources {
			if err := try(&th, addr(100000+i), true); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(th.trusted.byPrefix); n != maxSources || th.trusted.recent.Len() != n {
			t.Errorf("%d trusted, %d in order", n, th.trusted.recent.Len())
		}
	})
}

// TestThrottlePolite bounds how many refusals per second cost an answer.
func TestThrottlePolite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th Throttle
		for range 10 {
			if err := try(&th, addr(1), false); err != nil {
				t.Fatal(err)
			}
		}
		for second := range 3 {
			polite := 0
			for range 100 {
				var throttled *ThrottledError
				if errors.As(try(&th, addr(1), false), &throttled) {
					polite++
				}
			}
			if polite != maxPolite {
				t.Errorf("second %d: %d answers", second, polite)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestThrottleSources(t *testing.T) {
	for _, same := range [][2]string{
		{"192.0.2.1", "::ffff:192.0.2.1"},
		{"2001:db8::1", "2001:db8::ffff:1:2:3"},
		{"fe80::1%eth0", "fe80::2%eth1"},
	} {
		a, b := sourcePrefix(netip.MustParseAddr(same[0])), sourcePrefix(netip.MustParseAddr(same[1]))
		if a != b || !a.IsValid() {
			t.Errorf("%v: %v and %v", same, a, b)
		}
	}
	for _, other := range [][2]string{
		{"192.0.2.1", "192.0.2.2"},
		{"2001:db8::1", "2001:db8:0:1::1"},
	} {
		if a, b := sourcePrefix(netip.MustParseAddr(other[0])), sourcePrefix(netip.MustParseAddr(other[1])); a == b {
			t.Errorf("%v: both are %v", other, a)
		}
	}
	var th Throttle
	if err := try(&th, netip.Addr{}, false); err != nil {
		t.Error(err)
	}
}

// TestThrottleConcurrently is for the race detector.
func TestThrottleConcurrently(t *testing.T) {
	var th Throttle
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for j := range 500 {
				_ = try(&th, addr(j%7), (i+j)%3 == 0)
			}
		})
	}
	g.Wait()
	if th.active != 0 {
		t.Errorf("%d active", th.active)
	}
	for _, m := range []*sources{&th.known, &th.trusted} {
		for p, e := range m.byPrefix {
			if s := e.Value.(*source); s.active != 0 || s.prefix != p {
				t.Error(fmt.Sprint(*s))
			}
		}
	}
}

func BenchmarkThrottle(b *testing.B) {
	var th Throttle
	for i := range 2 * maxSources {
		_ = try(&th, addr(i), false)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		_ = try(&th, addr(i%(2*maxSources)), false)
		i++
	}
}
