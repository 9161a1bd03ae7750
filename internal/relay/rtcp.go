package relay

import (
	"encoding/binary"
	"time"
)

// Packet types of RTCP (RFC 3550 section 12.1, RFC 3611 section 2).
const (
	rtcpSenderReport   = 200
	rtcpReceiverReport = 201
	rtcpApplication    = 204
	rtcpExtended       = 207
)

// Sizes in bytes.
const (
	rtcpHeaderSize  = 4
	senderInfoSize  = 20 // of a sender report, between SSRC and report blocks
	reportBlockSize = 24
	voipMetricsSize = 36
	voipMetrics     = 7 // the block type
)

// maxRTCP is how many RTCP packets a second are read in each direction of a relay.
// A party of a call sends one every few seconds (RFC 3550 section 6.2), with
// feedback for video (RFC 4585) some more; a flood is passed on as it is, unread.
const maxRTCP = 20

// isRTCP tells RTCP from RTP on the same port (RFC 5761 section 4) and from what
// else may come there.
func isRTCP(packet []byte) bool {
	return len(packet) >= rtcpHeaderSize && packet[0]>>6 == rtpVersion && packet[1] >= 192 && packet[1] <= 223
}

// An rtcpPacket is one of the packets of a compound.
type rtcpPacket struct {
	kind  uint8
	count uint8  // of the header: of report blocks, in reports
	body  []byte // behind the header, without padding
}

// nextRTCP splits the first packet off a compound (RFC 3550 section 6.1), and says
// false when there is none that can be read: behind the last one, and where SRTCP
// has an index and a tag (RFC 3711 section 3.4).
func nextRTCP(b []byte) (p rtcpPacket, rest []byte, ok bool) {
	if !isRTCP(b) {
		return p, nil, false
	}
	n := rtcpHeaderSize * (int(binary.BigEndian.Uint16(b[2:])) + 1)
	if n > len(b) {
		return p, nil, false
	}
	p = rtcpPacket{kind: b[1], count: b[0] & 0x1f, body: b[rtcpHeaderSize:n]}
	if b[0]&0x20 != 0 {
		padding := int(b[n-1])
		if padding == 0 || padding%4 != 0 || padding > len(p.body) {
			return p, nil, false
		}
		p.body = p.body[:len(p.body)-padding]
	}
	return p, b[n:], true
}

// A reportBlock is what the sender of a report says of a stream that comes to it
// (RFC 3550 section 6.4.1).
type reportBlock struct {
	reporter uint32 // SSRC of who says it
	ssrc     uint32
	lost     int32  // in all; less than 0 when there were duplicates
	highest  uint32 // sequence number, with the cycles before it
	jitter   uint32 // in timestamp units
	last     uint32 // middle 32 bits of the time in the latest sender report; 0: none came
	delay    uint32 // since that came, in 1/65536 s
}

// block returns the i-th report block of a sender or receiver report.
func (p rtcpPacket) block(i int) (b reportBlock, ok bool) {
	at := 4 + i*reportBlockSize
	switch p.kind {
	case rtcpSenderReport:
		at += senderInfoSize
	case rtcpReceiverReport:
	default:
		return b, false
	}
	if i >= int(p.count) || at+reportBlockSize > len(p.body) {
		return b, false
	}
	f := p.body[at:]
	lost := binary.BigEndian.Uint32(f[4:])
	return reportBlock{
		reporter: binary.BigEndian.Uint32(p.body),
		ssrc:     binary.BigEndian.Uint32(f),
		lost:     int32(lost<<8) >> 8,
		highest:  binary.BigEndian.Uint32(f[8:]),
		jitter:   binary.BigEndian.Uint32(f[12:]),
		last:     binary.BigEndian.Uint32(f[16:]),
		delay:    binary.BigEndian.Uint32(f[20:]),
	}, true
}

// A metrics is of a VoIP metrics block (RFC 3611 section 4.7) what others could not
// know.
type metrics struct {
	ssrc      uint32
	discarded uint8 // share of packets that came too early or too late, in 1/256
	mos       uint8 // MOS-LQ in tenths; 0: not said
}

