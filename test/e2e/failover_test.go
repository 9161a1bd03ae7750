//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// unhurried bounds the wait for what takes a failover, a way back and a registration.
const unhurried = 90 * time.Second

// A cluster is a tunnel with two PBXs beside it, each on a machine of its own.
type cluster struct {
	*tunnel
	machines [2]*lab.Host
	pbxs     [2]*lab.Process
}

// at is where a PBX takes SIP.
func (c *cluster) at(i int) netip.AddrPort { return netip.AddrPortFrom(c.machines[i].Addr, 5060) }

func (c *cluster) startPBX(i int) {
	c.pbxs[i] = peers.StartKamailio(c.t, c.Lab, peers.PBXConfig{Domain: domain, Users: users, Host: c.machines[i]})
}

// newCluster starts both PBXs and the tunnel. flags may look at the cluster.
func newCluster(t *testing.T, flags func(*cluster) []string) *cluster {
	t.Helper()
	c := &cluster{tunnel: prepareTunnel(t, lab.New(t))}
	for i := range c.machines {
		c.machines[i] = c.Desk(fmt.Sprint("pbx", i))
		c.startPBX(i)
	}
	c.inside = c.PBX.Capture("desk0", "port 5060")
	c.watchWAN()
	c.startDaemon(flags(c)...)
	c.join()
	c.startProxy()
	c.waitUp()
	return c
}

// current waits until requests go to a PBX.
func (c *cluster) current(i int) {
	c.t.Helper()
	lab.Eventually(c.t, unhurried, fmt.Sprintf("requests go to %v", c.at(i)), func() bool {
		var s struct {
			PBX struct {
				Address string `json:"address"`
				Targets []struct {
					Current bool `json:"current"`
				} `json:"targets"`
			} `json:"pbx"`
		}
		out, err := c.PBX.Run(c.tunneldArgs("status", "--json")...)
		if err == nil {
			err = json.Unmarshal([]byte(out), &s)
		}
		if err != nil {
			c.t.Fatalf("tunneld status: %v: %s", err, out)
		}
		return s.PBX.Address == c.at(i).String() && len(s.PBX.Targets) == 2 && s.PBX.Targets[i].Current
	})
}

// registered waits until the users have registered at a PBX from now on.
func (c *cluster) registered(i int, users ...string) {
	c.t.Helper()
	since := len(c.inside.SIP())
	for _, user := range users {
		lab.Eventually(c.t, unhurried, fmt.Sprintf("%s registers at %v", user, c.at(i)), func() bool {
			for _, m := range c.inside.SIP()[since:] {
				if m.Src == c.at(i) && response(200, "REGISTER")(m) && strings.Contains(m.Header("To"), user) {
					return true
				}
			}
			return false
		})
	}
}

// byes counts the BYEs that have come to a PBX so far.
func (c *cluster) byes(i int) int {
	n := 0
	for _, m := range c.inside.SIP() {
		if m.Method == "BYE" && m.Dst == c.at(i) {
			n++
		}
	}
	return n
}

// TestPBXFailover: the PBX that phones are registered at goes away and comes back. Phones register and call by way of the
// other one meanwhile, and a call of that one is ended there when the first is back. No session ends.
func TestPBXFailover(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string]func(*cluster) []string{
		"SRV": func(c *cluster) []string {
			c.resolver = peers.StartDNS(t, c.PBX, domain,
				peers.Service{Name: "b." + domain, At: c.at(1), Priority: 20},
				peers.Service{Name: "a." + domain, At: c.at(0), Priority: 10})
			return []string{"--pbx", domain}
		},
		"addresses over TCP": func(c *cluster) []string {
			return []string{"--pbx", c.machines[0].Addr.String() + "," + c.at(1).String(), "--pbx-transport", "tcp"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, flags)
			sessions := strings.Count(c.tunneld.Output(), "session up")
			phones := map[string]*peers.Baresip{}
			for user, transport := range map[string]string{"alice": "udp", "bob": "tcp"} {
				config := answering(phone(user, transport, officeProxy))
				config.Expires = 10
				phones[user] = start(t, c.Phone(user), config)
			}
			alice, bob := phones["alice"], phones["bob"]
			c.registered(0, "alice", "bob")
			c.current(0)
			call := dial(t, alice, bob).established().talk(time.Second)
			alice.Hangup()
			call.closed()

			c.pbxs[0].Stop()
			c.registered(1, "alice", "bob")
			c.current(1)
			c.checked("warn  PBX")
			carol := start(t, c.Desk("carol"), phone("carol", "udp", c.machines[1].Addr.String()))
			call = dial(t, carol, bob).established().talk(time.Second)
			carol.Hangup()
			call.closed()
			call = dial(t, alice, bob).established().talk(time.Second)

			c.startPBX(0)
			c.registered(0, "alice", "bob")
			c.current(0)
			c.checked("ok    PBX")
			call.talk(time.Second)
			before := [2]int{c.byes(0), c.byes(1)}
			alice.Hangup()
			call.closed()
			lab.Eventually(t, soon, "BYE has come to the PBX that has the call", func() bool { return c.byes(1) > before[1] })
			if now := c.byes(0); now != before[0] {
				t.Errorf("%d BYEs have come to the other one", now-before[0])
			}
			call = dial(t, bob, alice).established().talk(time.Second)
			bob.Hangup()
			call.closed()
			if now := strings.Count(c.tunneld.Output(), "session up"); now != sessions {
				t.Errorf("%d new sessions", now-sessions)
			}
		})
	}
}

