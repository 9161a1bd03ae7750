package sipfwd

import (
	"bytes"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/siptunnel/siptunnel/internal/counter"
)

const (
	maxMessage     = 65535
	maxDatagramUDP = 65507
)

// flow is a phone's end of a transport, RFC 5626 section 2: the UDP address
// that it sends from, or its connection.
type flow struct {
	transport string         // "UDP", "TCP" or "TLS"
	remote    netip.AddrPort // the phone: what it is sent goes there
	local     netip.AddrPort // what the phone is told to reach us by; without zone
	at        netip.Addr     // our address that the phone sends to, and is sent to from

	sock   *lanSocket // of UDP
	from   []byte     // what has sock send from at
	stream *stream
	gone   atomic.Bool // closed; of UDP: another device has the address

	// Guarded by the side's lock:
	tenant tenant      // of UDP
	phones []*lanPhone // that it is of

	counters *counter.Set
}

// renewed is the flow of another device at the same address.
func (f *flow) renewed() *flow {
	return &flow{
		transport: f.transport, remote: f.remote, local: f.local, at: f.at, sock: f.sock, from: f.from, counters: f.counters,
	}
}

func (f *flow) reliable() bool { return f.transport != "UDP" }

func (f *flow) String() string { return f.transport + ":" + f.remote.String() }

// key is what a flow over UDP is found by.
func (f *flow) key() flowKey { return flowKey{f.sock, f.at, f.remote} }

// media is the address of ours for the media of the phone on f, with the zone
// that a link-local one needs.
func (f *flow) media() netip.Addr {
	if a := f.local.Addr(); a != f.at.WithZone("") {
		return a
	}
	return f.at
}

func (f *flow) send(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if f.stream != nil {
		f.stream.send(msg)
		return
	}
	if f.gone.Load() {
		f.counters.Counter("sip.dropped.flow_gone").Inc()
		return
	}
	if len(msg) > maxDatagramUDP {
		f.counters.Counter("sip.dropped.too_large_for_udp").Inc()
		return
	}
	if err := f.sock.send(msg, f.remote, f.from); err != nil {
		f.counters.Counter("sip.dropped.send_failed").Inc()
	}
}

// recordRoute is the Record-Route value that leads the requests of the phone's
// dialog back through us. secure says that the Request-URI of the request that began
// it is of sips: RFC 3261 section 16.6, step 4, wants sips for sips.
func (f *flow) recordRoute(secure bool) []byte {
	v := "<sip:" + f.local.String()
	switch {
	case f.transport == "TLS" && secure:
		v = "<sips:" + f.local.String()
	case f.transport != "UDP":
		v += ";transport=" + strings.ToLower(f.transport)
	}
	return []byte(v + ";lr>")
}

func isSIPS(uri []byte) bool { return len(uri) >= 5 && bytes.EqualFold(uri[:5], []byte("sips:")) }

// via is the Via value, without branch, of requests sent on this flow.
func (f *flow) via() string { return "SIP/2.0/" + f.transport + " " + f.local.String() }

func addrPort(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func portSuffix(port int) string {
	if port == 0 {
		return ""
	}
	return ":" + strconv.Itoa(port)
}
