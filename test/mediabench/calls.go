//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	domain        = "bench.invalid"
	answerWithin  = 20 * time.Second
	callsPerPhone = 20
)

// tunnelled is the two programs with a call for each stream.
type tunnelled struct {
	tunneld, tunnelproxy *process
	dir                  string
	pbx                  *pbx
	phones               []*phone
}

// startTunnel starts the programs with more flags for both.
func startTunnel(ctx context.Context, n *network, bin string, flags ...string) (*tunnelled, error) {
	t := &tunnelled{}
	if err := t.start(ctx, n, bin, flags); err != nil {
		t.close()
		return nil, fmt.Errorf("%w\n%s", err, t.logs())
	}
	return t, nil
}

func (t *tunnelled) start(ctx context.Context, n *network, bin string, flags []string) error {
	var err error
	if t.dir, err = os.MkdirTemp("", "siptunnel-mediabench-"); err != nil {
		return err
	}
	if t.pbx, err = startPBX(n.pbx); err != nil {
		return err
	}
	stateT, stateP := filepath.Join(t.dir, "tunneld"), filepath.Join(t.dir, "tunnelproxy")
	t.tunneld, err = n.pbx.start(ctx, filepath.Join(bin, "tunneld"), append([]string{"serve", "--state-dir", stateT, "--public-address", linkPBX,
		"--pbx", pbxAddr + ":5060", "--domain", domain, "--media-address", pbxAddr}, flags...)...)
	if err != nil {
		return err
	}
	link := filepath.Join(stateT, "join-link")
	if err := eventually(func() error { _, err := os.Stat(link); return err }); err != nil {
		return fmt.Errorf("tunneld wrote no join link: %w", err)
	}
	if err := n.office.run(filepath.Join(bin, "tunnelproxy"), "join", "--state-dir", stateP, link); err != nil {
		return err
	}
	t.tunnelproxy, err = n.office.start(ctx, filepath.Join(bin, "tunnelproxy"), append([]string{"serve", "--state-dir", stateP,
		"--sip-listen", lanAddr + ":5060", "--lan-address", lanAddr}, flags...)...)
	if err != nil {
		return err
	}
	return eventually(func() error {
		p, err := newPhone(n.office, 0)
		if err != nil {
			return err
		}
		p.wait = time.Second // the proxy may not listen yet
		if err := p.register(); err != nil {
			p.close()
			return err
		}
		t.phones = append(t.phones, p)
		return nil
	})
}

// call sets up a call for each stream from first on and aims it at where the proxy
// takes it.
func (t *tunnelled) call(n *network, s *streams, first int) error {
	t.pbx.serveStreams(s)
	for i := first; i < len(s.all); i++ {
		st := s.all[i]
		if i%callsPerPhone == 0 && i/callsPerPhone >= len(t.phones) {
			p, err := newPhone(n.office, len(t.phones))
			if err != nil {
				return err
			}
			t.phones = append(t.phones, p)
			if err := p.register(); err != nil {
				return err
			}
		}
		from, err := addrOf(st.from)
		if err != nil {
			return err
		}
		to, err := t.phones[i/callsPerPhone].invite(i, from)
		if err != nil {
			return fmt.Errorf("call %d: %w", i, err)
		}
		st.aim(to)
	}
	return nil
}

func (t *tunnelled) processes() []*process { return []*process{t.tunnelproxy, t.tunneld} }

func (t *tunnelled) logs() string {
	text := ""
	for _, p := range t.processes() {
		if p != nil {
			text += "--- " + p.name + "\n" + p.log.String()
		}
	}
	return text
}

func (t *tunnelled) close() {
	t.tunnelproxy.stop()
	t.tunneld.stop()
	for _, p := range t.phones {
		p.close()
	}
	if t.pbx != nil {
		t.pbx.close()
	}
	if t.dir != "" {
		_ = os.RemoveAll(t.dir)
	}
}

// pbx answers every request at once; an INVITE with where the stream's packets are
// counted, which its Call-ID names.
type pbx struct {
	conn *net.UDPConn
	done chan struct{}

	mu      sync.Mutex
	streams *streams
}

func startPBX(h host) (*pbx, error) {
	p := &pbx{done: make(chan struct{})}
	err := h.do(func() (err error) {
		p.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(pbxAddr+":5060")))
		return err
	})
	if err != nil {
		return nil, err
	}
	go p.serve()
	return p, nil
}

func (p *pbx) serveStreams(s *streams) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams = s
}

func (p *pbx) close() {
	_ = p.conn.Close()
	<-p.done
}

func (p *pbx) serve() {
	defer close(p.done)
	buf := make([]byte, 65535)
	var m sipmsg.Message
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if m.Parse(buf[:n]) != nil || !m.IsRequest() {
			continue
		}
		switch string(m.Method()) {
		case "ACK":
		case "REGISTER":
			contact, _ := m.HeaderValue(sipmsg.Contact)
			p.answer(&m, from, "Contact: "+string(contact)+";expires=3600\r\n", "")
		case "INVITE":
			if at, err := p.streamOf(&m); err == nil {
				p.answer(&m, from, "Contact: <sip:"+pbxAddr+":5060>\r\nContent-Type: application/sdp\r\n", describe(at))
			}
		default:
			p.answer(&m, from, "", "")
		}
	}
}

