//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// judged is for how long a call may go on until both programs know what they say of it: phones report every 5 s,
// the other end does after 1, 2, 4, 8 and 16 s.
const judged = 40 * time.Second

// losing is an nft table of a host that drops some of the packets of RTP that the rule tells.
func losing(hook, rule string) string {
	return fmt.Sprintf(`table ip losing {
		chain some {
			type filter hook %s priority filter
			%s drop
		}
	}`, hook, rule)
}

// A badCall is a call with one bad leg.
type badCall struct {
	caller, callee *peers.Baresip
	where          *lab.Host // that drops
	hook, rule     string
	blamed         string // as both programs are to say it
}

// TestBadAudioHasAnAddress: whichever leg loses packets, both programs blame that one, in status while the call lasts and in
// the log when it has ended.
func TestBadAudioHasAnAddress(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	tun.datagrams(true)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	bob := start(t, tun.Phone("bob"), phone("bob", "udp", officeProxy))
	carol := start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	dave := start(t, tun.Desk("dave"), answering(phone("dave", "udp", deskPBX)))
	from := func(b *peers.Baresip) string { return "ip saddr " + b.Host.Addr.String() + " " }
	const some = "numgen random mod 100 < 12"
	for _, calls := range [][]badCall{
		{
			{alice, carol, tun.Office, "input", from(alice) + "udp dport 40000-49999 " + some, "LAN leg, phone to tunnelproxy, lost"},
			{bob, dave, tun.PBX, "input", from(dave) + "udp dport 50000-59999 " + some, "PBX leg, PBX to tunneld, lost"},
		},
		{
			{alice, carol, alice.Host, "input", "udp dport 20000-29999 " + some, "LAN leg, tunnelproxy to phone, lost"},
			{bob, dave, dave.Host, "input", "udp dport 20000-29999 " + some, "PBX leg, tunneld to PBX, lost"},
		},
		// The tunnel mends what is lost at random. Bursts of this length are too much for it, and too short to leave UDP for.
		{{alice, carol, tun.NAT, "forward", "udp sport 5090 numgen inc mod 40 < 6", "tunnel, tunneld to tunnelproxy, lost"}},
		{{alice, carol, tun.NAT, "forward", "udp dport 5090 numgen inc mod 40 < 6", "tunnel, tunnelproxy to tunneld, lost"}},
		{{alice, carol, tun.NAT, "forward", "udp dport 9", ""}},
	} {
		var names []string
		for _, c := range calls {
			names = append(names, cmp.Or(strings.TrimSuffix(c.blamed, ", lost"), "none"))
		}
		t.Run(strings.Join(names, " and "), func(t *testing.T) {
			var talks []*call
			for _, c := range calls {
				c.where.NFT(losing(c.hook, c.rule))
				talks = append(talks, dial(t, c.caller, c.callee).established())
			}
			defer func() {
				for _, c := range calls {
					c.where.NFT("delete table ip losing")
				}
			}()
			for _, c := range calls {
				var audio [2]string
				lab.Eventually(t, judged, "both programs judge all legs of the call of "+c.caller.User, func() bool {
					daemon, proxy := tun.statuses()
					audio = [2]string{daemon.audio(c.caller), proxy.audio(c.caller)}
					return audio[0] != "" && audio[1] != ""
				})
				if !c.isBlamed(audio[0]) || !c.isBlamed(audio[1]) {
					t.Errorf("status: %q, want %q", audio, c.blamed)
				}
			}
			for _, program := range [2]func() (string, error){
				func() (string, error) { return tun.PBX.Run(tun.tunneldArgs("status")...) },
				func() (string, error) { return tun.Office.Run(tun.proxyArgs("status")...) },
			} {
				out, err := program()
				if _, table, ok := strings.Cut(out, "\naudio by leg, "); err == nil && ok {
					table, _, _ = strings.Cut(table, "\n\n")
					t.Log(table)
					for line := range strings.Lines(table) {
						if len(line) > 121 {
							t.Errorf("%d columns: %s", len(line)-1, line)
						}
					}
				} else {
					t.Errorf("no audio in %v: %s", err, out)
				}
			}
			for i, c := range calls {
				tun.checkLog(c, talks[i])
			}
		})
	}
}

// isBlamed says whether a verdict is what the call is to get: "" means good here.
func (c badCall) isBlamed(verdict string) bool {
	if c.blamed == "" {
		return verdict == "good"
	}
	return strings.Contains(verdict, ": "+c.blamed)
}

// audio is what a status says of a caller's call, "" as long as it does not judge all six legs.
func (s status) audio(caller *peers.Baresip) string {
	for _, c := range s.Calls {
		if !strings.Contains(c.From, caller.User) || len(c.Media) != 1 {
			continue
		}
		judged := 0
		for _, leg := range c.Media[0].Legs {
			if leg.MOS > 0 && leg.RTT > 0 {
				judged++
			}
		}
		if judged == 6 {
			return c.Audio
		}
	}
	return ""
}

// checkLog ends the call and looks at what the programs say of it in the end.
func (tun *tunnel) checkLog(c badCall, talk *call) {
	tun.t.Helper()
	before := [2]int{len(tun.tunneld.Output()), len(tun.proxy.Output())}
	c.caller.Hangup()
	talk.closed()
	for i, program := range [2]*lab.Process{tun.tunneld, tun.proxy} {
		var audio string
		lab.Eventually(tun.t, soon, program.Name+" logs the end of the call", func() bool {
			for line := range strings.Lines(program.Output()[before[i]:]) {
				var event struct{ Msg, From, Audio string }
				if json.Unmarshal([]byte(line), &event) == nil && event.Msg == "call ended" && strings.Contains(event.From, c.caller.User) {
					audio = event.Audio
					return true
				}
			}
			return false
		})
		tun.t.Logf("%s: %s", program.Name, audio)
		if !c.isBlamed(audio) {
			tun.t.Errorf("%s says %q, and it was %q", program.Name, audio, c.blamed)
		}
	}
}
