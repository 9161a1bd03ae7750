package sipfwd

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	maxStreams          = 2048             // connections of phones
	maxStreamsPerSource = 1024             // one host of the LAN cannot take every place
	streamQueue         = 1024             // messages that wait for a slow peer, or for a connection
	streamBytes         = 1 << 20          // the same
	streamWrite         = 10 * time.Second // a peer that takes nothing for so long is gone
	streamFlush         = time.Second      // for what waits when the connection is closed
	streamHello         = 30 * time.Second // from accept to the first complete message, the TLS handshake among it
	streamIdle          = 2 * time.Hour
)

// stream is a TCP or TLS connection. Its writer has a bounded queue so that a
// peer that stops reading costs nobody else a moment. It is a hop.
type stream struct {
	done     chan struct{}
	wake     chan struct{} // capacity 1: something waits
	counters *counter.Set

	mu      sync.Mutex
	conn    net.Conn // nil until it is dialled
	waiting [][]byte
	bytes   int // of waiting
}

func newStream(conn net.Conn, counters *counter.Set) *stream {
	return &stream{conn: conn, done: make(chan struct{}), wake: make(chan struct{}, 1), counters: counters}
}

// attach gives a stream that was made before its connection the connection. It
// comes before write and receive.
func (s *stream) attach(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
}

// close lets the writer end. Messages that wait are still written, in a moment.
func (s *stream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

// end is called with mu held.
func (s *stream) end() {
	if s.ended() {
		return
	}
	close(s.done)
	if s.conn != nil {
		s.conn.SetWriteDeadline(time.Now().Add(streamFlush))
	}
}

func (s *stream) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *stream) reliable() bool { return true }

func (s *stream) send(msg []byte) {
	if len(msg) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended():
		s.counters.Counter("sip.dropped.flow_gone").Inc()
	case len(s.waiting) >= streamQueue || s.bytes+len(msg) > streamBytes:
		s.counters.Counter("sip.dropped.stream_queue_full").Inc()
		s.end()
	default:
		s.waiting, s.bytes = append(s.waiting, msg), s.bytes+len(msg)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// write closes the connection in the end, behind what was waiting then: a BYE
// of our own for instance.
func (s *stream) write() {
	defer s.conn.Close()
	defer s.close()
	for {
		select {
		case <-s.wake:
			if s.writeWaiting(streamWrite) != nil {
				return
			}
		case <-s.done:
			_ = s.writeWaiting(streamFlush) // the connection ends anyway
			return
		}
	}
}

// writeWaiting writes what waits, for at most d.
func (s *stream) writeWaiting(d time.Duration) error {
	s.mu.Lock()
	msgs := net.Buffers(s.waiting)
	s.waiting, s.bytes = nil, 0
	s.conn.SetWriteDeadline(time.Now().Add(d))
	s.mu.Unlock()
	_, err := msgs.WriteTo(s.conn)
	return err
}

// refuse answers a request that cannot be cut out of the stream.
func (s *stream) refuse(fe *sipmsg.FrameError) {
	var m sipmsg.Message
	_ = m.Parse(fe.Head) // what can be read of it will do
	answer := &sipmsg.ParseError{Code: fe.Code, Reason: fe.Reason}
	if res := badRequest(&m, answer, addrPort(s.conn.RemoteAddr())); res != nil {
		s.send(res)
	}
}

// receive hands every message of the connection to deliver, until it ends or
// cannot be read on. hello is how long the peer has for its first message.
func (s *stream) receive(hello time.Duration, deliver func(b []byte)) {
	s.conn.SetReadDeadline(time.Now().Add(hello))
	if secured, ok := s.conn.(*tls.Conn); ok && !secured.ConnectionState().HandshakeComplete {
		s.conn.SetDeadline(time.Now().Add(hello)) // it writes too
		if secured.Handshake() != nil {
			s.counters.Counter("sip.refused.tls_handshake").Inc()
			return
		}
	}
	framer := sipmsg.NewFramer(s.conn)
	for {
		b, err := framer.Next()
		switch {
		case errors.Is(err, sipmsg.ErrKeepalive):
			s.send([]byte("\r\n"))
		case err != nil:
			var fe *sipmsg.FrameError
			if errors.As(err, &fe) {
				s.counters.Counter("sip.dropped.unframed").Inc()
				s.refuse(fe)
				if !fe.Fatal {
					continue
				}
			} else if !errors.Is(err, io.EOF) {
				s.counters.Counter("sip.closed.stream_error").Inc()
			}
			return
		default:
			if framer.Assumed() {
				s.counters.Counter("sip.repaired.no_content_length").Inc()
			}
			deliver(b)
		}
		s.conn.SetReadDeadline(time.Now().Add(streamIdle))
	}
}

// acceptAll hands every connection that ln accepts to serve, until ln is closed.
// done cuts its rest after a failure short.
func acceptAll(ln net.Listener, done <-chan struct{}, counters *counter.Set, serve func(net.Conn)) error {
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			serve(conn)
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			counters.Counter("sip.dropped.accept_failed").Inc()
			select {
			case <-time.After(50 * time.Millisecond): // out of descriptors, mostly
			case <-done:
			}
		}
	}
}

