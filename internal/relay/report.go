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
//	0x81 | 204 | length 9 | SSRC 32 | "sipt" | lost 32 | in | tunnel | out | round trip 16 | 0
//
// where SSRC names the stream that the sender last took in from its peer, and lost is
// how many packets of that never came, modulo 2^32. The round trip is that of out. Each
// of the three legs, those of Side, is
//
//	packets 24 | share lost 16 | jitter 16
//
// with shares in 1/65535, times in units of 100 us and 0 for what is not known.
const (
	reportSize     = 40
	reportName     = "sipt"
	reportLegs     = 16 // offset of the legs
	reportLegSize  = 7
	reportLegsSize = 3*reportLegSize + 2 // with the round trip
	reportTimeUnit = 100 * time.Microsecond
	reportPackets  = 1<<24 - 1

	// firstReport is how long after the first packet of its peer an end begins to
	// report. The next one comes as much later, and the time between them doubles up to
	// rareReport: what a call is like is known early, and what it costs to know is little
	// in calls that last.
	firstReport = time.Second
	rareReport  = 16 * time.Second

	silent = math.MaxInt64 // in place of when the next report is due: never
)

// IsReport says whether a packet of RTCP is a relay's own, for the other end of the tunnel
// and nobody else.
func IsReport(packet []byte) bool {
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
		packets := min(leg.Packets, reportPackets)
		b = append(b, byte(packets>>16), byte(packets>>8), byte(packets))
		b = binary.BigEndian.AppendUint16(b, reportShare(leg.Lost, leg.Packets))
		b = binary.BigEndian.AppendUint16(b, reportTime(leg.Jitter))
	}
	b = binary.BigEndian.AppendUint16(b, reportTime(side.Out.RTT))
	return append(b, 0)
}

func reportShare(lost, packets uint64) uint16 {
	if packets == 0 {
		return 0
	}
	return uint16(math.Round(math.MaxUint16 * float64(min(lost, packets)) / float64(packets)))
}

func reportTime(d time.Duration) uint16 {
	if d <= 0 {
		return 0
	}
	return uint16(min(max((d+reportTimeUnit/2)/reportTimeUnit, 1), math.MaxUint16))
}

// parseLegs reads the legs of a report, which may say anything.
func parseLegs(b *[reportLegsSize]byte) (side Side) {
	for i, leg := range [...]*Leg{&side.In, &side.Tunnel, &side.Out} {
		f := b[i*reportLegSize:]
		packets := uint64(f[0])<<16 | uint64(f[1])<<8 | uint64(f[2])
		share := float64(binary.BigEndian.Uint16(f[3:])) / math.MaxUint16
		*leg = Leg{
			Packets: packets, Lost: uint64(math.Round(share * float64(packets))),
			Jitter: time.Duration(binary.BigEndian.Uint16(f[5:])) * reportTimeUnit,
		}
	}
	side.Out.RTT = time.Duration(binary.BigEndian.Uint16(b[3*reportLegSize:])) * reportTimeUnit
	return side
}

// reportIsDue says whether it is time to report to the other end, once each time.
func (r *Relay) reportIsDue(at time.Duration) bool {
	next := r.reportAt.Load()
	switch {
	case next == 0:
		r.reportAt.CompareAndSwap(0, int64(at+firstReport))
		return false
	case next > int64(at):
		return false
	}
	gap := max(time.Duration(r.reportGap.Load()), firstReport)
	if !r.reportAt.CompareAndSwap(next, int64(at+gap)) {
		return false
	}
	r.reportGap.Store(int64(min(2*gap, rareReport)))
	return true
}

// report tells the other end. It is called by the Poller, as the Sink is.
func (r *Relay) report() {
	h := &r.halves[RTP]
	h.mu.Lock()
	var ssrc uint32
	var lost uint64
	if s := h.in.current(); s != nil {
		ssrc, lost = s.ssrc, s.losses().lost
	}
	lost += r.aside.Load()
	near, _ := h.side()
	h.mu.Unlock()
	r.sink(RTCP, appendReport(r.poller.report[:0], ssrc, lost, near))
}

// Aside says that RTP which the Sink was given went somewhere else than into the tunnel, where
// it is missing.
func (r *Relay) Aside() { r.aside.Add(1) }

// reported takes a report of the other end, which is answered from now on.
func (r *Relay) reported(packet []byte) {
	h := &r.halves[RTP]
	h.mu.Lock()
	defer h.mu.Unlock()
	r.reportAt.CompareAndSwap(silent, 1)
	if s := h.out.find(binary.BigEndian.Uint32(packet[4:])); s != nil {
		s.before(uint64(binary.BigEndian.Uint32(packet[12:])))
	}
	r.far, r.hasFar = [reportLegsSize]byte(packet[reportLegs:]), true
}
