package office

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/relay"
)

func TestEveryFamily(t *testing.T) {
	for _, test := range []struct {
		at      config.Endpoint
		without string // the family that fails
		err     error
		want    string
		fails   bool
	}{
		{at: config.Endpoint{Port: 5060}, want: "4 :5060, 6 :5060"},
		{at: config.Endpoint{Host: "0.0.0.0", Port: 5060}, want: "4 0.0.0.0:5060"},
		{at: config.Endpoint{Host: "::", Port: 5060}, want: "6 [::]:5060"},
		{at: config.Endpoint{Host: "::ffff:192.0.2.1", Port: 5060}, want: "4 192.0.2.1:5060"},
		{at: config.Endpoint{Host: "box.example", Port: 5060}, want: " box.example:5060"},
		{at: config.Endpoint{Port: 5060}, without: "6", err: syscall.EAFNOSUPPORT, want: "4 :5060"},
		{at: config.Endpoint{Port: 5060}, without: "6", err: syscall.EADDRINUSE, want: "4 :5060", fails: true},
		{at: config.Endpoint{Port: 5060}, without: "4", err: syscall.EADDRINUSE, fails: true},
		{at: config.Endpoint{Host: "::1", Port: 5060}, without: "6", err: syscall.EAFNOSUPPORT, fails: true},
	} {
		var got []string
		err := everyFamily(test.at, func(family, address string) error {
			if test.err != nil && family == test.without {
				return test.err
			}
			got = append(got, family+" "+address)
			return nil
		})
		if strings.Join(got, ", ") != test.want || (err != nil) != test.fails || err != nil && !errors.Is(err, test.err) {
			t.Errorf("%v without %q: %q, %v", test.at, test.without, got, err)
		}
	}
}

// TestListenOnSeveral: every socket is open, or none.
func TestListenOnSeveral(t *testing.T) {
	p, err := parse(t, "--sip-listen", "127.0.0.77:15060,127.0.0.78:15060", "--sip-tls-listen", "127.0.0.78:15061").survey()
	if err != nil {
		t.Fatal(err)
	}
	sip, err := listenSIP(p, dscp.Signalling)
	if err != nil {
		t.Fatal(err)
	}
	if len(sip.udp) != 2 || len(sip.tcp) != 2 || len(sip.tls) != 1 {
		t.Errorf("%+v", sip)
	}
	if _, err := listenSIP(p, dscp.Signalling); config.ExitOf(err) != config.ExitTaken || !strings.Contains(err.Error(), "127.0.0.77:15060/udp") {
		t.Errorf("%v", err)
	}
	sip.udp[0].Close()
	if _, err := listenSIP(p, dscp.Signalling); config.ExitOf(err) != config.ExitTaken || !strings.Contains(err.Error(), "127.0.0.77:15060/tcp") {
		t.Errorf("%v", err)
	}
	sip.close()
	again, err := listenSIP(p, dscp.Signalling)
	if err != nil {
		t.Fatalf("sockets are left: %v", err)
	}
	again.close()
}

// TestLANPorts: each address has the whole range, and addresses that are not used any more make room for others.
func TestLANPorts(t *testing.T) {
	ports := &lanPorts{low: 45000, high: 45003}
	var open []*relay.Pair
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 2, byte(i)}) }
	for i := range maxLANAddresses {
		for range 2 {
			pair, err := ports.open(at(i))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, pair)
		}
	}
	if _, err := ports.open(at(0)); !errors.Is(err, relay.ErrNoPorts) {
		t.Errorf("a third pair of two: %v", err)
	}
	if _, err := ports.open(at(200)); !errors.Is(err, errTooManyAddresses) {
		t.Errorf("one address too many: %v", err)
	}
	for _, pair := range open {
		_ = pair.Close()
	}
	if _, err := ports.open(at(200)); !errors.Is(err, errTooManyAddresses) {
		t.Errorf("while ports rest: %v", err)
	}
	ports.at[at(3)], _ = relay.NewPorts(at(3), 45000, 45003) // as after the rest
	pair, err := ports.open(at(200))
	if err != nil {
		t.Fatal(err)
	}
	_ = pair.Close()
	if ports.at[at(3)] != nil || len(ports.at) != maxLANAddresses {
		t.Errorf("%d addresses", len(ports.at))
	}
}
