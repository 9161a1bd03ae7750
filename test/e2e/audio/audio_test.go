package audio

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestShareTellsTonesApart(t *testing.T) {
	signal := Tone(440, 1)
	for frequency, want := range map[float64]float64{440: 1, 640: 0, 1000: 0, 2000: 0} {
		if got := Share(signal, frequency); math.Abs(got-want) > 0.01 {
			t.Errorf("share of %v Hz in a 440 Hz tone = %.3f, want %v", frequency, got, want)
		}
	}
	mixed := make([]int16, Rate)
	for i, other := range Tone(1000, 1) {
		mixed[i] = other/2 + signal[i]/2
	}
	if got := Share(mixed, 440); math.Abs(got-0.5) > 0.01 {
		t.Errorf("share in a mix of two tones = %.3f, want 0.5", got)
	}
	if got := Share(make([]int16, Rate), 440); got != 0 {
		t.Errorf("share in silence = %v, want 0", got)
	}
}

func TestShareIgnoresLostPackets(t *testing.T) {
	signal := Tone(440, 2)
	for start := 2000; start+400 < len(signal); start += 2000 {
		signal = slices.Delete(signal, start, start+160)
	}
	if got := Share(signal, 440); got < 0.85 {
		t.Errorf("share with every tenth packet missing = %.3f, want at least 0.85", got)
	}
}

func TestPeakFindsOnePacketInNoise(t *testing.T) {
	noise := make([]byte, 1<<18)
	rand.NewChaCha8([32]byte{}).Read(noise)
	if got := Peak(ULaw(noise), 440); got > 0.2 {
		t.Errorf("peak in noise = %.3f, want at most 0.2", got)
	}
	copy(noise[100003:], EncodeULaw(Tone(440, 0.02)))
	if got := Peak(ULaw(noise), 440); got < 0.6 {
		t.Errorf("peak with one packet of the tone = %.3f, want at least 0.6", got)
	}
}

func TestULaw(t *testing.T) {
	for code := range 256 {
		sample := ULaw([]byte{byte(code)})
		if again := ULaw(EncodeULaw(sample)); again[0] != sample[0] {
			t.Errorf("code %#02x: decoded %d, after a round trip %d", code, sample[0], again[0])
		}
	}
	// ITU-T G.711 table 2a: full scale is 8031 of 14 bits, here 16 bits wide; 0xff and 0x7f are both zero.
	for code, want := range map[byte]int16{0x00: -32124, 0x80: 32124, 0xff: 0, 0x7f: 0} {
		if got := ULaw([]byte{code})[0]; got != want {
			t.Errorf("code %#02x = %d, want %d", code, got, want)
		}
	}
}

func TestWAV(t *testing.T) {
	samples := Tone(300, 0.1)
	file := EncodeWAV(samples)
	got, err := DecodeWAV(file)
	if err != nil || !slices.Equal(got, samples) {
		t.Errorf("round trip: %v, %d samples of %d", err, len(got), len(samples))
	}
	if got, err := DecodeWAV(file[:len(file)-100]); err != nil || len(got) != len(samples)-50 {
		t.Errorf("a recording that goes on: %v, %d samples", err, len(got))
	}
	for cut := range 44 {
		if _, err := DecodeWAV(file[:cut]); !errors.Is(err, ErrWAV) {
			t.Errorf("cut at %d: %v, want ErrWAV", cut, err)
		}
	}
}
