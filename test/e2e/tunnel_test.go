//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/audio"
	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
	siptunnel "github.com/siptunnel/siptunnel/tunnel"
)

// officeProxy is what phones of the office have for an outbound proxy.
const officeProxy = "192.168.77.10"

// officeSIP is where it takes SIP.
var officeSIP = netip.AddrPortFrom(lab.ProxyAddr, 5060)

// officeSIP6 is the same over IPv6.
var officeSIP6 = netip.AddrPortFrom(lab.ProxyAddr6, 5060)

// insideFilter is for captures of the SIP between tunneld and Kamailio on loopback.
const insideFilter = "udp port 5060"

// tunnelPort is the one port that may be seen on the WAN.
var tunnelPort = netip.AddrPortFrom(lab.PBXAddr, 5090)

func isTunnelPort(at netip.AddrPort) bool {
	return at == tunnelPort || at == netip.AddrPortFrom(lab.PBXAddr6, tunnelPort.Port())
}

// binaries builds the two programs, once for all tests, and returns their directory. E2E_RACE=1 builds them with the race
// detector.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := filepath.Abs("../../build/e2e")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-o", dir + "/"}
	if os.Getenv("E2E_RACE") != "" {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/tunneld", "./cmd/tunnelproxy")...)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return dir, nil
})

// A tunnel is the whole chain: Kamailio and tunneld on one side, tunnelproxy on the other, connected.
type tunnel struct {
	*lab.Lab
	t       *testing.T
	bin     string
	state   string // directory of the two state directories
	tunneld *lab.Process
	proxy   *lab.Process

	resolver string // resolv.conf of tunneld; empty: this machine's

	inside *lab.Capture    // SIP between tunneld and Kamailio
	wan    [2]*lab.Capture // both links of the WAN, all of it
}

// newTunnel starts the chain with no more configuration than it needs, and has the WAN inspected when the test is over. The
// trunk may be nil.
func newTunnel(t *testing.T, trunk func(*lab.Lab) netip.AddrPort) *tunnel {
	t.Helper()
	return newTunnelWith(t, users, trunk)
}

// newTunnelWith is newTunnel with other users.
func newTunnelWith(t *testing.T, users map[string]string, trunk func(*lab.Lab) netip.AddrPort) *tunnel {
	t.Helper()
	l := lab.New(t)
	config := peers.PBXConfig{Domain: domain, Users: users}
	if trunk != nil {
		config.Trunk = trunk(l)
	}
	return newTunnelBefore(t, l, config)
}

// newTunnelBefore is newTunnel before another PBX.
func newTunnelBefore(t *testing.T, l *lab.Lab, config peers.PBXConfig) *tunnel {
	t.Helper()
	tun := prepareTunnel(t, l)
	peers.StartKamailio(t, l, config)
	tun.inside = tun.PBX.Capture("lo", insideFilter)
	tun.watchWAN()
	tun.startDaemon()
	tun.join()
	tun.startProxy()
	tun.waitUp()
	return tun
}

// prepareTunnel builds the programs and makes their state directories.
func prepareTunnel(t *testing.T, l *lab.Lab) *tunnel {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return &tunnel{Lab: l, t: t, bin: bin, state: l.ShortDir()}
}

func (tun *tunnel) tunneldArgs(command ...string) []string {
	args := append([]string{filepath.Join(tun.bin, "tunneld")}, command...)
	return append(args, "--state-dir", filepath.Join(tun.state, "tunneld"))
}

func (tun *tunnel) proxyArgs(command ...string) []string {
	args := append([]string{filepath.Join(tun.bin, "tunnelproxy")}, command...)
	return append(args, "--state-dir", filepath.Join(tun.state, "tunnelproxy"))
}

