//go:build e2e

// Package soak runs thousands of registrations and calls through both programs and looks at what is left of them.
package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	phones = 40 // a quarter of them over TCP
	// tunneld ends the connection of an office that goes on and on opening more than a hundred relays a second.
	callsPerSecond = 90
	// expired is by when the last state of a call is gone, with time to spare on a busy machine.
	expired = 120 * time.Second
	// What is left of each call and registration, had they left something, is far more.
	heapSlack = 5 << 20
	rssSlack  = 48 << 20
)

var (
	serverAddr = netip.MustParseAddr("127.0.77.1")
	pbxAddr    = netip.MustParseAddr("127.0.77.2")
	officeAddr = netip.MustParseAddr("127.0.78.1")
)

// figures are what a program takes of the machine.
type figures struct {
	Goroutines int    `json:"goroutines"`
	HeapBytes  uint64 `json:"heap_bytes"`
	OpenFiles  int    `json:"open_files"`
	rss        int
}

func (f figures) String() string {
	return fmt.Sprintf("%d goroutines, %d open files, %.1f MiB heap, %.1f MiB resident", f.Goroutines, f.OpenFiles,
		float64(f.HeapBytes)/(1<<20), float64(f.rss)/(1<<20))
}

// A program is one of the two, running.
type program struct {
	t     *testing.T
	path  string
	state string
	cmd   *exec.Cmd
}

func (p *program) start(args ...string) {
	p.t.Helper()
	log, err := os.Create(p.state + ".log")
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(p.path, append([]string{"serve", "--state-dir", p.state, "--log-level", "warn"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), "GOGC=10") // so that the heap is what is in use
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		err := p.cmd.Wait()
		log.Close()
		text, _ := os.ReadFile(p.state + ".log")
		if err != nil || p.t.Failed() {
			p.t.Errorf("%s: %v\n%s", p.path, err, text[:min(len(text), 4000)])
		}
	})
}

// status asks the program. calls and phones are how many it has.
func (p *program) status() (f figures, calls, phones int) {
	p.t.Helper()
	out, err := exec.Command(p.path, "status", "--json", "--state-dir", p.state).Output()
	var s struct {
		Runtime figures           `json:"runtime"`
		Calls   []json.RawMessage `json:"calls"`
		Phones  []json.RawMessage `json:"phones"`
	}
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		p.t.Fatalf("%s status: %v", p.path, err)
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text); m != nil {
		s.Runtime.rss, _ = strconv.Atoi(string(m[1]))
		s.Runtime.rss <<= 10
	}
	return s.Runtime, len(s.Calls), len(s.Phones)
}

// freePort is one below those of phones and media.
func freePort(t *testing.T, at netip.Addr) netip.AddrPort {
	for port := uint16(4000); port < 6000; port++ {
		a := netip.AddrPortFrom(at, port)
		if ln, err := net.Listen("tcp4", a.String()); err == nil {
			ln.Close()
			return a
		}
	}
	t.Fatal("no port is free")
	return netip.AddrPort{}
}

