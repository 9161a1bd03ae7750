//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// What linphone logs.
const (
	linphoneRegistered = `LinphoneRegistrationOk`
	linphoneTalks      = `to LinphoneCallStreamsRunning`
	linphoneEnd        = `to LinphoneCallReleased`
)

// TestLinphone: another family of phones, with settings as they come. One of them verifies over TLS the certificate that
// tunnelproxy has made for itself.
func TestLinphone(t *testing.T) {
	t.Parallel()
	tun := prepareTunnel(t, lab.New(t))
	peers.StartKamailio(t, tun.Lab, peers.PBXConfig{Domain: domain, Users: users})
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon()
	tun.join()
	tun.startProxy("--sip-tls-listen", ":5061")
	tun.waitUp()
	other := tun.startBranch()
	captures := map[string]*lab.Capture{}
	start := func(host *lab.Host, config peers.PhoneConfig) *peers.Linphone {
		captures[config.User] = host.Capture("eth0", "port 5060")
		return peers.StartLinphone(t, host, config, tun.phoneCertificate())
	}
	alice := start(tun.Phone("alice"), answering(phone("alice", "tls", officeProxy+":5061")))
	bob := start(other.Phone("bob"), answering(phone("bob", "udp", branchProxy)))
	dave := start(tun.Phone("dave"), answering(phone("dave", "tcp", officeProxy)))
	carol := peers.StartBaresip(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	for _, p := range []*peers.Linphone{alice, bob, dave} {
		p.Wait(soon, 0, linphoneRegistered)
	}
	carol.Wait(soon, 0, "REGISTER_OK")

	for _, p := range []*peers.Linphone{alice, bob, dave} {
		t.Run(fmt.Sprintf("%s calls and is called over %s", p.User, p.Transport), func(t *testing.T) {
			for _, called := range []bool{false, true} {
				mark, mine, recordings := p.Mark(), carol.Mark(), len(carol.Heard())
				if called {
					carol.Dial("sip:" + p.User + "@" + domain)
				} else {
					p.Command("call sip:carol@" + domain)
				}
				p.Wait(soon, mark, linphoneTalks)
				carol.Wait(soon, mine, "CALL_ESTABLISHED")
				hear(t, listening, listener{carol, recordings, p.Tone})
				hears(t, p, carol.Tone)
				if called {
					carol.Hangup()
				} else {
					p.Command("terminate")
				}
				carol.Wait(soon, mine, "CALL_CLOSED")
				p.Wait(soon, mark, linphoneEnd)
			}
		})
	}
	for _, parties := range [][3]*peers.Linphone{{alice, bob, dave}, {bob, dave, alice}} {
		t.Run(parties[0].User+" gives "+parties[1].User+" to "+parties[2].User, func(t *testing.T) {
			attended(t, parties[0], parties[1], parties[2])
			// What goes over TLS cannot be seen.
			if captured := captures[parties[1].User]; parties[2] != alice {
				replaced(t, captured, captures[parties[2].User])
			}
		})
	}
}

// attended has a phone call two others and connect these.
func attended(t *testing.T, from, to, target *peers.Linphone) {
	marks := [3]int{from.Mark(), to.Mark(), target.Mark()}
	from.Command("call sip:" + to.User + "@" + domain)
	to.Wait(soon, marks[1], linphoneTalks)
	from.Wait(soon, marks[0], linphoneTalks)
	hears(t, to, from.Tone)
	hears(t, from, to.Tone)
	first := from.LatestCall()
	from.Command("pause")
	from.Wait(soon, marks[0], "to LinphoneCallPaused")
	marks[0] = from.Mark()
	from.Command("call sip:" + target.User + "@" + domain)
	target.Wait(soon, marks[2], linphoneTalks)
	from.Wait(soon, marks[0], linphoneTalks)
	hears(t, target, from.Tone)
	hears(t, from, target.Tone)
	from.Command("transfer " + first + " --to-call " + from.LatestCall())
	hears(t, to, target.Tone)
	hears(t, target, to.Tone)
	from.Wait(soon, marks[0], linphoneEnd)
	mark := to.Mark()
	to.Command("terminate")
	to.Wait(soon, mark, linphoneEnd)
}

// replaced compares what the phone that was asked to call got, what it sent then, and what arrived of that.
func replaced(t *testing.T, to, target *lab.Capture) {
	t.Helper()
	refer := to.WaitSIP(soon, "REFER arrives", request("REFER"))
	arrived := target.WaitSIP(soon, "INVITE with Replaces arrives", func(m *pcap.Message) bool {
		return m.Method == "INVITE" && m.Header("Replaces") != ""
	})
	sent := to.WaitSIP(soon, "INVITE with Replaces is sent", func(m *pcap.Message) bool {
		return m.Method == "INVITE" && m.Header("Replaces") == arrived.Header("Replaces")
	})
	if by := sent.Header("Referred-By"); by == "" || by != arrived.Header("Referred-By") || by != refer.Header("Referred-By") {
		t.Errorf("Referred-By is %q where it is asked for, %q where it is sent and %q where it arrives", refer.Header("Referred-By"),
			by, arrived.Header("Referred-By"))
	}
	call, _, _ := strings.Cut(arrived.Header("Replaces"), ";")
	if !strings.Contains(refer.Header("Refer-To"), "Replaces="+call) {
		t.Errorf("Refer-To is %s, the Replaces that comes of it %s", refer.Header("Refer-To"), arrived.Header("Replaces"))
	}
}

// hears waits until the phone has heard more, and the latest of it is that tone, loud and alone.
func hears(t *testing.T, p *peers.Linphone, tone float64) {
	t.Helper()
	var share, level float64
	before := len(p.Heard())
	if !lab.Within(soon, func() bool {
		heard := p.Heard()
		if len(heard) < before+audio.Rate/2 {
			return false
		}
		heard = heard[len(heard)-audio.Rate/2:]
		share, level = audio.Share(heard, tone), audio.Level(heard)
		return share >= 0.9 && level >= 0.2
	}) {
		t.Errorf("%s does not hear the %v Hz tone alone: %.1f %% of the latest is it, level %.2f", p.User, tone, 100*share, level)
	}
}
