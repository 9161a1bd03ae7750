package office

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/config"
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

func TestLANAddress(t *testing.T) {
	broken := func() ([]config.LANCandidate, error) { return nil, errors.New("netlink: no") }
	for _, test := range []struct {
		name  string
		args  []string
		found func() ([]config.LANCandidate, error)
		want  string // address and what is listened on
		code  config.Exit
		text  []string
	}{
		{name: "one candidate", found: found("192.0.2.1"), want: "192.0.2.1 :5060 4"},
		{name: "several", found: found("192.0.2.1", "198.51.100.1"), code: config.ExitTaken, text: []string{"192.0.2.1 (eth0), 198.51.100.1 (eth1)", "--lan-address 192.0.2.1"}},
		{name: "none", found: found(), code: config.ExitTaken, text: []string{"no LAN address"}},
		{name: "unknown", found: broken, code: config.ExitTaken, text: []string{"netlink: no", "--lan-address"}},
		{name: "given", args: []string{"--lan-address", "127.0.0.1"}, found: found("192.0.2.1", "198.51.100.1"), want: "127.0.0.1 :5060 4"},
		{name: "not ours", args: []string{"--lan-address", "192.0.2.254"}, found: found("192.0.2.1"), code: config.ExitTaken, text: []string{"not an address of this machine"}},
		{name: "listen says it", args: []string{"--sip-listen", "127.0.0.9:5080"}, found: broken, want: "127.0.0.9 127.0.0.9:5080 4"},
		{name: "listen without port", args: []string{"--sip-listen", "127.0.0.9"}, found: broken, want: "127.0.0.9 127.0.0.9:5060 4"},
		{name: "IPv6", args: []string{"--sip-listen", "[::1]:5080"}, found: broken, want: "::1 [::1]:5080 6"},
		{name: "two families", args: []string{"--sip-listen", "[::1]:5080", "--lan-address", "127.0.0.1"}, code: config.ExitConfig, text: []string{"IPv4 and IPv6"}},
		{name: "media over SIP", args: []string{"--media-ports", "5000-5999"}, code: config.ExitConfig, text: []string{"sip-listen port 5060 is one of media-ports"}},
		{name: "TLS", args: []string{"--sip-tls-listen", ":5071"}, found: found("192.0.2.1"), want: "192.0.2.1 :5060 4 :5071"},
		{name: "TLS with a certificate", args: []string{"--sip-listen", "127.0.0.9", "--tls-cert", "c", "--tls-key", "k"}, want: "127.0.0.9 127.0.0.9:5060 4 127.0.0.9:5061"},
		{name: "certificate without key", args: []string{"--tls-cert", "c"}, found: found("192.0.2.1"), code: config.ExitConfig, text: []string{"belong together"}},
		{name: "TLS on the SIP port", args: []string{"--sip-tls-listen", ":5060"}, found: found("192.0.2.1"), code: config.ExitConfig, text: []string{"both on port 5060"}},
		{name: "media over TLS", args: []string{"--sip-tls-listen", ":40000"}, found: found("192.0.2.1"), code: config.ExitConfig, text: []string{"sip-tls-listen port 40000 is one of"}},
		{name: "TLS of another family", args: []string{"--sip-tls-listen", "[::1]:5061", "--lan-address", "127.0.0.1"}, code: config.ExitConfig, text: []string{"sip-tls-listen [::1]:5061", "IPv4 and IPv6"}},
		{name: "no media", args: []string{"--media-ports", "5001-5003"}, code: config.ExitConfig, text: []string{"no room for a call"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := parse(t, test.args...).survey(test.found)
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
			if got := strings.TrimSpace(p.lan.String() + " " + p.listen.String() + " " + p.suffix + " " + p.tls.String()); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
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
		if len(s.networks()) != bytes.Count(text, []byte("\n  - ")) {
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
