package sdp

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/siptunnel/siptunnel/internal/sipmsg/iptext"
)

// Target is where an m= line is to point. A zero RTCP is the port above RTP's.
// With Refused it points nowhere: its port becomes 0, and the rest is not used.
// Translated says that the other side uses another IP family than the sender.
type Target struct {
	RTP, RTCP  netip.AddrPort
	Refused    bool
	Translated bool
}

// rtcp returns the address of RTCP.
func (t Target) rtcp() netip.AddrPort {
	if t.RTCP.IsValid() {
		return t.RTCP
	}
	return above(t.RTP)
}

// Rewrite appends the description to dst with its m= lines pointed to where
// target says. target is called once for each media whose port is not 0, in
// their order; with ok false, or an RTP address that is not valid, that media
// keeps what it has, and without any target the output is the input.
//
// What is written: the port of m=, without the count of several (port/count), since a
// target is a single one; the address of c= (of the media, or of the
// session; a media that then differs from its session gets a c= of its own) and
// the port and address of a=rtcp, which is added only where RTCP is neither
// above the port of RTP nor shares it. ICE candidates and credentials, a=altc
// and a=path name other ways to the sender and are removed from the media that
// are rewritten or refused, and from the session of the former. An address of 0.0.0.0 or :: means hold and
// stays. The address in o= is nobody's to send to, but some receivers (baresip) take
// its IP family for that of the media: where a target is translated to the other one,
// o= names it. All other lines stay as they are, and so does a line that
// already says the right thing.
func (d *Description) Rewrite(dst []byte, target func(i int, m Media) (to Target, ok bool)) []byte {
	w := writer{d: d, media: -1, dst: dst}
	if !w.aim(target) {
		return append(dst, d.buf...)
	}
	first, _ := nextLine(d.buf, 0)
	w.eol = d.buf[first.end:first.next]
	for pos := 0; pos < len(d.buf); {
		var l line
		l, pos = nextLine(d.buf, pos)
		w.line(l)
	}
	w.settle(0)
	return w.dst
}

// writer writes a description anew, line by line.
type writer struct {
	d       *Description
	dst     []byte
	eol     []byte
	session netip.Addr // new address of the session's c=; invalid: as it is
	origin  netip.Addr // new address of o=; invalid: as it is
	pointed bool       // a media has a target
	media   int        // index of the current m= line, -1 before the first
	conn    bool       // a c= line is still to be added to this media
	rtcp    bool       // an a=rtcp line is still to be added to this media
}

