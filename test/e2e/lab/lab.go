//go:build linux

// Package lab builds the network of the end-to-end tests from network namespaces, runs processes in them and captures what
// passes their links. Its drawing is in the package documentation of test/e2e.
//
// A Lab belongs to one test and goes with it: processes, captures, namespaces; tests may run in parallel. The names of the namespaces begin with a prefix
// that is this process's own, and New removes what a killed process has left behind, so runs disturb neither the machine nor
// each other.
//
// Its functions end the test when the rig itself fails: they must be called from the goroutine of the test.
package lab

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/siptunnel/siptunnel/test/impair"
)

// The addresses of the drawing.
var (
	ProxyAddr    = netip.MustParseAddr("192.168.77.10")
	NATAddr      = netip.MustParseAddr("198.51.100.2")
	PBXAddr      = netip.MustParseAddr("203.0.113.10")
	PBXDeskAddr  = netip.MustParseAddr("172.20.0.1")
	OfficePrefix = netip.MustParsePrefix("192.168.77.0/24")
	DeskPrefix   = netip.MustParsePrefix("172.20.0.0/24")
)

// labs counts the Labs of this process.
var labs atomic.Int64

// A Lab is one set of namespaces. Make it with New.
type Lab struct {
	Office, NAT, WAN, PBX *Host

	t      testing.TB
	run    string // directory of this process's
	prefix string // of the names of the namespaces
	dir    string // artifacts
	lan    *Host
	phones int // hosts added to the office LAN so far
	desks  int // hosts added beside the PBX so far
	ipv6   bool

	// Path is the link between NAT and WAN in a Lab that NewImpaired made, else nil.
	Path *impair.Wire
}

// A Host is a network namespace with an address.
type Host struct {
	Name string
	Addr netip.Addr
	// Link is the interface through which the host reaches the others; where it has several, the one toward the PBX.
	Link string

	lab   *Lab
	netns string
}

// NewImpaired is New with a link between NAT and WAN that can be made worse. The seed of what happens there is in the log.
func NewImpaired(t testing.TB) *Lab {
	t.Helper()
	return build(t, true)
}

// New builds the network. The test ends here when it does not run as root or lacks a program: skipped, or failed where CI=true.
func New(t testing.TB) *Lab {
	t.Helper()
	return build(t, false)
}

func build(t testing.TB, impaired bool) *Lab {
	t.Helper()
	Require(t, "ip", "nft", "nsenter", "tcpdump")
	if os.Geteuid() != 0 {
		Unavailable(t, "network namespaces need root")
	}
	run, err := ownRun()
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	l := &Lab{t: t, run: run, prefix: fmt.Sprintf("%s-%d-", filepath.Base(run), labs.Add(1)), dir: t.ArtifactDir()}
	t.Cleanup(func() { l.removeNamespaces() })
	l.Office = l.host("office", ProxyAddr, "lan0")
	l.NAT = l.host("nat", NATAddr, "wan0")
	l.WAN = l.host("wan", netip.MustParseAddr("203.0.113.1"), "pbx0")
	l.PBX = l.host("pbx", PBXAddr, "wan0")
	l.lan = l.host("lan", netip.Addr{}, "br0")
	if impaired {
		l.impair()
	} else {
		ip(l.t, "", "link add wan0 netns "+l.NAT.netns+" type veth peer name nat0 netns "+l.WAN.netns)
	}
	l.wire()
	for _, h := range []*Host{l.Office, l.NAT, l.WAN, l.PBX} {
		h.waitRunning()
	}
	return l
}

// impair makes the link between NAT and WAN.
func (l *Lab) impair() {
	l.t.Helper()
	seed := rand.Uint64()
	path, err := impair.New(seed, impair.End{Do: l.NAT.Do, Device: "wan0"}, impair.End{Do: l.WAN.Do, Device: "nat0"})
	if err != nil {
		Unavailable(l.t, err.Error())
	}
	l.t.Logf("seed of the path: %d", seed)
	l.t.Cleanup(path.Close)
	l.Path = path
}

