package sipfwd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestPhonesOfOneHostAreBounded: one host of the LAN cannot keep the others
// from the proxy, and it is told.
func TestPhonesOfOneHostAreBounded(t *testing.T) {
	r := newRig(t)
	for i := range maxPhonesPerSource {
		key := fmt.Sprint("crowd", i)
		p := newLANPhone(r.lan, key, netip.MustParseAddr("127.0.0.1"))
		r.lan.mu.Lock()
		r.lan.phones[key] = p
		r.lan.mu.Unlock()
	}
	crowd := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, crowd, "mallory", "bob")
	crowd.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	if m := crowd.next(); m.StatusCode() != 503 || m.header("Retry-After") == "" {
		t.Errorf("one phone too many got:\n%s", m.raw)
	}
	other := newAgent(t, "127.0.0.2:0")
	c = phoneCall(t, other, "alice", "bob")
	other.send(r.proxy, c.request("MESSAGE", "sip:bob@"+testDomain))
	if m := r.pbxSock.next(); string(m.Method()) != "MESSAGE" {
		t.Errorf("the PBX got:\n%s", m.raw)
	}
}

// TestPortsOfOneCredentialAreBounded: a stolen credential leaves ports for the
// other offices, and does not make their phones lose theirs.
func TestPortsOfOneCredentialAreBounded(t *testing.T) {
	ports, err := OpenPhonePorts(PhonePortsConfig{
		Addr: netip.MustParseAddr("127.0.0.1"), Low: 27100, High: 27119,
		IsPBX: func(netip.Addr) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ports.Close()
	side := func(credential string) *PBXSide {
		s := NewPBXSide(PBXSideConfig{Credential: credential, Ports: ports, Send: func(uint32, []byte) {}})
		t.Cleanup(s.Close)
		return s
	}
	stolen, honest := side("stolen"), side("honest")
	before, err := honest.OpenPhone(1, "desk", nil)
	if err != nil {
		t.Fatal(err)
	}
	honest.ClosePhone(1)
	opened := 0
	for i := range uint32(30) {
		_, err := stolen.OpenPhone(i, fmt.Sprint("phone", i), nil)
		switch {
		case err == nil:
			opened++
		case !errors.Is(err, ErrNoPhonePort) || !strings.Contains(err.Error(), "--phone-ports"):
			t.Fatal(err)
		}
	}
	if opened == 0 || opened > 15 {
		t.Errorf("one credential has %d of 20 ports", opened)
	}
	if again, err := honest.OpenPhone(2, "desk", nil); err != nil || again != before {
		t.Errorf("the other office's phone gets %v, %v; it had %v", again, err, before)
	}
}
