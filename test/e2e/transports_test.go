//go:build e2e

package e2e

import (
	"maps"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// TestTransports: phones over UDP, TCP and TLS before a PBX over UDP, TCP and TLS. In the first office tunnelproxy has made its
// certificate for itself, in the second it was given one.
func TestTransports(t *testing.T) {
	t.Parallel()
	l := lab.New(t)
	own, others := newAuthority(t, l.PBX.Dir()), newAuthority(t, l.WAN.Dir())
	all := maps.Clone(users)
	all["erin"] = "erin-2c9a4"
	config := peers.PBXConfig{Domain: domain, Users: all}
	config.Certificate, config.Key = own.issue("kamailio", []byte{127, 0, 0, 1})
	tun := prepareTunnel(t, l)
	peers.StartKamailio(t, l, config)
	tun.inside = tun.PBX.Capture("lo", "port 5060 or port 5061")
	tun.watchWAN()
	tun.startDaemon()
	tun.join()
	tun.startProxy("--sip-tls-listen", ":5061")
	tun.waitUp()
	cert, key := own.issue("branch", lab.BranchProxyAddr.AsSlice())
	other := tun.startBranch("--tls-cert", cert, "--tls-key", key)

	erin := answering(phone("erin", "tcp", officeProxy))
	erin.Password, erin.Tone = all["erin"], 1220
	places := []struct {
		host   *lab.Host
		config peers.PhoneConfig
	}{
		{tun.Phone("alice"), answering(phone("alice", "udp", officeProxy))},
		{tun.Phone("erin"), erin},
		{tun.Phone("bob"), answering(phone("bob", "tls", officeProxy+":5061"))},
		{other.Phone("dave"), answering(phone("dave", "tls", branchProxy+":5061"))},
	}
	phones := map[string]*peers.Baresip{"carol": start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX)))}
	for _, test := range []struct {
		pbx   string
		flags []string
		calls [][2]string
	}{
		{"udp", nil, [][2]string{{"carol", "bob"}, {"dave", "carol"}}},
		{"tcp", []string{"--pbx-transport", "tcp"}, [][2]string{{"alice", "carol"}, {"carol", "bob"}, {"dave", "erin"}, {"carol", "alice"}}},
		{"tls", []string{"--pbx-transport", "tls", "--pbx-tls-ca", own.file()},
			[][2]string{{"alice", "dave"}, {"carol", "bob"}, {"dave", "carol"}, {"carol", "erin"}}},
	} {
		t.Run("PBX over "+test.pbx, func(t *testing.T) {
			if test.flags != nil {
				tun.changeDaemon(test.flags...)
				other.waitUp(t)
			}
			before := len(tun.inside.Packets())
			for _, place := range places {
				phones[place.config.User] = start(t, place.host, place.config)
			}
			for _, call := range test.calls {
				c := dial(t, phones[call[0]], phones[call[1]]).established().talk(time.Second)
				phones[call[0]].Hangup()
				c.closed()
			}
			for _, place := range places {
				phones[place.config.User].Stop() // it knows the PBX's transport by its registration
			}
			tun.spoke(t, test.pbx, before)
		})
	}
	t.Run("phone that does not know the certificate", func(t *testing.T) { tun.unknownProxy(t, others) })
	t.Run("PBX with a certificate that is not known", func(t *testing.T) { tun.unknownPBX(t, others) })
}

// changeDaemon restarts tunneld with other flags.
func (tun *tunnel) changeDaemon(flags ...string) {
	tun.t.Helper()
	tun.tunneld.Stop()
	tun.startDaemon(flags...)
	tun.waitUp()
}

// spoke fails the test where tunneld and the PBX have not spoken the transport, or another one too, since so many packets.
func (tun *tunnel) spoke(t *testing.T, transport string, since int) {
	t.Helper()
	seen := map[string]int{}
	for _, p := range tun.inside.Packets()[since:] {
		switch {
		case len(p.Payload) == 0:
		case p.Protocol == pcap.UDP:
			seen["udp"]++
		case p.Src.Port() == 5061 || p.Dst.Port() == 5061:
			seen["tls"]++
		default:
			seen["tcp"]++
		}
	}
	if len(seen) != 1 || seen[transport] == 0 {
		t.Errorf("packets between tunneld and the PBX by transport: %v, want nothing but %s", seen, transport)
	}
}

// unknownProxy: a phone that trusts another authority than that of the proxy's certificate does not register, and it is counted.
func (tun *tunnel) unknownProxy(t *testing.T, others *authority) {
	const counter = "sip.refused.tls_handshake"
	_, before := tun.statuses()
	p := peers.StartLinphone(t, tun.Phone("stranger"), phone("alice", "tls", officeProxy+":5061"), others.file())
	p.Wait(soon, 0, "LinphoneRegistrationFailed")
	lab.Eventually(t, soon, "the handshake is counted", func() bool {
		_, proxy := tun.statuses()
		return proxy.Counters[counter] > before.Counters[counter]
	})
}

// unknownPBX: tunneld does not speak to a PBX with a certificate of another authority. Phones are told at once, the log says why.
func (tun *tunnel) unknownPBX(t *testing.T, others *authority) {
	tun.tunneld.Stop()
	tun.startDaemon("--pbx-transport", "tls", "--pbx-tls-ca", others.file())
	lab.Eventually(t, 2*soon, "phones are told 503 for the certificate", func() bool {
		answer := tun.options()
		daemon, _ := tun.statuses()
		return answer == 503 && daemon.Counters["sip.refused.pbx_certificate"] > 0
	})
	tun.tunneld.WaitFor(soon, `x509: certificate signed by unknown authority`)
}
