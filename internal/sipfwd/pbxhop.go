package sipfwd

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// dialWait is how long a PBX over TCP or TLS has to take a connection; the phone
// that waits for it turns to its second server after some seconds.
const dialWait = 5 * time.Second

// The ways from a phone's port to the PBX. Requests go the way that is
// configured, responses back to where the request came from.

// hopTo is the way of the phone's requests to the PBX at addr.
func (port *phonePort) hopTo(addr netip.AddrPort) hop {
	if port.ports.cfg.Transport == "UDP" {
		return pbxHop{port, addr}
	}
	return linkHop{port, addr}
}

// targetOf is the target that requests on the way h go to, zero for another way.
func targetOf(h hop) netip.AddrPort {
	switch h := h.(type) {
	case pbxHop:
		return h.addr
	case linkHop:
		return h.addr
	}
	return netip.AddrPort{}
}

// replyTo is the way of responses to the request m. pbx is the target that it came
// from.
func (port *phonePort) replyTo(from source, pbx netip.AddrPort, m *sipmsg.Message) hop {
	if via, ok := m.TopVia(); ok && from.stream == nil {
		from.addr = replyAddr(via, from.addr)
	}
	return port.backTo(from, pbx)
}

func (port *phonePort) backTo(from source, pbx netip.AddrPort) hop {
	if from.stream != nil {
		return streamHop{from.stream, port.hopTo(pbx)}
	}
	return pbxHop{port, from.addr}
}

// pbxHop is the PBX as seen from a phone's port, over UDP.
type pbxHop struct {
	port *phonePort
	addr netip.AddrPort
}

func (h pbxHop) reliable() bool { return false }

func (h pbxHop) send(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if len(msg) > maxDatagramUDP {
		h.port.count("sip.dropped.too_large_for_udp")
		return
	}
	if _, err := h.port.out.WriteToUDPAddrPort(msg, h.addr); err != nil {
		h.port.count("sip.dropped.send_failed")
	}
}

// streamHop is a connection that a request of the PBX came on. A response that
// finds it closed takes the way of the phone's requests, if that is a connection.
type streamHop struct {
	stream  *stream
	instead hop
}

func (h streamHop) reliable() bool { return true }

func (h streamHop) send(msg []byte) {
	if h.stream.ended() && h.instead.reliable() {
		h.instead.send(msg)
		return
	}
	h.stream.send(msg)
}

// linkHop is the PBX behind the port's own connection to one of its targets, which
// is dialled when there is something to send. Nobody waits for it but the messages.
type linkHop struct {
	port *phonePort
	addr netip.AddrPort
}

func (h linkHop) reliable() bool { return true }

func (h linkHop) send(msg []byte) { h.port.linkWith(h.addr).send(msg) }

func (port *phonePort) linkWith(addr netip.AddrPort) *stream {
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	if st := port.links[addr]; st != nil {
		return st
	}
	st := newStream(nil, port.ports.cfg.Counters)
	if port.closed {
		st.close()
		return st
	}
	if len(port.links) >= maxPortLinks {
		for other, old := range port.links { // any: what is needed is dialled again
			old.close()
			delete(port.links, other)
			break
		}
	}
	port.links[addr] = st
	port.ports.wg.Go(func() { port.runLink(st, addr) })
	return st
}

// runLink dials and reads the connection, and tells the phones when it is over.
func (port *phonePort) runLink(st *stream, addr netip.AddrPort) {
	conn, err := port.dial(addr)
	if err == nil {
		st.attach(conn)
		port.ports.wg.Go(st.write)
		st.receive(streamIdle, func(b []byte) { port.deliver(source{addr, st}, b) })
	} else {
		port.count("sip.closed.pbx_unreachable")
	}
	st.close()
	port.mu.Lock()
	owner, past := port.owner, port.past
	port.mu.Unlock()
	if past != nil {
		past.linkLost(st, addr, err == nil)
	}
	if owner != nil {
		owner.linkLost(st, addr, err == nil)
	}
	port.unlink(st, addr)
}

// unlink makes the next message to addr dial again.
func (port *phonePort) unlink(st *stream, addr netip.AddrPort) {
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	if port.links[addr] == st {
		delete(port.links, addr)
	}
}

// dial connects to the PBX from the address that it knows the phone by.
func (port *phonePort) dial(addr netip.AddrPort) (net.Conn, error) {
	p := port.ports
	ctx, cancel := context.WithTimeout(p.ctx, dialWait)
	defer cancel()
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(port.addr.Addr(), 0)), Control: p.cfg.Class.Control}
	conn, err := dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil || p.cfg.Transport != "TLS" {
		return conn, err
	}
	secured := tls.Client(conn, p.cfg.ClientTLS(addr))
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		p.cfg.Counters.Counter("sip.refused.pbx_certificate").Inc()
		return nil, err
	}
	return secured, nil
}
