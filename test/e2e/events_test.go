//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// An event is a package of RFC 6665 with bodies as servers and phones write them.
type event struct {
	name, accept string
	asked        string // body of the SUBSCRIBE, with its Content-Type
	told         string // body of a NOTIFY, with its Content-Type
}

var events = []event{
	{"dialog", "application/dialog-info+xml", "",
		`Content-Type: application/dialog-info+xml
Content-Length: {length}

<?xml version="1.0"?>
<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="1" state="full" entity="sip:bob@pbx.example">
 <dialog id="1" call-id="c@192.168.77.101" direction="recipient"><state>early</state>
  <remote><identity>sip:carol@192.168.77.10</identity><target uri="sip:carol@127.0.0.1:6000"/></remote></dialog>
</dialog-info>
`},
	{"message-summary", "application/simple-message-summary", "",
		`Content-Type: application/simple-message-summary
Content-Length: {length}

Messages-Waiting: yes
Message-Account: sip:9vm@192.168.77.10
Voice-Message: 2/8 (0/2)
`},
	{"presence", "application/pidf+xml", "",
		`Content-Type: application/pidf+xml
Content-Length: {length}

<?xml version="1.0" encoding="UTF-8"?>
<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="pres:bob@pbx.example">
<tuple id="t"><status><basic>open</basic></status><contact>sip:bob@192.168.77.102:5060</contact></tuple></presence>
`},
	{"as-feature-event", "application/x-as-feature-event+xml",
		`Content-Type: application/x-as-feature-event+xml
Content-Length: {length}

<?xml version="1.0" encoding="ISO-8859-1"?>
<SetDoNotDisturb xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed3"><device/><doNotDisturbOn>true</doNotDisturbOn></SetDoNotDisturb>
`, `Content-Type: application/x-as-feature-event+xml
Content-Length: {length}

<?xml version="1.0" encoding="ISO-8859-1"?>
<DoNotDisturbEvent xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed3"><device/><doNotDisturbOn>true</doNotDisturbOn></DoNotDisturbEvent>
`},
}

// subscribe has a phone subscribe at the server, and returns the request as it was sent and as it arrived.
func (s *scripted) subscribe(t *testing.T, phone *peers.Script, e event, call string) (sent, asked *peers.Message) {
	t.Helper()
	body := e.asked
	if body == "" {
		body = "Content-Length: {length}\n\n"
	}
	m := phone.Authorized(soon, fmt.Sprintf(`SUBSCRIBE sip:9%[1]s@pbx.example SIP/2.0
Via: {via}
Max-Forwards: 70
From: "Phone" <sip:{user}@pbx.example>;tag=phone
To: <sip:9%[1]s@pbx.example>
Call-ID: %[2]s
CSeq: {cseq} SUBSCRIBE
Contact: <sip:{user}@{at};transport={transport};line=7>;+sip.rendering="yes"
Event: %[1]s;id=4
Expires: 600
Accept: %[3]s
Allow-Events: dialog, %[1]s
%[4]s`, e.name, call, e.accept, body))
	asked = arrives(t, s.server, m)
	untouched(t, m, asked.Message, "contact")
	if contact := asked.Header("Contact"); !strings.HasSuffix(contact, `;+sip.rendering="yes"`) ||
		!strings.Contains(contact, "sip:"+phone.User+"@127.0.0.1:") || strings.Contains(contact, "192.168.77.") {
		t.Errorf("Contact arrived as %s", contact)
	}
	return &peers.Message{Message: m}, asked
}

const active = "Contact: <sip:9server@172.20.0.101:5070>\nEvent: %s;id=4\nSubscription-State: active;expires=600\nX-Odd:  two  blanks\n"

