package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestReadStat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stat.csv")
	text := "StartTime;CallRate(C);FailedCall(C);Retransmissions(C);\n2026-01-01;0;0;0;\n2026-01-01;1420.5;1;2;\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readStat(path)
	if err != nil || got["CallRate(C)"] != 1420.5 || got["FailedCall(C)"] != 1 || got["Retransmissions(C)"] != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestFiguresOf(t *testing.T) {
	out := "goos: linux\nBenchmarkX-2 \t 100\t 1500 ns/op\t 0 B/op\t 3 allocs/op\nBenchmarkX-2 \t 100\t 1400 ns/op\t 0 B/op\t 3 allocs/op\nBenchmarkXY 1 9 ns/op\nPASS\n"
	if got := figuresOf(out, "BenchmarkX"); got["ns/op"] != 1400 || got["allocs/op"] != 3 {
		t.Error(got)
	}
}
