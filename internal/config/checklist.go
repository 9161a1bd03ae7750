package config

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
)

// Checklist writes what a check command finds, one line a finding, and remembers the first failure: its exit code is the
// command's. Not safe for concurrent use.
type Checklist struct {
	w      io.Writer
	failed *Error
	first  string // what failed
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

// Ports looks for ports that a program can take from a range, over all of the networks ("udp" when none is given): n
// adjacent ones, the first of them even if n is 2. It stops at the first that are free, as the program does: others on the
// machine may have some.
func (c *Checklist) Ports(what, flag string, addr netip.Addr, ports PortRange, n int, networks ...string) {
	if len(networks) == 0 {
		networks = []string{"udp"}
	}
	where := net.JoinHostPort(addr.String(), ports.String()) + "/" + strings.Join(networks, "+")
	var last error
	free := 0
	for port := int(ports.Low); port <= int(ports.High); port++ {
		if free == 0 && port%n != 0 {
			continue
		}
		if err := tryPort(netip.AddrPortFrom(addr, uint16(port)), networks); err != nil {
			last, free = err, 0
			continue
		}
		if free++; free == n {
			c.OK(what, "%s can be used", where)
			return
		}
	}
	if last == nil {
		last = errors.New("no pair of ports") // Of a range that validation refuses.
	}
	c.Fail(what, ListenError(last, flag, where))
}

// tryPort takes a port over all of the networks and gives it back.
func tryPort(at netip.AddrPort, networks []string) error {
	for _, network := range networks {
		var socket io.Closer
		var err error
		if network == "tcp" {
			socket, err = net.Listen(network, at.String())
		} else {
			socket, err = net.ListenPacket(network, at.String())
		}
		if err != nil {
			return err
		}
		defer socket.Close()
	}
	return nil
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
		c.failed, c.first = e, what
	}
}

// Err is the first failure in short, or nil; the list has shown the remedy already.
func (c *Checklist) Err() error {
	if c.failed == nil {
		return nil
	}
	return &Error{Code: c.failed.Code, Problem: "check failed", Err: errors.New(c.first + ": " + c.failed.problem())}
}

func (c *Checklist) line(verdict, what, text string) {
	fmt.Fprintf(c.w, "%-5s %-16s %s\n", verdict, what, oneLine(text))
}

func (c *Checklist) remedy(text string) {
	if text != "" {
		fmt.Fprintf(c.w, "%-5s %-16s %s\n", "", "", oneLine(text))
	}
}
