package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	addrC = netip.MustParseAddr("192.0.2.3")

	targetA = netip.AddrPortFrom(addrA, 5060)
	targetB = netip.AddrPortFrom(addrB, 5060)
	targetC = netip.AddrPortFrom(addrC, 5060)
)

// world is a PBX whose names and answers the test decides about, and what is heard of it.
type world struct {
	*pbx
	t    *testing.T
	logs *observer.ObservedLogs

	mu     sync.Mutex // guards what follows
	names  fakeDNS
	silent map[netip.AddrPort]error
	asked  map[netip.AddrPort]int
	lost   []netip.AddrPort
}

// newWorld begins with what --pbx finds.
func newWorld(t *testing.T, flag string, names fakeDNS) *world {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &world{t: t, logs: logs, names: names, silent: map[netip.AddrPort]error{}, asked: map[netip.AddrPort]int{}}
	s := parse(t, "--pbx", flag)
	p := &place{domain: "example", phoneSource: netip.MustParseAddr("127.0.0.1"), lookup: lookup{resolver: names, transport: "udp"}}
	for _, e := range s.PBX {
		found, err := p.lookup.targets(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		p.found = append(p.found, found)
	}
	w.pbx = newPBX(s, p, zap.New(core))
	w.reaches = func(to netip.AddrPort) bool { return to.Addr().Is4() }
	w.view.Store(nil) // what this machine reaches does not count
	w.publish(time.Now())
	w.lookup.resolver = w
	w.ask = func(_ context.Context, to target, domain string) (time.Duration, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if domain != "example" {
			t.Errorf("asked about %q", domain)
		}
		w.asked[to.addr]++
		return 3 * time.Millisecond, w.silent[to.addr]
	}
	w.left = func(to netip.AddrPort) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lost = append(w.lost, to)
	}
	return w
}

// watched runs f while the PBX is watched.
func (w *world) watched(f func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.run(ctx) }()
	synctest.Wait()
	f()
	cancel()
	<-done
}

// answers says which targets do not.
func (w *world) butNot(targets ...netip.AddrPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = map[netip.AddrPort]error{}
	for _, to := range targets {
		w.silent[to] = errors.New("silence")
	}
}

// LookupSRV and LookupNetIP make w the resolver.
func (w *world) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names.LookupSRV(ctx, service, proto, name)
}

func (w *world) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names.LookupNetIP(ctx, network, host)
}

func (w *world) dns(names fakeDNS) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names = names
}

// after lets time pass, and checks where requests go then.
func (w *world) after(d time.Duration, want netip.AddrPort) {
	w.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if got, _ := w.Target(); got != want {
		w.t.Errorf("requests go to %v, want %v", got, want)
	}
}

// logged checks what has been logged since the last call.
func (w *world) logged(want ...string) {
	w.t.Helper()
	var got []string
	for _, line := range w.logs.TakeAll() {
		got = append(got, line.Message)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Errorf("logged %q, want %q", got, want)
	}
}

const (
	logSilent  = "the PBX does not answer; is --pbx right, and does it allow this machine?"
	logAnswers = "the PBX answers"
	logMoved   = "requests go to another address of the PBX"
	logNames   = "the PBX's names have other addresses"
	logNoName  = "a name of the PBX does not resolve, its last addresses stay"
)

func TestPBXStaysWhereItsNameStillHasIt(t *testing.T) {
	w := newWorld(t, "pbx.example", fakeDNS{"pbx.example": "192.0.2.1 192.0.2.2"})
	current := func() netip.AddrPort { addr, _ := w.Target(); return addr }
	find := func(addresses string) [][]target {
		targets, _ := lookup{resolver: fakeDNS{"pbx.example": addresses}, transport: "udp"}.targets(t.Context(), w.endpoints[0])
		return [][]target{targets}
	}
	now := time.Now()
	if current() != targetA || !w.Is(addrA) || !w.Is(addrB) || w.Is(addrC) {
		t.Fatalf("starts at %v", current())
	}
	if w.look(find("192.0.2.2 192.0.2.1"), now); current() != targetA {
		t.Errorf("another order moved it to %v", current())
	}
	if w.look([][]target{nil}, now); current() != targetA {
		t.Errorf("a name that does not resolve moved it to %v", current())
	}
	if w.look(find("192.0.2.3"), now); current() != targetC {
		t.Errorf("it did not move: %v", current())
	}
	if !w.Is(addrA) || !w.Is(addrC) || w.Owner(targetA) != targetA || w.Down(targetA) {
		t.Error("calls at the old address were cut off")
	}
	if w.look(find("192.0.2.3"), now.Add(2*pbxRemembered)); w.Is(addrA) || !w.Is(addrC) || w.Owner(targetA).IsValid() {
		t.Error("the old address is let in for ever")
	}
	if !w.IsLocal(netip.MustParseAddr("127.1.2.3")) || w.IsLocal(addrA) {
		t.Error("local addresses")
	}
}

