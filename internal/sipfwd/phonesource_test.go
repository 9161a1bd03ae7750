package sipfwd

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openSources(t *testing.T, sources Sources, network, file string) *PhonePorts {
	t.Helper()
	p, err := OpenPhonePorts(PhonePortsConfig{
		Addr: netip.MustParseAddr("127.0.0.1"), Low: 27200, High: 27299, StateFile: file,
		Sources: sources, SourceNetwork: netip.MustParsePrefix(network),
		IsPBX: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.78.0.1") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func (p *PhonePorts) mustAcquire(t *testing.T, credential, key string) netip.AddrPort {
	t.Helper()
	port, _, err := p.acquire(phoneID{credential, key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return port.addr
}

func TestSourceAddresses(t *testing.T) {
	network := netip.MustParsePrefix("127.78.0.0/24")
	for _, sources := range []Sources{OfficeSource, PhoneSource} {
		t.Run(string(sources), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ports.json")
			p := openSources(t, sources, network.String(), file)
			had := make(map[phoneID]netip.AddrPort)
			owner := make(map[netip.Addr]phoneID)
			for i := range 60 {
				id := phoneID{fmt.Sprint("office", i%7), fmt.Sprint("phone", i)}
				at := p.mustAcquire(t, id.Credential, id.Key)
				had[id] = at
				if other, taken := owner[at.Addr()]; taken && other != sources.owner(id) {
					t.Errorf("%v has the address %v of %v", id, at, other)
				}
				owner[at.Addr()] = sources.owner(id)
				if !network.Contains(at.Addr()) || at.Addr() == network.Addr() || strings.HasSuffix(at.Addr().String(), ".255") || p.cfg.IsPBX(at.Addr()) {
					t.Errorf("%v has the address %v", id, at)
				}
			}
			if want := map[Sources]int{OfficeSource: 7, PhoneSource: 60}[sources]; len(owner) != want {
				t.Errorf("%d addresses, want %d", len(owner), want)
			}
			p.Close()
			again := openSources(t, sources, network.String(), file)
			for id, at := range had {
				if got := again.mustAcquire(t, id.Credential, id.Key); got != at {
					t.Errorf("%v has %v, had %v", id, got, at)
				}
			}
		})
	}
}

// TestSourceWithoutFile: an address that nobody else has follows from the name.
func TestSourceWithoutFile(t *testing.T) {
	before := openSources(t, PhoneSource, "127.78.0.0/16", "").mustAcquire(t, "office", "phone").Addr()
	after := openSources(t, PhoneSource, "127.78.0.0/16", "").mustAcquire(t, "office", "phone").Addr()
	if before != after {
		t.Errorf("%v, then %v", before, after)
	}
}

// TestSourcesChange: a file of another setting, or of a time before there was
// one, loads, and phones keep the ports that are in it.
func TestSourcesChange(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ports.json")
	old := `[{"credential":"office","key":"phone","port":27217,"used":"2026-01-02T03:04:05Z"}]`
	if err := os.WriteFile(file, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sources := range []Sources{PhoneSource, OfficeSource, SharedSource, PhoneSource} {
		p := openSources(t, sources, "127.78.0.0/24", file)
		at := p.mustAcquire(t, "office", "phone")
		other := p.mustAcquire(t, "office", "other")
		if at.Port() != 27217 || at.Addr() == netip.MustParseAddr("127.0.0.1") != (sources == SharedSource) {
			t.Errorf("%s: the phone has %v", sources, at)
		}
		if same := at.Addr() == other.Addr(); same != (sources != PhoneSource) {
			t.Errorf("%s: %v and %v", sources, at, other)
		}
		p.Close()
	}
}

func TestNoSourceLeft(t *testing.T) {
	p := openSources(t, OfficeSource, "127.78.0.0/30", "")
	first := p.mustAcquire(t, "first", "phone")
	if first.Addr() != netip.MustParseAddr("127.78.0.2") {
		t.Errorf("%v", first)
	}
	if _, _, err := p.acquire(phoneID{"second", "phone"}, nil); err != ErrNoPhoneSource {
		t.Errorf("%v", err)
	}
	if again := p.mustAcquire(t, "first", "another phone"); again.Addr() != first.Addr() {
		t.Errorf("%v and %v are of one office", again, first)
	}
	if p.cfg.Counters.Snapshot()["sip.refused.no_phone_source"] != 1 {
		t.Error("not counted")
	}
}

// TestSourceIsReusedLast: where every address has been a phone's, a new one gets
// that of the phone that has been away for longest, as it does with ports.
func TestSourceIsReusedLast(t *testing.T) {
	p, err := OpenPhonePorts(PhonePortsConfig{
		Addr: netip.MustParseAddr("127.0.0.1"), Low: 27200, High: 27205,
		Sources: PhoneSource, SourceNetwork: netip.MustParsePrefix("127.79.0.0/29"), IsPBX: func(netip.Addr) bool { return false },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	had := make(map[string]netip.AddrPort)
	for i := range 6 {
		key := fmt.Sprint("phone", i)
		id := phoneID{fmt.Sprint("office", i%2), key}
		had[key] = p.mustAcquire(t, id.Credential, key)
		if i < 4 {
			p.mu.Lock()
			p.open[id].shut()
			delete(p.open, id)
			p.mu.Unlock()
		}
	}
	for i, want := range []string{"phone1", "phone3"} { // of the same office first
		if at := p.mustAcquire(t, "office1", fmt.Sprint("new", i)); at.Addr() != had[want].Addr() {
			t.Errorf("the new phone %d has %v, not that of %s, %v", i, at, want, had[want])
		}
	}
	if at := p.mustAcquire(t, "office0", "phone2"); at.Addr() != had["phone2"].Addr() {
		t.Errorf("phone2 has %v, had %v", at, had["phone2"])
	}
}

// TestPBXSeesSources: all SIP of a phone, over UDP and over connections that
// either side makes, has its address on the wire, in Via and in Contact.
func TestPBXSeesSources(t *testing.T) {
	for _, transport := range []string{"UDP", "TCP"} {
		t.Run(transport, func(t *testing.T) {
			r := newRigOver(t, transport)
			r.ports.mu.Lock()
			r.ports.cfg.Sources, r.ports.cfg.SourceNetwork = PhoneSource, netip.MustParsePrefix("127.78.0.0/16")
			r.ports.mu.Unlock()
			seen := make(map[netip.Addr]bool)
			for _, user := range []string{"alice", "bob"} {
				phone := newAgent(t, "127.0.0.1:0")
				contact := r.register(phone, user)
				source := r.pbxSock.from
				if transport == "TCP" {
					source = addrPort(r.pbxSock.tcp.RemoteAddr())
					r.pbxSock.hangUp()
				}
				contact, _, _ = strings.Cut(contact, ";")
				at := netip.MustParseAddrPort(strings.TrimPrefix(contact, "sip:"+user+"@"))
				if seen[source.Addr()] || source.Addr() != at.Addr() || source.Addr().String() == "127.0.0.1" {
					t.Errorf("%s comes from %v with Contact %s", user, source, contact)
				}
				seen[source.Addr()] = true
				call := newTCPAgent(t, at)
				call.send(at, phoneCall(t, call, "carol", user).request("OPTIONS", contact))
				phone.reply(phone.next(), "200 OK")
				if res := call.next(); res.StatusCode() != 200 {
					t.Errorf("the PBX got:\n%s", res.raw)
				}
			}
		})
	}
}