// checked looks for what tunneld check says.
func (c *cluster) checked(want string) {
	c.t.Helper()
	args := c.tunneldArgs("check", "--domain", domain, "--pbx", fmt.Sprintf("%v,%v", c.at(0), c.at(1)))
	out, err := c.PBX.Run(args...)
	if err != nil || !strings.Contains(out, want+"              "+c.at(0).String()) || !strings.Contains(out, "ok    PBX              "+c.at(1).String()) {
		c.t.Errorf("tunneld check: %v:\n%s", err, out)
	}
}

// asks has a phone ask for something that is no call, and for which the PBX may have to wait: it gets its answer once the PBX
// has been found dead.
func (c *cluster) asks(uri string) {
	c.t.Helper()
	host := c.Phone("asks")
	conn, err := host.ListenUDP(netip.AddrPortFrom(host.Addr, 5060).String())
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	answer, err := peers.Exchange(conn, officeSIP, fmt.Sprintf("OPTIONS %s SIP/2.0\r\nVia: SIP/2.0/UDP %v:5060;branch=z9hG4bK-asks;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:asks@%s>;tag=1\r\nTo: <%s>\r\nCall-ID: asks\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", uri, host.Addr, domain, uri), soon)
	if err != nil || answer.Status != 200 {
		c.t.Fatalf("OPTIONS while a PBX is dead: %v, %v", answer, err)
	}
	if daemon, _ := c.statuses(); daemon.Counters["sip.failover.pbx_down"] == 0 {
		c.t.Errorf("%v", daemon.Counters)
	}
}

// TestPBXDiesInCall: a call that is being made when its PBX dies is made by way of the other one, and one that is up keeps its
// media.
func TestPBXDiesInCall(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(c *cluster) []string { return []string{"--pbx", fmt.Sprintf("%v,%v", c.at(0), c.at(1))} })
	alice := start(t, c.Phone("alice"), phone("alice", "udp", officeProxy))
	bob := start(t, c.Phone("bob"), answering(phone("bob", "udp", officeProxy)))
	carol := start(t, c.Desk("carol"), answering(phone("carol", "udp", c.machines[1].Addr.String())))
	call := dial(t, alice, bob).established().talk(time.Second)
	c.pbxs[0].Stop()
	c.asks("sip:" + domain)
	call.talk(2 * time.Second)
	alice.Hangup() // where to is the cluster's affair
	alice.Wait(soon, call.marks[0], "CALL_CLOSED")

	mark, ring := alice.Mark(), carol.Mark()
	since := time.Now()
	alice.Dial("sip:carol@" + domain)
	carol.Wait(soon, ring, "CALL_ESTABLISHED")
	alice.Wait(soon, mark, "CALL_ESTABLISHED")
	t.Logf("a call by way of the other one took %v", time.Since(since))
	alice.Hangup()
	alice.Wait(soon, mark, "CALL_CLOSED")
	carol.Wait(soon, ring, "CALL_CLOSED")
	if m := c.inside.WaitSIP(soon, "an INVITE at the second PBX", func(m *pcap.Message) bool { return m.Method == "INVITE" && m.Dst == c.at(1) }); strings.Contains(m.StartLine, c.machines[0].Addr.String()) {
		t.Errorf("the second PBX got %s", m.StartLine)
	}
}
