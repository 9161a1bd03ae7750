package sipfwd

import (
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
)

// mediaLine is one m-line of a leg. Addresses are the SIP peer's.
type mediaLine struct {
	port    MediaPort // LAN side
	relay   Relay     // PBX side
	relayAt netip.AddrPort

	remote, offered mediaAddr
	committed       bool // remote is in force
	pending         bool // offered waits for its answer
}

type mediaAddr struct{ rtp, rtcp netip.AddrPort }

// line is the leg's i-th m-line, made when it is new.
func (l *leg) line(i int) *mediaLine {
	for len(l.lines) <= i {
		l.lines = append(l.lines, new(mediaLine))
	}
	return l.lines[i]
}

// peerSDP notes the addresses that the SIP peer of this half signals in a
// message that travels in direction from. An answer is in force at once; an
// offer when it is answered, unless nothing is in force yet: media may come
// before the answer (RFC 3264 section 5.1).
func (l *leg) peerSDP(d *sdp.Description, from direction, answer bool) {
	l.noteHold(d, from)
	for i, m := range d.Media() {
		if i >= maxMediaLines {
			break
		}
		line := l.line(i)
		line.offered = mediaAddr{}
		if a := m.RTPAddr(); m.Port != 0 && m.OverUDP() && a.IsValid() { // 0.0.0.0 is hold, and the relay's to know
			line.offered = mediaAddr{a, m.RTCPAddr()}
		}
		line.pending = true
		if answer || !line.committed {
			line.commit(l)
		}
	}
}

func (l *leg) noteHold(d *sdp.Description, from direction) {
	hold := false
	for _, m := range d.Media() {
		hold = hold || m.Hold
	}
	if l.held[boolIndex(from)] && !hold {
		l.activeAt = time.Now() // the silence of before does not count
	}
	l.held[boolIndex(from)] = hold
}

// answered puts into force what the peer offered.
func (l *leg) answered() {
	for _, line := range l.lines {
		if line.pending {
			line.commit(l)
		}
	}
}

// rejected forgets what the peer offered.
func (l *leg) rejected() {
	for _, line := range l.lines {
		line.pending = false
	}
}

func (line *mediaLine) commit(l *leg) {
	line.pending = false
	line.committed = line.committed || line.offered.rtp.IsValid() && !line.offered.rtp.Addr().IsUnspecified()
	line.remote = line.offered
	line.connect(l)
}

func (line *mediaLine) connect(l *leg) {
	switch {
	case line.port != nil:
		line.port.SetPhone(line.remote.rtp, line.remote.rtcp, l.signalling())
	case line.relay != nil:
		line.relay.SetRemote(line.remote.rtp, line.remote.rtcp)
	}
}

func (l *leg) signalling() netip.Addr {
	if l.flow == nil {
		return netip.Addr{}
	}
	return l.flow.remote.Addr()
}

func (l *leg) stats() []MediaStats {
	var all []MediaStats
	for _, line := range l.lines {
		switch {
		case line.port != nil:
			all = append(all, line.port.Stats())
		case line.relay != nil:
			all = append(all, line.relay.Stats())
		}
	}
	return all
}

// releaseMedia ends what carried the media of a leg that is over. Media ports
// are this half's own; relays are stopped, and freed by the client.
func (l *leg) releaseMedia() {
	for _, line := range l.lines {
		if line.port != nil {
			line.port.Close()
		}
		if line.relay != nil {
			line.relay.SetRemote(netip.AddrPort{}, netip.AddrPort{})
		}
	}
	l.lines = nil
}
