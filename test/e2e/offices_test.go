//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// offices are two offices and the desks, with phones everywhere.
type offices struct {
	*tunnel
	alice, bob, carol, dave *peers.Baresip          // office over UDP and TCP, desk, second office
	group                   []*peers.Baresip        // of one user, everywhere
	lan                     map[string]*lab.Capture // of each phone's link, by its host's name
}

const groupUser = "group"

// listening is how long phones are listened to in a call: baresip names its recordings after the second in which they began.
const listening = time.Second

// TestOffices: two offices and a desk call each other, fork, hunt and transfer.
func TestOffices(t *testing.T) {
	t.Parallel()
	all := maps.Clone(users)
	all[groupUser] = "group-77d1e"
	o := &offices{
		tunnel: newTunnelBefore(t, lab.New(t), peers.PBXConfig{Domain: domain, Users: all, Hunt: []string{groupUser, "alice"}}),
		lan:    map[string]*lab.Capture{},
	}
	other := o.startBranch()
	o.alice = o.phone(o.Phone("alice"), answering(phone("alice", "udp", officeProxy)))
	o.bob = o.phone(o.Phone("bob"), answering(phone("bob", "tcp", officeProxy)))
	o.carol = o.phone(o.Desk("carol"), answering(phone("carol", "udp", deskPBX)))
	o.dave = o.phone(other.Phone("dave"), answering(phone("dave", "udp", branchProxy)))
	for i, member := range []struct {
		host                *lab.Host
		transport, outbound string
	}{
		{o.Phone("group1"), "udp", officeProxy},
		{o.Phone("group2"), "tcp", officeProxy},
		{other.Phone("group3"), "udp", branchProxy},
		{o.Desk("group4"), "udp", deskPBX},
	} {
		config := phone(groupUser, member.transport, member.outbound)
		config.Password, config.Tone = all[groupUser], float64(540+220*i)
		o.group = append(o.group, o.phone(member.host, config))
	}
	t.Run("calls", o.calls)
	t.Run("parallel forking", o.parallel)
	t.Run("serial forking", o.serial)
	t.Run("blind transfer", o.blind)
}

// phone starts a phone and a capture of its SIP.
func (o *offices) phone(host *lab.Host, config peers.PhoneConfig) *peers.Baresip {
	o.t.Helper()
	o.lan[host.Name] = host.Capture("eth0", "port 5060")
	return start(o.t, host, config)
}

// calls: each office has its own session, and their phones reach each other.
func (o *offices) calls(t *testing.T) {
	for _, pair := range [][2]*peers.Baresip{{o.alice, o.dave}, {o.dave, o.bob}, {o.carol, o.dave}} {
		c := dial(t, pair[0], pair[1]).established().talk(listening)
		pair[0].Hangup()
		c.closed()
	}
	daemon, _ := o.statuses()
	var names []string
	for _, session := range daemon.Sessions {
		names = append(names, session.Credential)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"branch", "default"}) {
		t.Errorf("sessions of %q, want one of each office", names)
	}
}

// parallel: a user with four phones, in both offices and beside the PBX. All ring, one answers, the others stop.
func (o *offices) parallel(t *testing.T) {
	for i, answers := range o.group {
		caller := []*peers.Baresip{o.carol, o.alice, o.dave, o.bob}[i]
		t.Run(fmt.Sprintf("%s calls, %s answers", caller.User, answers.Host.Name), func(t *testing.T) {
			var marks []int
			for _, member := range o.group {
				marks = append(marks, member.Mark())
			}
			mark, callers, members := caller.Mark(), len(caller.Heard()), len(answers.Heard())
			caller.Dial("sip:" + groupUser + "@" + domain)
			for i, member := range o.group {
				member.Wait(soon, marks[i], "CALL_INCOMING")
			}
			call := answers.Events()[marks[i]].ID
			answers.Answer()
			caller.Wait(soon, mark, "CALL_ESTABLISHED")
			for j, member := range o.group {
				if member != answers {
					member.Wait(soon, marks[j], "CALL_CLOSED")
					o.cancelled(t, member, call)
				}
			}
			hear(t, listening, listener{caller, callers, answers.Tone}, listener{answers, members, caller.Tone})
			caller.Hangup()
			answers.Wait(soon, marks[i], "CALL_CLOSED")
			o.finals(t, caller, call)
		})
	}
}

