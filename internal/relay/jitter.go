package relay

import "time"

const (
	// maxTransitStep is a difference of transit times beyond which a source is
	// taken to have changed its timestamps (after a transfer, for one) and not
	// the network its delay.
	maxTransitStep = 5 * time.Second

	// rateWindow is over what time an unknown clock rate is measured: long
	// enough for 80 ms of jitter to be less than rateTolerance.
	rateWindow = 2 * time.Second

	// rateTolerance is how far, in percent, a measured clock rate may be off
	// the known rate that it is taken for. It keeps the closest two of
	// knownRates (44.1 and 48 kHz, 9 % apart) distinct.
	rateTolerance = 4
)

// knownRates are the clock rates in Hz that codecs with dynamic payload types
// are registered with.
var knownRates = [...]uint32{8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 90000}

// staticRate returns the clock rate in Hz of a payload type that RFC 3551 section
// 6 assigns, or 0 for those that SDP defines.
func staticRate(payloadType uint8) uint32 {
	switch payloadType {
	case 6: // DVI4
		return 16000
	case 10, 11: // L16
		return 44100
	case 14: // MPA
		return 90000
	case 16: // DVI4
		return 11025
	case 17: // DVI4
		return 22050
	}
	switch {
	case payloadType < 24: // all other audio, G722 too (RFC 3551 section 4.5.2)
		return 8000
	case payloadType < 35: // video
		return 90000
	}
	return 0
}

// A jitter measures the interarrival jitter of one stream, RFC 3550 section
// 6.4.1 in the integer form of appendix A.8. As SDP is not known here, the clock
// rate of a dynamic payload type is learnt from the timestamps. The zero value is
// ready for use.
type jitter struct {
	rate      uint32 // Hz; 0: not known
	transit   uint32 // of the last packet, in timestamp units
	timestamp uint32 // the same packet's

	markTimestamp uint32 // where the measurement of the rate began
	markAt        time.Duration

	value uint64 // in 1/16 of a timestamp unit
	sum   uint64 // of all differences that went into value, in timestamp units
	steps uint64 // how many they are

	valid  bool // transit is of the same rate and timeline
	any    bool // there was a packet
	marked bool // the measurement of the rate has begun
}

// observe takes the timestamp of a packet that came at the time at.
func (j *jitter) observe(payloadType uint8, timestamp uint32, at time.Duration) {
	if j.any && timestamp == j.timestamp {
		// The packets of one video frame or of one DTMF event (RFC 4733) share
		// the time of its start: their spacing is the sender's, not the network's.
		return
	}
	j.timestamp, j.any = timestamp, true

	if rate := staticRate(payloadType); rate != 0 {
		j.setRate(rate)
		j.marked = false
	} else {
		j.learnRate(timestamp, at)
	}
	if j.rate == 0 {
		return
	}

	transit := ticks(at, j.rate) - timestamp
	step := uint64(absolute(int32(transit - j.transit)))
	known := j.valid
	j.transit, j.valid = transit, true
	if !known || step > uint64(ticks(maxTransitStep, j.rate)) {
		return
	}
	j.value += step - (j.value+8)>>4
	j.sum += step
	j.steps++
}

// learnRate compares how far the timestamps went with the time that it took.
// What fits no known rate (the source paused its timestamps, or jumped) is
// ignored.
func (j *jitter) learnRate(timestamp uint32, at time.Duration) {
	if !j.marked {
		j.markTimestamp, j.markAt, j.marked = timestamp, at, true
		return
	}
	elapsed := at - j.markAt
	if elapsed < rateWindow {
		return
	}
	advanced := uint64(timestamp - j.markTimestamp)
	for _, rate := range knownRates {
		want := uint64(elapsed/time.Microsecond) * uint64(rate) / 1e6
		if advanced >= want*(100-rateTolerance)/100 && advanced <= want*(100+rateTolerance)/100 {
			j.setRate(rate)
			break
		}
	}
	j.markTimestamp, j.markAt = timestamp, at
}

func (j *jitter) setRate(rate uint32) {
	if j.rate == rate {
		return
	}
	if j.rate != 0 {
		j.value = j.value * uint64(rate) / uint64(j.rate)
		j.sum = j.sum / uint64(j.rate) * uint64(rate) // a stream that changes it often cannot make it overflow
	}
	j.rate, j.valid = rate, false
}

func (j *jitter) duration() time.Duration {
	if j.rate == 0 {
		return 0
	}
	return time.Duration(j.value) * time.Second / 16 / time.Duration(j.rate)
}

// mean is the jitter of the whole stream, where duration is that of the moment.
func (j *jitter) mean() time.Duration {
	if j.rate == 0 || j.steps == 0 {
		return 0
	}
	return unitsOf(j.sum/j.steps, j.rate)
}

// ticks returns t in units of a clock of rate Hz, modulo 2^32 as timestamps are.
func ticks(t time.Duration, rate uint32) uint32 {
	s, rest := uint64(t/time.Second), uint64(t%time.Second)
	return uint32(s*uint64(rate) + rest*uint64(rate)/uint64(time.Second))
}

func absolute(d int32) int64 {
	if d < 0 {
		return -int64(d)
	}
	return int64(d)
}
