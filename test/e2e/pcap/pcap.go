// Package pcap reads what tcpdump writes and takes it apart as far as the end-to-end tests need: Ethernet, IPv4, IPv6, TCP, UDP,
// then SIP start lines and headers and RTP streams. It reads a capture while it is being written, so that a test can wait for
// a packet, and it does not reassemble: a fragment and a TCP segment are packets of their own.
package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// Protocol is the transport of a packet, as the number in its IP header.
type Protocol uint8

// The protocols that Packet tells apart; every other number stands for itself.
const (
	ICMP   Protocol = 1
	TCP    Protocol = 6
	UDP    Protocol = 17
	ICMPv6 Protocol = 58
	NotIP  Protocol = 255 // ARP and whatever else is not IP
)

func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "ICMP"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMPv6:
		return "ICMPv6"
	case NotIP:
		return "not IP"
	}
	return fmt.Sprintf("IP protocol %d", uint8(p))
}

// A Packet is one captured frame. Ports are zero where the transport has none. Payload is that of TCP or UDP, else what follows
// the IP header; it belongs to the receiver of the Packet.
type Packet struct {
	Time     time.Time
	Protocol Protocol
	Src, Dst netip.AddrPort
	DSCP     uint8
	Fragment bool // part of an IPv4 datagram; ports are known in the first fragment only
	Sequence uint32
	SYN, RST bool
	Payload  []byte
}

func (p *Packet) String() string {
	return fmt.Sprintf("%s %s %v > %v, %d bytes", p.Time.Format("15:04:05.000000"), p.Protocol, p.Src, p.Dst, len(p.Payload))
}

// ErrFormat is wrapped by the errors about a capture that is not one of Ethernet frames or IP packets.
var ErrFormat = errors.New("not a pcap stream of Ethernet frames or IP packets")

// A Reader reads packets from a stream in pcap format. It is not safe for concurrent use.
type Reader struct {
	from   io.Reader
	order  binary.ByteOrder
	nanos  bool
	raw    bool // no link layer: IP packets
	header [16]byte
}

// NewReader reads the stream's header: it blocks until the writer has written that.
func NewReader(from io.Reader) (*Reader, error) {
	var header [24]byte
	if _, err := io.ReadFull(from, header[:]); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	r := &Reader{from: from, order: binary.LittleEndian}
	switch magic := binary.LittleEndian.Uint32(header[:]); magic {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		r.nanos = true
	case 0xd4c3b2a1, 0x4d3cb2a1:
		r.order, r.nanos = binary.BigEndian, magic == 0x4d3cb2a1
	default:
		return nil, fmt.Errorf("%w: magic %#x", ErrFormat, magic)
	}
	const ethernet, raw = 1, 101
	switch link := r.order.Uint32(header[20:]) & 0xffff; link {
	case ethernet:
	case raw:
		r.raw = true
	default:
		return nil, fmt.Errorf("%w: link type %d", ErrFormat, link)
	}
	return r, nil
}

// Next returns the next packet, io.EOF at the end, io.ErrUnexpectedEOF where the writer was cut off.
func (r *Reader) Next() (*Packet, error) {
	if _, err := io.ReadFull(r.from, r.header[:]); err != nil {
		return nil, err
	}
	size := r.order.Uint32(r.header[8:])
	if size > 1<<18 {
		return nil, fmt.Errorf("%w: a packet of %d bytes", ErrFormat, size)
	}
	fraction := time.Duration(r.order.Uint32(r.header[4:]))
	if !r.nanos {
		fraction *= time.Microsecond
	}
	frame := make([]byte, size)
	if _, err := io.ReadFull(r.from, frame); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	p := &Packet{Time: time.Unix(int64(r.order.Uint32(r.header[:])), int64(fraction)), Protocol: NotIP}
	if r.raw {
		p.decodeIP(frame)
	} else {
		p.decode(frame)
	}
	return p, nil
}

func (p *Packet) decode(frame []byte) {
	if len(frame) < 14 {
		return
	}
	if etherType := binary.BigEndian.Uint16(frame[12:]); etherType == 0x0800 || etherType == 0x86dd {
		p.decodeIP(frame[14:])
	}
}

