package report

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestRows(t *testing.T) {
	r := Row{Name: "x", Value: 3, Unit: "us"}.Beside("peer", 2)
	if r.Ratio != 1.5 {
		t.Errorf("ratio %v", r.Ratio)
	}
	for _, test := range []struct {
		row Row
		met bool
	}{
		{r.AtMost(3), true}, {r.AtMost(2.9), false},
		{r.AtMostOfPeer(1.5), true}, {r.AtMostOfPeer(1.4), false},
		{r.BelowPeer(), false}, {r.NotBelowPeer(0), true},
	} {
		if test.row.Met == nil || *test.row.Met != test.met {
			t.Errorf("%s: not %v", test.row.Target, test.met)
		}
	}
}

// TestWrite has a program that runs second keep what the first one wrote, and
// replace what it had written itself.
func TestWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "build", "bench.json")
	for _, rows := range [][]Row{
		{{Name: "a", Value: 1}, {Name: "b", Value: 2}},
		{{Name: "b", Value: 3}, {Name: "c", Value: 4}},
	} {
		if err := Write(name, rows, true); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := behind(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	Show(&b, rows)
	if got, want := strings.Join(strings.Fields(b.String()), " "), "a 1.00 b 3.00 c 4.00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := Write(name, nil, false); err != nil {
		t.Fatal(err)
	}
	if rows, _ := behind(name, nil); len(rows) != 0 {
		t.Errorf("%v is left", rows)
	}
}
