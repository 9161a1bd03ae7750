//go:build linux

package peers

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

// A Service is an SRV record of UDP with the address of its target.
type Service struct {
	Name             string // of the target
	At               netip.AddrPort
	Priority, Weight int
}

// StartDNS starts dnsmasq on a host: it knows these services of SIP of a domain, and nothing else. The file that it returns is
// for Resolving.
func StartDNS(t testing.TB, h *lab.Host, domain string, services ...Service) (resolver string) {
	t.Helper()
	lab.Require(t, "dnsmasq")
	args := []string{
		"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--no-resolv", "--no-hosts", "--no-poll",
		"--bind-interfaces", "--listen-address=127.0.0.1", "--log-facility=-", "--log-queries", "--local=/#/",
	}
	for _, s := range services {
		args = append(args,
			fmt.Sprintf("--srv-host=_sip._udp.%s,%s,%d,%d,%d", domain, s.Name, s.At.Port(), s.Priority, s.Weight),
			fmt.Sprintf("--host-record=%s,%v", s.Name, s.At.Addr()))
	}
	h.Start("dnsmasq", args...).WaitFor(10*time.Second, "started")
	resolver = filepath.Join(h.Dir(), "own-resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return resolver
}

// Resolving makes a command of one that is to ask the DNS server in the file resolver, and not this machine's.
func Resolving(resolver string, args ...string) []string {
	return append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolver}, args...)
}