// subscription goes from the first NOTIFY, which comes before the answer, to one after the end.
func (s *scripted) subscription(t *testing.T, phone *peers.Script, e event) {
	server := s.server
	sent, asked := s.subscribe(t, phone, e, e.name+"-"+phone.Transport)

	// The first NOTIFY overtakes the answer, as RFC 6665 section 4.1.2.4 allows.
	notifier := called(server, asked.Message, "server")
	state := fmt.Sprintf(active, e.name)
	notifier.through(t, phone, "NOTIFY", state+e.told)
	answered := server.Answer(asked, "200 OK", "server", "Contact: <sip:9server@172.20.0.101:5070>\nExpires: 500\n")
	answer := phone.Final(soon, sent.Message)
	untouched(t, answered, answer.Message)

	notifier.through(t, phone, "NOTIFY", state+e.told)
	subscriber := calling(phone, sent.Message, answer.Message)
	contact := "Contact: <sip:{user}@{at};transport={transport};line=7>\nEvent: " + e.name + ";id=4\n"
	refreshed, _ := subscriber.through(t, server, "SUBSCRIBE", contact+"Expires: 600\n"+"Content-Length: 0\n\n", "contact")
	if got := uri(refreshed.Header("Contact")); got != notifier.uri {
		t.Errorf("the refresh has the Contact %s, the first request had %s", got, notifier.uri)
	}
	subscriber.through(t, server, "SUBSCRIBE", contact+"Expires: 0\n"+"Content-Length: 0\n\n", "contact")
	notifier.through(t, phone, "NOTIFY", strings.Replace(state, "active;expires=600", "terminated;reason=timeout", 1)+e.told)

	// Another one after the end: it is the phone that says that it knows of no such subscription.
	late := notifier.send("NOTIFY", state+e.told)
	stray := arrives(t, phone, late)
	untouched(t, late, stray.Message)
	phone.Answer(stray, "481 Subscription Does Not Exist", "", "")
	if got := server.Final(soon, late); got.StartLine != "SIP/2.0 481 Subscription Does Not Exist" {
		t.Errorf("the server is told %q", got.StartLine)
	}
}

// forkedSubscription: two notifiers answer one SUBSCRIBE. The phone has a dialog with each, and can end either.
func (s *scripted) forkedSubscription(t *testing.T, phone *peers.Script) {
	e := events[0]
	sent, asked := s.subscribe(t, phone, e, "forked-"+phone.Transport)
	state := fmt.Sprintf(active, e.name)
	first, second := called(s.server, asked.Message, "first"), called(s.server, asked.Message, "second")
	s.server.Answer(asked, "200 OK", "first", "Contact: <sip:9server@172.20.0.101:5070>\nExpires: 500\n")
	phone.Final(soon, sent.Message)
	for _, notifier := range []*side{first, second} {
		notified, _ := notifier.through(t, phone, "NOTIFY", state+e.told)
		subscriber := calling(phone, sent.Message, notified.Message)
		over, _ := subscriber.through(t, s.server, "SUBSCRIBE", "Contact: <sip:{user}@{at};transport={transport};line=7>\nEvent: "+
			e.name+";id=4\nExpires: 0\nContent-Length: 0\n\n", "contact")
		if over.Header("To") != notifier.from {
			t.Errorf("the end of the subscription reaches %s, want %s", over.Header("To"), notifier.from)
		}
	}
}

// unsolicited: what servers send to phones that never asked: restart, load the configuration, messages are waiting.
func (s *scripted) unsolicited(t *testing.T, phone *peers.Script) {
	for _, lines := range []string{
		"Event: check-sync;reboot=true\nSubscription-State: terminated\nContent-Length: 0\n\n",
		"Event: message-summary\n" + events[1].told,
		"o: talk\nContent-Length: 0\n\n",
	} {
		sent := s.toPhone(phone, "NOTIFY", lines)
		arrived := arrives(t, phone, sent)
		untouched(t, sent, arrived.Message)
		if want := fmt.Sprintf("NOTIFY sip:%s@%v;transport=%s SIP/2.0", phone.User, phone.Addr,
			strings.ToLower(phone.Transport)); arrived.StartLine != want {
			t.Errorf("arrived as %q, want the phone's own Contact: %q", arrived.StartLine, want)
		}
		answered := phone.Answer(arrived, "200 OK", "phone", "X-Answer: yes\n")
		untouched(t, answered, s.server.Final(soon, sent).Message)
	}
}

