//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

const domain = "pbx.example"

func TestPeersDirectCall(t *testing.T) {
	l := lab.New(t)
	peers.StartKamailio(t, l, peers.PBXConfig{Domain: domain, Users: map[string]string{"alice": "a-secret", "bob": "b-secret"}})
	wire := l.PBX.Capture("desk0", "")
	var phones []*peers.Baresip
	for _, config := range []peers.PhoneConfig{
		{User: "alice", Password: "a-secret", Transport: "udp", Tone: 440},
		{User: "bob", Password: "b-secret", Transport: "tcp", Tone: 1000, AutoAnswer: true},
	} {
		config.Domain = domain
		config.Outbound = "sip:172.20.0.1;transport=" + config.Transport
		phones = append(phones, peers.StartBaresip(t, l.Desk(config.User), config))
	}
	for _, phone := range phones {
		phone.Wait(10*time.Second, 0, "REGISTER_OK")
	}
	alice, bob := phones[0], phones[1]
	mark := alice.Mark()
	alice.Dial("sip:bob@" + domain)
	alice.Wait(10*time.Second, mark, "CALL_ESTABLISHED")
	lab.Eventually(t, 10*time.Second, "heard", func() bool {
		for _, p := range phones {
			h := p.Heard()
			if len(h) == 0 || len(h[0]) < 2*audio.Rate {
				return false
			}
		}
		return true
	})
	alice.Hangup()
	bob.Wait(5*time.Second, 0, "CALL_CLOSED")
	for i, p := range phones {
		h := p.Heard()[0]
		t.Logf("%s heard %d samples level %.2f: own %.3f other %.3f", p.User, len(h), audio.Level(h), audio.Share(h, p.Tone), audio.Share(h, phones[1-i].Tone))
	}
	t.Log("\n" + wire.Trace())
	wire.Stop()
}
