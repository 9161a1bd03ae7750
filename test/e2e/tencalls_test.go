//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// tenUsers are the PBX's users in the tests of ten calls.
func tenUsers() map[string]string {
	all := map[string]string{}
	for i := range 10 {
		all[fmt.Sprintf("user%d", i)] = fmt.Sprintf("password-%d", i)
	}
	return all
}

// tenCalls has ten phones on hosts of the kind call the trunk at once, which echoes. Each must hear its own tone and no other.
func tenCalls(t *testing.T, trunk *lab.Host, host func(string) *lab.Host, outbound string) {
	t.Helper()
	echo := peers.StartSIPp(t, trunk, peers.SIPpConfig{Scenario: "uas_echo", Port: 5070, Args: []string{"-m", "10", "-rtp_echo"}})
	var listeners []listener
	for i := range 10 {
		user := fmt.Sprintf("user%d", i)
		config := phone(user, []string{"udp", "tcp"}[i%2], outbound)
		config.Password, config.Tone = tenUsers()[user], float64(400+140*i)
		listeners = append(listeners, listener{peers.StartBaresip(t, host(user), config), 0, config.Tone})
	}
	for _, l := range listeners {
		l.Wait(soon, 0, "REGISTER_OK")
	}
	for i, l := range listeners {
		l.Dial(fmt.Sprintf("sip:9%02d@%s", i, domain))
	}
	for _, l := range listeners {
		l.Wait(soon, 0, "CALL_ESTABLISHED")
	}
	trunkSide := trunk.Capture("eth0", "udp")
	hear(t, 3*time.Second, listeners...)
	if streams := pcap.Streams(trunkSide.Stop()); len(streams) != 20 {
		t.Errorf("%d RTP streams at the trunk, want 20: ten each way at once", len(streams))
	}
	for _, l := range listeners {
		l.Hangup()
	}
	if code := echo.Exit(soon); code != 0 {
		t.Errorf("SIPp ended with %d", code)
	}
}

// tenCallsOfOneHost is the same with SIPp as the phone: ten calls from one address. The echo of each must come back.
func tenCallsOfOneHost(t *testing.T, trunk, host *lab.Host, outbound, transport string) {
	t.Helper()
	const tone = 800
	echo := peers.StartSIPp(t, trunk, peers.SIPpConfig{Scenario: "uas_echo", Port: 5070, Args: []string{"-m", "10", "-rtp_echo"}})
	wire := host.Capture("eth0", "udp")
	calls := peers.StartSIPp(t, host, peers.SIPpConfig{
		Scenario: "uac_call", Port: 5062, Tone: tone, Users: tenUsers(),
		Args: []string{"-m", "10", "-l", "10", "-r", "10", "-t", transport, "-au", "user0",
			"-key", "domain", domain, "-key", "number", "900", outbound + ":5060"},
	})
	if code := calls.Exit(3 * soon); code != 0 {
		t.Errorf("SIPp, calling, ended with %d", code)
	}
	if code := echo.Exit(soon); code != 0 {
		t.Errorf("SIPp, called, ended with %d", code)
	}
	back := 0
	for _, stream := range pcap.Streams(wire.Stop()) {
		if stream.Dst.Addr() != host.Addr {
			continue
		}
		back++
		samples := audio.ULaw(stream.Payload(0))
		if share := audio.Share(samples, tone); share < 0.9 || len(samples) < 2*audio.Rate {
			t.Errorf("%v came back from %v, %.1f %% of it the tone", seconds(len(samples)), stream.Src, 100*share)
		}
	}
	if back != 10 {
		t.Errorf("%d streams came back, want 10", back)
	}
}
