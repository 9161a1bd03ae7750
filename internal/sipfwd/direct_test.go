package sipfwd

import (
	"strings"
	"testing"
)

// TestMediaOverTCPIsRefused: an offer of audio and MSRP has its audio carried,
// and neither side is told an address of the other's for MSRP.
func TestMediaOverTCPIsRefused(t *testing.T) {
	const msrp = "m=message 2855 TCP/MSRP *\r\na=accept-types:text/plain\r\na=path:msrp://127.0.0.9:2855/x;tcp\r\n"
	refused := "m=message 0 TCP/MSRP *\r\na=accept-types:text/plain\r\n"
	r := newRig(t)
	phone := newAgent(t, "127.0.0.1:0")
	c := phoneCall(t, phone, "alice", "bob")
	phone.send(r.proxy, c.request("INVITE", "sip:bob@"+testDomain, "Contact: <sip:alice@"+phone.addr().String()+">", sdpAt(testRTP)+msrp))
	inv := r.pbxSock.next()
	if !strings.HasSuffix(inv.raw, "m=audio 50002 RTP/AVP 0\r\n"+refused) {
		t.Errorf("the PBX got:\n%s", inv.raw)
	}
	// A PBX that says an address all the same.
	r.pbxSock.reply(inv, "200 OK", "Contact: <sip:bob@"+r.pbxSock.addr().String()+">", sdpAt(testRTP)+msrp)
	if ok := phone.next(); !strings.HasSuffix(ok.raw, "m=audio 40002 RTP/AVP 0\r\n"+refused) {
		t.Errorf("the phone got:\n%s", ok.raw)
	}
	if n := r.state().mediaOpen; n != 1 {
		t.Errorf("%d media ports open, want that of the audio", n)
	}
}
