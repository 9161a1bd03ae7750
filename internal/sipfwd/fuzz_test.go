package sipfwd

import (
	"net/netip"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// FuzzProxy sends arbitrary messages at both halves from all four sides: phone,
// tunnel to the office, tunnel to the PBX side, and PBX. Whatever comes, the
// state of a phone stays within its bounds and a call made afterwards works.
func FuzzProxy(f *testing.F) {
	c := &call{id: "seed", from: "<sip:a@b>", to: "<sip:c@d>", fromTag: "x", transport: "UDP", at: netip.MustParseAddrPort("127.0.0.1:5060")}
	sdp := sdpAt(netip.MustParseAddrPort("127.0.0.1:7000"))
	for side := range byte(4) {
		for _, msg := range []string{
			c.request("REGISTER", "sip:d", "Contact: <sip:a@127.0.0.1:5060>;expires=60"),
			c.request("INVITE", "sip:c@d", "Contact: <sip:a@127.0.0.1>", "Supported: path, outbound", sdp),
			c.again("ACK", "sip:c@d", sdp),
			c.again("CANCEL", "sip:c@d"),
			c.request("BYE", "sip:c@d", "Route: <sip:127.0.0.1;lr>, <sip:x>"),
			c.request("PRACK", "sip:c@d", "Refer-To: <sip:127.0.0.1>"),
			testResponse("200 OK", "INVITE", testBranch),
			"\r\n\r\n",
		} {
			f.Add(side, []byte(msg))
		}
	}
	f.Fuzz(func(t *testing.T, side byte, msg []byte) {
		r := newRig(t)
		phone := newAgent(t, "127.0.0.1:0")
		uri := r.register(phone, "alice")
		var lp *lanPhone
		for _, p := range r.lan.allPhones() {
			lp = p
		}
		pp := r.pbx.allPhones()[0]
		if len(msg) > maxMessage {
			return
		}
		switch side % 4 {
		case 0:
			lp.fromPhone(lp.flow, msg)
		case 1:
			lp.fromTunnel(msg)
		case 2:
			r.pbx.FromTunnel(pp.id, msg)
		case 3:
			pp.fromPBX(source{addr: r.pbxSock.addr()}, msg)
		}
		lp.mu.Lock()
		if lp.legs.count > 1 || len(lp.edge.servers) > 2 || len(lp.edge.clients) > 2 {
			t.Errorf("one message left %d dialogs, %d and %d transactions", lp.legs.count, len(lp.edge.servers), len(lp.edge.clients))
		}
		lp.mu.Unlock()
		var m sipmsg.Message
		if m.Parse(msg) == nil && string(m.Method()) == "REGISTER" {
			return // it may have changed the binding that is used below
		}
		probe := phoneCall(t, r.pbxSock, "bob", "alice")
		r.pbxSock.send(pp.port.addr, probe.request("MESSAGE", uri))
		for deadline := time.Now().Add(5 * time.Second); ; {
			if time.Now().After(deadline) {
				t.Fatal("the phone is not reachable any more")
			}
			b := phone.read(time.Second)
			if b != nil && m.Parse(b) == nil && string(m.CallID()) == probe.id {
				return
			}
		}
	})
}