// metrics returns the first VoIP metrics block of an extended report.
func (p rtcpPacket) metrics() (m metrics, ok bool) {
	if p.kind != rtcpExtended || len(p.body) < 4 {
		return m, false
	}
	for b := p.body[4:]; len(b) >= 4; {
		n := 4 * (int(binary.BigEndian.Uint16(b[2:])) + 1)
		if n > len(b) {
			break
		}
		if b[0] == voipMetrics && n == voipMetricsSize {
			m = metrics{ssrc: binary.BigEndian.Uint32(b[4:]), discarded: b[9]}
			if mos := b[26]; mos >= 10 && mos <= 50 {
				m.mos = mos
			}
			return m, true
		}
		b = b[n:]
	}
	return m, false
}

// senderTime returns by what a report block will name this sender report.
func (p rtcpPacket) senderTime() (last uint32, ok bool) {
	if p.kind != rtcpSenderReport || len(p.body) < 4+senderInfoSize {
		return 0, false
	}
	return binary.BigEndian.Uint32(p.body[6:]), true
}

// A control is what a relay needs to read RTCP. The zero value is ready for use. It
// is not safe for concurrent use.
type control struct {
	// The sender reports that were passed on to the peer, the latest, by turns: it may
	// answer to one before.
	sent   [4]uint32 // as the peer will name them
	sentAt [4]time.Duration
	next   uint8

	budget [2]budget // of what comes in, of what goes out
}

// A budget bounds work by the second.
type budget struct {
	second int32
	spent  uint8
}

func (b *budget) take(at time.Duration) bool {
	if second := int32(at / time.Second); second != b.second {
		b.second, b.spent = second, 0
	}
	if b.spent >= maxRTCP {
		return false
	}
	b.spent++
	return true
}

// roundTrip returns the time from us to the peer and back that a report block shows
// (RFC 3550 section 6.4.1): reports of other parties pass through here, and the
// block says which one the peer answers to.
func (c *control) roundTrip(b reportBlock, at time.Duration) (rtt time.Duration, ok bool) {
	if b.last == 0 {
		return 0, false
	}
	for i, last := range c.sent {
		if last != b.last {
			continue
		}
		held := time.Duration(uint64(b.delay) * uint64(time.Second) >> 16)
		rtt = at - c.sentAt[i] - held
		// Clocks of peers are as good as they are, and their units coarse.
		return max(rtt, time.Microsecond), rtt > -20*time.Millisecond && rtt < maxRoundTrip
	}
	return 0, false
}

// maxRoundTrip is more than that cannot be a round trip of a call.
const maxRoundTrip = 10 * time.Second

// passed takes note of RTCP that was sent to the peer.
func (c *control) passed(packet []byte, at time.Duration) {
	if !c.budget[1].take(at) {
		return
	}
	for p, rest, ok := nextRTCP(packet); ok; p, rest, ok = nextRTCP(rest) {
		if last, ok := p.senderTime(); ok {
			c.sent[c.next], c.sentAt[c.next] = last, at
			c.next = (c.next + 1) % uint8(len(c.sent))
		}
	}
}

// heard takes what the peer says in RTCP about the streams that were sent to it,
// which out has measured. What is encrypted, forged or of other streams names no
// SSRC of them, or no packet that was sent just now.
func (c *control) heard(out *meter, packet []byte, at time.Duration) {
	if !c.budget[0].take(at) {
		return
	}
	for p, rest, ok := nextRTCP(packet); ok; p, rest, ok = nextRTCP(rest) {
		for i := range int(p.count) {
			b, ok := p.block(i)
			if !ok {
				break
			}
			if s := out.find(b.ssrc); s != nil && s.hear(b) {
				if rtt, ok := c.roundTrip(b, at); ok {
					s.out.setRoundTrip(rtt)
				}
			}
		}
		if m, ok := p.metrics(); ok {
			if s := out.find(m.ssrc); s != nil && s.out != nil {
				s.out.mos, s.out.discarded = m.mos, m.discarded
			}
		}
	}
}
