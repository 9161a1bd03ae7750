package audio

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// ErrNoAudio is the reason why a session description cannot be used: no audio stream, or none with
// PCMU over plain RTP.
var ErrNoAudio = errors.New("no PCMU audio in the session description")

// Direction is the direction of a media stream as the describing side sees it (RFC 3264 section 5.1).
type Direction string

// The four directions.
const (
	SendRecv Direction = "sendrecv"
	SendOnly Direction = "sendonly"
	RecvOnly Direction = "recvonly"
	Inactive Direction = "inactive"
)

// Sends reports whether the describing side will send.
func (d Direction) Sends() bool { return d == SendRecv || d == SendOnly }

// Receives reports whether the describing side wants to receive.
func (d Direction) Receives() bool { return d == SendRecv || d == RecvOnly }

// Reverse is the widest direction that may answer an offer of d (RFC 3264 section 6.1).
func (d Direction) Reverse() Direction {
	switch d {
	case SendOnly:
		return RecvOnly
	case RecvOnly:
		return SendOnly
	default:
		return d
	}
}

// Description is what this package needs of SDP: where the audio goes and which way.
type Description struct {
	// Session and Version are the numbers of the o= line; the version grows with each change.
	Session, Version uint64
	// RTP and RTCP are where the describing side receives.
	RTP, RTCP netip.AddrPort
	Direction Direction
}

// Offer returns the SDP of an offer of PCMU.
func (d Description) Offer() []byte {
	return d.marshal(func(b *bytes.Buffer) { d.media(b) })
}

// Answer returns the SDP that answers an offer: PCMU in the first audio stream, all others refused
// with port 0 (RFC 3264 section 6).
func (d Description) Answer(offer []byte) ([]byte, error) {
	if _, err := ParseDescription(offer); err != nil {
		return nil, err
	}
	return d.marshal(func(b *bytes.Buffer) {
		accepted := false
		for line := range lines(offer) {
			media, ok := strings.CutPrefix(line, "m=")
			fields := strings.Fields(media)
			switch {
			case !ok || len(fields) < 4:
			case fields[0] == "audio" && !accepted:
				accepted = true
				d.media(b)
			default:
				fmt.Fprintf(b, "m=%s 0 %s\r\n", fields[0], strings.Join(fields[2:], " "))
			}
		}
	}), nil
}

func (d Description) marshal(media func(*bytes.Buffer)) []byte {
	var b bytes.Buffer
	address := network(d.RTP.Addr()) + " " + d.RTP.Addr().String()
	fmt.Fprintf(&b, "v=0\r\no=- %d %d IN %s\r\ns=-\r\nc=IN %s\r\nt=0 0\r\n", d.Session, d.Version, address, address)
	media(&b)
	return b.Bytes()
}

func (d Description) media(b *bytes.Buffer) {
	fmt.Fprintf(b, "m=audio %d RTP/AVP %d\r\na=rtpmap:%d PCMU/%d\r\na=ptime:%d\r\n",
		d.RTP.Port(), PayloadType, PayloadType, ClockRate, FrameDuration.Milliseconds())
	if d.RTCP.IsValid() && d.RTCP != neighbour(d.RTP) {
		fmt.Fprintf(b, "a=rtcp:%d IN %s %s\r\n", d.RTCP.Port(), network(d.RTCP.Addr()), d.RTCP.Addr())
	}
	fmt.Fprintf(b, "a=%s\r\n", d.Direction)
}

func network(a netip.Addr) string {
	if a.Is4() {
		return "IP4"
	}
	return "IP6"
}

// neighbour is where RTCP goes when SDP does not say it.
func neighbour(rtp netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(rtp.Addr(), rtp.Port()+1)
}

// ParseDescription reads the first audio stream of a session description. The error is ErrNoAudio
// when there is no PCMU to talk with. A connection address of zero, the hold of RFC 2543, is returned
// as it is, with a direction that does not receive.
func ParseDescription(sdp []byte) (Description, error) {
	d, hasPCMU, err := parse(sdp)
	if err == nil && !hasPCMU {
		err = ErrNoAudio
	}
	return d, err
}

// ParseTransport is ParseDescription for somebody who only forwards packets: any codec will do.
func ParseTransport(sdp []byte) (Description, error) {
	d, _, err := parse(sdp)
	return d, err
}

