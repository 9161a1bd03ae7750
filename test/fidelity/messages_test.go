package fidelity

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// expect runs f as a subtest.
func (r *rig) expect(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		defer func() {
			if t.Failed() { // leave nothing to the next one
				r.inbox.strays()
			}
		}()
		f(t)
	})
}

func (r *rig) report(t *testing.T) {
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		t.Logf("%5d %s", r.counts[what], what)
	}
}

// TestMessages puts every message of testdata through, from and to phones on
// UDP and on TCP.
func TestMessages(t *testing.T) {
	r := newRig(t)
	answers, replies := templates(t, "styles/pbx.txtar"), templates(t, "styles/phones.txtar")
	all := templates(t, "*.txtar")
	for _, transport := range []string{"UDP", "TCP"} {
		pool := r.pool(t, transport, answers, replies)
		for i, tp := range all {
			r.expect(t, fmt.Sprintf("%s/%s/%s", transport, tp.file, tp.name), func(t *testing.T) {
				x := &exchange{rig: r, t: t, ph: pool[i%len(pool)], answers: answers, replies: replies}
				if tp.firstMethod() == "REGISTER" || tp.method == "REGISTER" {
					x.ph = r.newPhone(t, transport) // its Contacts are its own
				}
				x.v = r.newCall(x.ph)
				x.run(tp)
				x.fence()
			})
		}
		for _, size := range []int{1300, 9000, 60 << 10} {
			r.expect(t, fmt.Sprintf("%s/large/%d", transport, size), func(t *testing.T) {
				x := &exchange{rig: r, t: t, ph: pool[size%len(pool)], answers: answers, replies: replies}
				for _, tp := range large(size) {
					x.v = r.newCall(x.ph)
					x.run(tp)
				}
				x.fence()
			})
		}
	}
	r.report(t)
	t.Logf("%d messages of testdata, %d manners of answering", len(all), len(answers)+len(replies))
}

// large are messages of about n bytes: in one header, in many, in the body.
func large(n int) []template {
	head := func(dir, method string) []string {
		uri := "sip:600@{{domain}}"
		if dir == "down" {
			uri = "{{target}}"
		}
		return []string{method + " " + uri + " SIP/2.0", "Via: SIP/2.0/{{transport}} {{addr}};branch={{branch}};rport", "Max-Forwards: 70",
			"From: <sip:{{user}}@{{domain}}>;tag={{tag}}", "To: <sip:600@{{domain}}>", "Call-ID: {{call}}", "CSeq: 1 " + method,
			"Contact: <sip:{{user}}@{{addr}}>"}
	}
	var all []template
	for _, dir := range []string{"up", "down"} {
		one := message(append(head(dir, "MESSAGE"), "X-Long: "+strings.Repeat("a,b;\"c\" ", n/8), "Content-Length: 0")...)
		var lines []string
		for i := range 200 {
			lines = append(lines, fmt.Sprintf("X-%d: %s\n\t%s", i, strings.Repeat("x", n/500), strings.Repeat("y", n/500)))
		}
		many := message(append(head(dir, "OPTIONS"), append(lines, "Content-Length: 0")...)...)
		body := message(append(head(dir, "INVITE"), "Content-Type: application/sdp", "Content-Length: {{length}}", "",
			"v=0", "o=- 1 1 IN IP4 {{ip}}", "s=-", "c=IN IP4 {{ip}}", "t=0 0", "m=audio 9000 RTP/AVP 8",
			strings.TrimSuffix(strings.Repeat("a=x-attribute:"+strings.Repeat("z", 40)+"\n", n/56), "\n"))...)
		for _, tp := range []template{one, many, body} {
			tp.up = dir == "up"
			all = append(all, tp)
		}
	}
	return all
}
