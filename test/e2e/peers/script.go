//go:build linux

package peers

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/icholy/digest"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// A Script is a SIP peer that sends exactly what it is told, byte for byte, and keeps what it gets as it came. It knows no
// transactions: it never repeats anything by itself, and leaves out of its inbox what others repeat.
type Script struct {
	User, Password string
	Host           *lab.Host
	Addr           netip.AddrPort // own
	Transport      string         // "UDP", "TCP" or "TLS", of what it sends by itself

	t         testing.TB
	algorithm string         // of the last challenge
	to        netip.AddrPort // next hop
	udp       net.PacketConn
	stream    net.Conn
	closers   []io.Closer
	readers   sync.WaitGroup

	mu     sync.Mutex // guards closers, closed, inbox, taken, seen, pongs
	closed bool
	inbox  []*Message
	taken  map[*Message]bool
	seen   map[string]bool
	pongs  int
}

// A Message is one that a Script has got.
type Message struct {
	*pcap.Message
	over string               // transport
	back func(b []byte) error // to whom it came from, the way it came
}

// Over returns the transport that the message came by: "UDP", "TCP" or "TLS".
func (m *Message) Over() string { return m.over }

// ScriptConfig says who a Script is and whom it sends to.
type ScriptConfig struct {
	User, Password string
	Port           uint16         // own; 5060 where it is 0
	Transport      string         // "UDP", "TCP" or "TLS"; UDP where it is empty
	To             netip.AddrPort // next hop
	TLS            *tls.Config    // for TLS
}

// StartScript starts the peer on a host. Over UDP it takes TCP connections on the same port too; over TCP and TLS it connects.
func StartScript(t testing.TB, host *lab.Host, config ScriptConfig) *Script {
	t.Helper()
	if config.Port == 0 {
		config.Port = 5060
	}
	s := &Script{
		User: config.User, Password: config.Password, Host: host, Transport: "UDP", t: t, to: config.To,
		Addr:  netip.AddrPortFrom(host.Addr, config.Port),
		taken: map[*Message]bool{}, seen: map[string]bool{},
	}
	t.Cleanup(s.close)
	var err error
	switch config.Transport {
	case "", "UDP":
		err = s.listen(host)
	default:
		s.Transport = config.Transport
		err = s.connect(host, config.TLS)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Script) close() {
	s.mu.Lock()
	s.closed = true
	for _, c := range s.closers {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.readers.Wait()
}

// own has c closed when the script is over, or at once if it is.
func (s *Script) own(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return
	}
	s.closers = append(s.closers, c)
}

func (s *Script) listen(host *lab.Host) error {
	conn, err := host.ListenUDP(s.Addr.String())
	if err != nil {
		return err
	}
	s.udp = conn
	s.own(conn)
	s.readers.Go(s.readUDP)
	ln, err := host.ListenTCP(s.Addr.String())
	if err != nil {
		return err
	}
	s.own(ln)
	s.readers.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.own(conn)
			s.readers.Go(func() { s.readStream(conn, "TCP") })
		}
	})
	return nil
}

func (s *Script) connect(host *lab.Host, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := host.Dial(ctx, "tcp", s.to.String())
	if err != nil {
		return err
	}
	s.Addr = netip.MustParseAddrPort(conn.LocalAddr().String())
	if s.Transport == "TLS" {
		conn = tls.Client(conn, config)
	}
	s.stream = conn
	s.own(conn)
	s.readers.Go(func() { s.readStream(conn, s.Transport) })
	return nil
}

// Turn has what the script sends from now on go over a new TCP connection, as phones do with requests too large for UDP.
func (s *Script) Turn() {
	s.t.Helper()
	s.Transport = "TCP"
	at := s.Addr
	if err := s.connect(s.Host, nil); err != nil {
		s.t.Fatal(err)
	}
	s.Addr = at
}

func (s *Script) readUDP() {
	buffer := make([]byte, 65535)
	for {
		n, from, err := s.udp.ReadFrom(buffer)
		if err != nil {
			return
		}
		s.take(bytes.Clone(buffer[:n]), "UDP", func(b []byte) error {
			_, err := s.udp.WriteTo(b, from)
			return err
		})
	}
}

