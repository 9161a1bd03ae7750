//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// domain is that of the PBX's users.
const domain = "pbx.example"

// soon bounds the wait for what happens at once when all is well; machines of CI are slow at times, and with E2E_RACE=1 the
// programs are.
const soon = 20 * time.Second

// users are those whom Kamailio knows, with their passwords.
var users = map[string]string{
	"alice": "alice-1f70c", "bob": "bob-93ab2", "carol": "carol-5d2e8", "dave": "dave-60b41",
}

// tones are what the users say, in Hz: no two share a harmonic below 4 kHz.
var tones = map[string]float64{"alice": 440, "bob": 1000, "carol": 620, "dave": 1460}

// phone describes a phone of one of the users.
func phone(user, transport, outbound string) peers.PhoneConfig {
	return peers.PhoneConfig{
		User: user, Password: users[user], Domain: domain, Tone: tones[user],
		Transport: transport, Outbound: "sip:" + outbound + ";transport=" + transport,
	}
}

// answering has the phone answer at once.
func answering(config peers.PhoneConfig) peers.PhoneConfig {
	config.AutoAnswer = true
	return config
}

// start starts a phone and waits until it is registered.
func start(t *testing.T, host *lab.Host, config peers.PhoneConfig) *peers.Baresip {
	t.Helper()
	b := peers.StartBaresip(t, host, config)
	b.Wait(soon, 0, "REGISTER_OK")
	return b
}

// A call is one between two phones, as both see it.
type call struct {
	t              *testing.T
	caller, callee *peers.Baresip
	marks          [2]int // where its events begin
	heard          [2]int // the number of its recording
}

// dial has the caller call the callee's user, and waits until that rings, or has answered by itself.
func dial(t *testing.T, caller, callee *peers.Baresip) *call {
	t.Helper()
	c := &call{t: t, caller: caller, callee: callee}
	for i, b := range []*peers.Baresip{caller, callee} {
		c.marks[i], c.heard[i] = b.Mark(), len(b.Heard())
	}
	caller.Dial("sip:" + callee.User + "@" + domain)
	callee.Wait(soon, c.marks[1], "CALL_INCOMING", "CALL_ESTABLISHED")
	return c
}

// established waits until both sides say that the call stands.
func (c *call) established() *call {
	c.t.Helper()
	c.caller.Wait(soon, c.marks[0], "CALL_ESTABLISHED")
	c.callee.Wait(soon, c.marks[1], "CALL_ESTABLISHED")
	return c
}

// closed waits until both sides say that the call is over.
func (c *call) closed() {
	c.t.Helper()
	c.caller.Wait(soon, c.marks[0], "CALL_CLOSED")
	c.callee.Wait(soon, c.marks[1], "CALL_CLOSED")
}

// talk lets both talk for that long, and fails the test where a side hears anything but the other's tone.
func (c *call) talk(length time.Duration) *call {
	c.t.Helper()
	hear(c.t, length,
		listener{c.caller, c.heard[0], c.callee.Tone},
		listener{c.callee, c.heard[1], c.caller.Tone})
	return c
}

// A listener is a phone that should hear a tone.
type listener struct {
	*peers.Baresip
	recording int // its number
	tone      float64
}

// heard returns the recording as far as it goes.
func (l listener) heard() []int16 {
	if all := l.Heard(); len(all) > l.recording {
		return all[l.recording]
	}
	return nil
}

// hear waits until the phones have all heard that much more, and measures it.
func hear(t *testing.T, length time.Duration, listeners ...listener) {
	t.Helper()
	before := make([]int, len(listeners))
	for i, l := range listeners {
		before[i] = len(l.heard())
	}
	deadline := time.Now().Add(length + soon)
	for i, l := range listeners {
		need := before[i] + int(length.Seconds()*audio.Rate)
		if !lab.Within(time.Until(deadline), func() bool { return len(l.heard()) >= need }) {
			t.Fatalf("%s has heard %v of the call and no more than %v in the last %v", l.User, seconds(before[i]),
				seconds(len(l.heard())-before[i]), length+soon)
		}
	}
	for i, l := range listeners {
		purely(t, l.User, l.heard()[before[i]:], l.tone)
	}
}

// purely fails the test where the samples are not that tone, loud and alone.
func purely(t *testing.T, who string, samples []int16, tone float64) {
	t.Helper()
	share, level := audio.Share(samples, tone), audio.Level(samples)
	t.Logf("%s heard %v: %.1f %% of it is %v Hz, level %.2f", who, seconds(len(samples)), 100*share, tone, level)
	if share < 0.9 || level < 0.2 {
		t.Errorf("%s did not hear the %v Hz tone alone", who, tone)
	}
}

func seconds(samples int) time.Duration {
	return (time.Duration(samples) * time.Second / audio.Rate).Round(10 * time.Millisecond)
}

// request accepts requests of the method.
func request(method string) func(*pcap.Message) bool {
	return func(m *pcap.Message) bool { return m.Method == method }
}

// response accepts responses with the status to requests of the method.
func response(status int, method string) func(*pcap.Message) bool {
	return func(m *pcap.Message) bool { return m.Status == status && m.CSeqMethod() == method }
}
