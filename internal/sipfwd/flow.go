package sipfwd

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxMessage     = 65535
	maxStreams     = 2048             // TCP connections of phones
	streamQueue    = 64               // messages that wait for a slow TCP phone
	streamWrite    = 10 * time.Second // a phone that takes nothing for so long is gone
	streamFlush    = time.Second      // for what waits when the connection is closed
	streamHello    = 30 * time.Second // from accept to the first complete message
	streamIdle     = 2 * time.Hour
	maxDatagramUDP = 65507
)

// flow is a phone's end of a transport, RFC 5626 section 2: the UDP address
// that it sends from, or its TCP connection.
type flow struct {
	transport string         // "UDP" or "TCP"
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

// recordRoute is the Record-Route value that leads this phone's requests back
// through us.
func (f *flow) recordRoute() []byte {
	v := "<sip:" + f.local.String()
	if f.transport != "UDP" {
		v += ";transport=tcp"
	}
	return []byte(v + ";lr>")
}

// via is the Via value, without branch, of requests sent on this flow.
func (f *flow) via() string { return "SIP/2.0/" + f.transport + " " + f.local.String() }

// stream is the TCP connection of a flow. Its writer has a bounded queue so
// that a phone that stops reading costs nobody else a moment.
type stream struct {
	conn     net.Conn
	queue    chan []byte
	done     chan struct{}
	close    func()
	counters *counter.Set
}

func newStream(conn net.Conn, counters *counter.Set) *stream {
	s := &stream{conn: conn, queue: make(chan []byte, streamQueue), done: make(chan struct{}), counters: counters}
	s.close = sync.OnceFunc(func() {
		close(s.done)
		conn.SetWriteDeadline(time.Now().Add(streamFlush))
	})
	return s
}

func (s *stream) send(msg []byte) {
	select {
	case s.queue <- msg:
	case <-s.done:
		s.counters.Counter("sip.dropped.flow_gone").Inc()
	default:
		s.counters.Counter("sip.dropped.stream_queue_full").Inc()
		s.close()
	}
}

// write closes the connection in the end, behind what was waiting then: a BYE
// of our own for instance.
func (s *stream) write() {
	defer s.conn.Close()
	defer s.close()
	for {
		select {
		case msg := <-s.queue:
			s.conn.SetWriteDeadline(time.Now().Add(streamWrite))
			if _, err := s.conn.Write(msg); err != nil {
				return
			}
		case <-s.done:
			s.flush()
			return
		}
	}
}

func (s *stream) flush() {
	s.conn.SetWriteDeadline(time.Now().Add(streamFlush))
	for {
		select {
		case msg := <-s.queue:
			if _, err := s.conn.Write(msg); err != nil {
				return
			}
		default:
			return
		}
	}
}

// ServeUDP takes SIP from phones on conn until Close. The proxy owns conn.
func (s *LANSide) ServeUDP(conn *net.UDPConn) error {
	if !s.addCloser(conn) {
		return nil
	}
	defer s.wg.Done()
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
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

// ServeTCP takes SIP from phones that connect to ln until Close. The proxy
// owns ln.
func (s *LANSide) ServeTCP(ln net.Listener) error {
	if !s.addCloser(ln) {
		return nil
	}
	defer s.wg.Done()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if s.closing() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.counters.Counter("sip.dropped.accept_failed").Inc()
			select {
			case <-time.After(50 * time.Millisecond): // out of descriptors, mostly
			case <-s.done:
			}
			continue
		}
		s.accept(conn)
	}
}

func (s *LANSide) accept(conn net.Conn) {
	remote := addrPort(conn.RemoteAddr())
	if !s.serves(remote.Addr()) {
		s.counters.Counter("sip.dropped.foreign_source").Inc()
		conn.Close()
		return
	}
	st := newStream(conn, s.counters)
	s.mu.Lock()
	if s.closed || len(s.streams) >= maxStreams {
		s.mu.Unlock()
		s.counters.Counter("sip.refused.too_many_streams").Inc()
		conn.Close()
		return
	}
	s.streams[st] = struct{}{}
	s.wg.Add(2)
	s.mu.Unlock()
	f := &flow{transport: "TCP", remote: remote, local: addrPort(conn.LocalAddr()), stream: st, counters: s.counters}
	go func() {
		defer s.wg.Done()
		st.write()
	}()
	go func() {
		defer s.wg.Done()
		s.readStream(f)
		st.close()
		f.gone.Store(true)
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
		s.forget(f)
	}()
}

func (s *LANSide) readStream(f *flow) {
	conn := f.stream.conn
	conn.SetReadDeadline(time.Now().Add(streamHello))
	framer := sipmsg.NewFramer(conn)
	var m sipmsg.Message
	for {
		b, err := framer.Next()
		switch {
		case errors.Is(err, sipmsg.ErrKeepalive):
			f.send([]byte("\r\n"))
		case err != nil:
			var fe *sipmsg.FrameError
			if errors.As(err, &fe) {
				s.counters.Counter("sip.dropped.unframed").Inc()
				if !fe.Fatal {
					continue
				}
			} else if !errors.Is(err, io.EOF) {
				s.counters.Counter("sip.closed.stream_error").Inc()
			}
			return
		default:
			s.deliver(f, b, &m)
		}
		conn.SetReadDeadline(time.Now().Add(streamIdle))
	}
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
