package sipmsg

import (
	"bytes"
	"testing"
)

func TestKindOf(t *testing.T) {
	for k := Other + 1; k < numKinds; k++ {
		name := kindNames[k]
		if name.long == "" {
			t.Fatalf("kind %d has no name", k)
		}
		for _, s := range [][]byte{
			[]byte(name.long),
			bytes.ToUpper([]byte(name.long)),
			bytes.ToLower([]byte(name.long)),
		} {
			if got := kindOf(s); got != k {
				t.Errorf("kindOf(%q) = %v, want %v", s, got, k)
			}
		}
		if k.String() != name.long {
			t.Errorf("%v.String() = %q", name.long, k.String())
		}
	}
	// Every one-byte name is compact exactly where the table says so.
	for c := range 256 {
		want := Other
		for k := Other + 1; k < numKinds; k++ {
			if n := kindNames[k].compact; n != 0 && n == lower(byte(c)) {
				want = k
			}
		}
		if got := kindOf([]byte{byte(c)}); got != want {
			t.Errorf("kindOf(%q) = %v, want %v", byte(c), got, want)
		}
	}
	for _, s := range []string{"", "Vi", "Viaa", "Call_ID", "Content-Lengt", "Content-Length2",
		"Proxy-Authorization-Info-And-More", "Record-Rout\xe9"} {
		if got := kindOf([]byte(s)); got != Other {
			t.Errorf("kindOf(%q) = %v, want Other", s, got)
		}
	}
	if s := (numKinds + 1).String(); s != "Other" {
		t.Errorf("String of no kind = %q", s)
	}
}
