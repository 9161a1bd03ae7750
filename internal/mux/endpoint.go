package mux

import (
	"sync/atomic"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// endpoint is what either end of a session keeps while connections come and
// go: the signalling that is not acknowledged yet, the count of what has been
// received, and the media that waits. At most one link works on it at a time.
type endpoint struct {
	out   outbox
	media mediaQueue
	path  *mediaPath // nil: media goes over the connection only
	// received counts the counted frames that have been handled. Only the
	// link's signalling reader adds to it, after it has handled a frame, so
	// that a frame is either handled and counted or asked for again.
	received atomic.Uint64
	counters *counter.Set
}

func newEndpoint(c *counter.Set) endpoint {
	return endpoint{out: newOutbox(), media: newMediaQueue(c), counters: c}
}

// sendSIP queues a SIP message for the peer.
func (e *endpoint) sendSIP(phone uint32, msg []byte) error {
	if len(msg) == 0 || len(msg) > wire.MaxSIP {
		return ErrTooLong
	}
	frame := make([]byte, 0, wire.HeaderLen+4+len(msg))
	return e.out.add(wire.SIP{Phone: phone, Message: msg}.Append(frame))
}

// sendMedia sends a packet the way that works best just now.
func (e *endpoint) sendMedia(channel uint32, rtcp bool, packet []byte) {
	if e.path == nil || !e.path.push(channel, rtcp, packet) {
		e.media.push(channel, rtcp, packet)
	}
}

// linkUser is what a link serves: a Session or a ClientSession.
type linkUser interface {
	// signal handles one counted frame; calls come one after the other. An
	// error ends the session: a counted frame cannot be left out.
	signal(t wire.Type, body []byte) error
	// packet handles one media packet; calls may come from two goroutines at once.
	packet(channel uint32, rtcp bool, packet []byte)
	// control handles a frame of the control stream of l, if it is one of the media
	// path's.
	control(l *link, t wire.Type, body []byte) (known bool, err error)
	// bye is told that the peer ended the session.
	bye(e *ByeError)
}
