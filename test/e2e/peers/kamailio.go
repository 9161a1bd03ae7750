//go:build linux

// Package peers runs the programs that the end-to-end tests talk to: Kamailio, baresip, SIPp. Its types belong to the test that
// made them and end with it; their functions end the test when a peer cannot do what it is told.
package peers

import (
	_ "embed"
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
	Open   bool              // nobody has to prove who he is, and any name can be registered
	Trunk  netip.AddrPort    // numbers that begin with 9 go there and need no registration; zero: none
	Peer   Peer              // another PBX
	// Numbers is a user, another PBX that has registered as a phone does, for all numbers that begin with +.
	Numbers string
	Hunt    []string // two users: the number 8 rings the first for two seconds, then the second; nil: none
	// Keeps is a directory where it keeps its registrations over a restart; empty: it forgets them.
	Keeps string
	// Presence has it take what users publish and notify who has subscribed, but for numbers that begin with 9.
	Presence bool
	// Algorithm is that of its digest challenges; empty: MD5.
	Algorithm string
	// Certificate and Key are files in PEM: it takes SIP over TLS too, on port 5061; empty: it does not.
	Certificate, Key string
	// Host is where it runs, on the host's own address; nil: the lab's host for the PBX, on all of its addresses.
	Host *lab.Host
}

// A Peer is another PBX with users of a domain of its own. The zero Peer is none.
type Peer struct {
	Domain    string         // of its users
	At        netip.AddrPort // the next hop toward it
	Transport string         // to there, "udp" or "tcp"
	// From is where its requests come from; they need no password. Port 0 is any.
	From netip.AddrPort
}

// kamailioValues is what the template of the configuration refers to.
type kamailioValues struct {
	PBXConfig
	Trunk, TrunkIP, Tables string
	Listen                 []string
}

// StartKamailio starts the PBX on the lab's host for it, on all its addresses, and waits until it serves.
func StartKamailio(t testing.TB, l *lab.Lab, config PBXConfig) *lab.Process {
	t.Helper()
	lab.Require(t, "kamailio")
	values := kamailioValues{PBXConfig: config}
	if config.Keeps != "" {
		copyTables(t, config.Keeps, "version", "location")
	}
	host, addresses := l.PBX, []string{"127.0.0.1", lab.PBXAddr.String(), lab.PBXDeskAddr.String()}
	if config.Host != nil {
		host, addresses = config.Host, []string{config.Host.Addr.String()}
	}
	for _, addr := range addresses {
		values.Listen = append(values.Listen, "udp:"+addr+":5060", "tcp:"+addr+":5060")
		if config.Certificate != "" {
			values.Listen = append(values.Listen, "tls:"+addr+":5061")
		}
	}
	if l.HasIPv6() {
		for _, addr := range []string{"[::1]", "[" + lab.PBXAddr6.String() + "]", "[" + lab.PBXDeskAddr6.String() + "]"} {
			values.Listen = append(values.Listen, "udp:"+addr+":5060", "tcp:"+addr+":5060")
		}
	}
	if config.Trunk.IsValid() {
		values.Trunk, values.TrunkIP = config.Trunk.String(), config.Trunk.Addr().String()
	}
	dir := host.Dir()
	if config.Presence {
		values.Tables = filepath.Join(dir, "presence")
		_ = os.RemoveAll(values.Tables) // it does not read its own
		copyTables(t, values.Tables, "version", "presentity", "active_watchers", "watchers", "xcap")
	}
	var text strings.Builder
	if err := template.Must(template.New("").Parse(kamailioConfig)).Execute(&text, values); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kamailio.cfg")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	// Torture tests are full of host names. Kamailio waits for the DNS when it sees one, seconds long and with all its processes,
	// so it is given a server that refuses at once. -DD keeps all its processes in the group of the first.
	resolver := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolver, []byte("nameserver 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := host.Start("kamailio", Resolving(resolver, "kamailio", "-DD", "-E", "-m", "32", "-M", "4", "-Y", dir, "-f", file)...)
	lab.Eventually(t, 10*time.Second, "Kamailio answers OPTIONS", func() bool {
		if !k.Running() {
			t.Fatal("Kamailio has ended")
		}
		status, _ := Options(host, netip.MustParseAddrPort(addresses[0]+":5060"), "sip:"+addresses[0])
		return status == 200
	})
	return k
}

// copyTables makes empty tables of Kamailio's in the directory, unless it has some.
func copyTables(t testing.TB, dir string, tables ...string) {
	t.Helper()
	err := os.MkdirAll(dir, 0o700)
	for _, table := range tables {
		if _, missing := os.Stat(filepath.Join(dir, table)); err != nil || missing == nil {
			continue
		}
		var text []byte
		if text, err = os.ReadFile("/usr/share/kamailio/dbtext/kamailio/" + table); err == nil {
			err = os.WriteFile(filepath.Join(dir, table), text, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
