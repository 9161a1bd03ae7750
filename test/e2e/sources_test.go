//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// newTunnelOf starts the chain with settings of tunneld.
func newTunnelOf(t *testing.T, flags ...string) *tunnel {
	t.Helper()
	tun := prepareTunnel(t, lab.New(t))
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users})
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon(flags...)
	tun.join()
	tun.startProxy()
	tun.waitUp()
	return tun
}

// TestPhoneSources: the PBX sees each phone at an address of its own, the same after a restart, calls it there, and can ban it
// alone.
func TestPhoneSources(t *testing.T) {
	t.Parallel()
	flags := []string{"--phone-sources", "phone", "--phone-source-network", "127.99.0.0/16"}
	tun := newTunnelOf(t, flags...)
	sources := map[string]netip.AddrPort{}
	registered := func(user string, since int) netip.AddrPort {
		var asked *pcap.Message
		lab.Eventually(t, 2*soon, user+" registers at Kamailio", func() bool {
			for _, m := range tun.inside.SIP()[since:] {
				if m.Method == "REGISTER" && m.Header("Authorization") != "" && strings.Contains(m.Header("To"), user) {
					asked = m
					return true
				}
			}
			return false
		})
		if want := fmt.Sprintf("@%v", asked.Src); !strings.Contains(asked.Header("Contact"), want) || !strings.Contains(asked.Header("Via"), asked.Src.String()) {
			t.Errorf("%s comes from %v with Contact %s and Via %s", user, asked.Src, asked.Header("Contact"), asked.Header("Via"))
		}
		return asked.Src
	}
	phones := map[string]*peers.Baresip{}
	for user, transport := range map[string]string{"alice": "udp", "bob": "tcp"} {
		config := answering(phone(user, transport, officeProxy))
		config.Expires = 10
		phones[user] = start(t, tun.Phone(user), config)
		sources[user] = registered(user, 0)
	}
	network := netip.MustParsePrefix("127.99.0.0/16")
	if a, b := sources["alice"].Addr(), sources["bob"].Addr(); a == b || !network.Contains(a) || !network.Contains(b) {
		t.Errorf("alice comes from %v, bob from %v", a, b)
	}
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	for _, user := range []string{"alice", "bob"} {
		c := dial(t, carol, phones[user]).established().talk(time.Second)
		carol.Hangup()
		c.closed()
	}

	tun.tunneld.Stop()
	since := len(tun.inside.SIP())
	tun.startDaemon(flags...)
	for user, before := range sources {
		if now := registered(user, since); now != before {
			t.Errorf("%s came from %v, and from %v after a restart of tunneld", user, before, now)
		}
	}

	// What fail2ban does.
	tun.PBX.NFT(fmt.Sprintf("table inet ban {\n chain input {\n type filter hook input priority -1\n ip saddr %v reject\n }\n}", sources["alice"].Addr()))
	mark, free := phones["alice"].Mark(), phones["bob"].Mark()
	phones["alice"].Wait(3*soon, mark, "REGISTER_FAIL")
	phones["bob"].Wait(soon, free, "REGISTER_OK")
	c := dial(t, carol, phones["bob"]).established().talk(time.Second)
	carol.Hangup()
	c.closed()
}
