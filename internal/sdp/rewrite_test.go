package sdp

import (
	"net/netip"
	"strings"
	"testing"
)

// toward returns a target function that gives media i the i-th of the targets,
// "RTP" or "RTP RTCP", with "!" at the end where it is translated; "-" leaves a
// media alone, "no" refuses it.
func toward(targets ...string) func(int, Media) (Target, bool) {
	return func(i int, _ Media) (to Target, ok bool) {
		text, translated := strings.CutSuffix(targets[min(i, len(targets)-1)], "!")
		rtp, rtcp, _ := strings.Cut(text, " ")
		if rtp == "-" {
			return Target{}, false
		}
		if rtp == "no" {
			return Target{Refused: true}, true
		}
		to.RTP = netip.MustParseAddrPort(rtp)
		if rtcp != "" {
			to.RTCP = netip.MustParseAddrPort(rtcp)
		}
		to.Translated = translated
		return to, true
	}
}

func TestRewrite(t *testing.T) {
	const (
		origin = "v=0\no=- 1 1 IN IP4 192.0.2.9\ns=-\n"
		own    = "198.51.100.1:50000"
		ownC   = "c=IN IP4 198.51.100.1\n"
		lanC   = "c=IN IP4 192.0.2.1\n"
	)
	for _, c := range []struct {
		name, in string
		targets  []string
		want     string
	}{
		{"session address", origin + lanC + "t=0 0\nm=audio 4000 RTP/AVP 0 8\na=ptime:20\n", []string{own},
			origin + ownC + "t=0 0\nm=audio 50000 RTP/AVP 0 8\na=ptime:20\n"},
		{"media address", origin + "t=0 0\nm=audio 4000 RTP/AVP 0\n" + lanC + "a=ptime:20\n", []string{own},
			origin + "t=0 0\nm=audio 50000 RTP/AVP 0\n" + ownC + "a=ptime:20\n"},
		{"both", origin + lanC + "m=audio 4000 RTP/AVP 0\nc=IN IP4 192.0.2.2\n", []string{own},
			origin + ownC + "m=audio 50000 RTP/AVP 0\n" + ownC},
		{"two media, one address", origin + lanC + "m=audio 4000 RTP/AVP 0\nm=video 4002 RTP/AVP 31\n", []string{own, "198.51.100.1:50002"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\nm=video 50002 RTP/AVP 31\n"},
		{"two media, two addresses", origin + lanC + "m=audio 4000 RTP/AVP 0\na=x\nm=video 4002 RTP/AVP 31\ni=title\nb=AS:1\na=y\n",
			[]string{own, "198.51.100.2:50002"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\na=x\nm=video 50002 RTP/AVP 31\ni=title\nc=IN IP4 198.51.100.2\nb=AS:1\na=y\n"},
		{"second one left alone", origin + lanC + "m=audio 4000 RTP/AVP 0\nm=video 4002 RTP/AVP 31\na=y\n", []string{own, "-"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\nm=video 4002 RTP/AVP 31\n" + lanC + "a=y\n"},
		{"first one left alone", origin + "c=IN IP4 a.name/9\nm=audio 4000 RTP/AVP 0\nm=video 4002 RTP/AVP 31\na=y\n", []string{"-", own},
			origin + ownC + "m=audio 4000 RTP/AVP 0\nc=IN IP4 a.name/9\nm=video 50000 RTP/AVP 31\na=y\n"},
		{"all left alone", origin + lanC + "m=audio 4000 RTP/AVP 0\na=candidate:1\n", []string{"-"},
			origin + lanC + "m=audio 4000 RTP/AVP 0\na=candidate:1\n"},
		{"port 0", origin + lanC + "m=audio 0 RTP/AVP 0\na=candidate:1\nm=image 6012 udptl t38\na=T38FaxVersion:0\n", []string{own},
			origin + ownC + "m=audio 0 RTP/AVP 0\na=candidate:1\nm=image 50000 udptl t38\na=T38FaxVersion:0\n"},
		{"only port 0", origin + lanC + "m=audio 0 RTP/AVP 0\n", []string{own}, origin + lanC + "m=audio 0 RTP/AVP 0\n"},
		{"hold", origin + "c=IN IP4 0.0.0.0\nm=audio 4000 RTP/AVP 0\na=rtcp:4001\n", []string{own},
			origin + "c=IN IP4 0.0.0.0\nm=audio 50000 RTP/AVP 0\na=rtcp:50001\n"},
		{"hold of the media", origin + lanC + "m=audio 4000 RTP/AVP 0\nc=IN IP4 0.0.0.0\na=rtcp:9 IN IP4 0.0.0.0\n", []string{own},
			origin + lanC + "m=audio 50000 RTP/AVP 0\nc=IN IP4 0.0.0.0\na=rtcp:9 IN IP4 0.0.0.0\n"},
		{"hold of one of two", origin + "m=audio 4000 RTP/AVP 0\nc=IN IP6 ::\nm=video 4002 RTP/AVP 31\n" + lanC, []string{own, "198.51.100.1:50002"},
			origin + "m=audio 50000 RTP/AVP 0\nc=IN IP6 ::\nm=video 50002 RTP/AVP 31\n" + ownC},
		{"no address at all", origin + "m=audio 4000 RTP/AVP 0\na=x\n", []string{own},
			origin + "m=audio 50000 RTP/AVP 0\n" + ownC + "a=x\n"},
		{"IPv6 to IPv4", "v=0\no=- 1  2 IN IP6 2001:db8::1\nc=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\n", []string{own},
			"v=0\no=- 1  2 IN IP6 2001:db8::1\n" + ownC + "m=audio 50000 RTP/AVP 0\n"},
		{"IPv6 to IPv4, translated", "v=0\no=- 1  2 IN ip6 2001:db8::1\nc=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\n", []string{own + "!"},
			"v=0\no=- 1  2 IN IP4 198.51.100.1\n" + ownC + "m=audio 50000 RTP/AVP 0\n"},
		{"origin of an odd kind", "v=0\no=- 1 IN IP6\nc=IN IP6 2001:db8::1\nm=audio 4000 RTP/AVP 0\no=- 1 2 IN IP6 ::1\n", []string{own + "!"},
			"v=0\no=- 1 IN IP6\n" + ownC + "m=audio 50000 RTP/AVP 0\no=- 1 2 IN IP6 ::1\n"},
		{"IPv4 to IPv6", origin + lanC + "m=audio 4000/2 RTP/AVP 0\na=rtcp:4001 IN IP4 192.0.2.1\n", []string{"[2001:db8::9]:50000!"},
			"v=0\no=- 1 1 IN IP6 2001:db8::9\ns=-\n" + "c=IN IP6 2001:db8::9\nm=audio 50000 RTP/AVP 0\na=rtcp:50001 IN IP6 2001:db8::9\n"},
		{"mapped and with a zone", origin + lanC + "m=audio 4000 RTP/AVP 0\n" + lanC + "m=audio 4002 RTP/AVP 0\nc=IN IP6 fe80::9\n",
			[]string{"[::ffff:198.51.100.1]:50000", "[fe80::1%eth0]:50002"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\n" + ownC + "m=audio 50002 RTP/AVP 0\nc=IN IP6 fe80::1\n"},
		{"time to live", origin + "m=audio 4000 RTP/AVP 0\nc=IN IP4 233.252.0.1/127/3\n", []string{own},
			origin + "m=audio 50000 RTP/AVP 0\n" + ownC},
		{"rtcp", origin + lanC + "m=audio 4000 RTP/AVP 0\na=rtcp:4009\n", []string{own}, origin + ownC + "m=audio 50000 RTP/AVP 0\na=rtcp:50001\n"},
		{"rtcp with address", origin + lanC + "m=audio 4000 RTP/AVP 0\na=rtcp:4009 IN IP4 192.0.2.1\n", []string{own},
			origin + ownC + "m=audio 50000 RTP/AVP 0\na=rtcp:50001 IN IP4 198.51.100.1\n"},
		{"rtcp elsewhere", origin + lanC + "m=audio 4000 RTP/AVP 0\na=rtcp:4009\n", []string{own + " 198.51.100.7:9"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\na=rtcp:9 IN IP4 198.51.100.7\n"},
		{"rtcp to be added", origin + lanC + "m=audio 4000 RTP/AVP 0\nb=AS:64\na=x\n", []string{own + " 198.51.100.1:50007"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\nb=AS:64\na=rtcp:50007\na=x\n"},
		{"rtcp to be added at the end", origin + lanC + "m=audio 4000 RTP/AVP 0", []string{own + " 198.51.100.7:50007"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\na=rtcp:50007 IN IP4 198.51.100.7\n"},
		{"both to be added", origin + "m=audio 4000 RTP/AVP 0\nm=audio 4002 RTP/AVP 0", []string{own + " 198.51.100.1:1"},
			origin + "m=audio 50000 RTP/AVP 0\n" + ownC + "a=rtcp:1\nm=audio 50000 RTP/AVP 0\n" + ownC + "a=rtcp:1\n"},
		{"rtcp not for T.38", origin + lanC + "m=image 4000 udptl t38\n", []string{own + " 198.51.100.1:1"}, origin + ownC + "m=image 50000 udptl t38\n"},
		{"rtcp not beside rtcp-mux", origin + lanC + "m=audio 4000 UDP/TLS/RTP/SAVPF 0\na=rtcp-mux\n", []string{own + " 198.51.100.1:1"},
			origin + ownC + "m=audio 50000 UDP/TLS/RTP/SAVPF 0\na=rtcp-mux\n"},
		{"rtcp above is not added", origin + lanC + "m=audio 4000 RTP/AVP 0\n", []string{own + " 198.51.100.1:50001"},
			origin + ownC + "m=audio 50000 RTP/AVP 0\n"},
		{"rtcp of the last port", origin + lanC + "m=audio 4000 RTP/AVP 0\na=rtcp:7\n", []string{"198.51.100.1:65535"},
			origin + ownC + "m=audio 65535 RTP/AVP 0\na=rtcp:7\n"},
		{"keys stay", origin + lanC + "m=audio 4000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc|2^20|1:32\na=fingerprint:SHA-256 4A:AD\na=setup:actpass\n", []string{own},
			origin + ownC + "m=audio 50000 RTP/SAVP 0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc|2^20|1:32\na=fingerprint:SHA-256 4A:AD\na=setup:actpass\n"},
		{"ICE", origin + lanC + "a=ice-lite\na=ice-options:x\nm=audio 4000 RTP/AVP 0\na=ice-ufrag:u\na=ice-pwd:p\na=Candidate:1 1 UDP 1 192.0.2.1 1 typ host\na=remote-candidates:1 192.0.2.1 1\na=end-of-candidates\na=altc:1 IP4 192.0.2.1 1\na=icecream\n",
			[]string{own}, origin + ownC + "m=audio 50000 RTP/AVP 0\na=icecream\n"},
		{"says so already", origin + "c=IN  IP4 198.51.100.1/9 \nm=audio  50000  RTP/AVP 0 \na=rtcp:050001\n", []string{own},
			origin + "c=IN  IP4 198.51.100.1/9 \nm=audio  50000  RTP/AVP 0 \na=rtcp:050001\n"},
		{"white space and what is no line", "v=0 \nxyz\n\nc= IN IP4  192.0.2.1\nm=audio  4000  RTP/AVP  0 \n\xff\n", []string{own},
			"v=0 \nxyz\n\n" + ownC + "m=audio  50000  RTP/AVP  0 \n\xff\n"},
		{"MSRP refused", origin + lanC + "m=audio 4000 RTP/AVP 0\nm=message 2855 TCP/MSRP *\nc=IN IP4 192.0.2.2\na=accept-types:text/plain\na=path:msrp://192.0.2.2:2855/x;tcp\n",
			[]string{own, "no"}, origin + ownC + "m=audio 50000 RTP/AVP 0\nm=message 0 TCP/MSRP *\nc=IN IP4 192.0.2.2\na=accept-types:text/plain\n"},
		{"only MSRP", origin + lanC + "a=ice-lite\nm=message 2855/2 TCP/MSRP *\na=path:msrp://192.0.2.1:2855/x;tcp\n", []string{"no"},
			origin + lanC + "a=ice-lite\nm=message 0/2 TCP/MSRP *\n"},
		{"several ports", origin + lanC + "m=audio 4000/1 RTP/AVP 0\nm=video 50002/2  RTP/AVP 31\n", []string{own, "198.51.100.1:50002"},
			origin + ownC + "m=audio 50000/1 RTP/AVP 0\nm=video 50002  RTP/AVP 31\n"},
		{"dual stack", origin + "m=audio 4000 RTP/AVP 0\n" + lanC + "m=audio 4002 RTP/AVP 0\nc=IN IP6 2001:db8::1\n",
			[]string{own, "[2001:db8::9]:50002"}, origin + "m=audio 50000 RTP/AVP 0\n" + ownC + "m=audio 50002 RTP/AVP 0\nc=IN IP6 2001:db8::9\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, form := range []func(string) string{crlf, func(s string) string { return s }} {
				var d Description
				if err := d.Parse([]byte(form(c.in))); err != nil {
					t.Fatal(err)
				}
				got := string(d.Rewrite([]byte("before"), toward(c.targets...)))
				if want := "before" + form(c.want); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				if again := string(d.Rewrite([]byte("before"), toward(c.targets...))); again != got {
					t.Errorf("the second time it is\n%s", again)
				}
			}
		})
	}
}

// TestRewriteCutShort adds lines to a description that lost its last byte to a
// Content-Length that is one too small, as some phones send it.
func TestRewriteCutShort(t *testing.T) {
	var d Description
	if err := d.Parse([]byte("v=0\r\nm=audio 4000 RTP/AVP 0\r")); err != nil {
		t.Fatal(err)
	}
	got := string(d.Rewrite(nil, toward("198.51.100.1:50000 198.51.100.1:9")))
	if want := "v=0\r\nm=audio 50000 RTP/AVP 0\r\nc=IN IP4 198.51.100.1\r\na=rtcp:9\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
