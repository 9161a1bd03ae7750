//go:build e2e

package soak

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	domain      = "soak.invalid"
	answerAfter = 20 * time.Second // a request is given up
	repeatAfter = 500 * time.Millisecond
)

// An agent is a SIP party: it answers what it is asked with 200 at once, and asks.
type agent struct {
	udp  *net.UDPConn
	tcp  net.Conn // nil: UDP
	rtp  *net.UDPConn
	peer netip.AddrPort // where it sends to, unless it is told otherwise
	wg   sync.WaitGroup

	mu       sync.Mutex
	waiting  map[string]chan *sipmsg.Message // by transaction
	contacts map[string]string               // of the PBX: by user
}

func newAgent(at netip.Addr, peer netip.AddrPort, overTCP bool) (*agent, error) {
	a := &agent{peer: peer, waiting: make(map[string]chan *sipmsg.Message), contacts: make(map[string]string)}
	var err error
	if a.rtp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0))); err != nil {
		return nil, err
	}
	if overTCP {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0))}
		if a.tcp, err = dialer.Dial("tcp4", peer.String()); err != nil {
			return nil, err
		}
		a.wg.Go(a.readStream)
		return a, nil
	}
	if a.udp, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0))); err != nil {
		return nil, err
	}
	_ = a.udp.SetReadBuffer(4 << 20)
	a.wg.Go(a.readDatagrams)
	return a, nil
}

func (a *agent) close() {
	if a.tcp != nil {
		a.tcp.Close()
	} else {
		a.udp.Close()
	}
	a.rtp.Close()
	a.wg.Wait()
}

func (a *agent) addr() netip.AddrPort {
	if a.tcp != nil {
		return netip.MustParseAddrPort(a.tcp.LocalAddr().String())
	}
	return netip.MustParseAddrPort(a.udp.LocalAddr().String())
}

func (a *agent) transport() string {
	if a.tcp != nil {
		return "TCP"
	}
	return "UDP"
}

func (a *agent) send(msg string, to netip.AddrPort) {
	if a.tcp != nil {
		_, _ = io.WriteString(a.tcp, msg)
		return
	}
	_, _ = a.udp.WriteToUDPAddrPort([]byte(msg), to)
}

func (a *agent) readDatagrams() {
	buf := make([]byte, 65535)
	for {
		n, from, err := a.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		a.take(bytes.Clone(buf[:n]), from)
	}
}

func (a *agent) readStream() {
	framer := sipmsg.NewFramer(a.tcp)
	for {
		b, err := framer.Next()
		if err != nil {
			return
		}
		a.take(bytes.Clone(b), a.peer)
	}
}

func (a *agent) take(b []byte, from netip.AddrPort) {
	m := new(sipmsg.Message)
	if m.Parse(b) != nil {
		return
	}
	if m.IsRequest() {
		if string(m.Method()) != "ACK" {
			a.send(a.answer(m), from)
		}
		return
	}
	if m.StatusCode() < 200 {
		return
	}
	a.mu.Lock()
	waiting := a.waiting[transaction(m)]
	a.mu.Unlock()
	if waiting != nil {
		select {
		case waiting <- m:
		default: // it was repeated
		}
	}
}

func transaction(m *sipmsg.Message) string {
	seq, method := m.CSeq()
	return fmt.Sprintf("%s %d %s", m.CallID(), seq, method)
}

func (a *agent) answer(m *sipmsg.Message) string {
	var b strings.Builder
	b.WriteString("SIP/2.0 200 OK\r\n")
	for _, h := range m.Headers() {
		switch line := strings.TrimRight(string(m.Text(h.Line)), "\r\n"); h.Kind {
		case sipmsg.To:
			if m.ToTag() == nil {
				line += ";tag=answer"
			}
			b.WriteString(line + "\r\n")
		case sipmsg.Via, sipmsg.From, sipmsg.CallID, sipmsg.CSeq, sipmsg.RecordRoute:
			b.WriteString(line + "\r\n")
		}
	}
	body := ""
	switch string(m.Method()) {
	case "REGISTER":
		contact, _ := m.HeaderValue(sipmsg.Contact)
		if seconds, _ := m.Expires(); seconds > 0 {
			fmt.Fprintf(&b, "Contact: %s;expires=%d\r\n", contact, seconds)
			u, _ := sipmsg.ParseURI(m.ToURI())
			a.mu.Lock()
			a.contacts[string(u.User)] = strings.Trim(string(contact), "<>")
			a.mu.Unlock()
		}
	case "INVITE":
		b.WriteString("Contact: " + a.contact("x") + "\r\nContent-Type: application/sdp\r\n")
		body = a.describe()
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.String()
}

func (a *agent) contact(user string) string {
	return fmt.Sprintf("<sip:%s@%v;transport=%s>", user, a.addr(), strings.ToLower(a.transport()))
}

func (a *agent) describe() string {
	at := netip.MustParseAddrPort(a.rtp.LocalAddr().String())
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %[1]v\r\ns=-\r\nc=IN IP4 %[1]v\r\nt=0 0\r\nm=audio %[2]d RTP/AVP 0\r\n", at.Addr(), at.Port())
}

// ask sends a request until a final response comes.
func (a *agent) ask(d *dialog, method, uri, headers, body string) (*sipmsg.Message, error) {
	d.seq++
	key := fmt.Sprintf("%s %d %s", d.id, d.seq, method)
	waiting := make(chan *sipmsg.Message, 1)
	a.mu.Lock()
	a.waiting[key] = waiting
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.waiting, key)
		a.mu.Unlock()
	}()
	msg := a.request(d, method, uri, headers, body)
	a.send(msg, d.to)
	deadline := time.After(answerAfter)
	repeat := time.NewTicker(repeatAfter)
	defer repeat.Stop()
	for {
		select {
		case m := <-waiting:
			return m, nil
		case <-repeat.C:
			if a.tcp == nil {
				a.send(msg, d.to)
			}
		case <-deadline:
			return nil, fmt.Errorf("%s of %s was not answered", method, d.id)
		}
	}
}

// A dialog is what the requests of one have in common.
type dialog struct {
	id, from, to2, tag string // to2 is the To header's URI, tag the other party's
	seq                int
	route              string
	to                 netip.AddrPort
}

func newDialog(from, to string, at netip.AddrPort) *dialog {
	return &dialog{id: rand.Text(), from: from, to2: to, to: at}
}

func (a *agent) request(d *dialog, method, uri, headers, body string) string {
	to := "<" + d.to2 + ">"
	if d.tag != "" {
		to += ";tag=" + d.tag
	}
	if body != "" {
		headers += "Content-Type: application/sdp\r\n"
	}
	return fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/%s %v;branch=z9hG4bK%s;rport\r\n%sMax-Forwards: 70\r\nFrom: <%s>;tag=f\r\n"+
		"To: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\n%sContent-Length: %d\r\n\r\n%s",
		method, uri, a.transport(), a.addr(), rand.Text(), d.route, d.from, to, d.id, d.seq, method, headers, len(body), body)
}
