package sipfwd

import (
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
)

// mediaLine is one m-line of a leg.
type mediaLine struct {
	port     MediaPort  // LAN side
	near     netip.Addr // LAN side: our address that the phone used when port was put there
	crossbar *crossbar  // LAN side: where port is
	relay    Relay      // PBX side
	relayAt  netip.AddrPort

	peer signalled // by the SIP peer of this half
	pbx  signalled // LAN side: by the PBX, as far as port could be joined with another one
}

type mediaAddr struct{ rtp, rtcp netip.AddrPort }

// signalled is where one party wants the media of an m-line.
type signalled struct {
	now       mediaAddr
	committed bool       // now is in force
	offered   *mediaAddr // waits for its answer; nil: there is none
}

// note takes what SDP says. An answer is in force at once; an offer when it is
// answered, unless nothing is in force yet: media may come before the answer
// (RFC 3264 section 5.1).
func (s *signalled) note(a mediaAddr, answer bool) {
	if answer || !s.committed {
		s.commit(a)
		return
	}
	s.offered = &a
}

func (s *signalled) commit(a mediaAddr) {
	s.offered = nil
	s.committed = s.committed || a.rtp.IsValid() && !a.rtp.Addr().IsUnspecified()
	s.now = a
}

// line is the leg's i-th m-line, made when it is new.
func (l *leg) line(i int) *mediaLine {
	for len(l.lines) <= i {
		l.lines = append(l.lines, new(mediaLine))
	}
	return l.lines[i]
}

// peerSDP notes the addresses that the SIP peer of this half signals in a
// message that travels in direction from.
func (l *leg) peerSDP(d *sdp.Description, from direction, answer bool) {
	l.noteHold(d, from)
	for i, m := range d.Media() {
		if i >= maxMediaLines {
			break
		}
		var to mediaAddr
		if a := m.RTPAddr(); m.Port != 0 && m.OverUDP() && a.IsValid() { // 0.0.0.0 is hold, and the relay's to know
			to = mediaAddr{a, m.RTCPAddr()}
		}
		line := l.line(i)
		line.peer.note(to, answer)
		if line.peer.offered == nil {
			line.connect(l)
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
		if line.peer.offered != nil {
			line.peer.commit(*line.peer.offered)
			line.connect(l)
		}
	}
}

// rejected forgets what the peer offered.
func (l *leg) rejected() {
	for _, line := range l.lines {
		line.peer.offered = nil
	}
}

func (line *mediaLine) connect(l *leg) {
	switch to := line.peer.now; {
	case line.port != nil:
		line.port.SetPhone(l.zoned(to.rtp), l.zoned(to.rtcp), l.signalling())
	case line.relay != nil:
		line.relay.SetRemote(to.rtp, to.rtcp)
	}
}

// pbxSDP notes, on the LAN side, the addresses in SDP of the PBX.
func (l *leg) pbxSDP(d *sdp.Description, answer bool) {
	media := d.Media()
	for i, line := range l.lines {
		var to mediaAddr
		if i < len(media) {
			to = plainAddr(&media[i])
		}
		line.pbx.note(to, answer)
		line.cross()
	}
}

// plainAddr is the one address that m names, with RTCP where a relay has it; zero
// when there is more to m than that.
func plainAddr(m *sdp.Media) mediaAddr {
	rtp, rtcp := m.RTPAddr(), m.RTCPAddr()
	if m.Alternatives || m.PortCount != 1 || !m.OverUDP() || !rtp.IsValid() || rtp.Addr().IsUnspecified() ||
		rtcp.Addr() != rtp.Addr() || rtcp.Port() != rtp.Port() && rtcp.Port() != rtp.Port()+1 {
		return mediaAddr{}
	}
	return mediaAddr{rtp, rtcp}
}

// pbxAnswered puts into force what the PBX offered and the phone accepted, or
// forgets it.
func (l *leg) pbxAnswered(accepted bool) {
	for _, line := range l.lines {
		if line.pbx.offered != nil && accepted {
			line.pbx.commit(*line.pbx.offered)
		}
		line.pbx.offered = nil
		line.cross()
	}
}

// cross tells the crossbar where the PBX wants the media of the line. An offer
// to move it ends what is joined at once, as the way through the tunnel leads to
// the old place too.
func (line *mediaLine) cross() {
	if line.port == nil {
		return
	}
	far := line.pbx.now.rtp
	if line.pbx.offered != nil && *line.pbx.offered != line.pbx.now {
		far = netip.AddrPort{}
	}
	line.crossbar.point(line.port, far)
}

func (l *leg) signalling() netip.Addr {
	if l.flow == nil {
		return netip.Addr{}
	}
	return l.flow.remote.Addr()
}

// zoned is an address in the phone's SDP, which cannot tell of a zone, with that of
// the phone's flow where it needs one.
func (l *leg) zoned(a netip.AddrPort) netip.AddrPort {
	if l.flow == nil || !a.Addr().IsLinkLocalUnicast() || a.Addr().Is4() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().WithZone(l.flow.at.Zone()), a.Port())
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
			line.crossbar.point(line.port, netip.AddrPort{})
			line.port.Close()
		}
		if line.relay != nil {
			line.relay.SetRemote(netip.AddrPort{}, netip.AddrPort{})
		}
	}
	l.lines = nil
}
