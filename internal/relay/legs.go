package relay

import (
	"math"
	"time"
)

// A Leg is one stretch of the way that a call's RTP takes, in one direction. What is
// not known is zero.
type Leg struct {
	// Packets counts those that went into the leg, Lost those of them that did not
	// come out of it.
	Packets, Lost uint64

	// Jitter is what the leg has added: the mean difference of the transit times of
	// two packets in a row, which RFC 3550 section 6.4.1 smooths.
	Jitter time.Duration

	// RTT is the round trip over the leg.
	RTT time.Duration
}

// A Side is what one end of the tunnel knows: of what comes from its peer, of what
// comes out of the tunnel, and of what goes to its peer, as that tells in RTCP.
type Side struct{ In, Tunnel, Out Leg }

// A Format is what RTP says of its payload.
type Format struct {
	PayloadType uint8
	ClockRate   uint32 // Hz; 0: not known yet
	Known       bool   // there was a packet
}

// An Opinion is what the peer says itself of what it hears, in extended reports (RFC
// 3611). Zero: it does not say.
type Opinion struct {
	MOS       float64 // MOS-LQ
	Discarded float64 // share of packets that came too late for it, or too early
}

// Quality is the address of bad audio: how each leg of the way is.
type Quality struct {
	// Near is this end's, Far what the other end of the tunnel has reported last.
	Near, Far Side

	// Apart says that the other end has reported. Else the losses of Near.Tunnel are
	// those of the whole way before Send.
	Apart bool

	In, Out Format
	Opinion Opinion // of what is sent to the peer
}

// side returns this end's legs, and says whether the losses of the tunnel are told
// from those before it. It is called with mu held, of the RTP half.
func (h *half) side() (side Side, apart bool) {
	all, since, told := h.out.spans()
	in, _, _ := h.in.spans()
	side.In = Leg{Packets: in.packets, Lost: in.lost}
	side.Tunnel = Leg{Packets: all.packets, Lost: all.lost}
	if apart = since.packets > 0; apart {
		side.Tunnel.Packets, side.Tunnel.Lost = since.packets, since.lost
	}
	side.Out = Leg{Packets: told.packets, Lost: told.lost}
	if s := h.in.current(); s != nil {
		side.In.Jitter = s.jitter.mean()
	}
	s := h.out.current()
	if s == nil {
		return side, apart
	}
	came := s.jitter.mean()
	side.Tunnel.Jitter = came
	if h.relay.hasFar {
		side.Tunnel.Jitter = added(came, parseLegs(&h.relay.far).In.Jitter)
	}
	if o := s.out; o != nil {
		side.Out.RTT = o.rtt
		if rate := s.jitter.rate; rate != 0 && o.blocks > 0 {
			side.Out.Jitter = added(unitsOf(o.jitter/o.blocks, rate), came)
		}
	}
	return side, apart
}

// added is what a leg has added to a jitter from before it. Delays that do not depend
// on each other add up by their squares.
func added(all, before time.Duration) time.Duration {
	if all <= before {
		return 0
	}
	a, b := all.Seconds(), before.Seconds()
	return time.Duration(math.Sqrt(a*a-b*b) * float64(time.Second))
}

func unitsOf(n uint64, rate uint32) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(rate)
}

// quality is called with mu held, of the RTP half.
func (h *half) quality() (q Quality) {
	q.Near, q.Apart = h.side()
	if h.relay.hasFar {
		q.Far = parseLegs(&h.relay.far)
	}
	q.In, q.Out = h.in.format(), h.out.format()
	if s := h.out.current(); s != nil && s.out != nil {
		q.Opinion = Opinion{MOS: float64(s.out.mos) / 10, Discarded: float64(s.out.discarded) / 256}
	}
	return q
}
