package iptext

import (
	"net/netip"
	"strings"
	"testing"
)

// reference is what Parse is to do, by the standard library.
func reference(s string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		s = inner[:len(inner)-1]
		if !strings.Contains(s, ":") {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Zone() == ""
}

var samples = []string{
	"", "1.2.3.4", "255.255.255.255", "0.0.0.0", "256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.4.5", "1..2.3", ".1.2.3",
	"1.2.3.", "1.2.3.4a", "1.2.3.-4", "example.com", "::", "::1", "1::", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::",
	"::2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9", "1:2:3:4::5:6:7:8", ":", ":::", "1:", ":1", "1::2::3", "12345::", "g::",
	"2001:DB8::aBcD", "::ffff:192.0.2.1", "64:ff9b::192.0.2.33", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
	"::1.2.3", "::1.2.3.4:5", "1.2.3.4::", "[::1]", "[1.2.3.4]", "[::1", "::1]", "[]", "[", "fe80::1%eth0", "[fe80::1%1]",
	"1:2:3:4:5:6:7", "::1:2:3:4:5:6:7:8", "2001:db8:::192.0.2.1", "0:0:0:0:0:0:0:0", "::00001",
}

func TestParse(t *testing.T) {
	for _, s := range samples {
		check(t, s)
	}
}

func check(t *testing.T, s string) {
	t.Helper()
	got, ok := Parse([]byte(s))
	want, wantOK := reference(s)
	if ok != wantOK || ok && got != want {
		t.Errorf("%q: %v %t, want %v %t", s, got, ok, want, wantOK)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { check(t, s) })
}

func TestNoAllocations(t *testing.T) {
	for _, s := range []string{"192.0.2.1", "[2001:db8::1]", "example.com"} {
		b := []byte(s)
		if n := testing.AllocsPerRun(100, func() { Parse(b) }); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}
