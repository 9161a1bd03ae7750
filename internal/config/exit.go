package config

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit is the exit code of a program: one number for each class of failure, so that scripts and service managers can
// tell a wrong password from a network that is down.
type Exit int

// The exit codes of tunneld and tunnelproxy. They are part of the command-line interface and do not change.
const (
	ExitOK          Exit = 0
	ExitFailed      Exit = 1  // anything that has no number of its own
	ExitUsage       Exit = 2  // unknown command or flag, bad value of a flag
	ExitConfig      Exit = 3  // configuration file, password file, weak password, or settings that contradict each other
	ExitTaken       Exit = 4  // an address or port is taken, or is not one of this machine's
	ExitRefused     Exit = 5  // wrong name or password, or the credential was revoked
	ExitKeyChanged  Exit = 6  // the server's key is not the pinned one
	ExitVersion     Exit = 7  // another protocol version, or not a tunneld
	ExitUnreachable Exit = 8  // the server or the PBX does not answer
	ExitUnsafe      Exit = 9  // others may write the state directory, or read the secrets in it
	ExitNotRunning  Exit = 10 // no program answers on the control socket
)

// Error is a failure as the person at the keyboard sees it: what is wrong, what to do about it, and the exit code.
// It is immutable and safe for concurrent use.
type Error struct {
	Code    Exit
	Problem string // names the thing; one line
	Remedy  string // what to do next; one line, may be empty
	Err     error  // the cause, may be nil; its text follows Problem
}

// Errorf makes an Error without a cause.
func Errorf(code Exit, remedy, format string, args ...any) *Error {
	return &Error{Code: code, Problem: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Error gives problem, cause and remedy on one line.
func (e *Error) Error() string {
	if e.Remedy == "" {
		return e.problem()
	}
	return e.problem() + " (" + e.Remedy + ")"
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) problem() string {
	if e.Err == nil {
		return e.Problem
	}
	return e.Problem + ": " + e.Err.Error()
}

// ExitOf is the exit code of err: 0 for nil, the code of the first Error in its chain, else ExitFailed.
func ExitOf(err error) Exit {
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ExitFailed
}

// Report writes err for a person, as one line or, where a remedy is known, two, and returns its exit code.
// A nil err writes nothing.
func Report(w io.Writer, program string, err error) Exit {
	if err == nil {
		return ExitOK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		fmt.Fprintf(w, "%s: %s\n", program, oneLine(e.problem()))
		if e.Remedy != "" {
			fmt.Fprintf(w, "%s  %s\n", strings.Repeat(" ", len(program)), oneLine(e.Remedy))
		}
		return e.Code
	}
	fmt.Fprintf(w, "%s: %s\n", program, oneLine(err.Error()))
	return ExitFailed
}

// oneLine keeps a text of foreign origin from drawing on the terminal or from faking further lines.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