func parse(sdp []byte) (_ Description, hasPCMU bool, _ error) {
	d := Description{Direction: SendRecv}
	var (
		section     int // 0: session level, 1: the audio stream, 2: another stream
		address     netip.Addr
		port        uint16
		rtcpPort    uint16
		rtcpAddress netip.Addr
		any         bool
	)
	for line := range lines(sdp) {
		key, value, _ := strings.Cut(line, "=")
		fields := strings.Fields(value)
		switch {
		case key == "o" && len(fields) == 6:
			d.Session, _ = strconv.ParseUint(fields[1], 10, 64)
			d.Version, _ = strconv.ParseUint(fields[2], 10, 64)
		case key == "m":
			section = 2
			if len(fields) >= 4 && fields[0] == "audio" && !any {
				section, any = 1, true
				n, err := strconv.ParseUint(fields[1], 10, 16)
				if err != nil {
					return d, false, fmt.Errorf("%w: port %q", ErrNoAudio, fields[1])
				}
				port = uint16(n)
				hasPCMU = strings.HasPrefix(fields[2], "RTP/AVP") && slices.Contains(fields[3:], strconv.Itoa(PayloadType))
			}
		case section == 2:
		case key == "c" && len(fields) == 3:
			host, _, _ := strings.Cut(fields[2], "/")
			parsed, err := netip.ParseAddr(host)
			if err != nil {
				return d, false, fmt.Errorf("%w: connection address %q", ErrNoAudio, fields[2])
			}
			address = parsed
		case key == "a":
			name, value, _ := strings.Cut(value, ":")
			switch direction := Direction(name); {
			case direction == SendRecv || direction == SendOnly || direction == RecvOnly || direction == Inactive:
				d.Direction = direction
			case name == "rtcp":
				rtcpPort, rtcpAddress = parseRTCP(value)
			}
		}
	}
	if port == 0 || !address.IsValid() {
		return d, false, ErrNoAudio
	}
	d.RTP = netip.AddrPortFrom(address, port)
	d.RTCP = neighbour(d.RTP)
	if rtcpPort != 0 {
		d.RTCP = netip.AddrPortFrom(address, rtcpPort)
		if rtcpAddress.IsValid() {
			d.RTCP = netip.AddrPortFrom(rtcpAddress, rtcpPort)
		}
	}
	if address.IsUnspecified() {
		d.Direction = Inactive
	}
	return d, hasPCMU, nil
}

// parseRTCP reads the value of a=rtcp (RFC 3605 section 2.1).
func parseRTCP(value string) (port uint16, address netip.Addr) {
	fields := strings.Fields(value)
	if len(fields) == 0 {
		return 0, netip.Addr{}
	}
	n, err := strconv.ParseUint(fields[0], 10, 16)
	if err != nil {
		return 0, netip.Addr{}
	}
	if len(fields) == 4 {
		address, _ = netip.ParseAddr(fields[3])
	}
	return uint16(n), address
}

// lines yields the lines of SDP, whether they end with CRLF or LF.
func lines(sdp []byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(sdp)) {
			if !yield(strings.TrimRight(line, "\r\n")) {
				return
			}
		}
	}
}

// Readdress returns SDP with its first audio stream moved to another address, for a PBX that stands
// between two phones: all other streams are refused, ICE is taken out, the rest stays as it is. A
// connection address of zero stays too.
func Readdress(sdp []byte, rtp netip.AddrPort) []byte {
	var b bytes.Buffer
	audio, other := false, false
	for line := range lines(sdp) {
		key, value, _ := strings.Cut(line, "=")
		fields := strings.Fields(value)
		switch {
		case key == "m" && len(fields) >= 4:
			other = audio || fields[0] != "audio"
			audio = audio || fields[0] == "audio"
			port := "0"
			if !other && fields[1] != "0" {
				port = strconv.Itoa(int(rtp.Port()))
			}
			fmt.Fprintf(&b, "m=%s %s %s\r\n", fields[0], port, strings.Join(fields[2:], " "))
		case other:
			// The lines of a refused stream say nothing any more.
		case key == "c" && len(fields) == 3 && fields[2] != "0.0.0.0" && fields[2] != "::":
			fmt.Fprintf(&b, "c=IN %s %s\r\n", network(rtp.Addr()), rtp.Addr())
		case key == "a" && strings.HasPrefix(value, "rtcp:"):
			fmt.Fprintf(&b, "a=rtcp:%d\r\n", rtp.Port()+1)
		case key == "a" && (strings.HasPrefix(value, "candidate:") || strings.HasPrefix(value, "ice-") || value == "rtcp-mux"):
		default:
			b.WriteString(line + "\r\n")
		}
	}
	return b.Bytes()
}