// readStream takes messages that are framed by the Content-Length in its long form, as everybody here writes it.
func (s *Script) readStream(conn net.Conn, over string) {
	from := bufio.NewReader(conn)
	for {
		var text []byte
		length := 0
		for !bytes.HasSuffix(text, []byte("\r\n\r\n")) {
			line, err := from.ReadSlice('\n')
			if err != nil {
				return
			}
			if text = append(text, line...); string(text) == "\r\n" {
				s.take(text, over, nil)
				text = nil
			}
			if value, ok := bytes.CutPrefix(bytes.ToLower(line), []byte("content-length:")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
			}
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(from, body); err != nil {
			return
		}
		s.take(append(text, body...), over, func(b []byte) error {
			_, err := conn.Write(b)
			return err
		})
	}
}

func (s *Script) take(text []byte, over string, back func([]byte) error) {
	m, ok := (&pcap.Packet{Time: time.Now(), Protocol: pcap.UDP, Payload: text}).SIP()
	s.mu.Lock()
	defer s.mu.Unlock()
	if string(text) == "\r\n" {
		s.pongs++
	}
	if ok && !s.seen[string(text)] {
		s.seen[string(text)] = true
		s.inbox = append(s.inbox, &Message{Message: m, over: over, back: back})
	}
}

// Wait waits for a message that the function accepts and that was not waited for before.
func (s *Script) Wait(limit time.Duration, what string, accept func(*pcap.Message) bool) *Message {
	s.t.Helper()
	var found *Message
	if !lab.Within(limit, func() bool {
		found = s.next(accept)
		return found != nil
	}) {
		s.t.Fatalf("%s: not within %v: %s; the latest that it got:\n%s", s.User, limit, what, s.trace())
	}
	return found
}

func (s *Script) next(accept func(*pcap.Message) bool) *Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.inbox {
		if !s.taken[m] && accept(m.Message) {
			s.taken[m] = true
			return m
		}
	}
	return nil
}

// Pongs returns how many answers to keepalives (RFC 5626 section 3.5.1) have come.
func (s *Script) Pongs() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pongs
}

// Got returns everything that the script has got so far.
func (s *Script) Got() []*Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inbox[:len(s.inbox):len(s.inbox)]
}

// In has failures end that subtest until it is over, and not the test that started the script.
func (s *Script) In(t testing.TB) {
	before := s.t
	s.t = t
	t.Cleanup(func() { s.t = before })
}

func (s *Script) trace() string {
	const latest = 12
	var b strings.Builder
	got := s.Got()
	for _, m := range got[max(0, len(got)-latest):] {
		fmt.Fprintf(&b, "\t%s [%s]\n", m.StartLine, m.Header("CSeq"))
	}
	return b.String()
}

// Text completes a message: lines end with CRLF, and of these words each becomes what it says.
//
//	{via}      the value of a Via in a transaction of its own
//	{at}       own address and port
//	{transport} own transport, in lower case
//	{user}     own user
//	{length}   the length of the body
//	{id}       random, the same in one message
func (s *Script) Text(text string) []byte {
	head, body, _ := strings.Cut(text, "\n\n")
	id := rand.Text()
	body = strings.ReplaceAll(body, "\n", "\r\n")
	body = strings.ReplaceAll(body, "{at}", s.Addr.String())
	head = strings.NewReplacer(
		"{via}", fmt.Sprintf("SIP/2.0/%s %v;branch=z9hG4bK-%s;rport", s.Transport, s.Addr, id),
		"{at}", s.Addr.String(), "{transport}", strings.ToLower(s.Transport), "{user}", s.User, "{id}", id,
		"{length}", strconv.Itoa(len(body)), "\n", "\r\n").Replace(head)
	return []byte(head + "\r\n\r\n" + body)
}

// Send sends a message, completed as by Text, and returns it as it was sent.
func (s *Script) Send(text string) *pcap.Message {
	s.t.Helper()
	return s.SendRaw(s.Text(text))
}

// SendRaw sends bytes as they are.
func (s *Script) SendRaw(b []byte) *pcap.Message {
	s.t.Helper()
	var err error
	if s.stream != nil {
		_, err = s.stream.Write(b)
	} else {
		_, err = s.udp.WriteTo(b, net.UDPAddrFromAddrPort(s.to))
	}
	if err != nil {
		s.t.Fatalf("%s: %v", s.User, err)
	}
	m, _ := (&pcap.Packet{Time: time.Now(), Protocol: pcap.UDP, Payload: b}).SIP()
	return m
}

// Authorized sends a request, expects the challenge, and sends it again with credentials and with {cseq} one more. It returns
// what was sent last.
func (s *Script) Authorized(limit time.Duration, text string) *pcap.Message {
	s.t.Helper()
	sent := s.Send(strings.ReplaceAll(text, "{cseq}", "1"))
	challenge := s.Wait(limit, "a challenge to "+sent.StartLine, func(m *pcap.Message) bool {
		return (m.Status == 401 || m.Status == 407) && branch(m) == branch(sent)
	})
	if sent.Method == "INVITE" {
		s.Ack(sent, challenge)
	}
	startLine, rest, _ := strings.Cut(strings.ReplaceAll(text, "{cseq}", "2"), "\n")
	return s.Send(startLine + "\n" + s.credentials(sent, challenge) + "\n" + rest)
}

