package sipfwd

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxPortStreams = 8 // connections of the PBX to one phone's port
	maxPortLinks   = 8 // connections of one phone's port to targets of the PBX
)

// phonePort is one open port. Who owns it may change: a client that comes back
// with a new session takes over its phones' ports.
//
// The port listens on TCP too: a PBX may turn to it for a request that is too
// large for a datagram, RFC 3261 section 18.1.1.
type phonePort struct {
	ports *PhonePorts
	id    phoneID
	socks sockets
	out   datagrams // socks.udp
	addr  netip.AddrPort

	mu    sync.Mutex
	owner *pbxPhone
	end   *time.Timer
	// Who had the port before still has transactions, those of its goodbyes
	// among them, until pastEnd.
	past    *pbxPhone
	pastEnd time.Time

	streamsMu sync.Mutex
	streams   map[*stream]struct{}       // that the PBX has opened
	links     map[netip.AddrPort]*stream // that we have opened, by the target
	closed    bool
}

// source is where a message of the PBX came from.
type source struct {
	addr   netip.AddrPort
	stream *stream // nil: a datagram
}

func newPhonePort(p *PhonePorts, id phoneID, socks sockets) *phonePort {
	port := &phonePort{
		ports: p, id: id, socks: socks, out: socks.udp, addr: addrPort(socks.udp.LocalAddr()),
		streams: make(map[*stream]struct{}), links: make(map[netip.AddrPort]*stream),
	}
	p.wg.Go(port.read)
	if socks.tcp != nil {
		p.wg.Go(func() { acceptAll(socks.tcp, p.ctx.Done(), p.cfg.Counters, port.accept) })
	}
	return port
}

// shut closes the port. What waits on its connections is still written.
func (port *phonePort) shut() {
	port.socks.udp.Close()
	if port.socks.tcp != nil {
		port.socks.tcp.Close()
	}
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	port.closed = true
	for st := range port.streams {
		st.close()
	}
	for _, st := range port.links {
		st.close()
	}
}

// release says that owner needs the port no longer than d: the registration
// that the PBX holds will have ended by then.
func (port *phonePort) release(owner *pbxPhone, d time.Duration) {
	port.mu.Lock()
	defer port.mu.Unlock()
	if port.owner != owner {
		return
	}
	port.end = time.AfterFunc(d, func() { port.expire(owner) })
}

func (port *phonePort) expire(owner *pbxPhone) {
	p := port.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	port.mu.Lock()
	defer port.mu.Unlock()
	if port.owner != owner {
		return
	}
	if e := p.book[port.id]; e != nil {
		e.Used = time.Now()
	}
	port.owner, port.past = nil, nil
	port.shut()
	if p.open[port.id] == port {
		delete(p.open, port.id)
	}
}

func (port *phonePort) count(name string) { port.ports.cfg.Counters.Counter(name).Inc() }

// admits is the door of the port.
func (port *phonePort) admits(from netip.AddrPort) bool {
	if port.ports.cfg.IsPBX(from.Addr()) {
		return true
	}
	port.count("sip.dropped.not_the_pbx")
	return false
}

// read takes what comes over UDP. A port that is quiet, as most are, holds no
// buffer.
func (port *phonePort) read() {
	raw, err := port.socks.udp.SyscallConn()
	for err == nil {
		if err = awaitReadable(raw); err == nil {
			err = port.readOne()
		}
	}
}

// readOne returns an error when the port is closed. What holds any datagram is given
// back before the message is worked on, which many ports do at once.
func (port *phonePort) readOne() error {
	buf := port.ports.buffer()
	n, from, err := port.socks.udp.ReadFromUDPAddrPort(buf[:])
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	var msg []byte
	admitted := err == nil && port.admits(from)
	if admitted {
		msg = bytes.Clone(buf[:n])
	}
	port.ports.buffers.Put(buf)
	switch {
	case errors.Is(err, net.ErrClosed):
		return err
	case err != nil:
		port.count("sip.dropped.receive_failed")
	case admitted:
		port.deliver(source{addr: from}, msg)
	}
	return nil
}

// accept takes a connection of the PBX.
func (port *phonePort) accept(conn net.Conn) {
	from := source{addr: addrPort(conn.RemoteAddr())}
	if !port.admits(from.addr) {
		conn.Close()
		return
	}
	if cfg := port.ports.cfg.ServerTLS; cfg != nil {
		conn = tls.Server(conn, cfg)
	}
	from.stream = newStream(conn, port.ports.cfg.Counters)
	if !port.add(from.stream) {
		conn.Close()
		return
	}
	port.ports.wg.Go(from.stream.write)
	port.ports.wg.Go(func() { port.receive(from, streamHello) })
}

func (port *phonePort) add(st *stream) bool {
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	if port.closed || len(port.streams) >= maxPortStreams {
		port.count("sip.refused.too_many_pbx_streams")
		return false
	}
	port.streams[st] = struct{}{}
	return true
}

// receive handles what comes on a connection of the PBX, to its end.
func (port *phonePort) receive(from source, hello time.Duration) {
	from.stream.receive(hello, func(b []byte) { port.deliver(from, b) })
	from.stream.close()
	port.streamsMu.Lock()
	defer port.streamsMu.Unlock()
	delete(port.streams, from.stream)
}

func (port *phonePort) deliver(from source, b []byte) {
	port.mu.Lock()
	if port.past != nil && time.Now().After(port.pastEnd) {
		port.past = nil
	}
	owner, past := port.owner, port.past
	port.mu.Unlock()
	if past != nil && past.finishes(from, b) {
		return
	}
	if owner != nil {
		owner.fromPBX(from, b)
	}
}
