package dscp

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]Class{
		"EF": 0xb8, "ef": 0xb8, "46": 0xb8, "VA": 0xb0, "LE": 0x04, "0": 0, "CS0": 0, "BE": 0, "DF": 0,
		"CS1": 0x20, "CS3": 0x60, "CS7": 0xe0, "AF11": 0x28, "AF31": 0x68, "af41": 0x88, "AF43": 0x98, "63": 0xfc, "1": 0x04,
	} {
		var got Class
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %#x, %v; want %#x", text, int(got), err, int(want))
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q, which is %#x, %v", text, got, int(again), err)
		}
	}
	for _, text := range []string{"", "EFF", "CS8", "CS", "CS33", "AF40", "AF44", "AF51", "AF01", "AF4", "64", "-1", "0xb8", "184", "1.5", " EF"} {
		if c, err := Parse(text); err == nil {
			t.Errorf("%q was taken for %#x", text, int(c))
		}
	}
}
