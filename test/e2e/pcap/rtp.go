package pcap

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// LooksLikeRTP tells whether a UDP packet is RTP of an audio call as far as its header can say: version 2, no RTCP type, at
// least one sample.
func (p *Packet) LooksLikeRTP() bool {
	if p.Protocol != UDP || len(p.Payload) <= 12 || p.Payload[0]>>6 != 2 {
		return false
	}
	kind := p.Payload[1]
	return kind < 192 || kind > 223 // RFC 5761 section 4
}

// A Stream is the RTP packets from one address to another with one SSRC, in the order of their sequence numbers.
type Stream struct {
	Src, Dst netip.AddrPort
	SSRC     uint32
	Packets  []*Packet
}

type streamKey struct {
	src, dst netip.AddrPort
	ssrc     uint32
}

// Streams sorts the RTP among the packets into its streams, in the order of their first packets.
func Streams(packets []*Packet) []*Stream {
	var streams []*Stream
	byKey := map[streamKey]*Stream{}
	for _, p := range packets {
		if !p.LooksLikeRTP() {
			continue
		}
		key := streamKey{p.Src, p.Dst, binary.BigEndian.Uint32(p.Payload[8:])}
		s := byKey[key]
		if s == nil {
			s = &Stream{Src: key.src, Dst: key.dst, SSRC: key.ssrc}
			byKey[key] = s
			streams = append(streams, s)
		}
		s.Packets = append(s.Packets, p)
	}
	for _, s := range streams {
		slices.SortStableFunc(s.Packets, func(a, b *Packet) int { return int(int16(a.sequenceRTP() - b.sequenceRTP())) })
	}
	return streams
}

func (p *Packet) sequenceRTP() uint16 { return binary.BigEndian.Uint16(p.Payload[2:]) }

// Payload returns the payloads of the stream, one after the other, of packets of the payload type only.
func (s *Stream) Payload(payloadType byte) []byte {
	var all []byte
	for _, p := range s.Packets {
		header := 12 + 4*int(p.Payload[0]&15)
		if p.Payload[1]&0x7f == payloadType && p.Payload[0]&0x10 == 0 && header <= len(p.Payload) {
			all = append(all, p.Payload[header:]...)
		}
	}
	return all
}

// Lost returns how many packets are missing between the first and the last of the stream.
func (s *Stream) Lost() int {
	first, last := s.Packets[0].sequenceRTP(), s.Packets[len(s.Packets)-1].sequenceRTP()
	seen := map[uint16]bool{}
	for _, p := range s.Packets {
		seen[p.sequenceRTP()] = true
	}
	return int(last-first) + 1 - len(seen)
}
