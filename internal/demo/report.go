package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// Signs before each step, and the colours around them.
const (
	tick  = "\u2713"
	cross = "\u2717"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

// tailLines is how much of a log is shown after a failure.
const tailLines = 15

// report prints the demo as it happens. A reader that has gone does not stop the demo: its result is
// the exit code. It is safe for concurrent use.
type report struct {
	color bool
	mu    sync.Mutex
	out   io.Writer
}

func (r *report) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.out, format+"\n", args...)
}

// step prints one step that is done, or has failed.
func (r *report) step(what, detail string, err error) {
	sign, color := tick, green
	if err != nil {
		sign, color, detail = cross, red, err.Error()
	}
	if r.color {
		sign = color + sign + plain
	}
	if detail != "" {
		detail = ": " + detail
	}
	r.line("  %s %s%s", sign, what, detail)
}

// tail prints the end of a log, if there is one.
func (r *report) tail(name, path string) {
	content, err := os.ReadFile(path)
	if err != nil || len(content) == 0 {
		return
	}
	lines := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	r.line("\nThe end of %s's log:", name)
	for _, line := range lines[max(0, len(lines)-tailLines):] {
		r.line("    %s", line)
	}
}
