package relay

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// Stats is what a Relay has seen so far.
type Stats struct {
	In  Traffic // from the peer to the Sink
	Out Traffic // from Send to the peer

	Dropped Drops

	Quality Quality

	// LastIn is when a packet of either component was last taken in from the
	// peer; zero: never.
	LastIn time.Time

	// Signalled is the RTP address that SDP named, Latched the one that was
	// learnt; each is zero when there is none. Held says that SDP has put the
	// peer on hold with an unspecified address.
	Signalled, Latched netip.AddrPort
	Held               bool
}

// Traffic is one direction of a relay.
type Traffic struct {
	// What was passed on: the packets of the RTP port, whatever they are, and
	// their bytes without UDP and IP headers; the packets of the RTCP port.
	Packets, Bytes uint64
	RTCP           uint64

	// Lost counts RTP packets that never reached this relay: for In, on the way
	// from the peer; for Out, on the whole way before Send. What this relay
	// itself drops is in Drops only. A packet that comes late, but by no more
	// than MaxMisorder, is Reordered and not lost; a Duplicate makes up for no
	// loss.
	Lost, Reordered, Duplicates uint64

	// Jitter is the interarrival jitter of RFC 3550 section 6.4.1 of the stream
	// that was heard last; zero as long as its clock rate is not known, which
	// takes some seconds with dynamic payload types.
	Jitter time.Duration
}

// Drops counts the packets that were not passed on, by reason.
type Drops struct {
	UnknownSource uint64 // in: neither the peer nor anybody who could be
	NoRemote      uint64 // both: no SDP has named an address
	Held          uint64 // out: the peer is on hold
	Size          uint64 // both: empty, or more than MaxPacket bytes
	QueueFull     uint64 // out: the kernel had no room for it
	SendFailed    uint64 // out: the system refused it, for lack of a route for one
	Report        uint64 // in: it looks like a report of the other end of the tunnel
}

// A verdict is what becomes of a packet: pass, or the reason to drop it.
type verdict uint8

const (
	pass verdict = iota
	dropUnknownSource
	dropNoRemote
	dropHeld
	dropSize
	dropQueueFull
	dropSendFailed
	dropReport
	readFailed // no packet, but nothing that may go unseen either
	verdicts
)

// counterNames are the names under which drops are counted in PollerConfig.Counters.
var counterNames = [verdicts]string{
	dropUnknownSource: "media.dropped.unknown_source",
	dropNoRemote:      "media.dropped.no_remote",
	dropHeld:          "media.dropped.held",
	dropSize:          "media.dropped.bad_size",
	dropQueueFull:     "media.dropped.queue_full",
	dropSendFailed:    "media.dropped.send_failed",
	dropReport:        "media.dropped.foreign_report",
	readFailed:        "media.failed.read",
}

// A dropCounter counts drops for one relay and for the whole program. It is safe
// for concurrent use.
type dropCounter struct {
	relay   [readFailed]atomic.Uint64
	program *[verdicts]*counter.Counter // none for pass
}

func (d *dropCounter) count(v verdict) {
	if v < readFailed {
		d.relay[v].Add(1)
	}
	d.program[v].Inc()
}

// add takes over what another relay has dropped. The program has counted it.
func (d *dropCounter) add(other *dropCounter) {
	for v := range d.relay {
		d.relay[v].Add(other.relay[v].Load())
	}
}

func (d *dropCounter) drops() Drops {
	return Drops{
		UnknownSource: d.relay[dropUnknownSource].Load(),
		NoRemote:      d.relay[dropNoRemote].Load(),
		Held:          d.relay[dropHeld].Load(),
		Size:          d.relay[dropSize].Load(),
		QueueFull:     d.relay[dropQueueFull].Load(),
		SendFailed:    d.relay[dropSendFailed].Load(),
		Report:        d.relay[dropReport].Load(),
	}
}
