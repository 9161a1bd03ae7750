//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// replacing is a Refer-To with the Replaces of an attended transfer, escaped as phones do.
const replacing = `<sip:carol@pbx.example;user=phone?Replaces=4a2%40192.168.77.101%3Bto-tag%3DA%2eb%3bfrom-tag%3d9~&Require=replaces>;x="1, 2"`

// refer: REFER in a call, either way, with the NOTIFYs about what became of it.
func (s *scripted) refer(t *testing.T, phone *peers.Script) {
	caller, callee := s.call(t, phone)
	for _, test := range []struct {
		referrer, referred *side
		to                 *peers.Script
		edited             string
	}{
		{caller, callee, s.server, "contact"},
		{callee, caller, phone, ""},
	} {
		contact := "Contact: <sip:9server@172.20.0.101:5070>\n"
		if test.edited != "" {
			contact = "Contact: <sip:{user}@{at};transport={transport}>\n"
		}
		sent := test.referrer.send("REFER", contact+"Refer-To: "+replacing+"\nReferred-By: \"A\" <sip:{user}@pbx.example>;cid=\"x@y\"\n"+
			"Refer-Sub: true\nContent-Length: 0\n\n")
		arrived := arrives(t, test.to, sent)
		untouched(t, sent, arrived.Message, test.edited)
		answered := test.to.Answer(arrived, "202 Accepted", "", "")
		untouched(t, answered, test.referrer.Final(soon, sent).Message)
		for _, progress := range []string{"SIP/2.0 100 Trying", "SIP/2.0 180 Ringing\nX: sip:127.0.0.1", "SIP/2.0 200 OK"} {
			state := "active;expires=60"
			if strings.HasSuffix(progress, "OK") {
				state = "terminated;reason=noresource"
			}
			test.referred.through(t, test.referrer.Script, "NOTIFY", "Event: refer;id=11\nSubscription-State: "+state+
				"\nContent-Type: message/sipfrag;version=2.0\nContent-Length: {length}\n\n"+progress+"\n")
		}
	}
	// Where the phone knows the PBX by the name of its proxy, that is what the PBX must not be told.
	sent := caller.send("REFER", "Refer-To: <sip:carol@192.168.77.10;user=phone?Replaces=1%40192.168.77.10>\n"+
		"Referred-By: <sip:alice@192.168.77.10:5060>\nContent-Length: 0\n\n")
	arrived := arrives(t, s.server, sent)
	untouched(t, sent, arrived.Message, "refer-to", "referred-by")
	for name, want := range map[string]string{
		"Refer-To":    "<sip:carol@pbx.example;user=phone?Replaces=1%40192.168.77.10>",
		"Referred-By": "<sip:alice@pbx.example>",
	} {
		if got := arrived.Header(name); got != want {
			t.Errorf("%s arrived as %s, want %s", name, got, want)
		}
	}
	s.server.Answer(arrived, "603 Decline", "", "")
	caller.Final(soon, sent)
	callee.through(t, phone, "BYE", "Content-Length: 0\n\n")
}

// replaces: the INVITEs that a transfer brings about, both ways.
func (s *scripted) replaces(t *testing.T, phone *peers.Script) {
	const headers = "Replaces:4a2@192.168.77.101 ; to-tag=A.b;from-tag=9~;early-only\nRequire: replaces\n" +
		"b: <sip:bob@192.168.77.102>;cid=\"20398823.2UWQFN309shb3@referrer.example\"\nTarget-Dialog: x@y;local-tag=1;remote-tag=2\n"
	_, bare, _ := strings.Cut(offer, "\n")
	sent := s.toServer(phone, "INVITE", headers+bare)
	arrived := arrives(t, s.server, sent)
	untouched(t, sent, arrived.Message, "contact")
	s.server.Answer(arrived, "486 Busy Here", "server", "")
	phone.Ack(sent, phone.Final(soon, sent))

	_, bare, _ = strings.Cut(answerSDP, "\n")
	sent = s.toPhone(phone, "INVITE", headers+bare)
	arrived = arrives(t, phone, sent)
	untouched(t, sent, arrived.Message)
	phone.Answer(arrived, "481 No Such Dialog", "phone", "")
	s.server.Ack(sent, s.server.Final(soon, sent))
}
