//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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

// TestOfficeSources: the PBX sees the phones of an office at one address and those of another at another. fail2ban, set up as the
// documentation says, bans the one whose phone guesses passwords, and the other goes on.
func TestOfficeSources(t *testing.T) {
	t.Parallel()
	lab.Require(t, "fail2ban-server")
	tun := newTunnelOf(t, "--phone-sources", "office")
	branch := tun.startBranch()
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	bob := start(t, tun.Phone("bob"), answering(phone("bob", "tcp", officeProxy)))
	dave := start(t, branch.Phone("dave"), answering(phone("dave", "udp", branchProxy)))
	source := func(phone *peers.Baresip) netip.Addr {
		return tun.inside.WaitSIP(soon, phone.User+" registers at Kamailio", func(m *pcap.Message) bool {
			return m.Method == "REGISTER" && m.Dst.Port() == 5060 && strings.Contains(m.Header("To"), phone.User)
		}).Src.Addr()
	}
	network := netip.MustParsePrefix("127.77.0.0/16")
	office, other := source(alice), source(dave)
	if source(bob) != office || office == other || !network.Contains(office) || !network.Contains(other) {
		t.Errorf("alice comes from %v, bob from %v, dave of the branch from %v", office, source(bob), other)
	}

	log := tun.startFail2ban()
	lab.Eventually(t, soon, "the office is banned, and nobody else", func() bool {
		for _, addr := range []netip.Addr{office, netip.MustParseAddr("127.0.0.1")} {
			fmt.Fprintf(log, "[%s] NOTICE[1234] res_pjsip/pjsip_distributor.c: Request 'REGISTER' from '<sip:alice@pbx.example>' failed for '%v:6000' (callid: x) - Failed to authenticate\n",
				time.Now().Format(time.DateTime), addr)
		}
		rules, err := tun.PBX.Run("nft", "list", "ruleset")
		return err == nil && strings.Count(rules, "elements = { "+office.String()+" }") == 2 // UDP and TCP
	})
	mark := carol.Mark()
	carol.Dial("sip:dave@" + domain)
	carol.Wait(soon, mark, "CALL_ESTABLISHED")
	carol.Hangup()
	banned := alice.Mark()
	alice.Dial("sip:carol@" + domain)
	if closed := alice.Wait(2*soon, banned, "CALL_CLOSED"); !strings.Contains(closed.Param, "408") {
		t.Errorf("the call of a phone that is banned ended with %q, want 408", closed.Param)
	}
}

// startFail2ban starts fail2ban beside the PBX with the distribution's settings and the jail of the documentation. It returns
// the PBX's log, which it reads.
func (tun *tunnel) startFail2ban() *os.File {
	tun.t.Helper()
	dir := tun.PBX.Dir()
	text, err := os.ReadFile("../../docs/admin.md")
	if err != nil {
		tun.t.Fatal(err)
	}
	_, jail, _ := strings.Cut(string(text), "```\n[asterisk]\n")
	jail, _, found := strings.Cut(jail, "```")
	conf := filepath.Join(dir, "fail2ban")
	if err := os.CopyFS(conf, os.DirFS("/etc/fail2ban")); err != nil || !found {
		tun.t.Fatal(err, found)
	}
	_ = os.RemoveAll(filepath.Join(conf, "jail.d")) // the distribution's has sshd
	log, err := os.Create(filepath.Join(dir, "asterisk.log"))
	if err != nil {
		tun.t.Fatal(err)
	}
	tun.t.Cleanup(func() { _ = log.Close() })
	short := tun.ShortDir()
	for name, content := range map[string]string{
		"jail.local": "[asterisk]\n" + jail + "maxretry = 3\nbackend = polling\nlogpath = " + log.Name() + "\n",
		"fail2ban.local": "[Definition]\nlogtarget = STDOUT\ndbfile = None\nsocket = " + filepath.Join(short, "sock") +
			"\npidfile = " + filepath.Join(short, "pid") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(content), 0o600); err != nil {
			tun.t.Fatal(err)
		}
	}
	resolver := filepath.Join(dir, "resolv.conf") // it looks its own host up, which is nothing for the WAN
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		tun.t.Fatal(err)
	}
	fail2ban := tun.PBX.Start("fail2ban", "unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolver, "fail2ban-server", "-f", "-c", conf, "-s", filepath.Join(short, "sock"), "-p", filepath.Join(short, "pid"), "start")
	lab.Eventually(tun.t, soon, "fail2ban watches the PBX's log", func() bool {
		if !fail2ban.Running() {
			tun.t.Fatal("fail2ban has ended")
		}
		return strings.Contains(fail2ban.Output(), "Jail 'asterisk' started")
	})
	return log
}
