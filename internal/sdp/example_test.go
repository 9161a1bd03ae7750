package sdp_test

import (
	"fmt"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sdp"
)

// A relay puts its own address where the one of a phone was.
func ExampleDescription_Rewrite() {
	const received = `v=0
o=- 20083 20083 IN IP4 192.168.10.21
s=call
c=IN IP4 192.168.10.21
t=0 0
m=audio 11790 RTP/SAVP 9 0
a=crypto:1 AES_CM_128_HMAC_SHA1_32 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj
a=candidate:1 1 UDP 2130706303 192.168.10.21 11790 typ host
a=rtcp:11791 IN IP4 192.168.10.21
m=image 0 udptl t38
`
	relay := netip.MustParseAddrPort("203.0.113.10:50000")
	var d sdp.Description
	if err := d.Parse([]byte(received)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s", d.Rewrite(nil, func(int, sdp.Media) (sdp.Target, bool) {
		return sdp.Target{RTP: relay}, true
	}))
	// Output:
	// v=0
	// o=- 20083 20083 IN IP4 192.168.10.21
	// s=call
	// c=IN IP4 203.0.113.10
	// t=0 0
	// m=audio 50000 RTP/SAVP 9 0
	// a=crypto:1 AES_CM_128_HMAC_SHA1_32 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj
	// a=rtcp:50001 IN IP4 203.0.113.10
	// m=image 0 udptl t38
}