// TestOnePBX: nothing changes for one address but what is logged.
func TestOnePBX(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1", nil)
		w.butNot(targetA)
		w.watched(func() {
			w.after(0, targetA)
			w.logged(logSilent)
			w.after(time.Minute, targetA)
			w.logged()
			if s := w.Status(); s.Answers || s.Error != "silence" || s.Address != "192.0.2.1:5060" || s.Name != "192.0.2.1:5060" || s.Targets != nil {
				t.Errorf("status %+v", s)
			}
			if other, ok := w.Target(targetA); ok {
				t.Errorf("there is %v, too", other)
			}
			w.Suspect(targetA)
			w.butNot()
			w.after(time.Minute, targetA)
			w.logged(logAnswers)
			if s := w.Status(); !s.Answers || s.RTTMS != 3 {
				t.Errorf("status %+v", s)
			}
		})
		if w.asked[targetA] != 3 {
			t.Errorf("asked %d times", w.asked[targetA])
		}
	})
}

// TestFailover leaves a target when it does not answer, and takes it again when it has answered twice.
func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1,192.0.2.2,192.0.2.3", nil)
		w.watched(func() {
			w.after(0, targetA)
			w.logged(logAnswers, logAnswers, logAnswers)
			w.butNot(targetA)
			w.after(standbyInterval, targetB)
			w.logged(logSilent, logMoved)
			if !slices.Equal(w.lost, []netip.AddrPort{targetA}) || !w.Down(targetA) {
				t.Errorf("left %v", w.lost)
			}
			if next, ok := w.Target(targetB); !ok || next != targetC {
				t.Errorf("after B comes %v", next)
			}
			if _, ok := w.Target(targetB, targetC); ok {
				t.Error("there is one more")
			}
			w.butNot(targetA, targetB, targetC)
			time.Sleep(standbyInterval)
			synctest.Wait()
			if s := w.Status(); s.Answers || len(s.Targets) != 3 || !s.Targets[1].Down || s.Targets[0].Error != "silence" {
				t.Errorf("status %+v", s)
			}
			w.logs.TakeAll()

			w.butNot(targetB, targetC)
			at := w.current()
			w.after(standbyInterval, at) // one answer is not enough
			w.logged()
			w.butNot(targetA, targetB, targetC)
			w.after(standbyInterval, at)
			w.butNot()
			w.after(standbyInterval, at)
			w.after(standbyInterval, targetA)
			if s := w.Status(); !s.Targets[0].Current || s.Targets[0].Down || s.Targets[2].Down {
				t.Errorf("status %+v", s)
			}
		})
	})
}

func (w *world) current() netip.AddrPort {
	addr, _ := w.Target()
	return addr
}

// TestSuspect asks a target at once that a request waits for, and not more often than is good.
func TestSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "192.0.2.1,192.0.2.2", nil)
		w.watched(func() {
			time.Sleep(suspectInterval)
			w.butNot(targetA)
			w.Suspect(targetA)
			w.after(time.Millisecond, targetB)
			for range 100 {
				w.Suspect(targetA)
				w.Suspect(targetC)
				w.Suspect(targetB)
			}
			synctest.Wait()
			if w.asked[targetA] != 2 || w.asked[targetB] != 2 || w.asked[targetC] != 0 {
				t.Errorf("asked %v", w.asked)
			}
		})
	})
}

// TestNamesChange takes targets that come, and leaves those that go.
func TestNamesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		services := fakeDNS{"_sip._udp.pbx.example": "10 0 5060 a.example.,20 0 5060 b.example.", "a.example": "192.0.2.1", "b.example": "192.0.2.2", "c.example": "192.0.2.3", "d.example": "2001:db8::1 192.0.2.4"}
		w := newWorld(t, "pbx.example,d.example:5080", services)
		with := func(srv string) fakeDNS {
			all := fakeDNS{}
			for name, text := range services {
				all[name] = text
			}
			all["_sip._udp.pbx.example"] = srv
			return all
		}
		w.watched(func() {
			w.after(0, targetA)
			w.logged(logAnswers, logAnswers, logAnswers)
			var all []string
			for _, one := range w.Status().Targets {
				all = append(all, one.Address+" "+one.Name)
			}
			if got := strings.Join(all, ", "); got != "192.0.2.1:5060 a.example:5060, 192.0.2.2:5060 b.example:5060, 192.0.2.4:5080 d.example:5080" {
				t.Errorf("targets %s", got)
			}
			w.dns(with("5 0 5060 c.example.,20 0 5060 b.example."))
			w.after(namesInterval, targetC)
			w.logged(logNames, logMoved, logAnswers)
			if !w.Is(addrA) || w.Owner(targetA) != targetA {
				t.Error("calls at the old address were cut off")
			}
			w.dns(with("fail"))
			w.after(namesInterval, targetC)
			w.logged(logNoName)
			w.dns(fakeDNS{"*": "fail"})
			w.after(namesInterval, targetC)
			w.logged(logNoName, logNoName)
			w.dns(services)
			w.after(namesInterval, targetA)
			w.logged(logNames, logMoved, logAnswers)
		})
		if len(w.lost) != 0 {
			t.Errorf("%v did not answer", w.lost)
		}
	})
}