// endsWell stops one of the two programs when the test is over, and fails the test when it does not go as it should: at once,
// with exit code 0, without a crash or a race behind it.
func (tun *tunnel) endsWell(program *lab.Process) *lab.Process {
	tun.t.Cleanup(func() {
		killed := !program.Running() && program.Exit(0) == -1 // the test has
		program.Stop()
		if code := program.Exit(0); code != 0 && !killed {
			tun.t.Errorf("%s ended with %d", program.Name, code)
		}
		for _, disaster := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(program.Output(), disaster) {
				tun.t.Errorf("%s printed %q", program.Name, disaster)
			}
		}
	})
	return program
}

// startDaemon starts tunneld: nothing but the PBX's domain is configured. The first start leaves the join link in a file.
func (tun *tunnel) startDaemon(flags ...string) {
	tun.t.Helper()
	args := append(tun.tunneldArgs("serve", "--domain", domain, "--log-level", "debug"), flags...)
	if tun.resolver != "" {
		args = peers.Resolving(tun.resolver, args...)
	}
	tun.tunneld = tun.endsWell(tun.PBX.Start("tunneld", args...))
	lab.Eventually(tun.t, soon, "tunneld listens and has written its join link", func() bool {
		if !tun.tunneld.Running() {
			tun.t.Fatal("tunneld has ended")
		}
		_, err := os.Stat(tun.joinLink())
		return err == nil && (tun.PBX.Listens("tcp6", tunnelPort.Port()) || tun.PBX.Listens("tcp", tunnelPort.Port()))
	})
}

// joinLink is where tunneld leaves the link of the credential "default" when it starts for the first time.
func (tun *tunnel) joinLink() string { return filepath.Join(tun.state, "tunneld", "join-link") }

// join is what an office does once.
func (tun *tunnel) join() {
	tun.t.Helper()
	if out, err := tun.Office.Run(tun.proxyArgs("join", tun.joinLink())...); err != nil {
		tun.t.Fatalf("tunnelproxy join: %v: %s", err, out)
	}
}

func (tun *tunnel) startProxy(flags ...string) {
	tun.t.Helper()
	tun.proxy = tun.endsWell(tun.Office.Start("tunnelproxy", append(tun.proxyArgs("serve", "--log-level", "debug"), flags...)...))
}

// waitUp waits until what a phone sends reaches the PBX and the answer comes back.
func (tun *tunnel) waitUp() {
	tun.t.Helper()
	lab.Eventually(tun.t, soon, "OPTIONS go through the tunnel", func() bool {
		if !tun.proxy.Running() {
			tun.t.Fatal("tunnelproxy has ended")
		}
		return tun.options() == 200
	})
}

// options asks the PBX through the tunnel and returns the status of the answer, 0 if there is none.
func (tun *tunnel) options() int {
	status, _ := peers.Options(tun.Office, officeSIP, "sip:"+domain)
	return status
}

// A status is as much of what `status --json` of a program prints as these tests look at.
type status struct {
	Sessions []struct {
		Credential string    `json:"credential"`
		Path       mediaPath `json:"path"`
	} `json:"sessions"`
	Phones []struct {
		AOR string `json:"aor"`
	} `json:"phones"`
	Tunnel struct {
		Path mediaPath `json:"path"`
	} `json:"tunnel"`
	Trunks []struct {
		Name    string `json:"name"`
		Peer    string `json:"peer"`
		Address string `json:"address"`
	} `json:"trunks"`
	Calls []struct {
		CallID string `json:"call_id"`
		From   string `json:"from"`
		Audio  string `json:"audio"`
		Media  []struct {
			Legs []struct {
				Leg string  `json:"leg"`
				MOS float64 `json:"mos"`
				RTT float64 `json:"rtt_ms"`
			} `json:"legs"`
		} `json:"media"`
	} `json:"calls"`
	RelayTotals struct {
		PacketsDirect uint64 `json:"packets_direct"`
	} `json:"relay_totals"`
	Relays   []struct{}        `json:"relays"`
	Counters map[string]uint64 `json:"counters"`
}

// mediaPath is the way of media that a status tells of.
type mediaPath struct {
	Datagrams bool `json:"datagrams"`
}