// streamOf finds the stream that a call is of, and has what is said the other way go
// where the call's SDP says.
func (p *pbx) streamOf(m *sipmsg.Message) (netip.AddrPort, error) {
	i, err := strconv.Atoi(strings.TrimPrefix(string(m.CallID()), "call-"))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || p.streams == nil || i >= len(p.streams.all) {
		return netip.AddrPort{}, errors.New("a call that nobody made")
	}
	back, err := mediaOf(m.Body())
	if err != nil {
		return netip.AddrPort{}, err
	}
	st := p.streams.all[i]
	st.back.aim(back)
	return addrOf(st.at)
}

// mediaOf is where SDP of one m-line wants RTP.
func mediaOf(body []byte) (netip.AddrPort, error) {
	var d sdp.Description
	if err := d.Parse(body); err != nil {
		return netip.AddrPort{}, err
	}
	if len(d.Media()) != 1 {
		return netip.AddrPort{}, errors.New("SDP without one m-line")
	}
	return d.Media()[0].RTPAddr(), nil
}

func (p *pbx) answer(m *sipmsg.Message, to netip.AddrPort, headers, body string) {
	b := []byte("SIP/2.0 200 OK\r\n")
	for _, h := range m.Headers() {
		switch h.Kind {
		case sipmsg.Via, sipmsg.From, sipmsg.CallID, sipmsg.CSeq:
			b = append(b, m.Text(h.Line)...)
		case sipmsg.To:
			b = append(b, "To: "...)
			b = append(b, m.Text(h.Value)...)
			if m.ToTag() == nil {
				b = append(b, ";tag=pbx"...)
			}
			b = append(b, "\r\n"...)
		}
	}
	b = append(b, headers...)
	b = fmt.Appendf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	_, _ = p.conn.WriteToUDPAddrPort(b, to)
}

func describe(at netip.AddrPort) string {
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", at.Addr(), at.Addr(), at.Port())
}

// phone is a scripted phone of the office.
type phone struct {
	conn *net.UDPConn
	user string
	seq  int
	wait time.Duration // for an answer
}

func newPhone(h host, n int) (*phone, error) {
	p := &phone{user: strconv.Itoa(1000 + n), wait: answerWithin}
	return p, h.do(func() (err error) {
		p.conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(lanAddr)})
		return err
	})
}

func (p *phone) close() { _ = p.conn.Close() }

func (p *phone) contact() string {
	return fmt.Sprintf("Contact: <sip:%s@%s>\r\n", p.user, p.conn.LocalAddr())
}

func (p *phone) register() error {
	_, err := p.request("REGISTER", "reg-"+p.user, p.contact()+"Expires: 3600\r\n", "")
	return err
}

// invite calls, offering media from the socket from, and returns where it goes.
func (p *phone) invite(call int, from netip.AddrPort) (netip.AddrPort, error) {
	id := fmt.Sprintf("call-%d", call)
	body, err := p.request("INVITE", id, p.contact()+"Content-Type: application/sdp\r\n", describe(from))
	if err != nil {
		return netip.AddrPort{}, err
	}
	to, err := mediaOf(body)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return to, p.send("ACK", id, p.contact(), "")
}

func (p *phone) send(method, callID, headers, body string) error {
	to := ""
	if method == "ACK" {
		to = ";tag=pbx"
	} else {
		p.seq++
	}
	b := fmt.Appendf(nil, "%s sip:600@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-%s-%s-%d\r\nFrom: <sip:%s@%s>;tag=%s\r\nTo: <sip:600@%s>%s\r\n"+
		"Call-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n%sContent-Length: %d\r\n\r\n%s",
		method, domain, p.conn.LocalAddr(), method, callID, p.seq, p.user, domain, p.user, domain, to, callID, p.seq, method, headers, len(body), body)
	_, err := p.conn.WriteToUDPAddrPort(b, netip.MustParseAddrPort(lanAddr+":5060"))
	return err
}

// request sends a request and returns the body of its 200.
func (p *phone) request(method, callID, headers, body string) ([]byte, error) {
	if err := p.send(method, callID, headers, body); err != nil {
		return nil, err
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(p.wait)); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		var m sipmsg.Message
		if err := m.Parse(buf[:n]); err != nil {
			return nil, err
		}
		_, seq := m.CSeq()
		switch status := m.StatusCode(); {
		case string(seq) != method, status < 200:
		case status == 200:
			return m.Body(), nil
		default:
			return nil, fmt.Errorf("%s: %d %s", method, status, m.Reason())
		}
	}
}

func eventually(f func() error) error {
	deadline := time.Now().Add(answerWithin)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v: %w", answerWithin, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
