package config

import (
	"errors"
	"fmt"
	"io"
)

// Checklist writes what a check command finds, one line a finding, and remembers the first failure: its exit code is the
// command's. Not safe for concurrent use.
type Checklist struct {
	w      io.Writer
	failed *Error
}

// NewChecklist makes an empty list that writes to w.
func NewChecklist(w io.Writer) *Checklist { return &Checklist{w: w} }

// OK notes that something is as it should be.
func (c *Checklist) OK(what, format string, args ...any) {
	c.line("ok", what, fmt.Sprintf(format, args...))
}

// Warn notes something that works and yet may not be what is wanted.
func (c *Checklist) Warn(what, remedy, format string, args ...any) {
	c.line("warn", what, fmt.Sprintf(format, args...))
	c.remedy(remedy)
}

// Fail notes a failure.
func (c *Checklist) Fail(what string, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Code: ExitFailed, Problem: what, Err: err}
	}
	c.line("FAIL", what, e.problem())
	c.remedy(e.Remedy)
	if c.failed == nil {
		c.failed = e
	}
}

// Err is the first failure in short, or nil; the list has shown the remedy already.
func (c *Checklist) Err() error {
	if c.failed == nil {
		return nil
	}
	return &Error{Code: c.failed.Code, Problem: "check failed", Err: errors.New(c.failed.Problem)}
}

func (c *Checklist) line(verdict, what, text string) {
	fmt.Fprintf(c.w, "%-5s %-16s %s\n", verdict, what, oneLine(text))
}

func (c *Checklist) remedy(text string) {
	if text != "" {
		fmt.Fprintf(c.w, "%-5s %-16s %s\n", "", "", oneLine(text))
	}
}