func (p *Packet) decodeIP(body []byte) {
	if len(body) == 0 {
		return
	}
	switch version := body[0] >> 4; {
	case version == 4 && len(body) >= 20:
		p.decodeIPv4(body)
	case version == 6 && len(body) >= 40:
		p.Protocol = Protocol(body[6])
		p.DSCP = uint8(binary.BigEndian.Uint16(body) >> 6 & 63)
		src, dst := netip.AddrFrom16([16]byte(body[8:24])), netip.AddrFrom16([16]byte(body[24:40]))
		length := int(binary.BigEndian.Uint16(body[4:]))
		p.decodeTransport(src, dst, body[40:min(40+length, len(body))])
	}
}

// IsNeighbourDiscovery tells whether the packet is what IPv6 has in place of ARP: neighbours, routers (RFC 4861) and groups of
// multicast (RFC 3810, behind a hop-by-hop header) on one link.
func (p *Packet) IsNeighbourDiscovery() bool {
	const hopByHop, firstType, lastType = 0, 133, 137
	switch p.Protocol {
	case hopByHop:
		return p.Dst.Addr().IsLinkLocalMulticast()
	case ICMPv6:
		return len(p.Payload) > 0 && p.Payload[0] >= firstType && p.Payload[0] <= lastType
	}
	return false
}

func (p *Packet) decodeIPv4(body []byte) {
	p.Protocol = Protocol(body[9])
	p.DSCP = body[1] >> 2
	src, dst := netip.AddrFrom4([4]byte(body[12:16])), netip.AddrFrom4([4]byte(body[16:20]))
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	header, length := int(body[0]&15)*4, int(binary.BigEndian.Uint16(body[2:]))
	if header < 20 || length < header || length > len(body) {
		return
	}
	fragment := binary.BigEndian.Uint16(body[6:])
	p.Fragment = fragment&0x3fff != 0
	if fragment&0x1fff != 0 {
		p.Payload = body[header:length]
		return
	}
	p.decodeTransport(src, dst, body[header:length])
}

func (p *Packet) decodeTransport(src, dst netip.Addr, segment []byte) {
	p.Src, p.Dst, p.Payload = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0), segment
	offset := 0
	switch {
	case p.Protocol == UDP && len(segment) >= 8:
		offset = 8
	case p.Protocol == TCP && len(segment) >= 20:
		offset = int(segment[12]>>4) * 4
		p.Sequence = binary.BigEndian.Uint32(segment[4:])
		p.SYN, p.RST = segment[13]&2 != 0, segment[13]&4 != 0
	}
	if offset == 0 || offset > len(segment) {
		return
	}
	p.Src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(segment))
	p.Dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(segment[2:]))
	p.Payload = segment[offset:]
}

// About returns the ends of the UDP datagram that an ICMP error, a destination that is unreachable, tells of.
func (p *Packet) About() (src, dst netip.AddrPort, ok bool) {
	const icmpHeader, unreachable4, unreachable6 = 8, 3, 1
	if len(p.Payload) < icmpHeader {
		return src, dst, false
	}
	var original Packet
	switch quoted := p.Payload[icmpHeader:]; {
	case p.Protocol == ICMP && p.Payload[0] == unreachable4 && len(quoted) >= 20:
		original.Protocol = Protocol(quoted[9])
		original.decodeTransport(netip.AddrFrom4([4]byte(quoted[12:16])), netip.AddrFrom4([4]byte(quoted[16:20])), quoted[min(int(quoted[0]&15)*4, len(quoted)):])
	case p.Protocol == ICMPv6 && p.Payload[0] == unreachable6 && len(quoted) >= 40:
		original.Protocol = Protocol(quoted[6])
		original.decodeTransport(netip.AddrFrom16([16]byte(quoted[8:24])), netip.AddrFrom16([16]byte(quoted[24:40])), quoted[40:])
	}
	return original.Src, original.Dst, original.Protocol == UDP && original.Src.Port() != 0
}