// presence: Kamailio itself keeps what is published and notifies; a baresip asks it for the messages of its user.
func (s *scripted) presence(t *testing.T) {
	publisher, watcher := s.phones["UDP"], s.phones["TCP"]
	for _, p := range []*peers.Script{publisher, watcher} {
		p.In(t)
	}
	config := phone("carol", "udp", officeProxy)
	config.Mailbox = true
	mailbox := start(t, s.Phone("mailbox"), config)

	for _, e := range events[:3] {
		publish := func(user, lines string) *peers.Message {
			sent := publisher.Authorized(soon, fmt.Sprintf("PUBLISH sip:%[1]s@pbx.example SIP/2.0\nVia: {via}\nMax-Forwards: 70\n"+
				"From: <sip:{user}@pbx.example>;tag={id}\nTo: <sip:%[1]s@pbx.example>\nCall-ID: {id}\nCSeq: {cseq} PUBLISH\n"+
				"Event: %s\nExpires: 600\n%s", user, e.name, lines))
			return publisher.Final(soon, sent)
		}
		sent := watcher.Authorized(soon, fmt.Sprintf("SUBSCRIBE sip:bob@pbx.example SIP/2.0\nVia: {via}\nMax-Forwards: 70\n"+
			"From: <sip:{user}@pbx.example>;tag=watcher\nTo: <sip:bob@pbx.example>\nCall-ID: watch-%[1]s\nCSeq: {cseq} SUBSCRIBE\n"+
			"Contact: <sip:{user}@{at};transport={transport}>\nEvent: %[1]s\nAccept: %[2]s\nExpires: 600\nContent-Length: 0\n\n",
			e.name, e.accept))
		accepted := watcher.Final(soon, sent)
		if accepted.Status/100 != 2 {
			t.Fatalf("SUBSCRIBE to %s is answered %s", e.name, accepted.StartLine)
		}
		notified := func(body string) {
			t.Helper()
			notify := watcher.Wait(soon, "NOTIFY about "+e.name+" with "+body, func(m *pcap.Message) bool {
				return m.Method == "NOTIFY" && m.Header("Call-ID") == sent.Header("Call-ID") && strings.Contains(string(m.Body), body)
			})
			watcher.Answer(notify, "200 OK", "", "")
		}
		notified("")
		if answer := publish("bob", e.told); answer.Status != 200 || answer.Header("SIP-ETag") == "" {
			t.Errorf("PUBLISH of %s is answered %s with SIP-ETag %q", e.name, answer.StartLine, answer.Header("SIP-ETag"))
		}
		notified(map[string]string{"dialog": "<state>early</state>", "message-summary": "2/8 (0/2)", "presence": "<basic>open</basic>"}[e.name])
		if e.name == "message-summary" {
			publish("carol", e.told)
			mailbox.WaitFor(soon, `Voice-Message: 2/8`)
		}
		over := calling(watcher, sent, accepted.Message).send("SUBSCRIBE", "Contact: <sip:{user}@{at};transport={transport}>\nEvent: "+
			e.name+"\nExpires: 0\nContent-Length: 0\n\n")
		if answer := watcher.Final(soon, over); answer.Status/100 != 2 {
			t.Errorf("the end of the subscription to %s is answered %s", e.name, answer.StartLine)
		}
		terminated := watcher.Wait(soon, "the last NOTIFY", func(m *pcap.Message) bool {
			return m.Method == "NOTIFY" && strings.HasPrefix(m.Header("Subscription-State"), "terminated")
		})
		watcher.Answer(terminated, "200 OK", "", "")
	}
}
