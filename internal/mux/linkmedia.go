package mux

import (
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// mediaPace is the shortest time between two rounds of media writes. A packet
// that comes alone goes at once; those that follow within the time share its
// successor's records, window and wake-ups.
const mediaPace = time.Millisecond

// Sizes of the buffer of the media stream's reader, in bytes. The stream carries
// nothing as long as the media path works, so it grows when there is more.
const (
	mediaRead    = 512
	maxMediaRead = 2*mediaBatch + wire.MediaHeaderLen + wire.MaxMedia
)

// media opens or awaits the media stream, starts its reader and writes it. All
// channels share it: a stream for each would cost each call several kilobytes at
// both ends, and would win nothing, as one writer serves all.
func (l *link) media() error {
	var stream *yamux.Stream
	if l.client {
		var err error
		if stream, err = l.openStream(wire.StreamMedia); err != nil {
			return err
		}
	} else {
		select {
		case stream = <-l.mediaStream:
		case <-l.dead:
			return nil
		}
	}
	l.task(func() error { return l.readMedia(stream) })
	return l.writeMedia(stream)
}

// readMedia hands the packets of the media stream to the session.
func (l *link) readMedia(stream *yamux.Stream) error {
	buf := make([]byte, mediaRead)
	have := 0
	after := uint64(0)
	for {
		n, err := stream.Read(buf[have:])
		have += n
		full := have == len(buf)
		rest := buf[:have]
		for {
			if mark, next, ok := wire.NextMediaMark(rest); ok {
				after, rest = mark, next
				continue
			}
			m, next, err := wire.NextMedia(rest)
			if err != nil {
				return l.broken(err)
			}
			if m.Packet == nil {
				break
			}
			if path := l.end.path; path != nil {
				path.aside(m.Channel, m.RTCP, after, m.Packet)
			} else {
				l.user.packet(m.Channel, m.RTCP, m.Packet)
			}
			rest = next
		}
		if full && len(buf) < maxMediaRead {
			buf = make([]byte, min(2*len(buf), maxMediaRead))
		}
		have = copy(buf, rest)
		if err != nil {
			return err
		}
	}
}

// writeMedia empties the session's media queue into the media stream, one write
// at a time, so that a frame of signalling finds at most one of media before it.
func (l *link) writeMedia(stream *yamux.Stream) error {
	queue := &l.end.media
	var batch []byte
	marked := uint64(0) // the last mark
	add := func(channel uint32, rtcp bool, packet []byte) {
		// Nothing is in the queue since before the path was left for longer than it
		// takes to be taken again and left once more: the mark is the packet's.
		if path := l.end.path; path != nil && marked != path.left.Load() {
			marked = path.left.Load()
			batch = wire.AppendMediaMark(batch, marked)
		}
		batch = wire.Media{Channel: channel, RTCP: rtcp, Packet: packet}.Append(batch)
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
		for queue.take(add) > 0 {
			if _, err := stream.Write(batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
}
