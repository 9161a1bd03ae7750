package relay

import (
	"net/netip"
	"testing"
)

func TestLANPolicy(t *testing.T) {
	signalling := func() netip.Addr { return netip.MustParseAddr("::ffff:10.0.0.7") }
	unknown := func() netip.Addr { return netip.Addr{} }
	networks := []netip.Prefix{
		netip.MustParsePrefix("192.168.7.0/24"),
		netip.MustParsePrefix("fe80::/10"),
	}
	for _, test := range []struct {
		name   string
		policy Policy
		src    string
		want   bool
	}{
		{"signalled", LANPolicy(nil), "10.0.0.5:4000", true},
		{"other port", LANPolicy(nil), "10.0.0.5:4001", true},
		{"neighbour", LANPolicy(nil), "10.0.0.6:4000", false},
		{"where its SIP comes from", LANPolicy(signalling), "10.0.0.7:4000", true},
		{"beside where its SIP comes from", LANPolicy(signalling), "10.0.0.8:4000", false},
		{"signalling not known", LANPolicy(unknown), "10.0.0.7:4000", false},
		{"network", LANPolicy(signalling, networks...), "192.168.7.200:9", true},
		{"outside the network", LANPolicy(signalling, networks...), "192.168.8.1:9", false},
		{"link-local network", LANPolicy(signalling, networks...), "[fe80::1%eth0]:9", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.policy(ap(test.src), ap("10.0.0.5:4000")); got != test.want {
				t.Errorf("%s accepted: %t, want %t", test.src, got, test.want)
			}
		})
	}
}

func TestPBXPolicy(t *testing.T) {
	isPBX := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.1.0.1") }
	isLocal := func(a netip.Addr) bool { return a == netip.MustParseAddr("10.1.0.9") }
	strict := PBXPolicy(nil, nil)
	full := PBXPolicy(isPBX, isLocal)
	for _, test := range []struct {
		name           string
		policy         Policy
		src, signalled string
		want           bool
	}{
		{"signalled", strict, "10.2.0.1:5", "10.2.0.1:4", true},
		{"stranger", full, "203.0.113.1:4", "10.2.0.1:4", false},
		{"configured PBX", full, "10.1.0.1:9", "10.2.0.1:4", true},
		{"interface for loopback", full, "10.1.0.9:9", "127.0.0.1:4", true},
		{"loopback for interface", full, "127.0.0.1:9", "10.1.0.9:4", true},
		{"loopback for loopback", strict, "127.0.0.2:9", "127.0.0.1:4", true},
		{"IPv6 loopback for IPv4", strict, "[::1]:9", "127.0.0.1:4", true},
		{"stranger for loopback", full, "203.0.113.1:9", "127.0.0.1:4", false},
		{"own interface for a remote PBX", full, "10.1.0.9:9", "10.2.0.1:4", false},
		{"loopback for a remote PBX", full, "127.0.0.1:9", "10.2.0.1:4", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := test.policy(ap(test.src), ap(test.signalled)); got != test.want {
				t.Errorf("%s for %s accepted: %t, want %t", test.src, test.signalled, got, test.want)
			}
		})
	}
}