// aim asks for the targets and reports whether there is any.
func (w *writer) aim(target func(int, Media) (Target, bool)) (any bool) {
	d := w.d
	d.targets = d.targets[:0]
	firstOwn := netip.Addr{} // of the first media with a c= of its own
	for i := range d.media {
		m := &d.media[i]
		var to Target
		if m.Port != 0 {
			var ok bool
			switch to, ok = target(i, *m); {
			case ok && to.Refused:
				to, any = Target{Refused: true}, true
			case !ok || !to.RTP.IsValid() || to.RTP.Port() == 0:
				to = Target{}
			}
			to.RTP, to.RTCP = unmap(to.RTP), unmap(to.RTCP)
		}
		d.targets = append(d.targets, to)
		if !to.RTP.IsValid() {
			continue
		}
		any, w.pointed = true, true
		if to.Translated && !w.origin.IsValid() {
			w.origin = to.RTP.Addr()
		}
		switch {
		case !m.ownHost && !w.session.IsValid():
			w.session = to.RTP.Addr()
		case m.ownHost && !firstOwn.IsValid() && !onHold(m.Addr):
			firstOwn = to.RTP.Addr()
		}
	}
	if !w.session.IsValid() {
		w.session = firstOwn
	}
	if addr, _ := iptext.Parse(d.host); d.host == nil || onHold(addr) {
		w.session = netip.Addr{}
	}
	return any
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func onHold(a netip.Addr) bool { return a.IsValid() && a.IsUnspecified() }

// line writes one line, changed where it has to be.
func (w *writer) line(l line) {
	text := l.text(w.d.buf)
	var kind byte
	if len(text) >= 2 && text[1] == '=' {
		kind = text[0]
	}
	w.settle(kind)
	switch kind {
	case 'm':
		w.mediaLine(l)
		return
	case 'o':
		if w.media < 0 && w.originLine(l) {
			return
		}
	case 'c':
		if w.connectionLine(l) {
			return
		}
	case 'a':
		name, _ := cut(text[2:], ':')
		if w.rewriting() && ofOtherPath(name) {
			return
		}
		if w.media >= 0 && isWord(name, "rtcp") && w.rtcpLine(l) {
			return
		}
	}
	w.copy(l)
}

// rewriting reports whether the current section is rewritten.
func (w *writer) rewriting() bool {
	if w.media < 0 {
		return w.pointed
	}
	return w.d.targets[w.media].RTP.IsValid() || w.d.targets[w.media].Refused
}

func (w *writer) copy(l line) { w.dst = append(w.dst, w.d.buf[l.start:l.next]...) }

// settle adds the lines that are due before a line of that kind: a section has
// m, i, c, b, k and a lines in that order (RFC 8866 section 5).
func (w *writer) settle(kind byte) {
	if w.conn && kind != 'i' {
		w.conn = false
		w.newLine()
		if to := w.d.targets[w.media]; to.RTP.IsValid() {
			w.connection(to.RTP.Addr())
		} else {
			w.dst = append(append(w.dst, "c="...), w.d.connection...)
		}
		w.dst = append(w.dst, w.eol...)
	}
	if w.rtcp && kind != 'i' && kind != 'c' && kind != 'b' && kind != 'k' {
		w.rtcp = false
		w.newLine()
		w.dst = append(w.dst, "a=rtcp:"...)
		to := w.d.targets[w.media]
		w.rtcpValue(to.rtcp(), to.rtcp().Addr() != to.RTP.Addr())
		w.dst = append(w.dst, w.eol...)
	}
}

// newLine ends the line before, which lacks an end, or half of it, when it was
// the last.
func (w *writer) newLine() {
	switch n := len(w.dst); {
	case w.dst[n-1] == '\n':
	case w.dst[n-1] == '\r':
		w.dst = append(w.dst, '\n')
	default:
		w.dst = append(w.dst, w.eol...)
	}
}

func (w *writer) mediaLine(l line) {
	w.media++
	m, to := &w.d.media[w.media], w.d.targets[w.media]
	if to.Refused {
		w.mediaPort(l, 0)
		return
	}
	if !to.RTP.IsValid() {
		w.conn = m.Port != 0 && !m.ownHost && w.session.IsValid() && w.session != m.Addr
		w.copy(l)
		return
	}
	w.conn = !m.ownHost && !onHold(m.Addr) && to.RTP.Addr() != w.session
	w.rtcp = !m.hasRTCP && !m.RTCPMux && bytes.Contains(m.Proto, []byte("RTP")) &&
		to.RTCP.IsValid() && to.RTCP != above(to.RTP)
	if int(to.RTP.Port()) == m.Port && m.PortCount == 1 {
		w.copy(l)
		return
	}
	w.mediaPort(l, to.RTP.Port())
}

// mediaPort writes an m= line with another port.
func (w *writer) mediaPort(l line, to uint16) {
	text := l.text(w.d.buf)
	_, rest := field(text[2:])
	port, after := field(rest)
	_, count := cut(port, '/')
	before := text[:len(text)-len(after)-len(port)]
	w.dst = append(w.dst, before...)
	w.dst = strconv.AppendUint(w.dst, uint64(to), 10)
	if count != nil && (to == 0 || w.d.media[w.media].PortCount == 1) {
		w.dst = append(append(w.dst, '/'), count...)
	}
	w.dst = append(append(w.dst, after...), w.d.buf[l.end:l.next]...)
}

// connectionLine writes a c= line anew; false when it stays as it is.
func (w *writer) connectionLine(l line) bool {
	to := w.session
	if w.media >= 0 {
		to = w.d.targets[w.media].RTP.Addr()
	}
	is, _ := iptext.Parse(connectionHost(l.text(w.d.buf)[2:]))
	if !to.IsValid() || is == to || onHold(is) {
		return false
	}
	w.connection(to)
	w.dst = append(w.dst, w.d.buf[l.end:l.next]...)
	return true
}

// originLine writes an o= line with another address; false when it stays as it is.
func (w *writer) originLine(l line) bool {
	text := l.text(w.d.buf)
	rest := text[2:]
	for range 3 { // username, session, version
		_, rest = field(rest)
	}
	for len(rest) > 0 && isSpace(rest[0]) {
		rest = rest[1:]
	}
	_, after := field(rest)
	family, after := field(after)
	host, after := field(after)
	is4, is6 := isWord(family, "ip4"), isWord(family, "ip6")
	if len(host) == 0 || !w.origin.IsValid() || w.origin.Is4() && !is6 || w.origin.Is6() && !is4 {
		return false
	}
	w.dst = append(w.dst, text[:len(text)-len(rest)]...)
	w.address(w.origin)
	w.dst = append(append(w.dst, after...), w.d.buf[l.end:l.next]...)
	return true
}

func (w *writer) connection(a netip.Addr) {
	w.dst = append(w.dst, "c="...)
	w.address(a)
}

// address writes "IN IP4 192.0.2.1".
func (w *writer) address(a netip.Addr) {
	if a.Is4() {
		w.dst = append(w.dst, "IN IP4 "...)
	} else {
		w.dst = append(w.dst, "IN IP6 "...)
	}
	w.dst = a.AppendTo(w.dst)
}

// rtcpLine writes an a=rtcp line anew; false when it stays as it is.
func (w *writer) rtcpLine(l line) bool {
	m, to := &w.d.media[w.media], w.d.targets[w.media]
	rtcp, named := to.rtcp(), m.rtcpHost != nil
	if !rtcp.IsValid() || named && onHold(m.RTCP.Addr()) {
		return false
	}
	if rtcp == m.RTCP && (named || rtcp.Addr() == to.RTP.Addr()) {
		return false
	}
	w.dst = append(w.dst, "a=rtcp:"...)
	w.rtcpValue(rtcp, named || rtcp.Addr() != to.RTP.Addr())
	w.dst = append(w.dst, w.d.buf[l.end:l.next]...)
	return true
}

func (w *writer) rtcpValue(a netip.AddrPort, named bool) {
	w.dst = strconv.AppendUint(w.dst, uint64(a.Port()), 10)
	if named {
		w.dst = append(w.dst, ' ')
		w.address(a.Addr())
	}
}

// namesAddress reports whether an attribute offers an address beside those of
// m=, c= and a=rtcp (RFC 8839 section 5.1, RFC 6947, RFC 4975 section 8).
func namesAddress(name []byte) bool {
	return isWord(name, "candidate") || isWord(name, "remote-candidates") || isWord(name, "altc") || isWord(name, "path")
}

// ofOtherPath reports whether an attribute offers another address, or is about
// one (RFC 8839 section 5).
func ofOtherPath(name []byte) bool {
	return namesAddress(name) || isWord(name, "end-of-candidates") ||
		len(name) > len("ice-") && isWord(name[:len("ice-")], "ice-")
}
