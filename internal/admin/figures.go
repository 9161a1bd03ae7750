package admin

import (
	"time"

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
		calls = append(calls, Call{
			Session: session, CallID: c.CallID, From: c.From, To: c.To, Direction: c.Direction,
			Started: c.Start, Answered: c.Answered,
		})
	}
	return calls
}

// RelayOf gives the figures of a relay; the caller adds its names.
func RelayOf(s relay.Stats) Relay {
	r := Relay{
		PacketsIn: s.In.Packets, PacketsOut: s.Out.Packets,
		BytesIn: s.In.Bytes, BytesOut: s.Out.Bytes,
		RTCPIn: s.In.RTCP, RTCPOut: s.Out.RTCP,
		Lost:     s.In.Lost,
		JitterMS: Milliseconds(s.In.Jitter),
		Dropped: s.Dropped.UnknownSource + s.Dropped.NoRemote + s.Dropped.Held +
			s.Dropped.Size + s.Dropped.QueueFull + s.Dropped.SendFailed,
	}
	switch {
	case s.Latched.IsValid():
		r.Remote = s.Latched.String()
	case s.Signalled.IsValid():
		r.Remote = s.Signalled.String()
	}
	return r
}

// MediaOf gives the figures of a relay as calls carry them.
func MediaOf(s relay.Stats) sipfwd.MediaStats {
	return sipfwd.MediaStats{
		PacketsIn: s.In.Packets, PacketsOut: s.Out.Packets,
		Lost: s.In.Lost, Jitter: s.In.Jitter, LastIn: s.LastIn,
	}
}

// Milliseconds gives a duration as statuses do.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
