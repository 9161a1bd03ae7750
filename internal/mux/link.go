package mux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/seal"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	// pingEvery is how often the peer is asked for a sign of life.
	pingEvery = 5 * time.Second
	// maxSilence is how long nothing at all may come from the peer: two pings
	// without an answer and some time. On TCP one late answer is congestion.
	maxSilence = 13 * time.Second
	// setupTimeout bounds each step between authentication and the first
	// frame of signalling.
	setupTimeout = 5 * time.Second
	// byeTimeout is how long the end of a session waits for the peer to take
	// note of it.
	byeTimeout = 500 * time.Millisecond
	// ackDelay and ackEvery say when received frames are acknowledged: soon,
	// but not each for itself.
	ackDelay = 20 * time.Millisecond
	ackEvery = 32

	// Streams of a client that are of no use cost memory until yamux forgets
	// them, up to maxWindow each, so there is an end to them: concurrently without a
	// type yet, and refused ones per connection. An honest client has three streams.
	maxUntypedStreams = 4
	maxRefusedStreams = 4

	// maxWindow is how much may be under way in a stream, in bytes: the media of
	// 400 calls with half a second of round trip. yamux grants all of it at once.
	maxWindow = 2 << 20
)

// link is one connection while it carries a session: the yamux session and the
// goroutines that move frames between it and the session's endpoint. It is
// made by the client's or the server's setup, run once, and gone. run owns and
// waits for every goroutine.
type link struct {
	conn    *rawConn
	ys      *yamux.Session
	control *yamux.Stream
	// The client opens the streams. The server's accept loop hands those of
	// signalling and media over here.
	signalling, mediaStream chan *yamux.Stream // capacity 1
	signalled, mediated     atomic.Bool        // they were handed over
	client                  bool
	end                     *endpoint
	user                    linkUser
	rtt                     atomic.Int64 // of the last ping, nanoseconds
	// secret is for the keys of the media path; nil where there is none, and once it
	// was used. Only readControl uses it.
	secret []byte
	pathID uint32 // the client's own, told to the server

	tasks    sync.WaitGroup
	dead     chan struct{} // closed by fail
	failOnce sync.Once
	err      error // why, before dead is closed
	released chan struct{}

	mu      sync.Mutex // guards what follows
	untyped int
	refused int
}

func newLink(conn *rawConn, ys *yamux.Session, control *yamux.Stream, client bool) *link {
	return &link{
		conn: conn, ys: ys, control: control, client: client,
		signalling:  make(chan *yamux.Stream, 1),
		mediaStream: make(chan *yamux.Stream, 1),
		dead:        make(chan struct{}),
		released:    make(chan struct{}),
	}
}

// startYamux makes the yamux session of an authenticated connection.
func startYamux(raw *rawConn, secure net.Conn, client bool) (*yamux.Session, error) {
	config := &yamux.Config{
		AcceptBacklog:          64,
		EnableKeepAlive:        false, // ends a connection for one late answer; the link has its own
		KeepAliveInterval:      pingEvery,
		ConnectionWriteTimeout: flushTimeout,
		MaxStreamWindowSize:    maxWindow,
		StreamOpenTimeout:      2 * flushTimeout,
		StreamCloseTimeout:     10 * time.Second,
		Logger:                 silent{},
	}
	if client {
		return yamux.Client(newCoalescer(secure, raw.failed), config)
	}
	return yamux.Server(newCoalescer(secure, raw.failed), config)
}

// silent is yamux's logger: what matters comes back as an error.
type silent struct{}

func (silent) Print(...any)          {}
func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// fail ends the link: everything that works on it stops. Only the first error
// counts.
func (l *link) fail(err error) {
	l.failOnce.Do(func() {
		l.err = err
		close(l.dead)
		l.conn.Close()
	})
}

// task runs f in a goroutine of the link. An error of f ends the link.
func (l *link) task(f func() error) {
	l.tasks.Go(func() {
		switch err := f(); {
		case errors.Is(err, ErrProtocol):
			l.bye(wire.Bye{Code: wire.CodeProtocol}, err)
		case err != nil:
			l.fail(l.conn.explain(err))
		}
	})
}

