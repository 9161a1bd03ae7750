package relay

import (
	"encoding/binary"
	"math"
	"time"
)

// The two ends of the tunnel tell each other what they have measured, so that each can
// say where packets were lost: what is missing of what comes out of the tunnel may
// have been lost before it went in. They do it in RTCP of their own, beside what they
// pass on: one APP packet (RFC 3550 section 6.7) that its receiver keeps to itself.
//
//	0x81 | 204 | length 12 | SSRC 32 | "sipt" | lost 32 | in | tunnel | out
//
// where SSRC names the stream that the sender last took in from its peer, and lost is
// how many packets of that never came. Each of the three legs, those of Side, is
//
//	packets 32 | lost 32 | jitter 16 | round trip 16
//
// with times in units of 100 us and 0 for what is not known. Counts are modulo 2^32.
const (
	reportSize     = 52
	reportName     = "sipt"
	reportLegs     = 16 // offset of the legs
	reportLegSize  = 12
	reportTimeUnit = 100 * time.Microsecond

	// firstReport is how long after the first packet of its peer an end begins to
	// report, reportEvery how often it goes on.
	firstReport = time.Second
	reportEvery = 5 * time.Second

	silent = math.MaxInt64 // in place of when the next report is due: never
)

func isReport(packet []byte) bool {
	return len(packet) == reportSize && packet[0] == rtpVersion<<6|1 && packet[1] == rtcpApplication &&
		string(packet[8:12]) == reportName
}

// appendReport writes a report. No SSRC is 0, and names nothing.
func appendReport(b []byte, ssrc uint32, lost uint64, side Side) []byte {
	b = append(b, rtpVersion<<6|1, rtcpApplication, 0, reportSize/4-1)
	b = binary.BigEndian.AppendUint32(b, ssrc)
	b = append(b, reportName...)
	b = binary.BigEndian.AppendUint32(b, uint32(lost))
	for _, leg := range [...]Leg{side.In, side.Tunnel, side.Out} {
		b = binary.BigEndian.AppendUint32(b, uint32(leg.Packets))
		b = binary.BigEndian.AppendUint32(b, uint32(leg.Lost))
		b = binary.BigEndian.AppendUint16(b, reportTime(leg.Jitter))
		b = binary.BigEndian.AppendUint16(b, reportTime(leg.RTT))
	}
	return b
}

func reportTime(d time.Duration) uint16 {
	if d <= 0 {
		return 0
	}
	return uint16(min(max((d+reportTimeUnit/2)/reportTimeUnit, 1), math.MaxUint16))
}

// parseLegs reads the legs of a report. What cannot be is not known.
func parseLegs(b []byte) (side Side) {
	for i, leg := range [...]*Leg{&side.In, &side.Tunnel, &side.Out} {
		f := b[i*reportLegSize:]
		packets, lost := binary.BigEndian.Uint32(f), binary.BigEndian.Uint32(f[4:])
		if lost > packets {
			continue
		}
		*leg = Leg{
			Packets: uint64(packets), Lost: uint64(lost),
			Jitter: time.Duration(binary.BigEndian.Uint16(f[8:])) * reportTimeUnit,
			RTT:    time.Duration(binary.BigEndian.Uint16(f[10:])) * reportTimeUnit,
		}
	}
	return side
}

// reportIsDue says whether it is time to report to the other end, once each time.
func (r *Relay) reportIsDue(at time.Duration) bool {
	switch next := r.reportAt.Load(); {
	case next == 0:
		r.reportAt.CompareAndSwap(0, int64(at+firstReport))
		return false
	case next > int64(at):
		return false
	default:
		return r.reportAt.CompareAndSwap(next, int64(at+reportEvery))
	}
}

// report tells the other end. It is called by the Poller, as the Sink is.
func (r *Relay) report() {
	if !r.reporting.TryLock() {
		return // Where each socket has its reader, the other one is at it.
	}
	defer r.reporting.Unlock()
	h := &r.halves[RTP]
	h.mu.Lock()
	var ssrc uint32
	var lost uint64
	if s := h.in.current(); s != nil {
		ssrc, lost = s.ssrc, s.losses().lost
	}
	near, _ := h.side()
	h.mu.Unlock()
	r.sink(RTCP, appendReport(r.reportBuf[:0], ssrc, lost, near))
}

// reported takes a report of the other end, which is answered from now on.
func (r *Relay) reported(packet []byte) {
	h := &r.halves[RTP]
	h.mu.Lock()
	defer h.mu.Unlock()
	r.reportAt.CompareAndSwap(silent, 1)
	if s := h.out.find(binary.BigEndian.Uint32(packet[4:])); s != nil {
		s.before(uint64(binary.BigEndian.Uint32(packet[12:])))
	}
	r.far, r.hasFar = [3 * reportLegSize]byte(packet[reportLegs:]), true
}
