package relay

import (
	"net/netip"
	"testing"
	"time"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// sameIP stands for any policy: it accepts every port of the signalled address.
func sameIP(src, signalled netip.AddrPort) bool { return src.Addr() == signalled.Addr() }

func checkAdmit(t *testing.T, l *latch, src string, at time.Duration, want verdict) {
	t.Helper()
	if got := l.admit(ap(src), at); got != want {
		t.Errorf("admit(%s) at %v = %v, want %v", src, at, got, want)
	}
}

func checkTarget(t *testing.T, l *latch, want string, wantVerdict verdict) {
	t.Helper()
	var wantAddr netip.AddrPort
	if want != "" {
		wantAddr = ap(want)
	}
	if got, v := l.target(); got != wantAddr || v != wantVerdict {
		t.Errorf("target() = %v, %v, want %v, %v", got, v, wantAddr, wantVerdict)
	}
}

func TestLatchWithoutRemote(t *testing.T) {
	l := latch{accept: func(_, _ netip.AddrPort) bool {
		t.Error("the policy was asked without a signalled address")
		return true
	}}
	checkAdmit(t, &l, "192.0.2.1:4000", 0, dropNoRemote)
	checkTarget(t, &l, "", dropNoRemote)
}

func TestLatchFirstAcceptedSource(t *testing.T) {
	l := latch{accept: sameIP}
	l.setRemote(ap("192.0.2.1:4000"))
	checkTarget(t, &l, "192.0.2.1:4000", pass)
	checkAdmit(t, &l, "198.51.100.9:4000", 0, dropUnknownSource)
	checkTarget(t, &l, "192.0.2.1:4000", pass)
	checkAdmit(t, &l, "192.0.2.1:61000", 0, pass)
	checkTarget(t, &l, "192.0.2.1:61000", pass)
	checkAdmit(t, &l, "192.0.2.1:61001", 0, dropUnknownSource)
	checkAdmit(t, &l, "192.0.2.1:61000", 0, pass)
}

func TestLatchMovesToSignalledAddressOnce(t *testing.T) {
	l := latch{accept: sameIP}
	l.setRemote(ap("192.0.2.1:4000"))
	checkAdmit(t, &l, "192.0.2.1:5000", 0, pass) // a stray packet of an earlier call
	checkAdmit(t, &l, "192.0.2.1:4000", 0, pass)
	checkTarget(t, &l, "192.0.2.1:4000", pass)
	checkAdmit(t, &l, "192.0.2.1:5000", 0, dropUnknownSource)
}

func TestLatchOpensAfterSilence(t *testing.T) {
	l := latch{accept: sameIP}
	l.setRemote(ap("192.0.2.1:4000"))
	checkAdmit(t, &l, "192.0.2.1:4000", time.Second, pass)
	checkAdmit(t, &l, "192.0.2.1:4002", time.Second+RelatchAfter-1, dropUnknownSource)
	checkAdmit(t, &l, "198.51.100.9:4000", time.Second+RelatchAfter, dropUnknownSource)
	checkTarget(t, &l, "192.0.2.1:4000", pass)
	checkAdmit(t, &l, "192.0.2.1:4002", time.Second+RelatchAfter, pass)
	checkTarget(t, &l, "192.0.2.1:4002", pass)
}

func TestLatchAndNewSDP(t *testing.T) {
	l := latch{accept: sameIP}
	l.setRemote(ap("192.0.2.1:4000"))
	checkAdmit(t, &l, "192.0.2.1:61000", 0, pass)

	l.setRemote(ap("192.0.2.1:4000"))
	checkTarget(t, &l, "192.0.2.1:61000", pass)

	l.setRemote(ap("192.0.2.2:4000"))
	checkTarget(t, &l, "192.0.2.2:4000", pass)
	checkAdmit(t, &l, "192.0.2.1:61000", 0, dropUnknownSource)
	checkAdmit(t, &l, "192.0.2.2:62000", 0, pass)
	checkTarget(t, &l, "192.0.2.2:62000", pass)
}

func TestLatchHold(t *testing.T) {
	for _, hold := range []string{"0.0.0.0:4000", "[::]:4000", "[::ffff:0.0.0.0]:9"} {
		l := latch{accept: sameIP}
		l.setRemote(ap("192.0.2.1:4000"))
		checkAdmit(t, &l, "192.0.2.1:61000", 0, pass)
		l.setRemote(ap(hold))
		checkTarget(t, &l, "", dropHeld)
		checkAdmit(t, &l, "192.0.2.1:61000", 0, pass) // its music on hold
		checkAdmit(t, &l, "198.51.100.9:4000", 0, dropUnknownSource)
		l.setRemote(ap("192.0.2.1:4000"))
		checkTarget(t, &l, "192.0.2.1:61000", pass)
	}
}

func TestLatchHoldFromTheStart(t *testing.T) {
	l := latch{accept: sameIP}
	l.setRemote(ap("0.0.0.0:4000"))
	checkTarget(t, &l, "", dropHeld)
	checkAdmit(t, &l, "192.0.2.1:4000", 0, dropNoRemote)
}

func TestLatchRemoteThatIsNoPeer(t *testing.T) {
	for name, none := range map[string]netip.AddrPort{
		"zero":                   {},
		"port 0":                 ap("192.0.2.1:0"),
		"port 0 and unspecified": ap("0.0.0.0:0"),
		"IPv4 multicast":         ap("224.0.0.1:4000"),
		"IPv6 multicast":         ap("[ff02::1]:4000"),
		"broadcast":              ap("255.255.255.255:4000"),
		"mapped broadcast":       ap("[::ffff:255.255.255.255]:4000"),
	} {
		t.Run(name, func(t *testing.T) {
			l := latch{accept: sameIP}
			l.setRemote(ap("192.0.2.1:4000"))
			checkAdmit(t, &l, "192.0.2.1:4000", 0, pass)
			l.setRemote(none)
			checkTarget(t, &l, "", dropNoRemote)
			checkAdmit(t, &l, "192.0.2.1:4000", 0, dropNoRemote)
			l.setRemote(ap("192.0.2.1:4000"))
			checkTarget(t, &l, "192.0.2.1:4000", pass)
		})
	}
}

func TestLatchMappedAddressIsIPv4(t *testing.T) {
	var l latch
	l.setRemote(ap("[::ffff:192.0.2.1]:4000"))
	checkAdmit(t, &l, "192.0.2.1:4000", 0, pass)
}

func TestLatchWithoutPolicy(t *testing.T) {
	var l latch
	l.setRemote(ap("192.0.2.1:4000"))
	checkAdmit(t, &l, "192.0.2.1:4001", 0, dropUnknownSource)
	checkAdmit(t, &l, "192.0.2.1:4000", 0, pass)
	checkAdmit(t, &l, "192.0.2.1:4001", 2*RelatchAfter, dropUnknownSource)
}

func TestLatchAsksPolicyAboutSignalledAddressToo(t *testing.T) {
	l := latch{accept: func(_, _ netip.AddrPort) bool { return false }}
	l.setRemote(ap("192.0.2.1:4000"))
	checkAdmit(t, &l, "192.0.2.1:4000", 0, dropUnknownSource)
}