// statuses asks both programs.
func (tun *tunnel) statuses() (daemon, proxy status) {
	tun.t.Helper()
	for _, program := range []struct {
		host *lab.Host
		args []string
		into *status
	}{
		{tun.PBX, tun.tunneldArgs("status", "--json"), &daemon},
		{tun.Office, tun.proxyArgs("status", "--json"), &proxy},
	} {
		out, err := program.host.Run(program.args...)
		if err == nil {
			err = json.Unmarshal([]byte(out), program.into)
		}
		if err != nil {
			tun.t.Fatalf("%v: %v: %s", program.args[:2], err, out)
		}
	}
	return daemon, proxy
}

// watchWAN captures everything on the WAN until the test is over, and looks then at what has crossed.
func (tun *tunnel) watchWAN() {
	tun.t.Helper()
	tun.wan = [2]*lab.Capture{tun.WAN.Capture("nat0", ""), tun.WAN.Capture("pbx0", "")}
	tun.t.Cleanup(func() {
		for _, link := range tun.wan {
			inspectWAN(tun.t, link.Stop())
		}
	})
}

// inspectWAN fails the test for every kind of packet that is not the tunnel's, and for SIP, SDP, names and audio in clear.
func inspectWAN(t *testing.T, packets []*pcap.Packet) {
	t.Helper()
	foreign := map[string]int{}
	var bytesSeen int
	for _, p := range packets {
		bytesSeen += len(p.Payload)
		isTunnel := (p.Protocol == pcap.TCP || p.Protocol == pcap.UDP) && (isTunnelPort(p.Src) || isTunnelPort(p.Dst))
		if src, dst, ok := p.About(); ok && (isTunnelPort(src) || isTunnelPort(dst)) {
			isTunnel = true // an end that is gone says so of a datagram that was under way to it
		}
		if !isTunnel && p.Protocol != pcap.NotIP && !p.IsNeighbourDiscovery() {
			foreign[fmt.Sprintf("%v %v > %v", p.Protocol, p.Src, p.Dst)]++
		}
	}
	for what, count := range foreign {
		t.Errorf("on the WAN, not of the tunnel: %d packets %s", count, what)
	}
	if found := inClear(packets); found != "" {
		t.Errorf("on the WAN in clear: %s", found)
	}
	if bytesSeen == 0 {
		t.Error("nothing crossed the WAN: the capture does not see what it should")
	}
}

// clearMarks are found in every SIP dialogue and SDP body of these tests. They are long enough not to turn up in ciphertext.
var clearMarks = []string{"SIP/2.0", "REGISTER ", "Call-ID:", "a=rtpmap", "RTP/AVP", domain}

// inClear returns a mark of signalling, or a tone in G.711, that stands in the packets unencrypted; empty if there is none.
func inClear(packets []*pcap.Packet) string {
	type direction struct{ src, dst netip.AddrPort }
	streams := map[direction][]byte{}
	for _, p := range packets {
		key := direction{p.Src, p.Dst}
		streams[key] = append(streams[key], p.Payload...)
	}
	for key, stream := range streams {
		for _, mark := range clearMarks {
			if bytes.Contains(stream, []byte(mark)) {
				return fmt.Sprintf("%q from %v to %v", mark, key.src, key.dst)
			}
		}
		samples := audio.ULaw(stream)
		for user, tone := range tones {
			if peak := audio.Peak(samples, tone); peak > 0.5 {
				return fmt.Sprintf("the voice of %s from %v to %v", user, key.src, key.dst)
			}
		}
	}
	return ""
}

// softphone connects with the public library, from the WAN and with the office's password.
func (tun *tunnel) softphone(t *testing.T) (*siptunnel.Client, error) {
	t.Helper()
	text, err := os.ReadFile(tun.joinLink())
	if err != nil {
		return nil, err
	}
	link, err := siptunnel.ParseLink(string(text))
	if err != nil {
		return nil, err
	}
	config := link.Config()
	config.Dialer = tun.WAN.Dial
	return siptunnel.Dial(t.Context(), config)
}
