package sdp

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/sipmsg/iptext"
)

// MaxMedia is how many m= lines a description may have.
const MaxMedia = 32

// Direction is who sends media (RFC 8866 section 6.7), as seen by the sender of
// the description.
type Direction uint8

// The directions; the zero value is the default.
const (
	SendRecv Direction = iota
	SendOnly
	RecvOnly
	Inactive
)

var directionNames = [...]string{"sendrecv", "sendonly", "recvonly", "inactive"}

func (d Direction) String() string {
	if int(d) < len(directionNames) {
		return directionNames[d]
	}
	return fmt.Sprintf("Direction(%d)", uint8(d))
}

// Media is one m= line with what belongs to it. Its slices lie in the bytes
// given to [Description.Parse].
type Media struct {
	Type      []byte // audio, video, image, ...
	Proto     []byte // RTP/AVP, udptl, ...
	Formats   []byte // payload types or other formats, as they stand
	Port      int    // 0: refused or not offered
	PortCount int    // 1 unless the m= line says so (port/count)
	// Host is the address of the c= line in force: the one of this media, else
	// the one of the session. It is nil when there is none.
	Host []byte
	// Addr is Host as an address; invalid when Host is a name or is absent.
	Addr netip.Addr
	// RTCP is what a=rtcp says (RFC 3605), with Addr when it names no address of
	// its own; zero when there is none. Its address is invalid when it is named
	// by a host name.
	RTCP      netip.AddrPort
	RTCPMux   bool      // a=rtcp-mux (RFC 5761)
	Direction Direction // of this media, else of the session
	// Alternatives is set when this media or the session offers other addresses
	// than those of c=, m= and a=rtcp: ICE candidates, a=altc (RFC 6947) or the
	// a=path of MSRP (RFC 4975).
	Alternatives bool
	// Hold is set when the sender wants no media: the address is 0.0.0.0 or ::,
	// or the direction is sendonly or inactive.
	Hold bool

	ownHost  bool   // has a c= line of its own
	hasRTCP  bool   // has an a=rtcp line
	rtcpHost []byte // the address in it; nil when it names none
}

// RTPAddr returns where media is to be sent; the zero value when the port is 0
// or the address is not known.
func (m Media) RTPAddr() netip.AddrPort {
	if m.Port == 0 || !m.Addr.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(m.Addr, uint16(m.Port))
}

// RTCPAddr returns where RTCP is to be sent when it does not share the port of
// RTP: what a=rtcp says, else the port above the one of RTP; with a=rtcp-mux and
// no a=rtcp, the one of RTP.
func (m Media) RTCPAddr() netip.AddrPort {
	rtp := m.RTPAddr()
	switch {
	case !rtp.IsValid():
		return netip.AddrPort{}
	case m.RTCP.Port() != 0:
		if !m.RTCP.Addr().IsValid() {
			return netip.AddrPort{}
		}
		return m.RTCP
	case m.RTCPMux:
		return rtp
	}
	return above(rtp)
}

// above returns the same address with the port above; the zero value when there
// is no such port.
func above(a netip.AddrPort) netip.AddrPort {
	if a.Port() == 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr(), a.Port()+1)
}

// ParseError says why a description cannot be used.
type ParseError struct {
	Reason string // constant text, fit for a counter's name or a log
	Offset int    // where, in bytes from the start of the description
}

func (e *ParseError) Error() string { return fmt.Sprintf("sdp: %s at offset %d", e.Reason, e.Offset) }

// Description is one session description. The zero value is ready; it is meant
// to be used again. It keeps the bytes given to [Description.Parse] until the
// next Parse, never writes to them, and is not safe for concurrent use.
type Description struct {
	buf   []byte
	media []Media

	host         []byte // of the session's c= line; nil when there is none
	connection   []byte // the value of that line
	direction    Direction
	alternatives bool     // the session offers other addresses
	targets      []Target // of each media, while rewriting; zero: left alone
}

// Media returns the m= lines in their order. The slice belongs to d and is good
// until the next Parse.
func (d *Description) Media() []Media { return d.media }

// Parse reads b, which must not change until the next Parse. It asks for one v=
// line, v=0, in the first place, well-formed m= lines and one c= and one a=rtcp
// at most that are in force for a media; anything else may be there. Lines end
// in CRLF or LF. What receivers read in different ways, so that what was checked
// is not what is done, is refused: zero bytes and carriage returns inside of
// lines. The error is a [*ParseError].
func (d *Description) Parse(b []byte) error {
	*d = Description{buf: b, media: d.media[:0], targets: d.targets[:0]}
	l, pos := nextLine(b, 0)
	if string(bytes.TrimRight(l.text(b), " \t")) != "v=0" {
		return &ParseError{Reason: "no v=0 line", Offset: 0}
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return &ParseError{Reason: "zero byte", Offset: i}
	}
	for pos < len(b) {
		l, pos = nextLine(b, pos)
		if reason := d.parseLine(l); reason != "" {
			d.media = d.media[:0]
			return &ParseError{Reason: reason, Offset: l.start}
		}
	}
	for i := range d.media {
		d.media[i].finish(d)
	}
	return nil
}