// ServeTCP takes SIP from phones that connect to ln until Close. The proxy
// owns ln.
func (s *LANSide) ServeTCP(ln net.Listener) error { return s.serveStreams(ln, "TCP", nil) }

// ServeTLS does so with TLS on top. cfg holds the certificate, which phones may
// or may not verify.
func (s *LANSide) ServeTLS(ln net.Listener, cfg *tls.Config) error {
	return s.serveStreams(ln, "TLS", cfg)
}

func (s *LANSide) serveStreams(ln net.Listener, transport string, cfg *tls.Config) error {
	if !s.addCloser(ln, addrPort(ln.Addr()).Port()) {
		return nil
	}
	defer s.wg.Done()
	if transport == "TCP" {
		s.mu.Lock()
		if port := addrPort(ln.Addr()).Port(); s.tcpPort == 0 || port < s.tcpPort {
			s.tcpPort = port
		}
		s.mu.Unlock()
	}
	err := acceptAll(ln, s.done, s.counters, func(conn net.Conn) {
		if s.serves(addrPort(conn.RemoteAddr()).Addr()) {
			s.accept(conn, transport, cfg)
			return
		}
		s.counters.Counter("sip.dropped.foreign_source").Inc()
		conn.Close()
	})
	if s.closing() {
		return nil
	}
	return err
}

func (s *LANSide) accept(conn net.Conn, transport string, cfg *tls.Config) {
	remote, local := addrPort(conn.RemoteAddr()), addrPort(conn.LocalAddr())
	if cfg != nil {
		conn = tls.Server(conn, cfg)
	}
	st := newStream(conn, s.counters)
	s.mu.Lock()
	if s.closed || len(s.streams) >= maxStreams || s.streamsAt[remote.Addr()] >= maxStreamsPerSource {
		s.mu.Unlock()
		s.counters.Counter("sip.refused.too_many_streams").Inc()
		conn.Close()
		return
	}
	s.streams[st] = struct{}{}
	s.streamsAt[remote.Addr()]++
	s.wg.Add(2)
	s.mu.Unlock()
	f := &flow{transport: transport, remote: remote, local: s.told(local), at: local.Addr(), stream: st, counters: s.counters}
	go func() {
		defer s.wg.Done()
		st.write()
	}()
	go func() {
		defer s.wg.Done()
		var m sipmsg.Message
		st.receive(streamHello, func(b []byte) { s.deliver(f, b, &m) })
		st.close()
		f.gone.Store(true)
		s.mu.Lock()
		delete(s.streams, st)
		if s.streamsAt[remote.Addr()]--; s.streamsAt[remote.Addr()] == 0 {
			delete(s.streamsAt, remote.Addr())
		}
		s.mu.Unlock()
		for _, p := range s.forget(f) {
			p.afterwards(func() { p.flowLost(f) })
		}
	}()
}
