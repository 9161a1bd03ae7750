package audio

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func sdp(lines ...string) []byte { return []byte(strings.Join(lines, "\r\n") + "\r\n") }

func TestParseDescription(t *testing.T) {
	head := []string{"v=0", "o=- 12 3 IN IP4 192.0.2.9", "s=-"}
	with := func(lines ...string) []byte { return sdp(append(head[:3:3], lines...)...) }
	for name, test := range map[string]struct {
		sdp       []byte
		rtp, rtcp string
		direction Direction
		err       error
	}{
		"session level": {
			sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/AVP 8 0"),
			rtp: "192.0.2.1:4000", rtcp: "192.0.2.1:4001", direction: SendRecv,
		},
		"media level, line feeds": {
			sdp: []byte(strings.ReplaceAll(string(with("c=IN IP4 192.0.2.1", "t=0 0", "a=sendonly",
				"m=audio 4000 RTP/AVP 0", "c=IN IP4 192.0.2.2")), "\r", "")),
			rtp: "192.0.2.2:4000", rtcp: "192.0.2.2:4001", direction: SendOnly,
		},
		"rtcp port": {
			sdp: with("c=IN IP6 2001:db8::1", "t=0 0", "m=audio 4000 RTP/AVP 0", "a=rtcp:4005", "a=inactive"),
			rtp: "[2001:db8::1]:4000", rtcp: "[2001:db8::1]:4005", direction: Inactive,
		},
		"rtcp address": {
			sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/AVP 0", "a=rtcp:4005 IN IP4 192.0.2.7"),
			rtp: "192.0.2.1:4000", rtcp: "192.0.2.7:4005", direction: SendRecv,
		},
		"old hold": {
			sdp: with("c=IN IP4 0.0.0.0", "t=0 0", "m=audio 4000 RTP/AVP 0"),
			rtp: "0.0.0.0:4000", rtcp: "0.0.0.0:4001", direction: Inactive,
		},
		"second stream is not looked at": {
			sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/AVP 0", "m=video 5000 RTP/AVP 96",
				"c=IN IP4 192.0.2.5", "a=recvonly", "a=rtcp:9"),
			rtp: "192.0.2.1:4000", rtcp: "192.0.2.1:4001", direction: SendRecv,
		},
		"refused":     {sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 0 RTP/AVP 0"), err: ErrNoAudio},
		"no PCMU":     {sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/AVP 8"), err: ErrNoAudio},
		"encrypted":   {sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=audio 4000 RTP/SAVP 0"), err: ErrNoAudio},
		"only video":  {sdp: with("c=IN IP4 192.0.2.1", "t=0 0", "m=video 4000 RTP/AVP 0"), err: ErrNoAudio},
		"no address":  {sdp: with("t=0 0", "m=audio 4000 RTP/AVP 0"), err: ErrNoAudio},
		"host name":   {sdp: with("c=IN IP4 pbx.example", "m=audio 4000 RTP/AVP 0"), err: ErrNoAudio},
		"port abused": {sdp: with("c=IN IP4 192.0.2.1", "m=audio 70000 RTP/AVP 0"), err: ErrNoAudio},
		"nothing":     {err: ErrNoAudio},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := ParseDescription(test.sdp)
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err != nil {
				return
			}
			want := Description{Session: 12, Version: 3, RTP: netip.MustParseAddrPort(test.rtp),
				RTCP: netip.MustParseAddrPort(test.rtcp), Direction: test.direction}
			if d != want {
				t.Errorf("got %+v, want %+v", d, want)
			}
		})
	}
}

func TestDescriptionRoundTrip(t *testing.T) {
	for _, d := range []Description{
		{Session: 1, Version: 2, RTP: netip.MustParseAddrPort("127.0.0.1:4000"), RTCP: netip.MustParseAddrPort("127.0.0.1:4001"), Direction: SendOnly},
		{Session: 1, Version: 2, RTP: netip.MustParseAddrPort("[::1]:4000"), RTCP: netip.MustParseAddrPort("127.0.0.1:4009"), Direction: Inactive},
	} {
		if got, err := ParseDescription(d.Offer()); err != nil || got != d {
			t.Errorf("got %+v, %v, want %+v", got, err, d)
		}
	}
}

func TestAnswerRefusesOtherStreams(t *testing.T) {
	offer := sdp("v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0",
		"m=audio 4000 RTP/AVP 0 8", "m=video 4002 RTP/AVP 96", "m=audio 4004 RTP/AVP 0")
	d := Description{RTP: netip.MustParseAddrPort("192.0.2.2:6000"), Direction: SendRecv}
	answer, err := d.Answer(offer)
	if err != nil {
		t.Fatal(err)
	}
	want := string(sdp("v=0", "o=- 0 0 IN IP4 192.0.2.2", "s=-", "c=IN IP4 192.0.2.2", "t=0 0",
		"m=audio 6000 RTP/AVP 0", "a=rtpmap:0 PCMU/8000", "a=ptime:20", "a=sendrecv",
		"m=video 0 RTP/AVP 96", "m=audio 0 RTP/AVP 0"))
	if string(answer) != want {
		t.Errorf("got\n%s\nwant\n%s", answer, want)
	}
	if _, err := d.Answer(nil); !errors.Is(err, ErrNoAudio) {
		t.Errorf("answer to nothing: %v", err)
	}
}

func TestReaddress(t *testing.T) {
	offer := sdp("v=0", "o=x 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0", "a=ice-ufrag:x",
		"m=audio 4000 RTP/AVP 9 0 101", "c=IN IP6 2001:db8::1", "a=rtcp:4009 IN IP4 192.0.2.1",
		"a=rtpmap:101 telephone-event/8000", "a=candidate:1 1 UDP 1 192.0.2.1 4000 typ host", "a=rtcp-mux", "a=sendonly",
		"m=video 4002 RTP/AVP 96", "a=rtpmap:96 VP8/90000")
	want := string(sdp("v=0", "o=x 1 1 IN IP4 192.0.2.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0",
		"m=audio 7000 RTP/AVP 9 0 101", "c=IN IP4 127.0.0.1", "a=rtcp:7001",
		"a=rtpmap:101 telephone-event/8000", "a=sendonly",
		"m=video 0 RTP/AVP 96"))
	if got := string(Readdress(offer, netip.MustParseAddrPort("127.0.0.1:7000"))); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	hold := sdp("c=IN IP4 0.0.0.0", "m=audio 0 RTP/AVP 0")
	if got := Readdress(hold, netip.MustParseAddrPort("127.0.0.1:7000")); string(got) != string(hold) {
		t.Errorf("hold became\n%s", got)
	}
}
