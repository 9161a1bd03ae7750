//go:build e2e

package e2e

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// TestHostileRTP: packets from elsewhere at the media ports of a call, at either end, are not heard.
func TestHostileRTP(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	intruders := map[*lab.Host]string{v.Phone("mallory"): "192.168.77.10", v.Desk("trudy"): lab.PBXAddr.String()}
	office, desk := v.alice.Host.Capture("eth0", "udp"), v.carol.Host.Capture("eth0", "udp")
	v.call.talk(time.Second)
	var targets []*pcap.Stream
	targets = append(targets, pcap.Streams(office.Stop())...)
	targets = append(targets, pcap.Streams(desk.Stop())...)
	voice := audio.EncodeULaw(audio.Tone(2000, 0.02))
	for host, address := range intruders {
		conn, err := host.ListenUDP(host.Addr.String() + ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		at := slices.IndexFunc(targets, func(s *pcap.Stream) bool { return s.Dst.Addr().String() == address })
		if at < 0 {
			t.Fatalf("no RTP toward %s seen", address)
		}
		intrude(t, conn, targets[at], voice)
	}
	daemon, proxy := v.unhurt(t)
	const name = "media.dropped.unknown_source"
	if daemon[name] < 100 || proxy[name] < 100 {
		t.Errorf("%s: %d and %d, want at least the 100 RTP packets at each end", name, daemon[name], proxy[name])
	}
}

// intrude sends RTP to where a stream goes, as if it were part of it, for two seconds.
func intrude(t *testing.T, conn net.PacketConn, into *pcap.Stream, voice []byte) {
	t.Helper()
	last := into.Packets[len(into.Packets)-1].Payload
	packet := append(slices.Clone(last[:12]), voice...)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range 100 {
		binary.BigEndian.PutUint16(packet[2:], binary.BigEndian.Uint16(last[2:])+uint16(100+i))
		for port := range uint16(2) {
			to := net.UDPAddr{IP: into.Dst.Addr().AsSlice(), Port: int(into.Dst.Port() + port)}
			if _, err := conn.WriteTo(packet, &to); err != nil {
				t.Fatal(err)
			}
		}
		<-tick.C
	}
}
