//go:build e2e

package e2e

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// branchProxy is what phones of the second office have for an outbound proxy.
const branchProxy = "192.168.78.10"

// A branch is the second office of a tunnel, connected.
type branch struct {
	*lab.Branch
	proxy *lab.Process
}

// startBranch adds the second office, with a credential of its own, and has its link to the WAN inspected when the test is over.
func (tun *tunnel) startBranch() *branch {
	tun.t.Helper()
	b := &branch{Branch: tun.Branch()}
	wan := tun.WAN.Capture(lab.BranchWANLink, "")
	tun.t.Cleanup(func() { inspectWAN(tun.t, wan.Stop()) })
	link, err := tun.PBX.Run(tun.tunneldArgs("credential", "add", "--link-only", "branch")...)
	if err != nil {
		tun.t.Fatalf("tunneld credential add: %v: %s", err, link)
	}
	state := []string{"--state-dir", filepath.Join(tun.state, "branch")}
	program := filepath.Join(tun.bin, "tunnelproxy")
	if out, err := b.Office.Run(append([]string{program, "join", strings.TrimSpace(link)}, state...)...); err != nil {
		tun.t.Fatalf("tunnelproxy join: %v: %s", err, out)
	}
	b.proxy = tun.endsWell(b.Office.Start("tunnelproxy", append([]string{program, "serve", "--log-level", "debug"}, state...)...))
	lab.Eventually(tun.t, soon, "OPTIONS of the second office go through the tunnel", func() bool {
		if !b.proxy.Running() {
			tun.t.Fatal("tunnelproxy of the second office has ended")
		}
		status, _ := peers.Options(b.Office, netip.AddrPortFrom(lab.BranchProxyAddr, 5060), "sip:"+domain)
		return status == 200
	})
	return b
}

// TestTwoOffices: phones of two offices call each other and a phone beside the PBX. Each office has its own session.
func TestTwoOffices(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	other := tun.startBranch()
	phones := map[string]*peers.Baresip{
		"alice": start(t, tun.Phone("alice"), answering(phone("alice", "udp", officeProxy))),
		"bob":   start(t, other.Phone("bob"), answering(phone("bob", "udp", branchProxy))),
		"carol": start(t, tun.Desk("carol"), answering(phone("carol", "udp", deskPBX))),
		"dave":  start(t, other.Phone("dave"), answering(phone("dave", "tcp", branchProxy))),
	}
	for _, pair := range [][2]string{{"alice", "bob"}, {"dave", "alice"}, {"carol", "dave"}} {
		t.Run(pair[0]+" calls "+pair[1], func(t *testing.T) {
			c := dial(t, phones[pair[0]], phones[pair[1]]).established().talk(time.Second)
			phones[pair[0]].Hangup()
			c.closed()
		})
	}
	daemon, _ := tun.statuses()
	var offices []string
	for _, session := range daemon.Sessions {
		offices = append(offices, session.Credential)
	}
	slices.Sort(offices)
	if !slices.Equal(offices, []string{"branch", "default"}) {
		t.Errorf("sessions of %q, want one of each office", offices)
	}
}