// wire makes the other links, addresses and routes of the drawing, but for the phones.
func (l *Lab) wire() {
	office, nat, wan, pbx, lan := l.Office, l.NAT, l.WAN, l.PBX, l.lan
	ip(l.t, "", `
		link add lan0 netns `+office.netns+` type veth peer name office netns `+lan.netns+`
		link add lan0 netns `+nat.netns+` type veth peer name nat netns `+lan.netns+`
		link add pbx0 netns `+wan.netns+` type veth peer name wan0 netns `+pbx.netns)
	ip(l.t, lan.netns, `
		link add br0 type bridge
		link set br0 up
		link set office master br0 up
		link set nat master br0 up`)
	ip(l.t, office.netns, `
		addr add 192.168.77.10/24 dev lan0
		link set lan0 up
		route add default via 192.168.77.1`)
	ip(l.t, nat.netns, `
		addr add 192.168.77.1/24 dev lan0
		addr add 198.51.100.2/24 dev wan0
		link set lan0 up
		link set wan0 up
		route add default via 198.51.100.1`)
	ip(l.t, wan.netns, `
		addr add 198.51.100.1/24 dev nat0
		addr add 203.0.113.1/24 dev pbx0
		link set nat0 up
		link set pbx0 up`)
	// Without an address of its own a bridge takes the lowest of its ports': it would change as phones are added, and what
	// those have learnt by ARP would be wrong.
	ip(l.t, pbx.netns, `
		link add desk0 address 02:00:00:00:00:01 type bridge
		addr add 203.0.113.10/24 dev wan0
		addr add 172.20.0.1/24 dev desk0
		link set wan0 up
		link set desk0 up
		route add default via 203.0.113.1`)
	for _, router := range []*Host{nat, wan, pbx} {
		router.sysctl("net/ipv4/ip_forward", "1")
	}
	nat.masquerade()
}

// masquerade has a router hide what is behind it from its wan0.
func (h *Host) masquerade() {
	h.lab.t.Helper()
	h.NFT(`table ip nat {
		chain postrouting {
			type nat hook postrouting priority srcnat
			oifname "wan0" masquerade
		}
	}`)
}

// Phone adds a host to the office LAN.
func (l *Lab) Phone(name string) *Host {
	l.t.Helper()
	addr := offset(OfficePrefix, 101+l.phones)
	l.phones++
	h := l.host(name, addr, "eth0")
	ip(l.t, "", "link add eth0 netns "+h.netns+" type veth peer name p"+addr.String()[len("192.168.77."):]+" netns "+l.lan.netns)
	ip(l.t, l.lan.netns, "link set p"+addr.String()[len("192.168.77."):]+" master br0 up")
	h.connect(OfficePrefix)
	h.waitRunning()
	return h
}

// Desk adds a host beside the PBX.
func (l *Lab) Desk(name string) *Host {
	l.t.Helper()
	addr := offset(DeskPrefix, 101+l.desks)
	l.desks++
	h := l.host(name, addr, "eth0")
	ip(l.t, "", "link add eth0 netns "+h.netns+" type veth peer name d"+addr.String()[len("172.20.0."):]+" netns "+l.PBX.netns)
	ip(l.t, l.PBX.netns, "link set d"+addr.String()[len("172.20.0."):]+" master desk0 up")
	h.connect(DeskPrefix)
	h.waitRunning()
	return h
}

// connect gives a phone its address and the router of its network, which has the first address.
func (h *Host) connect(network netip.Prefix) {
	h.lab.t.Helper()
	ip(h.lab.t, h.netns, fmt.Sprintf(`
		addr add %v/%d dev eth0
		link set eth0 up
		route add default via %v`, h.Addr, network.Bits(), network.Addr().Next()))
}

