//go:build e2e

package e2e

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

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
func (tun *tunnel) startBranch(flags ...string) *branch {
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
	args := append([]string{program, "serve", "--log-level", "debug"}, state...)
	b.proxy = tun.endsWell(b.Office.Start("tunnelproxy", append(args, flags...)...))
	b.waitUp(tun.t)
	return b
}

// waitUp waits until what a phone of the second office sends reaches the PBX and the answer comes back.
func (b *branch) waitUp(t *testing.T) {
	t.Helper()
	lab.Eventually(t, soon, "OPTIONS of the second office go through the tunnel", func() bool {
		if !b.proxy.Running() {
			t.Fatal("tunnelproxy of the second office has ended")
		}
		status, _ := peers.Options(b.Office, netip.AddrPortFrom(lab.BranchProxyAddr, 5060), "sip:"+domain)
		return status == 200
	})
}
