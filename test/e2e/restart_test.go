//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// endings are the ways in which a program ends.
var endings = map[string]func(*lab.Process){"stopped": (*lab.Process).Stop, "killed": die}

// noRegister fails the test where a phone has registered since as many messages had passed.
func (tun *tunnel) noRegister(since int) {
	tun.t.Helper()
	for _, m := range tun.inside.SIP()[since:] {
		if m.Method == "REGISTER" {
			tun.t.Errorf("registered again: %s", m.Header("Contact"))
		}
	}
}

// calls has one phone call the other and hang up.
func calls(t *testing.T, from, to *peers.Baresip) {
	t.Helper()
	c := dial(t, from, to).established().talk(time.Second)
	from.Hangup()
	c.closed()
}

// TestRestart: tunneld ends while phones are registered; when it is back they can be called without having done a thing.
func TestRestart(t *testing.T) {
	t.Parallel()
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tun := newTunnel(t, nil)
			alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
			bob := start(t, tun.Phone("bob"), answering(phone("bob", "tcp", officeProxy)))
			carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
			before := len(tun.inside.SIP())
			end(tun.tunneld)
			tun.startDaemon()
			lab.Eventually(t, redialled+noticed, "the tunnel is up again", func() bool { return tun.options() == 200 })
			calls(t, carol, alice)
			calls(t, carol, bob)
			calls(t, bob, alice)
			tun.noRegister(before)
		})
	}
}

// keptPhones counts the phones that tunnelproxy has stored whole, with what tunneld wants to have back.
func (tun *tunnel) keptPhones() int {
	var kept struct {
		Phones []struct {
			State []byte `json:"state"`
		} `json:"phones"`
	}
	text, err := os.ReadFile(filepath.Join(tun.state, "tunnelproxy", "phones.json"))
	if err != nil || json.Unmarshal(text, &kept) != nil {
		return 0
	}
	n := 0
	for _, p := range kept.Phones {
		if len(p.State) > 0 {
			n++
		}
	}
	return n
}

// TestProxyRestart: tunnelproxy ends while phones are registered. When it is back phones over UDP can be called without having
// done a thing; those over TCP, whose connections are gone, from the first thing on that they do themselves.
func TestProxyRestart(t *testing.T) {
	t.Parallel()
	for name, end := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tun := newTunnel(t, nil)
			alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
			bare := answering(phone("dave", "udp", officeProxy))
			bare.NoInstance = true
			dave := start(t, tun.Phone("dave"), bare)
			bob := start(t, tun.Phone("bob"), answering(phone("bob", "tcp", officeProxy)))
			carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
			lab.Eventually(t, soon, "the phones are stored", func() bool { return tun.keptPhones() == 3 })
			before := len(tun.inside.SIP())
			end(tun.proxy)
			lab.Eventually(t, soon, "tunneld has noticed", func() bool { return tun.phonesUp() == 0 })
			tun.startProxy()
			lab.Eventually(t, soon, "tunnelproxy has opened its phones", func() bool { return tun.phonesUp() == 3 })
			calls(t, carol, alice)
			calls(t, carol, dave)
			calls(t, bob, alice) // on a new connection
			calls(t, carol, bob)
			tun.noRegister(before)
		})
	}
}

// phonesUp counts the phones of tunneld whose session is up.
func (tun *tunnel) phonesUp() int {
	var daemon struct {
		Sessions []struct {
			ID string `json:"id"`
			Up bool   `json:"attached"`
		} `json:"sessions"`
		Phones []struct {
			Session string `json:"session"`
		} `json:"phones"`
	}
	out, err := tun.PBX.Run(tun.tunneldArgs("status", "--json")...)
	if err != nil || json.Unmarshal([]byte(out), &daemon) != nil {
		return 0
	}
	n := 0
	for _, s := range daemon.Sessions {
		for _, p := range daemon.Phones {
			if s.Up && p.Session == s.ID {
				n++
			}
		}
	}
	return n
}

// TestBothRestart: a power cut on both sides.
func TestBothRestart(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	lab.Eventually(t, soon, "the phone is stored", func() bool { return tun.keptPhones() == 1 })
	before := len(tun.inside.SIP())
	die(tun.proxy)
	die(tun.tunneld)
	tun.startDaemon()
	tun.startProxy()
	lab.Eventually(t, soon, "tunnelproxy has opened its phone", func() bool { return tun.phonesUp() == 1 })
	calls(t, carol, alice)
	tun.noRegister(before)
}

// TestPBXRestart: the PBX ends while phones are registered. One that keeps its registrations can call them at once; one that
// forgets them can when they have registered again, and nothing of the tunnel has to be restarted for that.
func TestPBXRestart(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"udp", "tcp"} {
		for _, keeps := range []bool{true, false} {
			t.Run(fmt.Sprintf("over %s, keeps registrations %v", transport, keeps), func(t *testing.T) {
				t.Parallel()
				tun := prepareTunnel(t, lab.New(t))
				config := peers.PBXConfig{Domain: domain, Users: users}
				if keeps {
					config.Keeps = tun.ShortDir()
				}
				kamailio := peers.StartKamailio(t, tun.Lab, config)
				tun.inside = tun.PBX.Capture("lo", "port 5060")
				tun.watchWAN()
				tun.startDaemon("--pbx-transport", transport)
				tun.join()
				tun.startProxy()
				tun.waitUp()
				settings := answering(phone("alice", "udp", officeProxy))
				settings.Expires = 30
				alice := start(t, tun.Phone("alice"), settings)
				desk := answering(phone("carol", "udp", deskPBX))
				desk.Expires = 30
				carol := start(t, tun.Desk("carol"), desk)
				calls(t, alice, carol)
				calls(t, carol, alice)

				kamailio.Stop()
				peers.StartKamailio(t, tun.Lab, config)
				before := len(tun.inside.SIP())
				if !keeps {
					mark := carol.Mark()
					carol.Dial("sip:alice@" + domain)
					if closed := carol.Wait(soon, mark, "CALL_CLOSED"); !strings.Contains(closed.Param, "480") {
						t.Errorf("a call for a phone that the PBX has forgotten ended with %q, want 480", closed.Param)
					}
					marks := map[*peers.Baresip]int{alice: alice.Mark(), carol: carol.Mark()}
					for p, mark := range marks {
						p.Wait(60*time.Second, mark, "REGISTER_OK")
					}
				}
				calls(t, carol, alice)
				if keeps {
					tun.noRegister(before)
				}
				calls(t, alice, carol)
			})
		}
	}
}
