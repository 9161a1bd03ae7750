package daemon

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// parse gives the settings of a command line of serve.
func parse(t *testing.T, args ...string) *settings {
	t.Helper()
	var line cli
	var out bytes.Buffer
	if _, err := config.Parse(&line, name, "", tunneld().Vars(), append([]string{"serve"}, args...), &out, &out); err != nil {
		t.Fatal(err)
	}
	return &line.Serve.settings
}

// resolveTo is a DNS in which all names have these addresses.
func resolveTo(addresses ...string) resolver { return fakeDNS{"*": strings.Join(addresses, " ")} }

func TestSurvey(t *testing.T) {
	for _, test := range []struct {
		name        string
		args        []string
		resolve     resolver
		pbx, domain string
		public      string // empty: whatever this machine has
		phones      string // empty: likewise
		doubtful    bool
	}{
		{name: "nothing set", resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "127.0.0.1", phones: "127.0.0.1", doubtful: true},
		{name: "PBX by name", args: []string{"--pbx", "localhost:5080"}, resolve: resolveTo("127.0.0.1", "::1"), pbx: "127.0.0.1:5080", domain: "localhost", phones: "127.0.0.1", doubtful: true},
		{name: "PBX by complete name", args: []string{"--pbx", "pbx.example."}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "pbx.example", doubtful: true},
		{name: "domain", args: []string{"--domain", "pbx.example"}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "pbx.example", doubtful: true},
		{name: "IPv6", args: []string{"--pbx", "::1"}, resolve: resolveTo("::1"), pbx: "[::1]:5060", domain: "[::1]", phones: "::1", doubtful: true},
		{name: "public name", args: []string{"--public-address", "tunnel.example"}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "127.0.0.1", public: "tunnel.example:5090"},
		{name: "public address", args: []string{"--public-address", "8.8.8.8:443"}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "127.0.0.1", public: "8.8.8.8:443"},
		{name: "private address", args: []string{"--public-address", "10.0.0.1"}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "127.0.0.1", public: "10.0.0.1:5090", doubtful: true},
		{name: "listen on one address", args: []string{"--listen", "127.0.0.5:7000"}, resolve: resolveTo("127.0.0.1"), pbx: "127.0.0.1:5060", domain: "127.0.0.1", public: "127.0.0.5:7000", doubtful: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := parse(t, test.args...)
			p, err := s.survey(t.Context(), test.resolve)
			if err != nil {
				t.Fatal(err)
			}
			if p.pbx.String() != test.pbx || p.domain != test.domain {
				t.Errorf("PBX %v with domain %s", p.pbx, p.domain)
			}
			if test.public != "" && p.public.String() != test.public {
				t.Errorf("public address %v", p.public)
			}
			if test.phones != "" && p.phoneAddress.String() != test.phones {
				t.Errorf("phone address %v", p.phoneAddress)
			}
			if !p.mediaAddress.IsValid() || !config.IsLocal(p.mediaAddress) || p.mediaAddress.Is4() != p.pbx.Addr().Is4() {
				t.Errorf("media address %v", p.mediaAddress)
			}
			if doubt := s.publicDoubt(p); (doubt != "") != test.doubtful {
				t.Errorf("doubt %q", doubt)
			}
		})
	}
}

// TestNoPublicAddress is about a machine whose network is down.
func TestNoPublicAddress(t *testing.T) {
	down := func() (netip.Addr, error) { return netip.Addr{}, errors.New("network is unreachable") }
	up := func() (netip.Addr, error) { return netip.MustParseAddr("192.0.2.7"), nil }
	for _, test := range []struct {
		args   []string
		source func() (netip.Addr, error)
		want   string
	}{
		{nil, up, "192.0.2.7:5090"},
		{nil, down, ""},
		{[]string{"--public-address", "tunnel.example"}, down, "tunnel.example:5090"},
		{[]string{"--listen", "127.0.0.1:5090"}, down, "127.0.0.1:5090"},
	} {
		s := parse(t, test.args...)
		p := &place{public: s.publicAddress(5090, test.source)}
		if p.public.String() != test.want {
			t.Errorf("%q: %v", test.args, p.public)
		}
		if test.want == "" && !strings.Contains(s.publicDoubt(p), "no address") {
			t.Errorf("no doubt: %q", s.publicDoubt(p))
		}
	}
}

