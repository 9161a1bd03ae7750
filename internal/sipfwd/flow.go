package sipfwd

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxMessage     = 65535
	maxDatagramUDP = 65507
)

// flow is a phone's end of a transport, RFC 5626 section 2: the UDP address
// that it sends from, or its connection.
type flow struct {
	transport string         // "UDP", "TCP" or "TLS"
	remote    netip.AddrPort // the phone
	local     netip.AddrPort // what the phone is told to reach us by

	udp    *net.UDPConn
	stream *stream
	gone   atomic.Bool

	counters *counter.Set
}

func (f *flow) reliable() bool { return f.transport != "UDP" }

func (f *flow) String() string { return f.transport + ":" + f.remote.String() }

func (f *flow) send(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if f.stream != nil {
		f.stream.send(msg)
		return
	}
	if len(msg) > maxDatagramUDP {
		f.counters.Counter("sip.dropped.too_large_for_udp").Inc()
		return
	}
	if _, err := f.udp.WriteToUDPAddrPort(msg, f.remote); err != nil {
		f.counters.Counter("sip.dropped.send_failed").Inc()
	}
}

// recordRoute is the Record-Route value that leads the requests of the phone's
// dialog back through us. target is the Request-URI of the request that began
// it: RFC 3261 section 16.6, step 4, wants sips for sips.
func (f *flow) recordRoute(target []byte) []byte {
	v := "<sip:" + f.local.String()
	switch {
	case f.transport == "TLS" && isSIPS(target):
		v = "<sips:" + f.local.String()
	case f.transport != "UDP":
		v += ";transport=" + strings.ToLower(f.transport)
	}
	return []byte(v + ";lr>")
}

func isSIPS(uri []byte) bool { return len(uri) >= 5 && bytes.EqualFold(uri[:5], []byte("sips:")) }

// via is the Via value, without branch, of requests sent on this flow.
func (f *flow) via() string { return "SIP/2.0/" + f.transport + " " + f.local.String() }

// ServeUDP takes SIP from phones on conn until Close. The proxy owns conn.
func (s *LANSide) ServeUDP(conn *net.UDPConn) error {
	port := addrPort(conn.LocalAddr()).Port()
	if !s.addCloser(conn, port) {
		return nil
	}
	defer s.wg.Done()
	buf := make([]byte, maxMessage)
	var m sipmsg.Message
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.closing() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.counters.Counter("sip.dropped.receive_failed").Inc()
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !s.serves(from.Addr()) {
			s.counters.Counter("sip.dropped.foreign_source").Inc()
			continue
		}
		s.datagram(conn, port, from, buf[:n], &m)
	}
}

func (s *LANSide) datagram(conn *net.UDPConn, port uint16, from netip.AddrPort, b []byte, m *sipmsg.Message) {
	if len(bytes.Trim(b, "\r\n\x00 ")) == 0 {
		if bytes.Equal(b, []byte("\r\n\r\n")) { // RFC 5626 section 3.5.1, as many phones do over UDP too
			conn.WriteToUDPAddrPort([]byte("\r\n"), from)
		}
		return
	}
	key := flowKey{conn, from}
	s.mu.Lock()
	f := s.flows[key]
	s.mu.Unlock()
	if f == nil {
		f = &flow{
			transport: "UDP", remote: from, udp: conn,
			local: netip.AddrPortFrom(s.cfg.LANAddress, port), counters: s.counters,
		}
	}
	s.deliver(f, b, m)
}

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