// Final waits for the final response to a request.
func (s *Script) Final(limit time.Duration, request *pcap.Message) *Message {
	s.t.Helper()
	return s.Wait(limit, "a final response to "+request.StartLine, func(m *pcap.Message) bool {
		return m.Status >= 200 && m.Header("Call-ID") == request.Header("Call-ID") && m.Header("CSeq") == request.Header("CSeq") &&
			branch(m) == branch(request)
	})
}

// Ack acknowledges a final response to an INVITE that is not a 2xx.
func (s *Script) Ack(invite *pcap.Message, final *Message) {
	s.t.Helper()
	number, _, _ := strings.Cut(invite.Header("CSeq"), " ")
	_, uri, _ := strings.Cut(invite.StartLine, " ")
	s.Send("ACK " + uri + "\nVia: " + invite.Header("Via") + "\nMax-Forwards: 70\nFrom: " + invite.Header("From") +
		"\nTo: " + final.Header("To") + "\nCall-ID: " + invite.Header("Call-ID") + "\nCSeq: " + number + " ACK\nContent-Length: 0\n\n")
}

// credentials returns the header that answers the challenge.
func (s *Script) credentials(request *pcap.Message, challenge *Message) string {
	s.t.Helper()
	asked, answered := "WWW-Authenticate", "Authorization"
	if challenge.Status == 407 {
		asked, answered = "Proxy-Authenticate", "Proxy-Authorization"
	}
	c, err := digest.ParseChallenge(challenge.Header(asked))
	if err != nil {
		s.t.Fatalf("%s: %v: %s", s.User, err, challenge.Header(asked))
	}
	_, uri, _ := strings.Cut(request.StartLine, " ")
	uri, _, _ = strings.Cut(uri, " ")
	s.algorithm = c.Algorithm
	response, err := digest.Digest(c, digest.Options{Method: request.Method, URI: uri, Username: s.User, Password: s.Password, Count: 1})
	if err != nil {
		s.t.Fatalf("%s: %v", s.User, err)
	}
	return answered + ": " + response.String()
}

// Register registers the user of the domain at the next hop, with this Contact's parameters, and returns the answer.
func (s *Script) Register(domain, parameters string) *Message {
	s.t.Helper()
	sent := s.Authorized(10*time.Second, `REGISTER sip:`+domain+` SIP/2.0
Via: {via}
Max-Forwards: 70
From: <sip:{user}@`+domain+`>;tag=register
To: <sip:{user}@`+domain+`>
Call-ID: register-{id}
CSeq: {cseq} REGISTER
Contact: <sip:{user}@{at};transport={transport}>`+parameters+`
Expires: 3600
Content-Length: {length}

`)
	answer := s.Final(10*time.Second, sent)
	if answer.Status != 200 {
		s.t.Fatalf("%s: REGISTER is answered with %s", s.User, answer.StartLine)
	}
	return answer
}

// Answer answers a request, back the way it came: the status line, what a response copies, the tag in To where there is none,
// then the lines given, completed as by Text, with or without a body.
func (s *Script) Answer(m *Message, status, tag, lines string) *pcap.Message {
	s.t.Helper()
	var b strings.Builder
	b.WriteString("SIP/2.0 " + status + "\n")
	for _, line := range m.Lines() {
		name, value, _ := strings.Cut(line, ":")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "to":
			if !strings.Contains(value, ";tag=") && tag != "" {
				line += ";tag=" + tag
			}
			fallthrough
		case "via", "from", "call-id", "cseq", "record-route":
			b.WriteString(line + "\n")
		}
	}
	if !strings.Contains(lines, "Content-Length:") {
		lines += "Content-Length: 0\n\n"
	}
	text := s.Text(b.String() + lines)
	if err := m.back(text); err != nil {
		s.t.Fatalf("%s: %v", s.User, err)
	}
	answer, _ := (&pcap.Packet{Time: time.Now(), Protocol: pcap.UDP, Payload: text}).SIP()
	return answer
}

// Algorithm returns the algorithm that the latest challenge asked for; empty: none, which means MD5.
func (s *Script) Algorithm() string { return s.algorithm }

// branch returns the branch of the topmost Via.
func branch(m *pcap.Message) string {
	_, rest, _ := strings.Cut(m.Header("Via"), ";branch=")
	branch, _, _ := strings.Cut(rest, ";")
	return branch
}