// run carries the session until the connection or the session ends and returns
// why, after everything has stopped.
func (l *link) run(end *endpoint, user linkUser) error {
	l.end, l.user = end, user
	end.media.start()
	if l.client && end.path != nil && l.secret != nil { // before readControl has the secret
		l.task(l.openPath)
	}
	l.task(l.readControl)
	l.task(l.ping)
	l.task(l.media)
	l.task(l.signal)
	if !l.client {
		l.task(l.accept)
	}
	select {
	case <-l.dead:
	case <-l.ys.CloseChan():
		l.fail(l.conn.explain(errHungUp))
	}
	end.media.stop()
	l.ys.Close()
	l.tasks.Wait()
	return l.err
}

// bye tells the peer that the session ends and why, gives it a moment to
// close the connection, and ends the link with err. run must be under way.
func (l *link) bye(m wire.Bye, err error) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.control.Write(m.Append(nil))
	}()
	timeout := time.NewTimer(byeTimeout)
	defer timeout.Stop()
	select {
	case <-l.ys.CloseChan():
	case <-l.dead:
	case <-timeout.C:
	}
	l.fail(err)
	<-sent
}

// readControl handles the control stream.
func (l *link) readControl() error {
	r := bufio.NewReaderSize(l.control, 512)
	buf := make([]byte, wire.MaxControl)
	for {
		t, body, _, err := wire.ReadFrame(r, buf, wire.MaxControl)
		if err != nil {
			return l.brokenBy(err)
		}
		switch known, err := l.user.control(l, t, body); {
		case err != nil:
			return l.broken(err)
		case known:
			continue
		case t != wire.TypeBye:
			l.end.counters.Counter("tunnel.ignored.control_frame").Inc()
			continue
		}
		m, err := wire.ParseBye(body)
		if err != nil {
			return l.broken(err)
		}
		reason := byeError(m)
		l.user.bye(reason)
		return reason
	}
}

func byeError(m wire.Bye) *ByeError {
	return &ByeError{Code: m.Code, RetryAfter: time.Duration(m.RetryAfter) * time.Second, Text: m.Text}
}

// openPath asks the server for a media path.
func (l *link) openPath() error {
	_, err := l.control.Write(wire.OpenPath{Suite: uint8(seal.PreferredSuite()), Connection: l.pathID}.Append(nil))
	return err
}

// ping measures the round trip and notices a peer that has gone silent.
func (l *link) ping() error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		if rtt, err := l.ys.Ping(); err == nil {
			l.rtt.Store(int64(rtt))
		} else if l.conn.silence() > maxSilence {
			return ErrSilence
		}
		select {
		case <-tick.C:
		case <-l.dead:
			return nil
		}
	}
}

// signal opens or awaits the signalling stream, starts its writer and reads it.
func (l *link) signal() error {
	var stream *yamux.Stream
	if l.client {
		var err error
		if stream, err = l.openStream(wire.StreamSignalling); err != nil {
			return err
		}
	} else {
		timeout := time.NewTimer(setupTimeout)
		defer timeout.Stop()
		select {
		case stream = <-l.signalling:
		case <-timeout.C:
			return fmt.Errorf("%w: no signalling stream", ErrProtocol)
		case <-l.dead:
			return nil
		}
	}
	acks := &acks{sent: l.end.received.Load(), due: make(chan struct{}, 1)}
	l.task(func() error { return l.writeSignalling(stream, acks) })
	return l.readSignalling(stream, acks)
}

// openStream opens a stream of the client.
func (l *link) openStream(kind wire.StreamType) (*yamux.Stream, error) {
	stream, err := l.ys.OpenStream()
	if err != nil {
		return nil, err
	}
	_, err = stream.Write([]byte{byte(kind)})
	return stream, err
}

// acks is what the reader of the signalling stream tells its writer.
type acks struct {
	sent uint64        // owned by the writer
	due  chan struct{} // capacity 1: something was received
}