// host makes a namespace with nothing but loopback in it.
func (l *Lab) host(name string, addr netip.Addr, link string) *Host {
	l.t.Helper()
	h := &Host{Name: name, Addr: addr, Link: link, lab: l, netns: l.prefix + name}
	ip(l.t, "", "netns add "+h.netns)
	// No neighbour discovery, router solicitation or multicast membership of IPv6 in the captures.
	h.sysctl("net/ipv6/conf/all/disable_ipv6", "1")
	h.sysctl("net/ipv6/conf/default/disable_ipv6", "1")
	ip(l.t, h.netns, "link set lo up")
	return h
}

// CongestionControl has TCP connections between the office and the PBX's host that begin from now on use that congestion control
// at both ends. It is a matter of the route: the default of a namespace may only be one that the machine allows to everybody.
func (l *Lab) CongestionControl(name string) {
	l.t.Helper()
	ip(l.t, l.Office.netns, "route replace default via 192.168.77.1 congctl "+name)
	ip(l.t, l.PBX.netns, "route replace default via 203.0.113.1 congctl "+name)
}

// AddAddr gives the host one more address, on its Link.
func (h *Host) AddAddr(addr netip.Prefix) netip.Addr {
	h.lab.t.Helper()
	ip(h.lab.t, h.netns, fmt.Sprintf("addr add %v dev %s", addr, h.Link))
	return addr.Addr()
}

// Renumber gives a phone another address, as its DHCP server would.
func (h *Host) Renumber(addr netip.Addr) {
	h.lab.t.Helper()
	ip(h.lab.t, h.netns, fmt.Sprintf(`
		addr flush dev %[1]s
		addr add %[2]v/%[3]d dev %[1]s
		route add default via %[4]v`, h.Link, addr, OfficePrefix.Bits(), OfficePrefix.Addr().Next()))
	h.Addr = addr
}

// NFT runs a script of nft in the host.
func (h *Host) NFT(script string) {
	h.lab.t.Helper()
	h.mustRun(script, "nft", "-f", "-")
}

// Run runs a command in the host and returns its output, both standard output and standard error.
func (h *Host) Run(args ...string) (string, error) {
	out, err := h.command(args...).CombinedOutput()
	return string(out), err
}

func (h *Host) mustRun(stdin string, args ...string) {
	h.lab.t.Helper()
	cmd := h.command(args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.lab.t.Fatalf("lab: %s: %v: %v: %s", h.Name, args, err, out)
	}
}

// Dir returns a directory of the host's own under the artifacts of the test, for configuration and recordings.
func (h *Host) Dir() string {
	h.lab.t.Helper()
	dir := filepath.Join(h.lab.dir, h.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.lab.t.Fatalf("lab: %v", err)
	}
	return dir
}

// ShortDir makes a directory whose path is short enough for sockets, as that of an artifact need not be. It goes with the test.
func (l *Lab) ShortDir() string {
	l.t.Helper()
	err := os.MkdirAll(l.run, 0o700)
	var dir string
	if err == nil {
		dir, err = os.MkdirTemp(l.run, "")
	}
	if err != nil {
		l.t.Fatalf("lab: %v", err)
	}
	l.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// ip runs lines of ip(8) in a namespace, or in the machine's own where that is empty.
func ip(t testing.TB, netns, lines string) {
	t.Helper()
	args := []string{"-batch", "-"}
	if netns != "" {
		args = append([]string{"-n", netns}, args...)
	}
	cmd := exec.Command("ip", args...)
	cmd.Stdin = strings.NewReader(lines + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("lab: ip %v: %v: %s\n%s", args, err, out, lines)
	}
}

func offset(network netip.Prefix, n int) netip.Addr {
	bytes := network.Addr().AsSlice()
	last := len(bytes) - 1
	bytes[last-1] += byte(n >> 8)
	bytes[last] += byte(n)
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}

// Require ends the test when a program is missing.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			Unavailable(t, program+" is not installed: make test-deps")
		}
	}
}

// Unavailable ends the test for a reason that lies with the machine: skipped, or failed where CI=true.
func Unavailable(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
