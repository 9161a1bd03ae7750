package sipfwd

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// rogue is a client that speaks to the PBX side without a LANSide of its own.
type rogue struct {
	*rig
	conn *fakePhoneConn
	call *call
}

func newRogue(t *testing.T) *rogue {
	t.Helper()
	r := &rogue{rig: newRig(t)}
	r.conn = &fakePhoneConn{tunnel: r.tunnel, id: 77, in: make(chan []byte, 64), done: make(chan struct{})}
	r.tunnel.mu.Lock()
	r.tunnel.conns[77] = r.conn
	r.tunnel.mu.Unlock()
	var err error
	if r.conn.local, err = r.pbx.OpenPhone(77, "rogue", nil); err != nil {
		t.Fatal(err)
	}
	r.call = &call{id: "rogue", from: "<sip:a@b>", to: "<sip:c@d>", fromTag: "x", transport: "UDP", at: netip.MustParseAddrPort("10.9.9.9:5060")}
	return r
}

func (r *rogue) send(msg string) { r.pbx.FromTunnel(77, []byte(msg)) }

func (r *rogue) gets(prefix string) {
	r.t.Helper()
	select {
	case b := <-r.conn.in:
		if !strings.HasPrefix(string(b), prefix) {
			r.t.Errorf("the client got:\n%s", b)
		}
	case <-time.After(5 * time.Second):
		r.t.Errorf("the client got nothing, want %s", prefix)
	}
}

// TestMediaAddressCannotBeSmuggled: whatever the form in which a client names
// another address than its relay's, the PBX does not hear of it.
func TestMediaAddressCannotBeSmuggled(t *testing.T) {
	relay := "v=0\r\no=- 1 1 IN IP4 127.0.0.20\r\ns=-\r\nc=IN IP4 127.0.0.20\r\nt=0 0\r\nm=audio 50002 RTP/AVP 0\r\n"
	evil := sdpAt(netip.MustParseAddrPort("203.0.113.9:4000"))
	multipart := "--b\r\nContent-Type: application/sdp\r\n\r\n" + relay + "\r\n--b\r\nContent-Type: application/sdp\r\n\r\n" + evil + "\r\n--b--\r\n"
	typed := func(contentType, body string, headers ...string) []string {
		return append(headers, "Content-Type: "+contentType, "body:"+body)
	}
	for _, tt := range []struct {
		name   string
		toTag  string
		parts  []string
		status string
	}{
		{"plainly", "", []string{evil}, "488"},
		{"in a dialog that nobody knows", "unknown", []string{evil}, "481"},
		{"as the second of two parts", "", typed("multipart/mixed;boundary=b", multipart), "488"},
		{"encoded", "", typed("application/sdp", "gzip", "Content-Encoding: gzip"), "415"},
		{"encoded in a multipart", "", typed("multipart/mixed;boundary=b", "--b--", "e: deflate"), "415"},
		{"as an ICE candidate", "", []string{relay + "a=candidate:1 1 UDP 1 203.0.113.9 4000 typ host\r\n"}, "488"},
		{"as an alternative", "", []string{relay + "a=altc:1 IP4 203.0.113.9 4000\r\n"}, "488"},
		{"as a range of ports", "", []string{strings.Replace(relay, "50002", "50002/4", 1)}, "488"},
		{"for RTCP", "", []string{relay + "a=rtcp:4001 IN IP4 203.0.113.9\r\n"}, "488"},
		{"for RTCP by name", "", []string{relay + "a=rtcp:4001 IN IP4 evil.example\r\n"}, "488"},
		{"for RTCP on hold", "", []string{strings.Replace(relay, "c=IN IP4 127.0.0.20", "c=IN IP4 0.0.0.0", 1) + "a=rtcp:4001 IN IP4 203.0.113.9\r\n"}, "488"},
		{"over TCP", "", []string{strings.Replace(relay, "RTP/AVP", "TCP/RTP/AVP", 1)}, "488"},
		{"as the path of MSRP", "", []string{relay + "a=path:msrp://203.0.113.9:4000/x;tcp\r\n"}, "488"},
		{"by name", "", []string{strings.Replace(relay, "c=IN IP4 127.0.0.20", "c=IN IP4 evil.example", 1)}, "488"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRogue(t)
			r.media.allocate(t.Context(), r.proxy.Addr())
			r.call.toTag = tt.toTag
			r.send(r.call.request("INVITE", "sip:c@d", tt.parts...))
			r.gets("SIP/2.0 " + tt.status + " ")
			r.pbxSock.silent(50 * time.Millisecond)
			if n := len(r.pbx.Calls()); n != 0 {
				t.Errorf("%d calls left", n)
			}
		})
	}
	t.Run("but its own relay may be named", func(t *testing.T) {
		r := newRogue(t)
		r.media.allocate(t.Context(), r.proxy.Addr())
		r.send(r.call.request("INVITE", "sip:c@d", relay+"a=rtcp:50003\r\n"))
		r.pbxSock.next()
	})
}

// TestNoWayAroundThePort: a client cannot make the PBX send requests anywhere
// else than to the phone's port.
func TestNoWayAroundThePort(t *testing.T) {
	r := newRogue(t)
	r.send(r.call.request("INVITE", "sip:c@d", "Record-Route: <sip:203.0.113.9;lr>",
		"Contact: <sip:a@b@203.0.113.9>, <http://203.0.113.9/>, \"x\" <sip:a@203.0.113.9"))
	if inv := r.pbxSock.next(); strings.Contains(inv.raw, "203.0.113.9") {
		t.Errorf("the PBX got:\n%s", inv.raw)
	}
	in := phoneCall(t, r.pbxSock, "bob", "alice")
	r.send(r.call.request("REGISTER", "sip:d", "Contact: <sip:alice@10.9.9.9>"))
	reg := r.pbxSock.next()
	port := r.pbxSock.from
	r.pbxSock.reply(reg, "200 OK", "Contact: "+reg.header("Contact")+";expires=60")
	r.gets("SIP/2.0 200 ")
	r.pbxSock.send(port, in.request("INVITE", "sip:alice@"+port.String(), "Record-Route: <sip:own.example;lr>"))
	var inv received
	inv.Parse(<-r.conn.in)
	r.send(answer(inv, "200 OK", "Record-Route: <sip:203.0.113.9;lr>", "Contact: <sip:alice@10.9.9.9>"))
	if ok := r.pbxSock.next(); strings.Contains(ok.raw, "203.0.113.9") || ok.header("Record-Route") != "<sip:own.example;lr>" {
		t.Errorf("the PBX got:\n%s", ok.raw)
	}
}

// TestStateOfAClientIsNotTrusted: the state of a phone comes from the client.
func TestStateOfAClientIsNotTrusted(t *testing.T) {
	r := newRig(t)
	for i, state := range []string{`[null]`, `null`, `{}`, `[{}]`, `[{"uri":"sip:a@b\r\nX: y","expires":"2999-01-01T00:00:00Z"}]`, "[", "\x00"} {
		id := uint32(100 + i)
		if _, err := r.pbx.OpenPhone(id, "rogue"+state, []byte(state)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.pbx.Phones()); n != 0 {
		t.Errorf("%d bindings out of nothing", n)
	}
}
