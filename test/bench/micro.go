package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/siptunnel/siptunnel/test/bench/report"
)

// editTime is how long the edit of an INVITE with SDP may take, in microseconds.
const editTime = 2

// editing runs the benchmark of what both programs do to each message, beside
// that of a parser made for user agents.
func editing(ctx context.Context) ([]report.Row, error) {
	if _, err := exec.LookPath("go"); err != nil {
		skip("edit of an INVITE", "there is no go command")
		return nil, nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkForwardInvite$|^BenchmarkPeers$/^sipgo$", "-benchmem",
		"-benchtime", "0.5s", "-count", "3", "./internal/sipmsg")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go test -bench: %w\n%s", err, out)
	}
	own, peer := figuresOf(string(out), "BenchmarkForwardInvite"), figuresOf(string(out), "BenchmarkPeers/sipgo")
	return []report.Row{
		report.Row{Name: "parse, edit and write of an INVITE with SDP", Value: own["ns/op"] / 1000, Unit: "us"}.Beside("sipgo, parse and print", peer["ns/op"]/1000).AtMost(editTime),
		report.Row{Name: "allocations for that", Value: own["allocs/op"], Unit: "allocations"}.Beside("sipgo, parse and print", peer["allocs/op"]).AtMost(0),
	}, nil
}

// figuresOf are the lowest figures of a benchmark, by their units: others work on
// this machine too.
func figuresOf(out, name string) map[string]float64 {
	lowest := make(map[string]float64)
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != name && !strings.HasPrefix(f[0], name+"-") {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if was, has := lowest[f[i+1]]; err == nil && (!has || v < was) {
				lowest[f[i+1]] = v
			}
		}
	}
	return lowest
}
