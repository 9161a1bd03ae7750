package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/config"
)

// fakeDNS holds by name the addresses of a host ("192.0.2.1 2001:db8::1", "*" for all hosts), or the services behind a name
// with underscores ("10 5 5060 a.example.", the priority first, and commas between them). "fail" is a server that does not
// answer.
type fakeDNS map[string]string

var errNotFound = &net.DNSError{Err: "no such host", IsNotFound: true}

func (f fakeDNS) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	text, ok := f[host]
	if !ok {
		text = f["*"]
	}
	switch text {
	case "":
		return nil, errNotFound
	case "fail":
		return nil, &net.DNSError{Err: "no answer", IsTimeout: true}
	}
	var found []netip.Addr
	for _, a := range strings.Fields(text) {
		found = append(found, netip.MustParseAddr(a))
	}
	return found, nil
}

func (f fakeDNS) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	text := f["_"+service+"._"+proto+"."+name]
	switch text {
	case "":
		return "", nil, errNotFound
	case "fail":
		return "", nil, &net.DNSError{Err: "no answer", IsTimeout: true}
	}
	var found []*net.SRV
	for _, record := range strings.Split(text, ",") {
		s := new(net.SRV)
		if _, err := fmt.Sscan(record, &s.Priority, &s.Weight, &s.Port, &s.Target); err != nil {
			panic(err)
		}
		found = append(found, s)
	}
	return "", found, nil
}

func TestLookup(t *testing.T) {
	hosts := func(with fakeDNS) fakeDNS {
		all := fakeDNS{"a.example": "192.0.2.1", "b.example": "2001:db8::2 192.0.2.2 192.0.2.22", "pbx.example": "192.0.2.9"}
		for name, text := range with {
			all[name] = text
		}
		return all
	}
	for _, test := range []struct {
		name      string
		pbx       string
		transport transport
		dns       fakeDNS
		want      string // addresses
		err       string
	}{
		{name: "address", pbx: "192.0.2.7", want: "192.0.2.7:5060"},
		{name: "address over TLS", pbx: "192.0.2.7", transport: "tls", want: "192.0.2.7:5061"},
		{name: "mapped address", pbx: "::ffff:192.0.2.7", want: "192.0.2.7:5060"},
		{name: "address and port", pbx: "[2001:db8::7]:5080", want: "[2001:db8::7]:5080"},
		{name: "name without services", pbx: "pbx.example", want: "192.0.2.9:5060"},
		{name: "IPv4 comes first", pbx: "b.example", want: "192.0.2.2:5060 192.0.2.22:5060 [2001:db8::2]:5060"},
		{name: "services", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "20 0 5070 b.example.,10 0 5062 a.example."},
			want: "192.0.2.1:5062 192.0.2.2:5070 192.0.2.22:5070 [2001:db8::2]:5070"},
		{name: "services over TCP", pbx: "pbx.example", transport: "tcp", dns: fakeDNS{"_sip._udp.pbx.example": "1 1 1 b.example.", "_sip._tcp.pbx.example": "1 1 5062 a.example."},
			want: "192.0.2.1:5062"},
		{name: "services over TLS", pbx: "pbx.example.", transport: "tls", dns: fakeDNS{"_sips._tcp.pbx.example": "1 1 5063 a.example."}, want: "192.0.2.1:5063"},
		{name: "a port asks for no service", pbx: "pbx.example:5060", dns: fakeDNS{"_sip._udp.pbx.example": "1 1 5062 a.example."}, want: "192.0.2.9:5060"},
		{name: "localhost", pbx: "localhost", dns: fakeDNS{"localhost": "127.0.0.1", "_sip._udp.localhost": "1 1 5062 a.example."}, want: "127.0.0.1:5060"},
		{name: "one service without address", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "1 1 5062 gone.example.,2 1 5062 a.example."},
			want: "192.0.2.1:5062"},
		{name: "one service whose address is not known", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "1 1 5062 gone.example.,2 1 5062 a.example.", "gone.example": "fail"},
			want: "192.0.2.1:5062", err: "no answer"},
		{name: "no service over this transport", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "0 0 0 ."}, err: "no SIP over this transport"},
		{name: "unknown name", pbx: "none.example", err: "no such host"},
		{name: "services are not answered", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "fail"}, want: "192.0.2.9:5060", err: "no answer"},
		{name: "nothing is answered", pbx: "pbx.example", dns: fakeDNS{"_sip._udp.pbx.example": "fail", "pbx.example": "fail"}, err: "no answer"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var e config.Endpoint
			if err := e.UnmarshalText([]byte(test.pbx)); err != nil {
				t.Fatal(err)
			}
			if test.transport == "" {
				test.transport = "udp"
			}
			found, err := lookup{resolver: hosts(test.dns), transport: test.transport}.targets(t.Context(), e)
			var got []string
			for _, f := range found {
				got = append(got, f.addr.String())
				if f.host != strings.TrimSuffix(e.Host, ".") {
					t.Errorf("certificate for %q", f.host)
				}
			}
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %v, want %s", got, test.want)
			}
			if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
		})
	}
}

// TestWeights draws with many seeds: chances are as the weights, and a service that goes moves nobody between the others.
func TestWeights(t *testing.T) {
	const draws = 4000
	records := func() []*net.SRV {
		return []*net.SRV{{Target: "rare", Weight: 10}, {Target: "half", Weight: 50}, {Target: "some", Weight: 40}, {Target: "never", Weight: 0}, {Target: "last", Weight: 1000, Priority: 1}}
	}
	first := map[string]int{}
	for i := range draws {
		l := lookup{seed: strconv.Itoa(i)}
		all := records()
		l.order(all)
		if all[4].Target != "last" {
			t.Fatal("priorities are not obeyed")
		}
		first[all[0].Target]++
		var want, got []string
		for _, s := range all {
			if s.Target != "half" {
				want = append(want, s.Target)
			}
		}
		fewer := append(records()[:1], records()[2:]...)
		l.order(fewer)
		for _, s := range fewer {
			got = append(got, s.Target)
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Fatalf("without half the order is %v, was %v", got, want)
		}
	}
	for target, share := range map[string]float64{"rare": 0.1, "half": 0.5, "some": 0.4, "never": 0} {
		if got := float64(first[target]) / draws; got < share-0.05 || got > share+0.05 {
			t.Errorf("%s is first in %.2f of all draws, want %.2f", target, got, share)
		}
	}
}
