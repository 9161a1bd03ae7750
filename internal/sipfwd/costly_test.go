package sipfwd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestCostlyMessages: no message of a client keeps the PBX side busy for long,
// however many values a header has that must be looked at one by one.
func TestCostlyMessages(t *testing.T) {
	const size = 62_000
	numbered := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for _, tt := range []struct{ name, method, header, status string }{
		{"tags that go and tags that stay", "OPTIONS", "Supported: " + strings.Repeat("path,x,", size/7) + "y", "513"},
		{"Contacts that are none", "MESSAGE", "Contact: " + strings.Repeat("a,", size/2) + "a", ""},
		{"Contacts with one user", "REGISTER", "Contact: " + numbered("sip:a@%x,"), "513"},
		{"Contacts without a user", "REGISTER", "Contact: " + numbered("sip:%x,"), "513"},
		{"routes", "MESSAGE", "Record-Route: " + strings.Repeat("a,", size/2) + "a", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRogue(t)
			start := time.Now()
			r.send(r.call.request(tt.method, "sip:c@d", tt.header))
			if tt.status != "" {
				r.gets("SIP/2.0 " + tt.status + " ")
			} else if m := r.pbxSock.next(); string(m.Method()) != tt.method {
				t.Errorf("the PBX got:\n%.300s", m.raw)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	for _, asked := range []struct{ name, header string }{
		{"routes in a response", "Subject: none"}, {"routes in a response, and others in the request", "Record-Route: " + numbered("%x,")[:size/2] + "a"},
	} {
		t.Run(asked.name, func(t *testing.T) {
			r := newRogue(t)
			r.send(r.call.request("REGISTER", "sip:d", "Contact: <sip:alice@10.9.9.9>"))
			reg := r.pbxSock.next()
			port := r.pbxSock.from
			r.pbxSock.reply(reg, "200 OK", "Contact: "+reg.header("Contact")+";expires=60")
			r.gets("SIP/2.0 200 ")
			in := phoneCall(t, r.pbxSock, "bob", "alice")
			r.pbxSock.send(port, in.request("MESSAGE", "sip:alice@"+port.String(), asked.header))
			var m received
			m.Parse(<-r.conn.in)
			start := time.Now()
			r.send(answer(m, "200 OK", "Record-Route: "+strings.Repeat("z,", size/5)+"z"))
			if ok := r.pbxSock.next(); strings.Contains(string(ok.raw), "z,z") {
				t.Errorf("the PBX got:\n%.300s", ok.raw)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	t.Run("more to edit in a response than is done", func(t *testing.T) {
		r := newRig(t)
		phone := newAgent(t, "127.0.0.1:0")
		uri := r.register(phone, "alice")
		in := phoneCall(t, r.pbxSock, "bob", "alice")
		r.pbxSock.send(r.pbxSock.from, in.request("OPTIONS", uri))
		phone.reply(phone.next(), "200 OK", "Contact: "+numbered("<sip:a@b;x=%d>,"))
		if res := r.pbxSock.next(); res.StatusCode() != 500 {
			t.Errorf("the PBX got:\n%.300s", res.raw)
		}
	})
}
