package sipmsg_test

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// A proxy receives a request, and passes it on with its own hop on top.
func Example() {
	received := strings.ReplaceAll(`OPTIONS sip:200@pbx.example.net SIP/2.0
v: SIP/2.0/UDP 192.168.1.31:5060 ; RPORT ; branch=z9hG4bK-8b2a51fc
f: "Workshop, \"2nd\" floor" <sip:140@pbx.example.net>;tag=9d1a3f6b
t: <sip:200@pbx.example.net>
i: 1c3d5e7f@192.168.1.31
CSeq:  51004   OPTIONS
Max-Forwards: 70
k: replaces,path,
 timer
X-Vendor: anything

`, "\n", "\r\n")

	var m sipmsg.Message
	if err := m.Parse([]byte(received)); err != nil {
		fmt.Println(err)
		return
	}
	m.SetViaReceived(netip.MustParseAddr("192.168.1.31"), 62044)
	m.PushVia([]byte("SIP/2.0/UDP 203.0.113.10:6003;branch=z9hG4bK-1"))
	m.RemoveOptionTag(sipmsg.Supported, "path")
	if n, ok := m.MaxForwards(); ok {
		m.SetMaxForwards(n - 1)
	}
	fmt.Print(strings.ReplaceAll(string(m.AppendTo(nil)), "\r\n", "\n"))
	// Output:
	// OPTIONS sip:200@pbx.example.net SIP/2.0
	// Via: SIP/2.0/UDP 203.0.113.10:6003;branch=z9hG4bK-1
	// v: SIP/2.0/UDP 192.168.1.31:5060 ; RPORT=62044 ; branch=z9hG4bK-8b2a51fc;received=192.168.1.31
	// f: "Workshop, \"2nd\" floor" <sip:140@pbx.example.net>;tag=9d1a3f6b
	// t: <sip:200@pbx.example.net>
	// i: 1c3d5e7f@192.168.1.31
	// CSeq:  51004   OPTIONS
	// Max-Forwards: 69
	// k: replaces,timer
	// X-Vendor: anything
}
