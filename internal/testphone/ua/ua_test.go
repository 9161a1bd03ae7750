package ua

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
)

// peer is the other side of an Agent: a UDP socket, and a test that writes what it answers.
type peer struct {
	*testing.T
	conn  *net.UDPConn
	agent netip.AddrPort
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &peer{T: t, conn: conn}
}

func (p *peer) addr() netip.AddrPort { return p.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

func (p *peer) uri() sip.Uri {
	return sip.Uri{Scheme: "sip", User: "peer", Host: "127.0.0.1", Port: int(p.addr().Port())}
}

// read returns the next message that has the method, or is a response to one; others are passed over.
func (p *peer) read(method sip.RequestMethod) sip.Message {
	p.Helper()
	buffer := make([]byte, 65535)
	for {
		n, source, err := p.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			p.Fatalf("waiting for %s: %v", method, err)
		}
		p.agent = source
		message, err := sip.NewParser().ParseSIP(buffer[:n])
		if err != nil {
			p.Fatalf("%v in\n%s", err, buffer[:n])
		}
		if message.CSeq().MethodName == method {
			message.SetSource(source.String())
			return message
		}
	}
}

func (p *peer) request(method sip.RequestMethod) *sip.Request {
	p.Helper()
	req, ok := p.read(method).(*sip.Request)
	if !ok {
		p.Fatalf("a response to %s", method)
	}
	return req
}

func (p *peer) response(method sip.RequestMethod) *sip.Response {
	p.Helper()
	res, ok := p.read(method).(*sip.Response)
	if !ok {
		p.Fatalf("a request %s", method)
	}
	return res
}

func (p *peer) send(message fmt.Stringer) {
	p.Helper()
	if _, err := p.conn.WriteToUDPAddrPort([]byte(message.String()), p.agent); err != nil {
		p.Fatal(err)
	}
}

// answer answers a request; the tag makes it a dialog.
func (p *peer) answer(req *sip.Request, code int, headers ...string) {
	p.Helper()
	req = req.Clone()
	if code > 100 {
		req.To().Params.Add("tag", "peer-tag")
	}
	res := sip.NewResponseFromRequest(req, code, "Some Reason", nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		res.AppendHeader(sip.NewHeader(name, value))
	}
	p.send(res)
}

func listen(t *testing.T, cfg Config) *Agent {
	t.Helper()
	cfg.Addr = netip.MustParseAddrPort("127.0.0.1:0")
	a, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// result is what Invite returns.
type result struct {
	dialog *Dialog
	err    error
}

func (p *peer) invite(ctx context.Context, a *Agent, progress func(*sip.Response)) <-chan result {
	done := make(chan result, 1)
	go func() {
		d, _, err := a.Invite(ctx, Request{
			URI: p.uri(), From: sip.Uri{Scheme: "sip", User: "agent", Host: "example.com"}, To: p.uri(),
			Transport: "udp", NextHop: p.addr(), Route: true, Body: []byte("v=0\r\n"),
			Credentials: Credentials{User: "agent", Password: "secret"},
		}, progress)
		done <- result{d, err}
	}()
	return done
}

func branch(m sip.Message) string {
	b, _ := m.Via().Params.Get("branch")
	return b
}

func TestRouteSet(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{})
	done := p.invite(t.Context(), a, nil)
	invite := p.request(sip.INVITE)
	if got := Values(invite.GetHeaders("Route")); !slices.Equal(got, []string{fmt.Sprintf("<sip:%s;lr>", p.addr())}) {
		t.Errorf("preloaded route %q", got)
	}
	// The top of Record-Route is nearest to the callee; a caller turns the list around.
	hop := fmt.Sprintf("<sip:%s;lr>", p.addr())
	p.answer(invite, 200, "Contact: <sip:far@192.0.2.1:5070>", `Record-Route: <sip:a@192.0.2.2;lr>, "B, C" <sip:192.0.2.3;lr>`, "Record-Route: "+hop)
	ack := p.request(sip.ACK)
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.dialog.Bye(t.Context()) }()
	bye := p.request(sip.BYE)
	p.answer(bye, 200)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// sipgo keeps the URIs, not the names before them.
	want := []string{hop, "<sip:192.0.2.3;lr>", "<sip:a@192.0.2.2;lr>"}
	for _, req := range []*sip.Request{ack, bye} {
		if got := Values(req.GetHeaders("Route")); !slices.Equal(got, want) {
			t.Errorf("%s has the route %q, want %q", req.Method, got, want)
		}
		if got := req.Recipient.String(); got != "sip:far@192.0.2.1:5070" {
			t.Errorf("%s goes to %s", req.Method, got)
		}
		if branch(req) == branch(invite) {
			t.Errorf("%s has the branch of the INVITE", req.Method)
		}
	}
	if ack.CSeq().SeqNo != invite.CSeq().SeqNo || bye.CSeq().SeqNo != invite.CSeq().SeqNo+1 {
		t.Errorf("CSeq %d, %d, %d", invite.CSeq().SeqNo, ack.CSeq().SeqNo, bye.CSeq().SeqNo)
	}
}

