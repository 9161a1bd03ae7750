package mux

import (
	"encoding/binary"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// mediaPace is the shortest time between two rounds of media writes. A packet
// that comes alone goes at once; those that follow within the time share its
// successor's records, window and wake-ups.
const mediaPace = time.Millisecond

// Sizes of the buffer of a media stream's reader, in bytes. Most streams carry
// nothing as long as the media path works, so it grows when there is more.
const (
	mediaRead    = 512
	maxMediaRead = 2 * (wire.MediaHeaderLen + wire.MaxMedia)
)

// mediaStream is the stream of one channel on one link.
type mediaStream struct {
	channel uint32
	stream  *yamux.Stream
	batch   []byte // owned by the link's media writer, as is what follows
	queued  bool   // batch is in the writer's round
	marked  uint64 // the last mark in batch
}

// openMedia makes the client's media writer open a stream for a channel.
func (l *link) openMedia(channel uint32) {
	l.mu.Lock()
	l.opens = append(l.opens, channel)
	l.mu.Unlock()
	l.end.media.poke()
}

// closeMedia makes the media writer close the channel's stream: closing waits
// for room in the connection, and the caller must not.
func (l *link) closeMedia(channel uint32) {
	l.mu.Lock()
	if ms := l.streams[channel]; ms != nil {
		delete(l.streams, channel)
		l.closes = append(l.closes, ms)
	}
	l.mu.Unlock()
	l.end.media.poke()
}

// addMedia makes stream the channel's. It fails when there is one.
func (l *link) addMedia(channel uint32, stream *yamux.Stream) (*mediaStream, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[channel] != nil {
		return nil, false
	}
	ms := &mediaStream{channel: channel, stream: stream}
	l.streams[channel] = ms
	return ms, true
}

// dropMedia forgets a stream that ended.
func (l *link) dropMedia(ms *mediaStream) {
	l.mu.Lock()
	if l.streams[ms.channel] == ms {
		delete(l.streams, ms.channel)
	}
	l.mu.Unlock()
	ms.stream.Close()
}

// readMedia hands the packets of one stream to the session until it ends.
func (l *link) readMedia(ms *mediaStream) error {
	defer l.dropMedia(ms)
	buf := make([]byte, mediaRead)
	have := 0
	after := uint64(0)
	for {
		n, err := ms.stream.Read(buf[have:])
		have += n
		full := have == len(buf)
		rest := buf[:have]
		for {
			if mark, next, ok := wire.NextMediaMark(rest); ok {
				after, rest = mark, next
				continue
			}
			rtcp, packet, next, err := wire.NextMedia(rest)
			if err != nil {
				return l.broken(err)
			}
			if packet == nil {
				break
			}
			if path := l.end.path; path != nil {
				path.aside(ms.channel, rtcp, after, packet)
			} else {
				l.user.packet(ms.channel, rtcp, packet)
			}
			rest = next
		}
		if full && len(buf) < maxMediaRead {
			buf = make([]byte, min(2*len(buf), maxMediaRead))
		}
		have = copy(buf, rest)
		switch {
		case err == nil:
		case isStreamEnd(err):
			return nil
		default:
			return err
		}
	}
}

// writeMedia empties the session's media queue into the streams. It alone
// opens the client's streams and writes to media streams, one write at a time,
// so that a frame of signalling finds at most one of media before it.
func (l *link) writeMedia() error {
	queue := &l.end.media
	noStream := l.end.counters.Counter("media.dropped.no_stream")
	var round []*mediaStream
	add := func(channel uint32, rtcp bool, packet []byte) {
		ms := l.streams[channel]
		if ms == nil {
			noStream.Inc()
			return
		}
		if !ms.queued {
			ms.queued = true
			round = append(round, ms)
		}
		// Nothing is in the queue since before the path was left for longer than it
		// takes to be taken again and left once more: the mark is the packet's.
		if path := l.end.path; path != nil && ms.marked != path.left.Load() {
			ms.marked = path.left.Load()
			ms.batch = wire.AppendMediaMark(ms.batch, ms.marked)
		}
		ms.batch = wire.AppendMedia(ms.batch, rtcp, packet)
	}
	pace := time.NewTimer(0)
	defer pace.Stop()
	<-pace.C
	var last time.Time // start of the last round
	for {
		select {
		case <-l.dead:
			return nil
		case <-queue.wake:
		}
		if wait := mediaPace - time.Since(last); wait > 0 {
			pace.Reset(wait)
			select {
			case <-l.dead:
				return nil
			case <-pace.C:
			}
		}
		last = time.Now()
		if err := l.updateStreams(); err != nil {
			return err
		}
		for {
			l.mu.Lock()
			n := queue.take(add)
			l.mu.Unlock()
			if n == 0 {
				break
			}
			for _, ms := range round {
				if err := l.writeRound(ms); err != nil {
					return err
				}
			}
			round = round[:0]
		}
	}
}

// writeRound writes the packets that one stream has in this round.
func (l *link) writeRound(ms *mediaStream) error {
	_, err := ms.stream.Write(ms.batch)
	ms.batch, ms.queued = ms.batch[:0], false
	if err != nil && isStreamEnd(err) {
		return nil // its reader cleans up
	}
	return err
}

// updateStreams opens and closes what openMedia and closeMedia asked for.
func (l *link) updateStreams() error {
	l.mu.Lock()
	opens, closes := l.opens, l.closes
	l.opens, l.closes = nil, nil
	l.mu.Unlock()
	for _, ms := range closes {
		ms.stream.Close()
	}
	for _, channel := range opens {
		if !l.user.hasRelay(channel) {
			continue // closed in the meantime
		}
		stream, err := l.ys.OpenStream()
		if err != nil {
			return err
		}
		head := binary.BigEndian.AppendUint32([]byte{byte(wire.StreamMedia)}, channel)
		if _, err := stream.Write(head); err != nil {
			return err
		}
		ms, ok := l.addMedia(channel, stream)
		if !ok {
			stream.Close()
			continue
		}
		l.task(func() error { return l.readMedia(ms) })
		if !l.user.hasRelay(channel) {
			l.closeMedia(channel)
		}
	}
	return nil
}
