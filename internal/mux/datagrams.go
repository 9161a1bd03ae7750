package mux

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/udp"
	"github.com/siptunnel/siptunnel/internal/wire"
)

var errPathIDs = errors.New("no connection id is free")

// A pathTable finds the generation that a datagram is of by its connection id. The
// zero value is empty and ready for use. It is safe for concurrent use.
type pathTable struct {
	mu sync.RWMutex
	by map[uint32]*generation // nil: reserved
}

func (t *pathTable) find(id uint32) *generation {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.by[id]
}

// reserve returns an id that nobody has.
func (t *pathTable) reserve() (uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = make(map[uint32]*generation)
	}
	for range 16 {
		id := rand.Uint32()
		if _, taken := t.by[id]; !taken {
			t.by[id] = nil
			return id, nil
		}
	}
	return 0, errPathIDs
}

func (t *pathTable) learn(g *generation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.by[g.id] = g
}

func (t *pathTable) forget(id uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, id)
}

// receiveDatagrams hands datagrams to their paths until the socket is closed.
func receiveDatagrams(conn datagramSocket, table *pathTable, set *counter.Set) {
	stray := set.Counter("path.dropped.stray")
	failed := set.Counter("path.failed.read")
	var touched []*mediaPath
	handle := func(datagram []byte, from udp.Route) {
		header, ok := wire.ParseDatagramHeader(datagram)
		if !ok {
			stray.Inc()
			return
		}
		g := table.find(header.Connection)
		if g == nil {
			stray.Inc()
			return
		}
		if g.path.receive(g, datagram, from) {
			touched = append(touched, g.path)
		}
	}
	for {
		err := conn.Receive(handle)
		for i, p := range touched {
			p.settle()
			touched[i] = nil
		}
		touched = touched[:0]
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failed.Inc() // ICMP, for one: all pass
		}
	}
}

// A flushList remembers the paths that have something to flush. The zero value is
// empty and ready for use. It is safe for concurrent use.
type flushList struct {
	mu    sync.Mutex
	paths []*mediaPath
	spare []*mediaPath
}

func (l *flushList) add(p *mediaPath) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paths = append(l.paths, p)
}

func (l *flushList) flush() {
	l.mu.Lock()
	paths := l.paths
	l.paths, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	for i, p := range paths {
		p.flush()
		paths[i] = nil
	}
	l.mu.Lock()
	l.spare = paths
	l.mu.Unlock()
}

// ServeDatagrams has media come and go as datagrams on conn too, which it closes in
// the end, for sessions that begin later. It must be called before Serve, once.
func (s *Server) ServeDatagrams(conn *udp.Conn) {
	s.datagrams = conn
	s.tasks.Go(func() { receiveDatagrams(conn, &s.paths, s.config.Counters) })
}

// FlushMedia sends the media that waits for others, with Pacing.Manual.
func (s *Server) FlushMedia() { s.toFlush.flush() }

func (s *Server) pathConfig(session *Session) pathConfig {
	return pathConfig{
		pacing: s.config.Pacing, counters: s.config.Counters, pending: s.toFlush.add,
		received: session.packet,
		learn:    s.paths.learn,
		forget:   func(g *generation) { s.paths.forget(g.id) },
		changed: func(usable bool, reason string) {
			session.log.Debug("media path", zap.Bool("datagrams", usable), zap.String("reason", reason))
		},
	}
}

// openPath gives the session a media path, if the client is to have one and this
// machine can.
func (s *ClientSession) openPath() {
	if s.client.config.NoDatagrams {
		return
	}
	conn, err := udp.Listen("udp", ":0")
	if err != nil {
		s.counters.Counter("path.failed.open").Inc()
		return
	}
	_ = conn.Mark(s.client.config.Media) // unmarked they arrive too
	s.path = newMediaPath(conn, true, pathConfig{
		pacing: s.client.config.Pacing, counters: s.counters,
		received: s.packet,
		learn:    s.paths.learn,
		forget:   func(g *generation) { s.paths.forget(g.id) },
		changed:  func(bool, string) {},
	})
	s.client.path.Store(s.path)
	s.pathReader.Go(func() { receiveDatagrams(conn, &s.paths, s.counters) })
}

// closePath ends it.
func (s *ClientSession) closePath() {
	if s.path == nil {
		return
	}
	s.client.path.CompareAndSwap(s.path, nil)
	s.path.close()
	_ = s.path.socket.Close()
	s.pathReader.Wait()
}

// newPathID returns the id to offer on the next connection. An earlier one that no
// server answered is free again.
func (s *ClientSession) newPathID() uint32 {
	if s.paths.find(s.pathID) == nil {
		s.paths.forget(s.pathID)
	}
	id, err := s.paths.reserve()
	if err != nil {
		return 0
	}
	s.pathID = id
	return id
}

// control takes the server's answer to OpenPath.
func (s *ClientSession) control(l *link, t wire.Type, body []byte) (known bool, err error) {
	server, ok := l.conn.RemoteAddr().(*net.TCPAddr)
	if t != wire.TypePathOpened || s.path == nil || l.secret == nil || !ok {
		return false, nil
	}
	m, err := wire.ParsePathOpened(body)
	if err != nil {
		return true, err
	}
	port := uint16(server.Port)
	if m.Port != 0 {
		port = m.Port
	}
	remote := netip.AddrPortFrom(server.AddrPort().Addr().Unmap(), port)
	err = s.path.rekey(l.secret, seal.PreferredSuite(), m.Connection, l.pathID, udp.Route{Remote: remote})
	clear(l.secret)
	l.secret = nil
	return true, err
}

// Path describes how the session's media goes.
func (s *ClientSession) Path() PathInfo {
	if s.path == nil {
		return PathInfo{}
	}
	return s.path.info()
}