func TestAckForEachRetransmission(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{})
	done := p.invite(t.Context(), a, nil)
	invite := p.request(sip.INVITE)
	for range 3 {
		p.answer(invite, 200)
		p.request(sip.ACK)
	}
	if r := <-done; r.err != nil {
		t.Error(r.err)
	}
}

func TestCancelWaitsForProvisional(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{})
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := p.invite(ctx, a, func(*sip.Response) { t.Error("progress after the end of the context") })
	invite := p.request(sip.INVITE)
	cancel(stop)
	// The INVITE is sent again before anything else: no CANCEL so far.
	if again := p.read(sip.INVITE); branch(again) != branch(invite) {
		t.Error("a second INVITE")
	}
	p.answer(invite, 180)
	got := p.request(sip.CANCEL)
	if branch(got) != branch(invite) || got.CSeq().SeqNo != invite.CSeq().SeqNo || got.Recipient.String() != invite.Recipient.String() ||
		got.To().Params.Has("tag") || !slices.Equal(Values(got.GetHeaders("Route")), Values(invite.GetHeaders("Route"))) {
		t.Errorf("INVITE and CANCEL differ:\n%s\n%s", invite, got)
	}
	p.answer(got, 200)
	p.answer(invite, 487)
	p.request(sip.ACK)
	if r := <-done; !errors.Is(r.err, stop) {
		t.Errorf("got %v", r.err)
	}
}

func TestAnswerCrossesCancel(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{})
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := p.invite(ctx, a, func(*sip.Response) { cancel(stop) })
	invite := p.request(sip.INVITE)
	p.answer(invite, 180)
	got := p.request(sip.CANCEL)
	p.answer(invite, 200)
	p.answer(got, 481)
	p.request(sip.ACK)
	p.answer(p.request(sip.BYE), 200)
	if r := <-done; !errors.Is(r.err, stop) || r.dialog != nil {
		t.Errorf("got %v", r)
	}
}

func TestChallenges(t *testing.T) {
	const challenge = `Proxy-Authenticate: Digest realm="x", nonce="%s", algorithm=MD5, qop="auth"%s`
	for name, test := range map[string]struct {
		second string // what follows the answer to the challenge; empty: 200
		code   int
	}{
		"answered": {},
		"stale":    {second: fmt.Sprintf(challenge, "n2", ", stale=true")},
		"refused":  {second: fmt.Sprintf(challenge, "n2", ""), code: 407},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			a := listen(t, Config{})
			done := p.invite(t.Context(), a, nil)
			first := p.request(sip.INVITE)
			p.answer(first, 407, fmt.Sprintf(challenge, "n1", ""))
			p.request(sip.ACK)
			second := p.request(sip.INVITE)
			credentials := second.GetHeader("Proxy-Authorization")
			if credentials == nil || !strings.Contains(credentials.Value(), `nonce="n1"`) || second.CSeq().SeqNo != first.CSeq().SeqNo+1 ||
				*second.CallID() != *first.CallID() || branch(second) == branch(first) {
				t.Fatalf("second INVITE:\n%s", second)
			}
			last := second
			if test.second != "" {
				p.answer(second, 407, test.second)
				p.request(sip.ACK)
			}
			if test.code == 0 {
				if test.second != "" {
					last = p.request(sip.INVITE)
					if all := last.GetHeaders("Proxy-Authorization"); len(all) != 1 || !strings.Contains(all[0].Value(), `nonce="n2"`) {
						t.Errorf("third INVITE:\n%s", last)
					}
				}
				p.answer(last, 200)
				p.request(sip.ACK)
			}
			r := <-done
			var status *StatusError
			if errors.As(r.err, &status); (r.err == nil) != (test.code == 0) || r.err != nil && status.Code != test.code {
				t.Errorf("got %v", r.err)
			}
		})
	}
}

