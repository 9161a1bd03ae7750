//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// A Capture is what tcpdump sees on one link. It can be read while it goes on.
type Capture struct {
	host *Host
	tcpd *Process
	name string

	mu      sync.Mutex
	packets []*pcap.Packet
	err     error
	read    chan struct{} // closed when all is read
}

// Capture starts tcpdump on an interface of the host, with a filter (empty: everything), and returns when it captures. The
// packets are kept among the artifacts too.
func (h *Host) Capture(link, filter string) *Capture {
	t := h.lab.t
	t.Helper()
	name := "tcpdump-" + link
	file, err := os.Create(filepath.Join(h.Dir(), fmt.Sprintf("%s-%d.pcap", link, time.Now().UnixMilli())))
	if err != nil {
		t.Fatalf("lab: %v", err)
	}
	from, to := io.Pipe()
	c := &Capture{host: h, name: name, read: make(chan struct{})}
	// The kernel's buffer has room for so many packets of the greatest length: 512.
	args := []string{"tcpdump", "-i", link, "-n", "-U", "--immediate-mode", "-B", "32768", "-s", "65535", "-Z", "root", "-w", "-"}
	if filter != "" {
		args = append(args, filter)
	}
	c.tcpd = h.start(name, to, h.command(args...))
	go c.readAll(io.TeeReader(from, file), file)
	c.tcpd.WaitFor(5*time.Second, "listening on")
	return c
}

func (c *Capture) readAll(from io.Reader, file io.Closer) {
	defer close(c.read)
	defer file.Close()
	reader, err := pcap.NewReader(from)
	for err == nil {
		var p *pcap.Packet
		if p, err = reader.Next(); err == nil {
			c.mu.Lock()
			c.packets = append(c.packets, p)
			c.mu.Unlock()
		}
	}
	if !errors.Is(err, io.EOF) {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, from) // tcpdump must not block when its stream makes no sense
}

var dropped = regexp.MustCompile(`(\d+) packets? dropped by (kernel|interface)`)

// Stop ends the capture and returns everything in it. A capture with gaps proves nothing: it ends the test.
func (c *Capture) Stop() []*pcap.Packet {
	t := c.host.lab.t
	t.Helper()
	c.tcpd.Signal(syscall.SIGINT)
	select {
	case <-c.read:
	case <-time.After(5 * time.Second):
		t.Fatalf("lab: %s on %s does not end", c.name, c.host.Name)
	}
	<-c.tcpd.done
	for _, match := range dropped.FindAllStringSubmatch(c.tcpd.Output(), -1) {
		if match[1] != "0" {
			t.Fatalf("lab: %s on %s: %s", c.name, c.host.Name, match[0])
		}
	}
	if c.err != nil {
		t.Fatalf("lab: %s on %s: %v", c.name, c.host.Name, c.err)
	}
	return c.packets
}

// Packets returns what has been captured so far.
func (c *Capture) Packets() []*pcap.Packet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets[:len(c.packets):len(c.packets)]
}

// SIP returns the SIP messages captured so far.
func (c *Capture) SIP() []*pcap.Message {
	var messages []*pcap.Message
	for _, p := range c.Packets() {
		messages = append(messages, p.Messages()...)
	}
	return messages
}

// WaitSIP waits until a SIP message has been captured that the function accepts, and returns the first.
func (c *Capture) WaitSIP(limit time.Duration, what string, accept func(*pcap.Message) bool) *pcap.Message {
	c.host.lab.t.Helper()
	var found *pcap.Message
	next := 0
	Eventually(c.host.lab.t, limit, what, func() bool {
		packets := c.Packets()
		for ; next < len(packets) && found == nil; next++ {
			if i := slices.IndexFunc(packets[next].Messages(), accept); i >= 0 {
				found = packets[next].Messages()[i]
			}
		}
		return found != nil
	})
	return found
}

// Trace returns the start lines of the SIP messages captured so far, one a line, with times and addresses.
func (c *Capture) Trace() string {
	var b strings.Builder
	for _, m := range c.SIP() {
		fmt.Fprintf(&b, "%s %v > %v %v %s [%s]\n", m.Time.Format("15:04:05.000"), m.Src, m.Dst, m.Protocol, m.StartLine,
			m.Header("CSeq"))
	}
	return b.String()
}
