package config

import (
	"testing"
	"time"
)

func TestMediaWait(t *testing.T) {
	for text, want := range map[string]MediaWait{
		"0": {}, "0s": {}, "2ms": {Wait: 2 * time.Millisecond}, "20ms": {Wait: MaxMediaWait},
		"500us": {Wait: 500 * time.Microsecond}, "auto": {Wait: 2 * time.Millisecond, Auto: true},
	} {
		var got MediaWait
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
		var again MediaWait
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%v became %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "2", "-1ms", "21ms", "1s", "Auto", "often"} {
		if err := new(MediaWait).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestMediaTransport(t *testing.T) {
	for text, valid := range map[string]bool{"auto": true, "tcp": true, "udp": false, "": false, "TCP": false} {
		if err := new(MediaTransport).UnmarshalText([]byte(text)); (err == nil) != valid {
			t.Errorf("%q: %v", text, err)
		}
	}
}
