package sdp

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// crlf returns s with the line ends of SDP.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

const session = "v=0\no=- 1 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.1\nt=0 0\n"

func describe(m Media) string {
	s := fmt.Sprintf("%s %d %s %s rtp=%v rtcp=%v %v", m.Type, m.Port, m.Proto, m.Host, m.RTPAddr(), m.RTCPAddr(), m.Direction)
	for _, flag := range []struct {
		set  bool
		name string
	}{{m.RTCPMux, " mux"}, {m.Hold, " hold"}, {m.Alternatives, " alternatives"}, {m.PortCount != 1, fmt.Sprint(" count ", m.PortCount)}} {
		if flag.set {
			s += flag.name
		}
	}
	return s
}

func TestParse(t *testing.T) {
	const none = "invalid AddrPort"
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"no media", session, nil},
		{"audio", session + "m=audio 4000 RTP/AVP 0 8\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv"}},
		{"own address", session + "m=audio 4000 RTP/AVP 0\ni=x\nc=IN IP4 192.0.2.2/127\nm=video 5000/2 RTP/AVP 31\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.2 rtp=192.0.2.2:4000 rtcp=192.0.2.2:4001 sendrecv",
				"video 5000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:5000 rtcp=192.0.2.1:5001 sendrecv count 2"}},
		{"rtcp port", session + "m=audio 4000 RTP/AVP 0\na=rtcp:53020\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:53020 sendrecv"}},
		{"rtcp address", session + "m=audio 4000 RTP/AVP 0\na=rtcp:53020 IN IP6 2001:db8::1\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=[2001:db8::1]:53020 sendrecv"}},
		{"rtcp before c=", session + "m=audio 4000 RTP/AVP 0\na=rtcp:53020\nc=IN IP4 192.0.2.3\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.3 rtp=192.0.2.3:4000 rtcp=192.0.2.3:53020 sendrecv"}},
		{"rtcp by name", session + "m=audio 4000 RTP/AVP 0\na=rtcp:53020 IN IP4 host.example\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=" + none + " sendrecv"}},
		{"rtcp of port 0", session + "m=audio 4000 RTP/AVP 0\na=rtcp:0\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv"}},
		{"rtcp-mux", session + "m=audio 4000 RTP/AVP 0\na=rtcp-mux\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4000 sendrecv mux"}},
		{"last port", session + "m=audio 65535 RTP/AVP 0\n",
			[]string{"audio 65535 RTP/AVP 192.0.2.1 rtp=192.0.2.1:65535 rtcp=" + none + " sendrecv"}},
		{"refused", session + "m=audio 0 RTP/AVP 0\na=inactive\n",
			[]string{"audio 0 RTP/AVP 192.0.2.1 rtp=" + none + " rtcp=" + none + " inactive hold"}},
		{"T.38", session + "m=image 6012 udptl t38\na=T38FaxVersion:0\n",
			[]string{"image 6012 udptl 192.0.2.1 rtp=192.0.2.1:6012 rtcp=192.0.2.1:6013 sendrecv"}},
		{"hold by address", "v=0\nc=IN IP4 0.0.0.0\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP 0.0.0.0 rtp=0.0.0.0:4000 rtcp=0.0.0.0:4001 sendrecv hold"}},
		{"hold by IPv6 address", "v=0\nc=IN IP6 ::\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP :: rtp=[::]:4000 rtcp=[::]:4001 sendrecv hold"}},
		{"directions", session + "a=sendonly\nm=audio 1 RTP/AVP 0\nm=audio 2 RTP/AVP 0\na=recvonly\nm=audio 3 RTP/AVP 0\na=sendrecv\nm=audio 4 RTP/AVP 0\na=inactive\n",
			[]string{"audio 1 RTP/AVP 192.0.2.1 rtp=192.0.2.1:1 rtcp=192.0.2.1:2 sendonly hold",
				"audio 2 RTP/AVP 192.0.2.1 rtp=192.0.2.1:2 rtcp=192.0.2.1:3 recvonly",
				"audio 3 RTP/AVP 192.0.2.1 rtp=192.0.2.1:3 rtcp=192.0.2.1:4 sendrecv",
				"audio 4 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4 rtcp=192.0.2.1:5 inactive hold"}},
		{"no address", "v=0\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP  rtp=" + none + " rtcp=" + none + " sendrecv"}},
		{"a name", "v=0\nc=IN IP4 host.example\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP host.example rtp=" + none + " rtcp=" + none + " sendrecv"}},
		{"an empty c=", "v=0\nc=\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP  rtp=" + none + " rtcp=" + none + " sendrecv"}},
		{"the same c= twice", session + "m=audio 4000 RTP/AVP 0\nc=IN IP4 192.0.2.2\nc=IN IP4 192.0.2.2\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.2 rtp=192.0.2.2:4000 rtcp=192.0.2.2:4001 sendrecv"}},
		{"white space", "v=0 \nc=IN  IP4\t192.0.2.1 \nm=audio  4000   RTP/AVP  0 \n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv"}},
		{"candidates", session + "m=audio 4000 RTP/AVP 0\na=candidate:1 1 UDP 1 192.0.2.7 9 typ host\nm=audio 5000 RTP/AVP 0\na=ice-ufrag:x\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv alternatives",
				"audio 5000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:5000 rtcp=192.0.2.1:5001 sendrecv"}},
		{"altc of the session", session + "a=ALTC:1 IP6 ::1 9\nm=audio 4000 RTP/AVP 0\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv alternatives"}},
		{"not SDP in between", session + "\nfoo\n=\nx\nm=audio 4000 RTP/AVP 0\n\n\xff\n",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv"}},
		{"no end of the last line", session + "m=audio 4000 RTP/AVP 0",
			[]string{"audio 4000 RTP/AVP 192.0.2.1 rtp=192.0.2.1:4000 rtcp=192.0.2.1:4001 sendrecv"}},
	} {
		for _, in := range []string{c.in, crlf(c.in)} {
			var d Description
			if err := d.Parse([]byte(in)); err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			var got []string
			for _, m := range d.Media() {
				got = append(got, describe(m))
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("%s:\n%s\nwant\n%s", c.name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ in, reason string }{
		{"", "no v=0 line"},
		{"v=1\n", "no v=0 line"},
		{"o=- 1 1 IN IP4 192.0.2.1\nv=0\n", "no v=0 line"},
		{"\nv=0\n", "no v=0 line"},
		{"v=0\r\nv=0\r\n", "more than one v= line"},
		{"v=0\r\ns=\x00\r\nc=IN IP4 192.0.2.1\r\n", "zero byte"},
		{"v=0\r\ns=x\rc=IN IP4 192.0.2.1\r\n", "carriage return inside of a line"},
		{"v=0\r\ns=x\r\r\n", "carriage return inside of a line"},
		{"v=0\r\r\n", "no v=0 line"},
		{"v=0\ns=x\r\r", "carriage return inside of a line"},
		{"v=0\nm=\n", "malformed m= line"},
		{"v=0\nm=audio\n", "malformed m= line"},
		{"v=0\nm=audio 4000\n", "malformed m= line"},
		{"v=0\nm=audio x RTP/AVP 0\n", "malformed m= line"},
		{"v=0\nm=audio 65536 RTP/AVP 0\n", "malformed m= line"},
		{"v=0\nm=audio -1 RTP/AVP 0\n", "malformed m= line"},
		{"v=0\nm=audio 4000/ RTP/AVP 0\n", "malformed m= line"},
		{"v=0\nm=audio 4000/x RTP/AVP 0\n", "malformed m= line"},
		{"v=0\nc=IN IP4 192.0.2.1\nc=IN IP4 192.0.2.2\n", "more than one c= line in a section"},
		{"v=0\nm=audio 1 RTP/AVP 0\nc=IN IP4 192.0.2.1\nc=IN IP4 192.0.2.2\n", "more than one c= line in a section"},
		{"v=0\nm=audio 1 RTP/AVP 0\na=rtcp:1\na=rtcp:2\n", "more than one a=rtcp in a section"},
		{"v=0\nm=audio 1 RTP/AVP 0\na=rtcp:1\na=rtcp:1 IN IP4 192.0.2.1\n", "more than one a=rtcp in a section"},
		{"v=0\nm=audio 1 RTP/AVP 0\na=rtcp:x\n", "malformed a=rtcp"},
		{"v=0\n" + strings.Repeat("m=audio 1 RTP/AVP 0\n", MaxMedia+1), "too many m= lines"},
	} {
		d := Description{media: make([]Media, 1)}
		err := d.Parse([]byte(c.in))
		var fault *ParseError
		if !errors.As(err, &fault) || fault.Reason != c.reason || fault.Offset > len(c.in) {
			t.Errorf("%.60q: %v, want %q", c.in, err, c.reason)
		}
		if len(d.Media()) != 0 {
			t.Errorf("%.60q: media left", c.in)
		}
		got := d.Rewrite(nil, func(int, Media) (Target, bool) { t.Error("asked for a target"); return Target{}, false })
		if string(got) != c.in {
			t.Errorf("%.60q rewritten to %q", c.in, got)
		}
	}
	var d Description
	if err := d.Parse([]byte("v=0\n" + strings.Repeat("m=audio 1 RTP/AVP 0\n", MaxMedia))); err != nil || len(d.Media()) != MaxMedia {
		t.Errorf("%v, %d media", err, len(d.Media()))
	}
	if s := Direction(9).String(); s != "Direction(9)" {
		t.Error(s)
	}
}

func TestOverUDP(t *testing.T) {
	for proto, want := range map[string]bool{
		"RTP/AVP": true, "UDP/TLS/RTP/SAVPF": true, "udptl": true, "UDP/BFCP": true, "vendor": true, "t": true,
		"TCP/MSRP": false, "tcp/tls/msrp": false, "TCP/RTP/AVP": false, "tcptl": false, "DCCP/RTP/AVP": false, "SCTP/DTLS": false, "TLS/RTP": false,
	} {
		var d Description
		if err := d.Parse([]byte("v=0\nm=x 9 " + proto + " 0\n")); err != nil || d.Media()[0].OverUDP() != want {
			t.Errorf("%s: %v, want %v, %v", proto, !want, want, err)
		}
	}
}