func eventually(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !holds(); time.Sleep(250 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// TestSoak: registrations and calls leave the same number of goroutines and sockets as before them, and nearly the same
// number of bytes. SOAK says how many of each; 500 where it is not set.
func TestSoak(t *testing.T) {
	n := 500
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/tunneld", "./cmd/tunnelproxy")
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	pbx, err := newAgent(pbxAddr, netip.AddrPort{}, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pbx.close)
	listen, sip := freePort(t, serverAddr), freePort(t, officeAddr)
	tunneld := &program{t: t, path: filepath.Join(dir, "tunneld"), state: filepath.Join(dir, "s")}
	tunneld.start("--listen", listen.String(), "--public-address", serverAddr.String(), "--pbx", pbx.addr().String(), "--domain", domain,
		"--media-address", serverAddr.String(), "--media-ports", "7000-59999", "--phone-ports", "6000-6999")
	link := filepath.Join(tunneld.state, "join-link")
	eventually(t, answerAfter, "tunneld has written its join link", func() bool { _, err := os.Stat(link); return err == nil })
	proxy := &program{t: t, path: filepath.Join(dir, "tunnelproxy"), state: filepath.Join(dir, "p")}
	if out, err := exec.Command(proxy.path, "join", "--state-dir", proxy.state, link).CombinedOutput(); err != nil {
		t.Fatalf("join: %v: %s", err, out)
	}
	proxy.start("--sip-listen", sip.String(), "--lan-address", officeAddr.String(), "--media-ports", "7000-59999")

	office := startOffice(t, sip)
	before := [2]figures{}
	for i, p := range []*program{tunneld, proxy} {
		before[i], _, _ = p.status()
	}
	began := time.Now()
	office.all(t, n, 0, func(h *handset, k int) error { return h.registers(k) })
	registered := time.Since(began)
	began = time.Now()
	office.all(t, n, callsPerSecond, func(h *handset, k int) error { return h.calls(pbx, k) })
	called := time.Since(began)
	busy := [2]figures{}
	for i, p := range []*program{tunneld, proxy} {
		busy[i], _, _ = p.status()
	}
	t.Logf("%d registrations and as many ends of them in %v, %d calls in %v", n, registered.Round(time.Millisecond), n, called.Round(time.Millisecond))

	began = time.Now()
	for i, p := range []*program{tunneld, proxy} {
		var now figures
		var calls, known int
		back := func() bool {
			now, calls, known = p.status()
			return calls == 0 && known == phones && now.Goroutines <= before[i].Goroutines && now.OpenFiles <= before[i].OpenFiles &&
				now.HeapBytes <= before[i].HeapBytes+heapSlack && now.rss <= before[i].rss+rssSlack
		}
		name := filepath.Base(p.path)
		for deadline := began.Add(expired); !back() && time.Now().Before(deadline); {
			// What is free is collected when something else is needed, and here nothing is.
			office.all(t, 5, 0, func(h *handset, _ int) error { return h.register(h.user, 3600) })
			time.Sleep(time.Second)
		}
		t.Logf("%-11s before: %v", name, before[i])
		t.Logf("%-11s busy:   %v", name, busy[i])
		t.Logf("%-11s after:  %v (after %v)", name, now, time.Since(began).Round(time.Second))
		if !back() {
			t.Errorf("%s: not as before: %d calls, %d phones", name, calls, known)
		}
	}
}

// A handset is one phone of the office.
type handset struct {
	*agent
	user string
}

type office []*handset

// startOffice registers the phones that stay.
func startOffice(t *testing.T, sip netip.AddrPort) office {
	t.Helper()
	var o office
	for i := range phones {
		var h *handset
		eventually(t, answerAfter, "tunnelproxy takes phones", func() bool {
			a, err := newAgent(netip.AddrFrom4([4]byte{127, 0, 78, byte(10 + i)}), sip, i%4 == 3)
			if err != nil {
				return false
			}
			h = &handset{a, fmt.Sprint("phone", i)}
			if h.register(h.user, 3600) != nil {
				a.close()
				return false
			}
			return true
		})
		t.Cleanup(h.close)
		o = append(o, h)
	}
	return o
}

// all has the phones share n pieces of work, at so many a second if that is not 0.
func (o office) all(t *testing.T, n, rate int, work func(h *handset, k int) error) {
	t.Helper()
	var next, again atomic.Int64
	var running sync.WaitGroup
	began := time.Now()
	for _, h := range o {
		running.Go(func() {
			for {
				k := int(next.Add(1))
				if k > n || t.Failed() {
					return
				}
				if rate > 0 {
					time.Sleep(time.Until(began.Add(time.Duration(k) * time.Second / time.Duration(rate))))
				}
				err := work(h, k)
				for range 5 { // on a busy machine something may be late, which a caller is told
					if busy := (*busyError)(nil); errors.As(err, &busy) {
						again.Add(1)
						time.Sleep(time.Second)
						err = work(h, k)
					}
				}
				if err != nil {
					t.Errorf("%s, number %d: %v", h.user, k, err)
				}
			}
		})
	}
	running.Wait()
	if n := again.Load(); n > 0 {
		t.Logf("%d were told to try again", n)
	}
	if t.Failed() {
		t.FailNow()
	}
}

func uriOf(user string) string { return "sip:" + user + "@" + domain }

func (h *handset) register(user string, seconds int) error {
	d := newDialog(uriOf(user), uriOf(user), h.peer)
	headers := fmt.Sprintf("Contact: %s\r\nExpires: %d\r\n", h.contact(user), seconds)
	return granted(h.ask(d, "REGISTER", "sip:"+domain, headers, ""))
}

// registers has a user come and go.
func (h *handset) registers(k int) error {
	user := fmt.Sprint("user", k)
	if err := h.register(user, 600); err != nil {
		return err
	}
	return h.register(user, 0)
}

func granted(m *sipmsg.Message, err error) error {
	switch {
	case err != nil || m.StatusCode() == 200:
		return err
	case m.StatusCode() == 503 || string(m.Reason()) == "No Media Port":
		return &busyError{string(m.Reason())}
	}
	return fmt.Errorf("%d %s", m.StatusCode(), m.Reason())
}

// busyError is a refusal for the moment.
type busyError struct{ reason string }

func (e *busyError) Error() string { return e.reason }

// calls makes a call from the phone or to it. One in ten has some media.
func (h *handset) calls(pbx *agent, k int) error {
	if k%2 == 0 {
		return call(h.agent, uriOf(h.user), uriOf("echo"), uriOf("echo"), h.peer, k)
	}
	pbx.mu.Lock()
	contact := pbx.contacts[h.user]
	pbx.mu.Unlock()
	u, _ := sipmsg.ParseURI([]byte(contact))
	at, err := netip.ParseAddrPort(fmt.Sprintf("%s:%d", u.Host, u.Port))
	if err != nil {
		return err
	}
	return call(pbx, uriOf("echo"), uriOf(h.user), contact, at, k)
}

func call(a *agent, from, to, uri string, at netip.AddrPort, k int) error {
	d := newDialog(from, to, at)
	contact := "Contact: " + a.contact("x") + "\r\n"
	m, err := a.ask(d, "INVITE", uri, contact, a.describe())
	if err := granted(m, err); err != nil {
		return err
	}
	d.tag = string(m.ToTag())
	if route, ok := m.HeaderValue(sipmsg.RecordRoute); ok {
		d.route = "Route: " + string(route) + "\r\n"
	}
	it := m.Values(sipmsg.Contact)
	if !it.Next() {
		return fmt.Errorf("200 without Contact")
	}
	target := string(it.Addr().URI)
	a.send(a.request(d, "ACK", target, "", ""), d.to)
	if k%10 < 2 {
		say(a, string(m.Body()))
	}
	return granted(a.ask(d, "BYE", target, "", ""))
}

// say sends a few packets of RTP to where SDP says.
func say(a *agent, sdp string) {
	var host string
	var port uint16
	for line := range strings.Lines(sdp) {
		if v, ok := strings.CutPrefix(line, "c=IN IP4 "); ok {
			host = strings.TrimSpace(v)
		}
		_, _ = fmt.Sscanf(line, "m=audio %d ", &port)
	}
	to, err := netip.ParseAddr(host)
	if err != nil {
		return
	}
	packet := make([]byte, 172)
	packet[0] = 0x80
	for i := range byte(5) {
		packet[3] = i
		_, _ = a.rtp.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to, port))
	}
}