// TestAnswerIsRepeated shows that a 200 is sent again until its ACK has come.
func TestAnswerIsRepeated(t *testing.T) {
	p := newPeer(t)
	dialogs := make(chan *Dialog, 1)
	a := listen(t, Config{Invite: func(in *Incoming) {
		d, err := in.Answer([]byte("v=0\r\n"), nil)
		if err != nil {
			t.Error(err)
		}
		dialogs <- d
	}})
	p.agent = a.Addr()
	invite := sip.NewRequest(sip.INVITE, a.Contact("agent", "udp"))
	for _, h := range []string{
		fmt.Sprintf("Via: SIP/2.0/UDP %s;branch=z9hG4bKpeer;rport", p.addr()), "From: <sip:peer@example.com>;tag=p",
		"To: <sip:agent@example.com>", "Call-ID: call", "CSeq: 7 INVITE", "Max-Forwards: 70", "Content-Length: 0",
		fmt.Sprintf("Contact: <sip:peer@%s>", p.addr()), "Record-Route: <sip:192.0.2.1;lr>", fmt.Sprintf("Record-Route: <sip:%s;lr>", p.addr()),
	} {
		name, value, _ := strings.Cut(h, ": ")
		invite.AppendHeader(sip.NewHeader(name, value))
	}
	p.send(invite)
	var tags []string
	for len(tags) < 3 {
		res := p.response(sip.INVITE)
		if res.StatusCode == 200 {
			tag, _ := res.To().Params.Get("tag")
			tags = append(tags, tag)
		}
	}
	if tags[0] == "" || tags[0] != tags[1] || tags[0] != tags[2] {
		t.Errorf("tags %q", tags)
	}
	d := <-dialogs
	// A callee keeps the order of Record-Route.
	if want := []string{"<sip:192.0.2.1;lr>", fmt.Sprintf("<sip:%s;lr>", p.addr())}; !slices.Equal(d.routes, want) {
		t.Errorf("route set %q", d.routes)
	}
	ack := invite.Clone()
	ack.Method = sip.ACK
	ack.RemoveHeader("CSeq")
	ack.AppendHeader(sip.NewHeader("CSeq", "7 ACK"))
	ack.RemoveHeader("To")
	ack.AppendHeader(sip.NewHeader("To", "<sip:agent@example.com>;tag="+tags[0]))
	ack.RemoveHeader("Via")
	ack.AppendHeader(sip.NewHeader("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=z9hG4bKack;rport", p.addr())))
	d.mu.Lock()
	acknowledged := d.ack
	d.mu.Unlock()
	p.send(ack)
	select {
	case <-acknowledged:
	case <-time.After(5 * time.Second):
		t.Error("the ACK is not taken")
	}
}

func TestOutsideDialogs(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{Software: "test/1"})
	p.agent = a.Addr()
	for method, code := range map[sip.RequestMethod]int{
		sip.OPTIONS: 200, sip.BYE: 481, sip.CANCEL: 481, sip.INVITE: 480, sip.REGISTER: 405, sip.MESSAGE: 405,
	} {
		req := sip.NewRequest(method, a.Contact("agent", "udp"))
		for _, h := range []string{
			fmt.Sprintf("Via: SIP/2.0/UDP %s;branch=z9hG4bK%s;rport", p.addr(), method), "From: <sip:peer@example.com>;tag=p",
			"To: <sip:agent@example.com>", "Call-ID: call", fmt.Sprintf("CSeq: 1 %s", method), "Max-Forwards: 70", "Content-Length: 0",
		} {
			name, value, _ := strings.Cut(h, ": ")
			req.AppendHeader(sip.NewHeader(name, value))
		}
		p.send(req)
		res := p.response(method)
		for res.IsProvisional() {
			res = p.response(method)
		}
		if res.StatusCode != code {
			t.Errorf("%s: got %d, want %d", method, res.StatusCode, code)
		}
		if server := res.GetHeader("Server"); server == nil || server.Value() != "test/1" {
			t.Errorf("%s: no Server", method)
		}
		if code == 405 && res.GetHeader("Allow") == nil {
			t.Errorf("%s: no Allow", method)
		}
	}
}

func TestAcceptDropsInSilence(t *testing.T) {
	friend, stranger := newPeer(t), newPeer(t)
	a := listen(t, Config{Accept: func(source netip.AddrPort) bool { return source == friend.addr() }})
	options := func(p *peer) {
		p.agent = a.Addr()
		p.send(stringer(fmt.Sprintf("OPTIONS sip:x@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bKx%d;rport\r\n"+
			"From: <sip:a@b>;tag=p\r\nTo: <sip:x@b>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", p.addr(), p.addr().Port())))
	}
	options(stranger)
	options(friend)
	friend.response(sip.OPTIONS)
	// Both were read in order, so an answer to the stranger would be on its way before the friend's.
	if err := stranger.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := stranger.conn.ReadFromUDPAddrPort(make([]byte, 1500)); err == nil {
		t.Errorf("the stranger was answered with %d bytes", n)
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

func TestClosed(t *testing.T) {
	p := newPeer(t)
	a := listen(t, Config{})
	done := p.invite(t.Context(), a, nil)
	p.request(sip.INVITE)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if r := <-done; !errors.Is(r.err, ErrClosed) {
		t.Errorf("INVITE under way: %v", r.err)
	}
	if r := <-p.invite(t.Context(), a, nil); !errors.Is(r.err, ErrClosed) {
		t.Errorf("INVITE afterwards: %v", r.err)
	}
	if _, err := a.Do(t.Context(), Request{Method: sip.OPTIONS, URI: p.uri(), Transport: "udp"}); !errors.Is(err, ErrClosed) {
		t.Errorf("OPTIONS afterwards: %v", err)
	}
}

func TestCredentialsDoNotPrint(t *testing.T) {
	c := Credentials{User: "alice", Password: "secret"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, c) + fmt.Sprintf(format, Request{Credentials: c}); strings.Contains(got, "secret") {
			t.Errorf("%s prints %q", format, got)
		}
	}
}
