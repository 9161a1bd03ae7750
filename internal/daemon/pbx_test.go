package daemon

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/siptunnel/siptunnel/internal/config"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addrC = netip.MustParseAddr("192.0.2.3")
)

// testPBX is a PBX whose name and answers the test decides about.
func testPBX(t *testing.T, first ...netip.Addr) (*pbx, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	var s settings
	s.PBX = config.Endpoint{Host: "pbx.example"}
	p := &place{domain: "example", pbx: netip.AddrPortFrom(first[0], 5060), pbxAll: first}
	return newPBX(&s, p, zap.New(core)), logs
}

func TestPBXStaysWhereItsNameStillHasIt(t *testing.T) {
	b, _ := testPBX(t, addrA, addrB)
	now := time.Now()
	if b.Addr() != netip.AddrPortFrom(addrA, 5060) || !b.Is(addrA) || !b.Is(addrB) || b.Is(addrC) {
		t.Fatalf("starts at %v", b.Addr())
	}
	if b.look([]netip.Addr{addrB, addrA}, now) || b.Addr().Addr() != addrA {
		t.Errorf("another order moved it to %v", b.Addr())
	}
	if b.look(nil, now) || b.Addr().Addr() != addrA {
		t.Errorf("a name that does not resolve moved it to %v", b.Addr())
	}
	if !b.look([]netip.Addr{addrC}, now) || b.Addr() != netip.AddrPortFrom(addrC, 5060) {
		t.Errorf("it did not move: %v", b.Addr())
	}
	if !b.Is(addrA) || !b.Is(addrC) {
		t.Error("calls at the old address were cut off")
	}
	if b.look([]netip.Addr{addrC}, now.Add(2*pbxRemembered)) || b.Is(addrA) || !b.Is(addrC) {
		t.Error("the old address is let in for ever")
	}
	if !b.IsLocal(netip.MustParseAddr("127.1.2.3")) || b.IsLocal(addrA) {
		t.Error("local addresses")
	}
}

func TestPBXIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, logs := testPBX(t, addrA)
		var mu sync.Mutex // guards what follows
		answer, addresses := errors.New("silence"), []netip.Addr{addrA}
		var moves []netip.AddrPort
		b.ask = func(_ context.Context, pbx netip.AddrPort, domain string) (time.Duration, error) {
			if domain != "example" {
				t.Errorf("asked about %q", domain)
			}
			mu.Lock()
			defer mu.Unlock()
			return 3 * time.Millisecond, answer
		}
		b.resolve = func(context.Context, string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			if addresses == nil {
				return nil, errors.New("no such host")
			}
			return addresses, nil
		}
		b.moved = func(to netip.AddrPort) { moves = append(moves, to) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.run(ctx) }()
		steps := []struct {
			change func()
			logged string
		}{
			{func() {}, "the PBX does not answer; is --pbx right, and does it allow this machine?"},
			{func() {}, ""},
			{func() { answer = nil }, "the PBX answers"},
			{func() {}, ""},
			{func() { addresses = nil }, "the PBX's name does not resolve, its last address stays"},
			{func() { addresses = []netip.Addr{addrB} }, "the PBX has another address, sessions are opened again"},
			{func() { answer = errors.New("silence") }, "the PBX does not answer; is --pbx right, and does it allow this machine?"},
		}
		for i, step := range steps {
			mu.Lock()
			step.change()
			mu.Unlock()
			if i > 0 {
				time.Sleep(pbxInterval)
			}
			synctest.Wait()
			lines := logs.TakeAll()
			if step.logged == "" && len(lines) > 0 || step.logged != "" && (len(lines) != 1 || lines[0].Message != step.logged) {
				t.Errorf("step %d logged %v, want %q", i, lines, step.logged)
			}
		}
		if len(moves) != 1 || moves[0] != netip.AddrPortFrom(addrB, 5060) {
			t.Errorf("moves %v", moves)
		}
		if s := b.Status(); s.Answers || s.Error != "silence" || s.Address != "192.0.2.2:5060" || s.Name != "pbx.example:5060" {
			t.Errorf("status %+v", s)
		}
		cancel()
		<-done
	})
}

func TestResolveHost(t *testing.T) {
	got, err := resolveHost(t.Context(), "::ffff:192.0.2.1")
	if err != nil || len(got) != 1 || got[0] != addrA {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := resolveHost(t.Context(), "localhost"); err == nil && !got[0].Is4() {
		t.Errorf("IPv4 does not come first: %v", got)
	}
}