// parseLine reads one line and returns what is wrong with it.
func (d *Description) parseLine(l line) (reason string) {
	text := l.text(d.buf)
	if bytes.IndexByte(text, '\r') >= 0 {
		return "carriage return inside of a line"
	}
	if len(text) < 2 || text[1] != '=' {
		return ""
	}
	value := text[2:]
	var m *Media
	if n := len(d.media); n > 0 {
		m = &d.media[n-1]
	}
	switch text[0] {
	case 'v':
		return "more than one v= line"
	case 'm':
		if len(d.media) == MaxMedia {
			return "too many m= lines"
		}
		media, ok := parseMedia(value)
		if !ok {
			return "malformed m= line"
		}
		media.Direction = d.direction
		d.media = append(d.media, media)
	case 'c':
		host := connectionHost(value)
		switch {
		case m == nil:
			d.connection = value
			return once(&d.host, host)
		case m.ownHost:
			return once(&m.Host, host)
		}
		m.Host, m.ownHost = host, true
	case 'a':
		return d.parseAttribute(m, value)
	}
	return ""
}

// once sets the address of a section; a second one that differs would leave it
// open which one a reader takes.
func once(host *[]byte, to []byte) (reason string) {
	if *host != nil && !bytes.Equal(*host, to) {
		return "more than one c= line in a section"
	}
	*host = to
	return ""
}

func (d *Description) parseAttribute(m *Media, value []byte) (reason string) {
	name, arg := cut(value, ':')
	for i, s := range directionNames {
		if isWord(name, s) {
			if m == nil {
				d.direction = Direction(i)
			} else {
				m.Direction = Direction(i)
			}
			return ""
		}
	}
	switch {
	case m == nil:
		d.alternatives = d.alternatives || namesAddress(name)
	case namesAddress(name):
		m.Alternatives = true
	case isWord(name, "rtcp-mux"):
		m.RTCPMux = true
	case isWord(name, "rtcp"):
		return m.parseRTCP(arg)
	}
	return ""
}

// parseMedia reads the value of an m= line.
func parseMedia(b []byte) (m Media, ok bool) {
	m.Type, b = field(b)
	var port []byte
	port, b = field(b)
	m.Proto, b = field(b)
	m.Formats = bytes.TrimSpace(b)
	port, count := cut(port, '/')
	m.PortCount = 1
	if count != nil {
		if m.PortCount, ok = number(count, 65535); !ok {
			return m, false
		}
	}
	m.Port, ok = number(port, 65535)
	return m, ok && len(m.Type) > 0 && len(m.Proto) > 0
}

// connectionHost returns the address in the value of a c= line, without TTL and
// count; not nil.
func connectionHost(b []byte) []byte {
	_, b = field(b)
	_, b = field(b)
	host, _ := field(b)
	host, _ = cut(host, '/')
	if host == nil {
		host = b[:0:0]
	}
	return host
}

// parseRTCP reads the value of an a=rtcp attribute: "53020" or "53020 IN IP4
// 126.16.64.4".
func (m *Media) parseRTCP(b []byte) (reason string) {
	port, rest := field(b)
	n, ok := number(port, 65535)
	if !ok {
		return "malformed a=rtcp"
	}
	var host []byte
	if len(bytes.TrimSpace(rest)) > 0 {
		host = connectionHost(rest)
	}
	if m.hasRTCP && (int(m.RTCP.Port()) != n || !bytes.Equal(m.rtcpHost, host)) {
		return "more than one a=rtcp in a section"
	}
	m.hasRTCP, m.rtcpHost = true, host
	m.RTCP = netip.AddrPortFrom(netip.Addr{}, uint16(n))
	return ""
}

// finish fills in what depends on lines behind the m= line.
func (m *Media) finish(d *Description) {
	if !m.ownHost {
		m.Host = d.host
	}
	m.Addr, _ = iptext.Parse(m.Host)
	if port := m.RTCP.Port(); port != 0 {
		addr := m.Addr
		if m.rtcpHost != nil {
			addr, _ = iptext.Parse(m.rtcpHost)
		}
		m.RTCP = netip.AddrPortFrom(addr, port)
	}
	m.Alternatives = m.Alternatives || d.alternatives
	m.Hold = m.Addr.IsValid() && m.Addr.IsUnspecified() || m.Direction == SendOnly || m.Direction == Inactive
}
