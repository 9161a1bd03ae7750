package admin

import (
	"cmp"
	"slices"
	"time"

	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// PhonesOf tells of phones; session is "" in tunnelproxy.
func PhonesOf(session string, infos []sipfwd.PhoneInfo) []Phone {
	phones := make([]Phone, 0, len(infos))
	for _, p := range infos {
		phones = append(phones, Phone{
			Session: session, Key: p.Key, AOR: p.AOR, Contact: p.Contact, Source: p.Source,
			Port: p.Port, Address: p.Address, UserAgent: p.UserAgent, Expires: p.Expires,
		})
	}
	return phones
}

// TrunksOf tells of trunks; session is "" in tunnelproxy.
func TrunksOf(session string, infos []sipfwd.TrunkInfo) []Trunk {
	trunks := make([]Trunk, 0, len(infos))
	for _, t := range infos {
		trunks = append(trunks, Trunk{Session: session, Name: t.Name, Peer: t.Peer, Address: t.Address, Heard: t.Heard})
	}
	return trunks
}

// CallsOf tells of calls; session is "" in tunnelproxy.
func CallsOf(session string, infos []sipfwd.CallInfo) []Call {
	calls := make([]Call, 0, len(infos))
	for _, c := range infos {
		call := Call{
			Session: session, CallID: c.CallID, From: c.From, To: c.To, Direction: c.Direction,
			Started: c.Start, Answered: c.Answered, Audio: quality.Verdict(c.Legs()),
		}
		for _, m := range c.Media {
			call.Media = append(call.Media, Medium{Legs: m.Legs})
		}
		calls = append(calls, call)
	}
	return calls
}

// An End is one of the two ends of the tunnel.
type End bool

// The ends.
const (
	LANEnd End = false // tunnelproxy
	PBXEnd End = true  // tunneld
)

// legNames are those of an end's own legs and of the other end's, as relay.Side has them: in, tunnel, out.
func (e End) legNames() (near, far [3]quality.Name) {
	near = [3]quality.Name{quality.LANIn, quality.TunnelDown, quality.LANOut}
	far = [3]quality.Name{quality.PBXIn, quality.TunnelUp, quality.PBXOut}
	if e == PBXEnd {
		near, far = far, near
	}
	return near, far
}

// LegsOf gives what an end knows of the legs of a medium, in the order of the way; tunnel is the round trip through the
// tunnel, 0 when it is not known.
func LegsOf(end End, q relay.Quality, tunnel time.Duration) []quality.Leg {
	near, far := end.legNames()
	in, inSpeaks := codecOf(q.In)
	out, outSpeaks := codecOf(q.Out)
	var legs []quality.Leg
	add := func(name quality.Name, l relay.Leg, rtt time.Duration, codec quality.Codec, voice bool) *quality.Leg {
		leg, ok := quality.Measure(name, l.Packets, l.Lost, l.Jitter, rtt, codec, voice)
		if !ok {
			return nil
		}
		legs = append(legs, leg)
		return &legs[len(legs)-1]
	}
	// What comes in here goes out there. A round trip is of both directions.
	add(near[0], q.Near.In, q.Near.Out.RTT, in, inSpeaks)
	add(far[1], q.Far.Tunnel, tunnel, in, inSpeaks)
	add(far[2], q.Far.Out, q.Far.Out.RTT, in, inSpeaks)
	add(far[0], q.Far.In, q.Far.Out.RTT, out, outSpeaks)
	if leg := add(near[1], q.Near.Tunnel, tunnel, out, outSpeaks); leg != nil {
		leg.Before = !q.Apart
	}
	if leg := add(near[2], q.Near.Out, q.Near.Out.RTT, out, outSpeaks); leg != nil {
		leg.ToldMOS, leg.DiscardedPercent = q.Opinion.MOS, 100*q.Opinion.Discarded
	}
	slices.SortFunc(legs, func(a, b quality.Leg) int { return cmp.Compare(a.Name, b.Name) })
	return legs
}

func codecOf(f relay.Format) (quality.Codec, bool) {
	if !f.Known {
		return quality.Codec{}, false
	}
	return quality.CodecOf(f.PayloadType, f.ClockRate)
}

// RelayOf gives the figures of a relay, with its legs; the caller adds its names.
func RelayOf(s relay.Stats, legs []quality.Leg) Relay {
	r := Relay{
		PacketsIn: s.In.Packets, PacketsOut: s.Out.Packets,
		BytesIn: s.In.Bytes, BytesOut: s.Out.Bytes,
		RTCPIn: s.In.RTCP, RTCPOut: s.Out.RTCP,
		Lost:     s.In.Lost,
		JitterMS: Milliseconds(s.In.Jitter),
		Dropped: s.Dropped.UnknownSource + s.Dropped.NoRemote + s.Dropped.Held +
			s.Dropped.Size + s.Dropped.QueueFull + s.Dropped.SendFailed + s.Dropped.Report,
		Audio: quality.Verdict(legs),
		Legs:  legs,
	}
	switch {
	case s.Latched.IsValid():
		r.Remote = s.Latched.String()
	case s.Signalled.IsValid():
		r.Remote = s.Signalled.String()
	}
	return r
}

// MediaOf gives the figures of a relay, with its legs, as calls carry them.
func MediaOf(s relay.Stats, legs []quality.Leg) sipfwd.MediaStats {
	return sipfwd.MediaStats{
		PacketsIn: s.In.Packets, PacketsOut: s.Out.Packets,
		Lost: s.In.Lost, Jitter: s.In.Jitter, LastIn: s.LastIn,
		Legs: legs,
	}
}

// Milliseconds gives a duration as statuses do.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
