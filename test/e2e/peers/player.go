//go:build linux

package peers

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
)

// A Role is a part in a scenario: the name of a template in its file.
type Role string

// The roles that every scenario has. Some have more callees.
const (
	Caller Role = "caller"
	Callee Role = "callee"
)

// A Part is what one of the SIPps that play a scenario together is told.
type Part struct {
	Scenario  string // a file of scenarios/calls, without its extension
	Role      Role
	Port      uint16 // of SIP
	Transport string // "udp" or "tcp"
	User      string // its own
	Number    string // whom it calls
	Domain    string // of both
	CallID    string
	Media     []uint16       // ports that its SDP names: [media0], [media1] and so on; [rtcp0] is the one above
	Proxy     netip.AddrPort // of a caller: where its requests go
}

// A Player is a SIPp that plays one part of a scenario, waiting at each {{step}} until it is told to go on.
type Player struct {
	Part
	*lab.Process
	Host *lab.Host

	t     testing.TB
	dir   string
	steps net.PacketConn
	taken int
}

// StartPlayer starts SIPp for the part. A callee is ready when it returns.
func StartPlayer(t testing.TB, host *lab.Host, part Part) *Player {
	t.Helper()
	lab.Require(t, "sipp")
	name := fmt.Sprintf("%s-%s-%d", part.Scenario, part.Role, part.Port)
	dir := filepath.Join(host.Dir(), name)
	file := filepath.Join(dir, "scenario.xml")
	err := os.MkdirAll(dir, 0o700)
	var text string
	if err == nil {
		text, err = part.render()
	}
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &Player{Part: part, Host: host, t: t, dir: dir}
	if s.steps, err = host.ListenUDP(netip.AddrPortFrom(host.Addr, 0).String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.steps.Close() })
	s.Process = host.Start(name, append([]string{"env", "--chdir=" + dir, "TERM=dumb"}, s.command(host.Addr)...)...)
	if part.Role != Caller {
		lab.Eventually(t, 10*time.Second, name+" waits for calls", func() bool { return host.Listens("udp", part.Port) || host.Listens("udp6", part.Port) })
	}
	return s
}

func (s *Player) command(at netip.Addr) []string {
	addr, family := at.String(), "IP4 "
	if at.Is6() {
		family = "IP6 "
	}
	args := []string{"sipp", "-sf", "scenario.xml", "-i", addr, "-mi", addr, "-p", strconv.Itoa(int(s.Port)), "-nostdin",
		"-m", "1", "-t", map[string]string{"udp": "u1", "tcp": "t1"}[s.Transport], "-cid_str", s.CallID,
		// What comes unexpected is seen by the test; SIPp would give up the call for a message that a busy machine repeats.
		"-default_behaviors", "none",
		"-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log",
		"-key", "user", s.User, "-key", "number", s.Number, "-key", "domain", s.Domain, "-key", "address", family + addr}
	for i, port := range s.Media {
		args = append(args, "-key", fmt.Sprintf("media%d", i), strconv.Itoa(int(port)),
			"-key", fmt.Sprintf("rtcp%d", i), strconv.Itoa(int(port)+1))
	}
	if s.Role == Caller {
		args = append(args, s.Proxy.String())
	}
	return args
}

// Errors is what SIPp found wrong.
func (s *Player) Errors() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "errors.log"))
	return string(text)
}

// Step has the player go on. It must be waiting, or be about to: everything that it expects before has been sent to it.
func (s *Player) Step() {
	s.t.Helper()
	if s.Transport != "udp" {
		return // it goes on by itself
	}
	s.taken++
	from, to := s.steps.LocalAddr(), netip.AddrPortFrom(s.Host.Addr, s.Port)
	_, err := s.steps.WriteTo(fmt.Appendf(nil, "STEP sip:player SIP/2.0\r\nVia: SIP/2.0/UDP %v;branch=z9hG4bK-step-%d\r\n"+
		"From: <sip:test@%v>;tag=test\r\nTo: <sip:player@%v>;tag=player\r\nCall-ID: %s\r\nCSeq: %[2]d STEP\r\nContent-Length: 0\r\n\r\n",
		from, s.taken, from, to, s.CallID), net.UDPAddrFromAddrPort(to))
	if err != nil {
		s.t.Fatal(err)
	}
}