// TestNameWithoutDNS: a name of this machine's own list of hosts is followed where no DNS answers.
func TestNameWithoutDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "pbx.example", fakeDNS{"pbx.example": "192.0.2.1"})
		w.watched(func() {
			w.after(0, targetA)
			w.logged(logAnswers)
			w.dns(fakeDNS{"_sip._udp.pbx.example": "fail", "pbx.example": "192.0.2.2"})
			w.after(namesInterval, targetB)
			w.logged(logNames, logMoved, logAnswers)
			w.dns(fakeDNS{"pbx.example": "2001:db8::1"})
			w.after(namesInterval, targetB)
			w.logged("the PBX is where the phones' ports cannot reach it; restart tunneld")
		})
	})
}

// TestTrust: a target's certificate is for the host that --pbx names, also when the DNS has forgotten it.
func TestTrust(t *testing.T) {
	w := newWorld(t, "pbx.example,192.0.2.2", fakeDNS{"_sip._udp.pbx.example": "1 1 5060 a.example.", "a.example": "192.0.2.1"})
	if w.trust(targetA) != nil {
		t.Error("over UDP")
	}
	w.way.trust = func(host string) *tls.Config { return &tls.Config{ServerName: host} }
	if a, b := w.trust(targetA).ServerName, w.trust(targetB).ServerName; a != "pbx.example" || b != "192.0.2.2" {
		t.Errorf("certificates for %s and %s", a, b)
	}
	w.look([][]target{{{addr: targetC, host: "pbx.example"}}, nil}, time.Now())
	if a := w.trust(targetA).ServerName; a != "pbx.example" {
		t.Errorf("certificate for %s", a)
	}
}

// TestOwner tells targets of one address apart where that can be done.
func TestOwner(t *testing.T) {
	w := newWorld(t, "192.0.2.1:5080,192.0.2.1:5090,192.0.2.2:5060", nil)
	at := netip.MustParseAddrPort
	for from, want := range map[string]string{
		"192.0.2.1:5090":  "192.0.2.1:5090",
		"192.0.2.1:5080":  "192.0.2.1:5080",
		"192.0.2.1:40000": "192.0.2.1:5080",
		"192.0.2.2:40000": "192.0.2.2:5060",
	} {
		if got := w.Owner(at(from)); got != at(want) {
			t.Errorf("%s belongs to %v, want %s", from, got, want)
		}
	}
	if got := w.Owner(at("192.0.2.3:5060")); got.IsValid() {
		t.Errorf("a stranger belongs to %v", got)
	}
}

// TestSeveralPBXs is about what settings find out.
func TestSeveralPBXs(t *testing.T) {
	dns := fakeDNS{"near.example": "::1 127.0.0.2", "pbx.example": "127.0.0.1"}
	for _, test := range []struct {
		pbx, targets, domain, source string
		doubts                       int
	}{
		{pbx: "pbx.example,near.example:5062", targets: "127.0.0.1:5060 127.0.0.2:5062", domain: "pbx.example", source: "127.0.0.1"},
		{pbx: "gone.example,near.example", targets: "127.0.0.2:5060", domain: "gone.example", source: "127.0.0.1", doubts: 1},
		{pbx: "::1,127.0.0.1,127.0.0.2", targets: "127.0.0.1:5060 127.0.0.2:5060", domain: "[::1]", source: "127.0.0.1", doubts: 1},
		{pbx: "127.0.0.1,127.0.0.1:5060,pbx.example", targets: "127.0.0.1:5060", domain: "127.0.0.1", source: "127.0.0.1"},
	} {
		p, err := parse(t, "--pbx", test.pbx).survey(t.Context(), dns)
		if err != nil {
			t.Errorf("%s: %v", test.pbx, err)
			continue
		}
		var targets []string
		for _, one := range p.targets() {
			targets = append(targets, one.addr.String())
		}
		if got := strings.Join(targets, " "); got != test.targets || p.domain != test.domain || p.phoneAddress.String() != test.source || p.pbx.String() != targets[0] {
			t.Errorf("%s: %s with domain %s from %v", test.pbx, got, p.domain, p.phoneAddress)
		}
		if len(p.doubts) != test.doubts {
			t.Errorf("%s: doubts %q", test.pbx, p.doubts)
		}
	}
}
