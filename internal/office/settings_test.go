package office

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
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
	if _, err := config.Parse(&line, name, "", tunnelproxy().Vars(), append([]string{"serve"}, args...), &out, &out); err != nil {
		t.Fatal(err)
	}
	return &line.Serve.settings
}

func found(addresses ...string) func() ([]config.LANCandidate, error) {
	return func() ([]config.LANCandidate, error) {
		var list []config.LANCandidate
		for i, a := range addresses {
			list = append(list, config.LANCandidate{Interface: "eth" + string(rune('0'+i)), Address: netip.MustParseAddr(a)})
		}
		return list, nil
	}
}

func TestPlace(t *testing.T) {
	broken := func() ([]config.LANCandidate, error) { return nil, errors.New("netlink: no") }
	here := []string{"--lan-address", "127.0.0.1"}
	for _, test := range []struct {
		name  string
		args  []string
		found func() ([]config.LANCandidate, error)
		want  string // what is listened on, over TLS; what phones use
		code  config.Exit
		text  []string
	}{
		{name: "one address", found: found("192.0.2.1"), want: ":5060; ; 192.0.2.1:5060"},
		{name: "several", found: found("192.0.2.1", "198.51.100.1", "2001:db8::1"), want: ":5060; ; 192.0.2.1:5060 198.51.100.1:5060 [2001:db8::1]:5060"},
		{name: "none", found: found(), want: ":5060; ; "},
		{name: "unknown", found: broken, want: ":5060; ; "},
		{name: "IPv4 alone", args: []string{"--sip-listen", "0.0.0.0:5080"}, found: found("192.0.2.1", "2001:db8::1"), want: "0.0.0.0:5080; ; 192.0.2.1:5080"},
		{name: "IPv6 alone", args: []string{"--sip-listen", "[::]:5080"}, found: found("192.0.2.1", "2001:db8::1"), want: "[::]:5080; ; [2001:db8::1]:5080"},
		{name: "one is told", args: here, found: found("192.0.2.1", "198.51.100.1"), want: ":5060; ; 127.0.0.1:5060"},
		{name: "one is told, and those of the other family", args: here, found: found("192.0.2.1", "2001:db8::1"), want: ":5060; ; 127.0.0.1:5060 [2001:db8::1]:5060"},
		{name: "not ours", args: []string{"--lan-address", "192.0.2.254"}, code: config.ExitTaken, text: []string{"not an address of this machine"}},
		{name: "listen says it", args: []string{"--sip-listen", "127.0.0.9:5080"}, found: broken, want: "127.0.0.9:5080; ; 127.0.0.9:5080"},
		{name: "listen without port", args: []string{"--sip-listen", "127.0.0.9"}, found: broken, want: "127.0.0.9:5060; ; 127.0.0.9:5060"},
		{name: "two to listen on", args: []string{"--sip-listen", "127.0.0.9,[::1]:5080"}, found: broken, want: "127.0.0.9:5060 [::1]:5080; ; 127.0.0.9:5060 [::1]:5080"},
		{name: "by name", args: []string{"--sip-listen", "localhost"}, found: broken, want: "127.0.0.1:5060; ; 127.0.0.1:5060"},
		{name: "media over SIP", args: []string{"--media-ports", "5000-5999"}, code: config.ExitConfig, text: []string{"sip-listen port 5060 is one of media-ports"}},
		{name: "media over the second", args: []string{"--sip-listen", ":5060,:40000"}, code: config.ExitConfig, text: []string{"sip-listen port 40000 is one of media-ports"}},
		{name: "TLS", args: []string{"--sip-tls-listen", ":5071"}, found: found("192.0.2.1"), want: ":5060; :5071; 192.0.2.1:5060"},
		{name: "TLS with a certificate", args: []string{"--sip-listen", "127.0.0.9,[::1]", "--tls-cert", "c", "--tls-key", "k"}, want: "127.0.0.9:5060 [::1]:5060; 127.0.0.9:5061 [::1]:5061; 127.0.0.9:5060 [::1]:5060"},
		{name: "certificate without key", args: []string{"--tls-cert", "c"}, code: config.ExitConfig, text: []string{"belong together"}},
		{name: "TLS on the SIP port", args: []string{"--sip-tls-listen", ":5060"}, code: config.ExitConfig, text: []string{"both on port 5060"}},
		{name: "media over TLS", args: []string{"--sip-tls-listen", ":40000"}, code: config.ExitConfig, text: []string{"sip-tls-listen port 40000 is one of"}},
		{name: "no media", args: []string{"--media-ports", "5001-5003"}, code: config.ExitConfig, text: []string{"no room for a call"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parse(t, test.args...).survey()
			if test.code != 0 {
				if config.ExitOf(err) != test.code {
					t.Fatalf("got %v, %v", p, err)
				}
				for _, text := range test.text {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %q", text, err)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var use []string
			for _, at := range p.addresses(p.listen, test.found) {
				use = append(use, at.String())
			}
			if got := strings.Join(p.listen.texts(), " ") + "; " + strings.Join(p.tls.texts(), " ") + "; " + strings.Join(use, " "); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestTrunks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tunnelproxy.yaml")
	for _, text := range []string{
		"trunk:\n  berlin: 192.168.1.20\n  bonn: pbx.lan:5070;transport=tcp\n  koeln: '[2001:db8::1]:5062'\n",
		"trunk:\n  - berlin=192.168.1.20\n  - bonn=pbx.lan:5070;transport=tcp\n  - koeln=[2001:db8::1]:5062\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := parse(t, "--config", path)
		if _, err := s.survey(); err != nil {
			t.Fatal(err)
		}
		want := []sipfwd.Trunk{
			{Name: "berlin", Host: "192.168.1.20", Port: 5060, Transport: "UDP", Addr: netip.MustParseAddr("192.168.1.20")},
			{Name: "bonn", Host: "pbx.lan", Port: 5070, Transport: "TCP"},
			{Name: "koeln", Host: "[2001:db8::1]", Port: 5062, Transport: "UDP", Addr: netip.MustParseAddr("2001:db8::1")},
		}
		if got := s.trunks(); !slices.Equal(got, want) {
			t.Errorf("%+v", got)
		}
	}
	for text, want := range map[string]string{
		"berlin":                           "is not NAME=HOST:PORT",
		"=192.168.1.20":                    "the name",
		"a/b=192.168.1.20":                 "the name",
		"berlin=:5060":                     "has no host",
		"berlin=0.0.0.0":                   "has no host",
		"berlin=192.168.1.20:x":            "no valid port",
		"berlin=192.168.1.20;transport=ws": "neither transport=udp nor transport=tcp",
	} {
		var line trunk
		if err := line.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for args, want := range map[string]string{
		"--trunk=a=192.0.2.1 --trunk=a=192.0.2.2":                               "trunk a is there twice",
		"--trunk=a=127.0.0.1":                                                   "where tunnelproxy itself listens",
		"--trunk=a=127.0.0.1:5070 --sip-listen=127.0.0.9":                       "",
		"--trunk=a=127.0.0.1 --sip-listen=127.0.0.9":                            "",
		"--trunk=a=127.0.0.9 --sip-listen=127.0.0.9":                            "where tunnelproxy itself listens",
		"--trunk=a=localhost:5061 --sip-listen=127.0.0.9":                       "",
		"--trunk=a=127.0.0.1:5062 --trunk=b=127.0.0.1:5063":                     "",
		"--trunk=a=192.0.2.1 --trunk=b=192.0.2.1:5062":                          "",
		"--trunk=a=198.51.100.7 --trunk=b=198.51.100.8":                         "",
		"--trunk=a=192.0.2.1 --trunk=b=192.0.2.1:5060":                          "trunks a and b are both at 192.0.2.1:5060",
		"--trunk=a=192.0.2.1 --trunk=b=192.0.2.1;transport=tcp":                 "trunks a and b are both at",
		"--trunk=a=127.0.0.1:5062 --trunk=b=127.0.0.2:5062":                     "trunks a and b are both at",
		"--trunk=a=pbx.example.com --trunk=b=PBX.example.com.;transport=tcp":    "trunks a and b are both at",
		"--trunk=a=pbx.example.com --trunk=b=192.0.2.1 --trunk=c=p.example.com": "",
	} {
		_, err := parse(t, strings.Fields(args)...).survey()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestExampleConfiguration starts from the shipped file with every setting in it uncommented.
func TestExampleConfiguration(t *testing.T) {
	shipped, err := os.ReadFile(filepath.Join("..", "..", "deploy", "examples", "tunnelproxy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	active := regexp.MustCompile(`(?m)^#([a-z-]+:|  - )`).ReplaceAll(shipped, []byte("$1"))
	path := filepath.Join(t.TempDir(), "tunnelproxy.yaml")
	for _, text := range [][]byte{shipped, active} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s := parse(t, "--config", path)
		if got := strings.Join(s.SIPListen.texts(), " "); got != ":5060" {
			t.Errorf("listens on %s", got)
		}
		if len(s.networks()) != bytes.Count(text, []byte("\n  - 203.0.113.0/24")) {
			t.Errorf("networks %v", s.networks())
		}
	}
	for _, group := range []reflect.Type{reflect.TypeFor[settings](), reflect.TypeFor[serverFlags]()} {
		for field := range group.Fields() {
			name := field.Tag.Get("name")
			if name == "" {
				name = strings.ToLower(regexp.MustCompile(`(.)([A-Z][a-z])`).ReplaceAllString(field.Name, "$1-$2"))
			}
			if !field.Anonymous && !bytes.Contains(shipped, []byte("\n#"+name+":")) {
				t.Errorf("the example lacks %s", name)
			}
		}
	}
}

// TestTrunkByName: one that leads to tunnelproxy itself would get its own messages for ever, and one with several addresses
// stays where it is.
func TestTrunkByName(t *testing.T) {
	s := parse(t, "--trunk=here=localhost", "--trunk=beside=localhost:5070")
	if addr, err := s.locate(t.Context(), &s.Trunk[0], netip.Addr{}); err == nil || !strings.Contains(err.Error(), "where tunnelproxy itself listens") {
		t.Errorf("%v, %v", addr, err)
	}
	if addr, err := s.locate(t.Context(), &s.Trunk[1], netip.Addr{}); err != nil || !addr.IsLoopback() {
		t.Errorf("%v, %v", addr, err)
	}
	both := parse(t, "--trunk=beside=localhost:5070", "--trunk=a=127.0.0.9:5070", "--trunk=b=192.0.2.1", "--trunk=c=pbx.example.com")
	for _, c := range []struct {
		trunk int
		addr  string
		known map[string]netip.Addr
		free  bool
	}{
		{0, "127.0.0.1", nil, false},
		{2, "192.0.2.1", nil, true},
		{3, "192.0.2.1", nil, false},
		{3, "192.0.2.2", nil, true},
		{2, "192.0.2.1", map[string]netip.Addr{"c": netip.MustParseAddr("192.0.2.1")}, false},
	} {
		if err := both.elsewhere(&both.Trunk[c.trunk], netip.MustParseAddr(c.addr), c.known); (err == nil) != c.free {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if at := preferred([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, netip.MustParseAddr("192.0.2.2")); at.String() != "192.0.2.2" {
		t.Errorf("it moves to %v", at)
	}
}
