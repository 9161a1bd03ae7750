package fidelity

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// packet is a message as it was received.
type packet struct {
	b    []byte
	from netip.AddrPort
}

// inbox holds what a peer has received. Repetitions of what came before are
// left out: the programs retransmit toward UDP.
type inbox struct {
	ch   chan packet
	mu   sync.Mutex
	seen map[string]bool
	pong int      // single CRLFs on a stream
	odd  []packet // taken out by nobody
}

func newInbox() *inbox { return &inbox{ch: make(chan packet, 1024), seen: make(map[string]bool)} }

func (in *inbox) put(p packet) {
	in.mu.Lock()
	again := in.seen[string(p.b)]
	in.seen[string(p.b)] = true
	in.mu.Unlock()
	if !again && !bytes.HasPrefix(p.b, []byte("SIP/2.0 100 ")) {
		in.ch <- p
	}
}

// await returns the next message that match takes. Others are strays.
func (in *inbox) await(t *testing.T, what string, match func(p packet, m *text) bool) packet {
	t.Helper()
	return in.awaitBefore(t, &inbox{}, what, match)
}

// awaitBefore does so as long as the other peer gets nothing.
func (in *inbox) awaitBefore(t *testing.T, other *inbox, what string, match func(p packet, m *text) bool) packet {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case p, open := <-in.ch:
			if !open {
				t.Fatalf("no %s: the connection is closed; instead came %s", what, in.strays())
			}
			if m, err := cut(p.b); err == nil && match(p, m) {
				return p
			}
			in.odd = append(in.odd, p)
		case p := <-other.ch:
			t.Fatalf("no %s; the other peer got %q", what, p.b)
		case <-timeout.C:
			t.Fatalf("no %s; instead came %s", what, in.strays())
		}
	}
}

// strays are the messages that nobody waited for.
func (in *inbox) strays() string {
	for {
		select {
		case p, open := <-in.ch:
			if open {
				in.odd = append(in.odd, p)
				continue
			}
		default:
		}
		break
	}
	var b strings.Builder
	for _, p := range in.odd {
		fmt.Fprintf(&b, "\nfrom %v: %q", p.from, p.b)
	}
	in.odd = nil
	return b.String()
}

func (r *rig) readPBX() {
	buf := make([]byte, 65536)
	for {
		n, from, err := r.pbx.ReadFromUDPAddrPort(buf)
		if err != nil {
			close(r.inbox.ch)
			return
		}
		if from.Port() < phonePorts.low || from.Port() > phonePorts.high {
			r.answerCheck(buf[:n], from) // tunneld asks whether the PBX is there
			continue
		}
		r.inbox.put(packet{bytes.Clone(buf[:n]), from})
	}
}

func (r *rig) answerCheck(b []byte, to netip.AddrPort) {
	m, err := cut(b)
	if err != nil || m.method() != "OPTIONS" {
		r.inbox.put(packet{bytes.Clone(b), to})
		return
	}
	m.start = "SIP/2.0 200 OK\r\n"
	_, _ = r.pbx.WriteToUDPAddrPort([]byte(m.String()), to)
}

func (r *rig) toPhone(t *testing.T, ph *phone, b []byte) {
	t.Helper()
	if _, err := r.pbx.WriteToUDPAddrPort(b, ph.path.port); err != nil {
		t.Fatal(err)
	}
}

// phone is a socket that is told what to say.
type phone struct {
	path  *path
	inbox *inbox
	udp   *net.UDPConn
	tcp   *net.TCPConn
	name  string // user of its own requests
	known string // the Contact that the PBX knows, after register
}

// newPhone is a phone that nobody has heard of yet.
func (r *rig) newPhone(t *testing.T, transport string) *phone {
	t.Helper()
	r.phones++
	at := net.IP(network(1+r.phones/240, 10+r.phones%240).AsSlice())
	ph := &phone{inbox: newInbox(), name: "u" + strconv.Itoa(r.phones)}
	ph.path = &path{transport: transport, proxy: r.proxy, pbx: r.pbxAt, domain: domain, relays: r.relays}
	done := make(chan struct{})
	var conn net.Conn
	if transport == "UDP" {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: at}, net.UDPAddrFromAddrPort(r.proxy))
		if err != nil {
			t.Fatal(err)
		}
		ph.udp, conn = c, c
	} else {
		c, err := net.DialTCP("tcp4", &net.TCPAddr{IP: at}, net.TCPAddrFromAddrPort(r.proxy))
		if err != nil {
			t.Fatal(err)
		}
		ph.tcp, conn = c, c
	}
	ph.path.phone = netip.MustParseAddrPort(conn.LocalAddr().String())
	go func() {
		defer close(done)
		ph.read(conn)
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return ph
}

func (ph *phone) send(t *testing.T, b []byte) {
	t.Helper()
	var err error
	if ph.tcp != nil {
		_, err = ph.tcp.Write(b)
	} else {
		_, err = ph.udp.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (ph *phone) read(conn net.Conn) {
	defer close(ph.inbox.ch)
	buf := make([]byte, 65536)
	var stream []byte
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if ph.udp != nil {
			ph.inbox.put(packet{bytes.Clone(buf[:n]), ph.path.proxy})
			continue
		}
		stream = append(stream, buf[:n]...)
		for {
			b, rest, err := frame(stream)
			if err != nil {
				break
			}
			stream = rest
			if string(b) == "\r\n" {
				ph.inbox.mu.Lock()
				ph.inbox.pong++
				ph.inbox.mu.Unlock()
				continue
			}
			ph.inbox.put(packet{b, ph.path.proxy})
		}
	}
}

// frame takes the first message off a stream.
func frame(b []byte) (msg, rest []byte, err error) {
	if bytes.HasPrefix(b, []byte("\r\n")) {
		return b[:2], b[2:], nil
	}
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if lf := bytes.Index(b, []byte("\n\n")); end < 0 || lf >= 0 && lf < end {
		if lf < 0 {
			return nil, b, io.ErrUnexpectedEOF
		}
		end = lf - 2
	}
	head, err := cut(b[:end+4])
	if err != nil {
		return nil, b, err
	}
	n, err := strconv.Atoi(head.get("content-length"))
	if err != nil {
		n = 0 // for the comparison to find
	}
	if len(b) < end+4+n {
		return nil, b, io.ErrUnexpectedEOF
	}
	return slices.Clone(b[:end+4+n]), b[end+4+n:], nil
}
