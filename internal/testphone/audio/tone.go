package audio

import "math"

// amplitude is the peak of a Tone: about -9 dBm0, loud and far from clipping.
const amplitude = 8000

// Oscillator makes a continuous sine wave. The zero value is silent. It is not safe for concurrent
// use.
type Oscillator struct {
	phase float64 // turns, 0 to 1
}

// Fill writes the next len(frame) samples of a tone of the given frequency, in Hz, as mu-law codes.
// The phase goes on over calls, also when the frequency changes; a frequency of zero is silence.
func (o *Oscillator) Fill(frame []byte, frequency float64) {
	if frequency == 0 {
		for i := range frame {
			frame[i] = silence
		}
		return
	}
	for i := range frame {
		frame[i] = EncodeMuLaw(int16(amplitude * math.Sin(2*math.Pi*o.phase)))
		_, o.phase = math.Modf(o.phase + frequency/ClockRate)
	}
}

// window is the number of samples that the Detector judges at once: 100 ms, which separates tones
// that are 20 Hz apart.
const window = ClockRate / 10

// heardRatio is the share of the power that has to be at the expected frequency. A clean mu-law
// tone reaches 0.999; one lost packet in a window, with its phase jump, falls below.
const heardRatio = 0.95

// audible is the mean square below which a window is silence: about -46 dBm0.
const audible = 10_000

// Detector measures how much of the audio that it is fed is a tone of one frequency, with the
// Goertzel algorithm. Make it with NewDetector. It is not safe for concurrent use.
type Detector struct {
	coefficient float64
	s1, s2      float64
	energy      float64
	samples     int

	ratio        float64
	heard, total int
	run          int
}

// NewDetector returns a detector for a frequency in Hz.
func NewDetector(frequency float64) *Detector {
	return &Detector{coefficient: 2 * math.Cos(2*math.Pi*frequency/ClockRate)}
}

// Write feeds mu-law codes. Every 100 ms of audio make one window, which is judged on its own.
func (d *Detector) Write(codes []byte) {
	for _, code := range codes {
		x := float64(DecodeMuLaw(code))
		d.s1, d.s2 = x+d.coefficient*d.s1-d.s2, d.s1
		d.energy += x * x
		if d.samples++; d.samples == window {
			d.judge()
		}
	}
}

func (d *Detector) judge() {
	power := d.s1*d.s1 + d.s2*d.s2 - d.coefficient*d.s1*d.s2
	d.ratio = 0
	if d.energy/window >= audible {
		// A sine of N samples and amplitude a has |X|^2 = (aN/2)^2 and the energy a^2 N/2.
		d.ratio = min(1, 2*power/(window*d.energy))
	}
	d.total++
	if d.ratio >= heardRatio {
		d.heard++
		d.run++
	} else {
		d.run = 0
	}
	d.s1, d.s2, d.energy, d.samples = 0, 0, 0, 0
}

// Ratio returns the share of the power of the last window that is at the frequency: 0 to 1, and 0
// for a silent window.
func (d *Detector) Ratio() float64 { return d.ratio }

// Windows returns how many windows were the tone and how many were judged.
func (d *Detector) Windows() (heard, total int) { return d.heard, d.total }

// Run returns how many windows in a row, up to the last one, were the tone.
func (d *Detector) Run() int { return d.run }