func TestSurveyRefuses(t *testing.T) {
	for _, test := range []struct {
		args []string
		code config.Exit
		text string
	}{
		{[]string{"--pbx", ":5060"}, config.ExitConfig, "has no host"},
		{[]string{"--pbx", "0.0.0.0:5060"}, config.ExitConfig, "no address to send to"},
		{[]string{"--pbx", "pbx.example"}, config.ExitUnreachable, "does not resolve"},
		{[]string{"--public-address", "0.0.0.0"}, config.ExitConfig, "no address to connect to"},
		{[]string{"--media-ports", "50000-50001"}, config.ExitConfig, "no room for a call"},
		{[]string{"--media-ports", "6500-7500"}, config.ExitConfig, "overlap"},
		{[]string{"--listen", ":6005"}, config.ExitConfig, "one of phone-ports"},
		{[]string{"--listen", ":50000"}, config.ExitConfig, "one of media-ports"},
	} {
		_, err := parse(t, test.args...).survey(t.Context(), resolveTo())
		if config.ExitOf(err) != test.code || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: %v", test.args, err)
		}
	}
}

func TestPhoneSources(t *testing.T) {
	for _, test := range []struct {
		args, pbx string
		code      config.Exit
		text      string
	}{
		{"--phone-sources=shared", "192.0.2.1", config.ExitOK, ""},
		{"--phone-sources=office", "127.0.0.1", config.ExitOK, ""},
		{"--phone-sources=phone", "127.0.0.1", config.ExitOK, ""},
		{"--phone-sources=office --phone-source-network=127.9.0.0/28", "127.0.0.1", config.ExitOK, ""},
		{"--phone-sources=phone --phone-source-network=127.9.0.0/28", "127.0.0.1", config.ExitConfig, "14 addresses for the 1000 phones"},
		{"--phone-sources=office --phone-source-network=127.9.0.1", "127.0.0.1", config.ExitConfig, "no network for phones"},
		{"--phone-sources=office", "::1", config.ExitConfig, "other IP version"},
		{"--phone-sources=phone", "192.0.2.1", config.ExitConfig, "not on the loopback of this machine"},
		{"--phone-sources=office --phone-source-network=192.0.2.0/24", "127.0.0.1", config.ExitTaken, "ip route add local 192.0.2.0/24 dev lo"},
	} {
		s := parse(t, strings.Fields(test.args)...)
		toPBX := netip.MustParseAddr(test.pbx)
		err := s.checkSources(toPBX)
		var text string
		if e, ok := errors.AsType[*config.Error](err); ok {
			text = e.Error() + e.Remedy
		}
		if config.ExitOf(err) != test.code || !strings.Contains(text, test.text) {
			t.Errorf("%s, PBX reached from %s: %v", test.args, test.pbx, text)
		}
	}
}

func TestTrunkPorts(t *testing.T) {
	s := parse(t, "--trunk-port=berlin/pbx=6000,bonn/pbx=7000", "--trunk-port", "bonn/fax=7002")
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	want := map[sipfwd.TrunkID]uint16{{Credential: "berlin", Name: "pbx"}: 6000, {Credential: "bonn", Name: "pbx"}: 7000, {Credential: "bonn", Name: "fax"}: 7002}
	if got := s.trunkPorts(); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for text, want := range map[string]string{
		"berlin=6000":       "is not CREDENTIAL/TRUNK=PORT",
		"berlin/pbx":        "is not CREDENTIAL/TRUNK=PORT",
		"berlin/a b=6000":   "not the name of a trunk",
		"/pbx=6000":         "not the name of a credential",
		"berlin/pbx=80":     "no valid port",
		"berlin/pbx=123456": "no valid port",
	} {
		var port trunkPort
		if err := port.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for args, want := range map[string]string{
		"berlin/pbx=6000,berlin/pbx=6001": "two ports for berlin/pbx",
		"berlin/pbx=6000,bonn/pbx=6000":   "gives port 6000 to two trunks",
		"berlin/pbx=50000":                "one of media-ports",
		"berlin/pbx=5090":                 "the listen port",
	} {
		if err := parse(t, "--trunk-port="+args).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestExampleConfiguration starts from the shipped file with every setting in it uncommented.
func TestExampleConfiguration(t *testing.T) {
	shipped, err := os.ReadFile(filepath.Join("..", "..", "deploy", "examples", "tunneld.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	active := regexp.MustCompile(`(?m)^#([a-z-]+:|  - )`).ReplaceAll(shipped, []byte("$1"))
	path := filepath.Join(t.TempDir(), "tunneld.yaml")
	for _, text := range [][]byte{shipped, active} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		parse(t, "--config", path)
	}
	for field := range reflect.TypeFor[settings]().Fields() {
		name := field.Tag.Get("name")
		if name == "" {
			name = strings.ToLower(regexp.MustCompile(`(.)([A-Z][a-z])`).ReplaceAllString(field.Name, "$1-$2"))
		}
		if !bytes.Contains(shipped, []byte("\n#"+name+": ")) {
			t.Errorf("the example lacks %s", name)
		}
	}
}