func (l *link) readSignalling(stream io.Reader, acks *acks) error {
	r := bufio.NewReaderSize(stream, 8<<10)
	buf := make([]byte, 2<<10)
	for {
		t, body, next, err := wire.ReadFrame(r, buf, wire.MaxBody)
		if err != nil {
			return l.brokenBy(err)
		}
		buf = next
		if t == wire.TypeAck {
			m, err := wire.ParseAck(body)
			if err == nil {
				err = l.end.out.ack(m.Received)
			}
			if err != nil {
				return l.broken(err)
			}
			continue
		}
		select {
		case <-l.dead:
			// What is handled must be counted in time for the next connection.
			return nil
		default:
		}
		if err := l.user.signal(t, body); err != nil {
			return l.broken(err)
		}
		l.end.received.Add(1)
		select {
		case acks.due <- struct{}{}:
		default:
		}
	}
}

// broken is the error for a peer that broke the protocol in err's way.
func (l *link) broken(err error) error {
	l.end.counters.Counter("tunnel.closed.protocol_error").Inc()
	return fmt.Errorf("%w: %w", ErrProtocol, err)
}

// brokenBy is broken for an error of ReadFrame, which may be the connection's.
func (l *link) brokenBy(err error) error {
	if parse := (*wire.ParseError)(nil); errors.As(err, &parse) {
		return l.broken(err)
	}
	return err
}

func (l *link) writeSignalling(stream *yamux.Stream, acks *acks) error {
	var out []byte
	delay := time.NewTimer(0)
	defer delay.Stop()
	<-delay.C
	waiting := false // delay is running
	for {
		force := false
		select {
		case <-l.dead:
			return nil
		case <-l.end.out.wake:
			force = true
		case <-acks.due:
		case <-delay.C:
			waiting, force = false, true
		}
		received := l.end.received.Load()
		if !force && received-acks.sent < ackEvery {
			if !waiting && received != acks.sent {
				delay.Reset(ackDelay)
				waiting = true
			}
			continue
		}
		out = out[:0]
		if received != acks.sent {
			out = wire.Ack{Received: received}.Append(out)
			acks.sent = received
		}
		for out = l.end.out.take(out); len(out) > 0; out = l.end.out.take(out[:0]) {
			if _, err := stream.Write(out); err != nil {
				return err
			}
		}
	}
}

// accept takes the client's streams.
func (l *link) accept() error {
	for {
		stream, err := l.ys.AcceptStream()
		if err != nil {
			return err
		}
		l.mu.Lock()
		ok := l.untyped < maxUntypedStreams
		if ok {
			l.untyped++
		}
		l.mu.Unlock()
		if !ok {
			if err := l.refuse(stream, "too_many_untyped"); err != nil {
				return err
			}
			continue
		}
		l.task(func() error { return l.serveStream(stream) })
	}
}

// refuse closes a stream without an answer. A client that goes on is cut off.
func (l *link) refuse(stream *yamux.Stream, reason string) error {
	stream.Close()
	l.end.counters.Counter("tunnel.stream_refused." + reason).Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused++; l.refused > maxRefusedStreams {
		return fmt.Errorf("%w: too many useless streams", ErrProtocol)
	}
	return nil
}

// serveStream finds out what a client's stream is for.
func (l *link) serveStream(stream *yamux.Stream) error {
	kind, err := readStreamType(stream)
	l.mu.Lock()
	l.untyped--
	l.mu.Unlock()
	switch {
	case err != nil:
		return l.refuse(stream, "no_type")
	case kind == wire.StreamSignalling:
		if l.signalled.Swap(true) {
			return l.refuse(stream, "second_signalling")
		}
		l.signalling <- stream
		return nil
	case kind == wire.StreamMedia:
		if l.mediated.Swap(true) {
			return l.refuse(stream, "second_media")
		}
		l.mediaStream <- stream
		return nil
	}
	return l.refuse(stream, "unknown_type")
}

// readStreamType reads what says what the stream is for, within setupTimeout.
func readStreamType(stream net.Conn) (wire.StreamType, error) {
	stream.SetReadDeadline(time.Now().Add(setupTimeout))
	defer stream.SetReadDeadline(time.Time{})
	var kind [1]byte
	_, err := io.ReadFull(stream, kind[:])
	return wire.StreamType(kind[0]), err
}