// cancelled fails the test where a phone was not told in one CANCEL that the call was answered elsewhere, or its 487 did not end
// that.
func (o *offices) cancelled(t *testing.T, member *peers.Baresip, call string) {
	t.Helper()
	of := func(accept func(*pcap.Message) bool) func(*pcap.Message) bool {
		return func(m *pcap.Message) bool { return m.Header("Call-ID") == call && accept(m) }
	}
	lan := o.lan[member.Host.Name]
	lan.WaitSIP(soon, member.Host.Name+" says 487", of(response(487, "INVITE")))
	lan.WaitSIP(soon, "the 487 of "+member.Host.Name+" is acknowledged", of(request("ACK")))
	cancel := lan.WaitSIP(soon, member.Host.Name+" gets CANCEL", of(request("CANCEL")))
	if reason := cancel.Header("Reason"); !strings.HasPrefix(reason, "SIP;cause=200") {
		t.Errorf("%s gets CANCEL with Reason %q, want SIP;cause=200", member.Host.Name, reason)
	}
}

// finals fails the test where the caller's INVITE had another final response than one 200, besides the challenge.
func (o *offices) finals(t *testing.T, caller *peers.Baresip, call string) {
	t.Helper()
	finals := map[int]int{}
	for _, m := range o.lan[caller.Host.Name].SIP() {
		if m.Header("Call-ID") == call && m.CSeqMethod() == "INVITE" && m.Status >= 200 {
			finals[m.Status]++
		}
	}
	delete(finals, 407)
	if len(finals) != 1 || finals[200] != 1 {
		t.Errorf("the caller gets these final responses: %v, want one 200", finals)
	}
}

// serial: a number that rings one user after the other. Nobody rings any longer whose turn is over.
func (o *offices) serial(t *testing.T) {
	var marks []int
	for _, member := range o.group {
		marks = append(marks, member.Mark())
	}
	mark, callers, called, answerers := o.carol.Mark(), len(o.carol.Heard()), o.alice.Mark(), len(o.alice.Heard())
	o.carol.Dial("sip:8@" + domain)
	for i, member := range o.group {
		member.Wait(soon, marks[i], "CALL_INCOMING")
	}
	for i, member := range o.group {
		member.Wait(soon, marks[i], "CALL_CLOSED")
	}
	o.carol.Wait(soon, mark, "CALL_ESTABLISHED")
	hear(t, listening, listener{o.carol, callers, o.alice.Tone}, listener{o.alice, answerers, o.carol.Tone})
	o.carol.Hangup()
	closed := o.alice.Wait(soon, called, "CALL_CLOSED")
	o.finals(t, o.carol, closed.ID)
}

// blind: a phone hands its call over to another one and is out of it.
func (o *offices) blind(t *testing.T) {
	for _, test := range []struct{ from, to, target *peers.Baresip }{
		{o.carol, o.bob, o.dave}, // from beside the PBX, for a call between offices
		{o.bob, o.dave, o.carol}, // between offices
		{o.dave, o.alice, o.bob}, // for a call within an office
		{o.alice, o.bob, o.dave}, // within an office, and out of it
	} {
		t.Run(fmt.Sprintf("%s sends %s to %s", test.from.User, test.to.User, test.target.User), func(t *testing.T) {
			c := dial(t, test.from, test.to).established().talk(listening)
			mark, recordings := test.target.Mark(), [2]int{len(test.to.Heard()), len(test.target.Heard())}
			transferred := test.to.Mark()
			test.from.Command("transfer", "sip:"+test.target.User+"@"+domain)
			test.target.Wait(soon, mark, "CALL_ESTABLISHED")
			test.to.Wait(soon, transferred, "CALL_ESTABLISHED")
			test.from.Wait(soon, c.marks[0], "CALL_CLOSED")
			hear(t, listening, listener{test.to, recordings[0], test.target.Tone}, listener{test.target, recordings[1], test.to.Tone})
			o.referred(t, test.from, test.to)
			test.target.Hangup()
			test.to.Wait(soon, transferred, "CALL_CLOSED")
		})
	}
}

// referred compares the REFER, the only one that the phone has sent, and its first NOTIFY at both phones.
func (o *offices) referred(t *testing.T, from, to *peers.Baresip) {
	t.Helper()
	sentBy, at := o.lan[from.Host.Name], o.lan[to.Host.Name]
	refer := sentBy.WaitSIP(soon, "REFER is sent", func(m *pcap.Message) bool {
		return m.Method == "REFER" && m.Src.Addr() == from.Host.Addr
	})
	for _, test := range []struct {
		method   string
		from, to *lab.Capture
	}{{"REFER", sentBy, at}, {"NOTIFY", at, sentBy}} {
		of := func(m *pcap.Message) bool {
			return m.Method == test.method && m.Header("Call-ID") == refer.Header("Call-ID")
		}
		sent := test.from.WaitSIP(soon, test.method+" is sent", of)
		arrived := test.to.WaitSIP(soon, test.method+" arrives", func(m *pcap.Message) bool {
			return of(m) && m.Header("CSeq") == sent.Header("CSeq")
		})
		untouched(t, sent, arrived, "contact")
	}
}
