//go:build linux

// Package peers runs the programs that the end-to-end tests talk to: Kamailio, baresip, SIPp. Its types belong to the test that
// made them and end with it; their functions end the test when a peer cannot do what it is told.
package peers

import (
	_ "embed"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

//go:embed kamailio.cfg
var kamailioConfig string

// PBXConfig says what Kamailio serves.
type PBXConfig struct {
	Domain string            // of the users, and realm of their digests
	Users  map[string]string // user to password
	Trunk  netip.AddrPort    // numbers that begin with 9 go there and need no registration; zero: none
}

// kamailioValues is what the template of the configuration refers to.
type kamailioValues struct {
	Domain, Trunk, TrunkIP string
	Users                  map[string]string
	Listen                 []string
}

// StartKamailio starts the PBX on the lab's host for it, on all its addresses, and waits until it serves.
func StartKamailio(t testing.TB, l *lab.Lab, config PBXConfig) *lab.Process {
	t.Helper()
	lab.Require(t, "kamailio")
	values := kamailioValues{Domain: config.Domain, Users: config.Users}
	for _, addr := range []string{"127.0.0.1", lab.PBXAddr.String(), lab.PBXDeskAddr.String()} {
		values.Listen = append(values.Listen, "udp:"+addr+":5060", "tcp:"+addr+":5060")
	}
	if config.Trunk.IsValid() {
		values.Trunk, values.TrunkIP = config.Trunk.String(), config.Trunk.Addr().String()
	}
	var text strings.Builder
	if err := template.Must(template.New("").Parse(kamailioConfig)).Execute(&text, values); err != nil {
		t.Fatal(err)
	}
	dir := l.PBX.Dir()
	file := filepath.Join(dir, "kamailio.cfg")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// -DD keeps all its processes in the group of the first.
	k := l.PBX.Start("kamailio", "kamailio", "-DD", "-E", "-e", "-m", "32", "-M", "4", "-Y", dir, "-f", file)
	waitSIP(t, l.PBX, k, "127.0.0.1:5060")
	return k
}

// waitSIP asks with OPTIONS until the address answers.
func waitSIP(t testing.TB, from *lab.Host, process *lab.Process, address string) {
	t.Helper()
	conn, err := from.ListenUDP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address))
	local := conn.LocalAddr().String()
	request := "OPTIONS sip:" + address + " SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP " + local + ";branch=z9hG4bK-ready\r\n" +
		"From: <sip:ready@" + local + ">;tag=ready\r\n" +
		"To: <sip:" + address + ">\r\n" +
		"Call-ID: ready@" + local + "\r\n" +
		"CSeq: 1 OPTIONS\r\nMax-Forwards: 5\r\nContent-Length: 0\r\n\r\n"
	answer := make([]byte, 2048)
	lab.Eventually(t, 10*time.Second, process.Name+" answers OPTIONS", func() bool {
		if !process.Running() {
			t.Fatalf("%s has ended", process.Name)
		}
		if _, err := conn.WriteTo([]byte(request), to); err != nil {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := conn.ReadFrom(answer)
		return err == nil
	})
}
