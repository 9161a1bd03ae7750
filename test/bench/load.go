package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"

	"github.com/siptunnel/siptunnel/internal/sdp"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

const (
	domain       = "bench.invalid"
	answerWithin = 10 * time.Second
	voiceEvery   = 20 * time.Millisecond // one G.711 packet
	voiceBytes   = 160
)

// pbx answers every REGISTER and INVITE at once. It is as little of a PBX as the
// programs under test can be measured with.
type pbx struct {
	conn *net.UDPConn
	wg   sync.WaitGroup

	mu    sync.Mutex
	calls map[string]*media // by Call-ID
}

func startPBX() (*pbx, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	p := &pbx{conn: conn, calls: make(map[string]*media)}
	p.wg.Add(1)
	go p.serve()
	return p, nil
}

func (p *pbx) addr() netip.AddrPort { return p.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *pbx) close() {
	p.conn.Close()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.calls {
		m.conn.Close()
	}
}

func (p *pbx) serve() {
	defer p.wg.Done()
	buf := make([]byte, 65535)
	var m sipmsg.Message
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || m.Parse(buf[:n]) != nil || !m.IsRequest() {
			continue
		}
		switch string(m.Method()) {
		case "ACK":
		case "REGISTER":
			contact, _ := m.HeaderValue(sipmsg.Contact)
			p.answer(&m, from, "Contact: "+string(contact)+";expires=3600\r\n", "")
		case "INVITE":
			if media, err := p.call(&m); err == nil {
				p.answer(&m, from, fmt.Sprintf("Contact: <sip:%s>\r\nContent-Type: application/sdp\r\n", p.addr()), describe(media.addr()))
			}
		default:
			p.answer(&m, from, "", "")
		}
	}
}

// call opens the PBX's media of a new call, or finds that of a repeated INVITE.
func (p *pbx) call(m *sipmsg.Message) (*media, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := string(m.CallID())
	if c := p.calls[id]; c != nil {
		return c, nil
	}
	c, err := newMedia(m.Body())
	if err == nil {
		p.calls[id] = c
	}
	return c, err
}

func (p *pbx) media(callID string) *media {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[callID]
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
	p.conn.WriteToUDPAddrPort(b, to)
}

func describe(at netip.AddrPort) string {
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n", at.Addr(), at.Addr(), at.Port())
}

// media is one end of a call: a socket that sends and counts RTP.
type media struct {
	conn     *net.UDPConn
	to       netip.AddrPort
	sent     int
	received atomic.Int64
	done     chan struct{}
}

// newMedia opens a socket that sends to where description says; an empty one
// leaves that to later.
func newMedia(description []byte) (*media, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	m := &media{conn: conn, done: make(chan struct{})}
	if len(description) > 0 {
		if err := m.peer(description); err != nil {
			conn.Close()
			return nil, err
		}
	}
	go m.count()
	return m, nil
}

func (m *media) peer(description []byte) error {
	var d sdp.Description
	if err := d.Parse(description); err != nil {
		return err
	}
	if len(d.Media()) != 1 {
		return errors.New("SDP without one m-line")
	}
	m.to = d.Media()[0].RTPAddr()
	return nil
}

func (m *media) addr() netip.AddrPort { return m.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (m *media) count() {
	defer close(m.done)
	buf := make([]byte, 1500)
	for {
		if _, _, err := m.conn.ReadFromUDPAddrPort(buf); err != nil {
			return
		}
		m.received.Add(1)
	}
}

func (m *media) close() {
	m.conn.Close()
	<-m.done
}

// phone is a scripted phone on a socket of its own.
type phone struct {
	conn  *net.UDPConn
	proxy netip.AddrPort
	user  string
	seq   int
	call  *media
	id    string
	wait  time.Duration // for an answer
}

func newPhone(proxy netip.AddrPort, n int) (*phone, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	return &phone{conn: conn, proxy: proxy, user: strconv.Itoa(1000 + n), id: fmt.Sprintf("call-%d", n), wait: answerWithin}, nil
}

func (p *phone) close() {
	p.conn.Close()
	if p.call != nil {
		p.call.close()
	}
}

func (p *phone) register() error {
	_, err := p.request("REGISTER", "reg-"+p.id, fmt.Sprintf("Contact: <sip:%s@%s>\r\nExpires: 3600\r\n", p.user, p.conn.LocalAddr()), "")
	return err
}

func (p *phone) invite() error {
	m, err := newMedia(nil)
	if err != nil {
		return err
	}
	p.call = m
	contact := fmt.Sprintf("Contact: <sip:%s@%s>\r\n", p.user, p.conn.LocalAddr())
	body, err := p.request("INVITE", p.id, contact+"Content-Type: application/sdp\r\n", describe(m.addr()))
	if err != nil {
		return err
	}
	if err := m.peer(body); err != nil {
		return err
	}
	return p.send("ACK", p.id, contact, "")
}

func (p *phone) send(method, callID, headers, body string) error {
	if method != "ACK" {
		p.seq++
	}
	to := ""
	if method == "ACK" {
		to = ";tag=pbx"
	}
	b := fmt.Appendf(nil, "%s sip:600@%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-%s-%s-%d\r\nFrom: <sip:%s@%s>;tag=%s\r\nTo: <sip:600@%s>%s\r\n"+
		"Call-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n%sContent-Length: %d\r\n\r\n%s",
		method, domain, p.conn.LocalAddr(), method, callID, p.seq, p.user, domain, p.user, domain, to, callID, p.seq, method, headers, len(body), body)
	_, err := p.conn.WriteToUDPAddrPort(b, p.proxy)
	return err
}

// request sends a request and returns the body of its 200.
func (p *phone) request(method, callID, headers, body string) ([]byte, error) {
	if err := p.send(method, callID, headers, body); err != nil {
		return nil, err
	}
	p.conn.SetReadDeadline(time.Now().Add(p.wait))
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
		switch status := m.StatusCode(); {
		case status < 200:
		case status == 200:
			return m.Body(), nil
		default:
			return nil, fmt.Errorf("%s: %d %s", method, status, m.Reason())
		}
	}
}

// talk sends voice from every end of ends for d, paced as phones do: each end a
// packet every 20 ms, spread over that time.
func talk(ends []*media, d time.Duration) error {
	packets := make([][]byte, len(ends))
	for i := range ends {
		p := rtp.Packet{Header: rtp.Header{Version: 2, SSRC: uint32(i + 1)}, Payload: make([]byte, voiceBytes)}
		b, err := p.Marshal()
		if err != nil {
			return err
		}
		packets[i] = b
	}
	const slots = 10
	tick := time.NewTicker(voiceEvery / slots)
	defer tick.Stop()
	start := time.Now()
	for slot := 0; time.Since(start) < d; {
		// A late tick is made up for: the rate is what counts.
		for due := int(time.Since(start) / (voiceEvery / slots)); slot < due; slot++ {
			for i := slot % slots; i < len(ends); i += slots {
				n := ends[i].sent
				binary.BigEndian.PutUint16(packets[i][2:], uint16(n))
				binary.BigEndian.PutUint32(packets[i][4:], uint32(n*voiceBytes))
				if _, err := ends[i].conn.WriteToUDPAddrPort(packets[i], ends[i].to); err != nil {
					return err
				}
				ends[i].sent++
			}
		}
		<-tick.C
	}
	return nil
}
