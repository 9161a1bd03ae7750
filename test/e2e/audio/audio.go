// Package audio makes and measures the tones by which the end-to-end tests tell who hears whom: linear PCM in WAV files,
// G.711 as it travels in RTP, and the Goertzel algorithm to say how much of a signal is one tone.
//
// Samples are signed 16-bit, mono. Nothing here keeps state; every function may be called from several goroutines.
package audio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Rate is the sampling rate of G.711, in Hz.
const Rate = 8000

// Tone returns a sine of the frequency in Hz and the length in seconds at half of full scale.
func Tone(frequency, seconds float64) []int16 {
	samples := make([]int16, int(seconds*Rate))
	for i := range samples {
		samples[i] = int16(16384 * math.Sin(2*math.Pi*frequency*float64(i)/Rate))
	}
	return samples
}

// Share returns which part (0 to 1) of the energy of the samples lies at the frequency in Hz: 1 for that pure tone, close to 0
// for silence, noise, or another tone. It measures windows of 50 ms (bins 20 Hz apart) and sums over them, so that jumps of
// phase, which lost packets and jitter buffers cause, do not count as another tone.
func Share(samples []int16, frequency float64) float64 {
	const window = Rate / 20
	var tone, total float64
	for start := 0; start+window <= len(samples); start += window {
		inTone, in := goertzel(samples[start:start+window], frequency)
		tone, total = tone+inTone, total+in
	}
	return ratio(tone, total)
}

// Peak returns the greatest share of the tone in any stretch of 20 ms, which tells whether some packet's worth of it hides
// among other bytes. In noise it stays below 0.2.
func Peak(samples []int16, frequency float64) float64 {
	const window = Rate / 50
	var peak float64
	for start := 0; start+window <= len(samples); start += window / 8 {
		peak = max(peak, ratio(goertzel(samples[start:start+window], frequency)))
	}
	return peak
}

// goertzel returns the energy of one window at the frequency, and all of it.
func goertzel(window []int16, frequency float64) (tone, total float64) {
	coefficient := 2 * math.Cos(2*math.Pi*frequency/Rate)
	var s1, s2 float64
	for _, sample := range window {
		v := float64(sample)
		total += v * v
		s1, s2 = v+coefficient*s1-s2, s1
	}
	return 2 * (s1*s1 + s2*s2 - coefficient*s1*s2) / float64(len(window)), total
}

func ratio(tone, total float64) float64 {
	if total < 1 {
		return 0
	}
	return tone / total
}

// Level returns the root mean square of the samples relative to full scale (0 to 1).
func Level(samples []int16) float64 {
	if len(samples) == 0 {
		return 0
	}
	var total float64
	for _, sample := range samples {
		total += float64(sample) * float64(sample)
	}
	return math.Sqrt(total/float64(len(samples))) / 32768
}

// ULaw decodes G.711 mu-law (RTP payload type 0).
func ULaw(payload []byte) []int16 {
	samples := make([]int16, len(payload))
	for i, b := range payload {
		b = ^b
		magnitude := ((int16(b&0x0f)<<3 + 0x84) << (b >> 4 & 7)) - 0x84
		if b&0x80 != 0 {
			magnitude = -magnitude
		}
		samples[i] = magnitude
	}
	return samples
}

// EncodeULaw encodes G.711 mu-law.
func EncodeULaw(samples []int16) []byte {
	payload := make([]byte, len(samples))
	for i, sample := range samples {
		var sign byte
		v := int32(sample)
		if v < 0 {
			sign, v = 0x80, -v
		}
		v = min(v, 32635) + 0x84
		exponent := byte(7)
		for mask := int32(0x4000); exponent > 0 && v&mask == 0; mask >>= 1 {
			exponent--
		}
		payload[i] = ^(sign | exponent<<4 | byte(v>>(exponent+3))&0x0f)
	}
	return payload
}

// EncodeWAV returns a WAV file of the samples at Rate.
func EncodeWAV(samples []int16) []byte {
	size := 2 * len(samples)
	file := make([]byte, 0, 44+size)
	file = append(file, "RIFF"...)
	file = binary.LittleEndian.AppendUint32(file, uint32(36+size))
	file = append(file, "WAVEfmt "...)
	file = binary.LittleEndian.AppendUint32(file, 16)
	file = binary.LittleEndian.AppendUint16(file, 1) // PCM
	file = binary.LittleEndian.AppendUint16(file, 1) // mono
	file = binary.LittleEndian.AppendUint32(file, Rate)
	file = binary.LittleEndian.AppendUint32(file, 2*Rate)
	file = binary.LittleEndian.AppendUint16(file, 2)
	file = binary.LittleEndian.AppendUint16(file, 16)
	file = append(file, "data"...)
	file = binary.LittleEndian.AppendUint32(file, uint32(size))
	for _, sample := range samples {
		file = binary.LittleEndian.AppendUint16(file, uint16(sample))
	}
	return file
}

// ErrWAV is wrapped by the errors of DecodeWAV.
var ErrWAV = errors.New("not a WAV file of 16-bit mono samples at 8000 Hz")

// DecodeWAV returns the samples of a WAV file at Rate. In a recording that still goes on the data chunk says that it is empty, or
// more than the file holds: it ends with the file.
func DecodeWAV(file []byte) ([]int16, error) {
	if len(file) < 12 || string(file[:4]) != "RIFF" || string(file[8:12]) != "WAVE" {
		return nil, fmt.Errorf("%w: no RIFF header", ErrWAV)
	}
	formatSeen := false
	for rest := file[12:]; len(rest) >= 8; {
		name, size := string(rest[:4]), int64(binary.LittleEndian.Uint32(rest[4:8]))
		body := rest[8:]
		switch {
		case name == "fmt ":
			if size < 16 || int64(len(body)) < size {
				return nil, fmt.Errorf("%w: short format chunk", ErrWAV)
			}
			channels, rate := binary.LittleEndian.Uint16(body[2:]), binary.LittleEndian.Uint32(body[4:])
			if bits := binary.LittleEndian.Uint16(body[14:]); channels != 1 || rate != Rate || bits != 16 {
				return nil, fmt.Errorf("%w: %d channels, %d Hz, %d bits", ErrWAV, channels, rate, bits)
			}
			formatSeen = true
		case name == "data" && formatSeen:
			if size == 0 || size > int64(len(body)) {
				size = int64(len(body))
			}
			return samplesOf(body[:size]), nil
		}
		if skip := size + size&1; skip < int64(len(body)) {
			rest = body[skip:]
		} else {
			break
		}
	}
	return nil, fmt.Errorf("%w: no samples", ErrWAV)
}

func samplesOf(data []byte) []int16 {
	samples := make([]int16, len(data)/2)
	for i := range samples {
		samples[i] = int16(binary.LittleEndian.Uint16(data[2*i:]))
	}
	return samples
}
