package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// account is who the phone is, and where its PBX is.
type account struct {
	user, password, domain string
	pbx                    string // host:port
}

// phone is a SIP user agent on one socket.
type phone struct {
	account
	addr    *net.UDPAddr
	conn    net.PacketConn
	ua      *sipgo.UserAgent
	client  *sipgo.Client
	dialogs *sipgo.DialogClientCache
	serving sync.WaitGroup
}

// newPhone makes a phone that sends and receives SIP on conn, as it would on a UDP socket.
func newPhone(conn net.PacketConn, a account) (*phone, error) {
	p := &phone{account: a, addr: conn.LocalAddr().(*net.UDPAddr), conn: conn}
	logger := slog.New(slog.DiscardHandler)
	var err error
	p.ua, err = sipgo.NewUA(
		sipgo.WithUserAgent(a.user),
		sipgo.WithUserAgentHostname(a.domain),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(logger)),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(logger)),
	)
	if err != nil {
		return nil, err
	}
	p.client, err = sipgo.NewClient(p.ua,
		sipgo.WithClientLogger(logger),
		sipgo.WithClientAddr(p.addr.String()),
		sipgo.WithClientConnectionAddr(p.addr.String()),
	)
	if err != nil {
		return nil, err
	}
	server, err := sipgo.NewServer(p.ua, sipgo.WithServerLogger(logger))
	if err != nil {
		return nil, err
	}
	p.dialogs = sipgo.NewDialogClientCache(p.client, sip.ContactHeader{Address: p.contact()})
	server.OnBye(func(req *sip.Request, tx sip.ServerTransaction) {
		if err := p.dialogs.ReadBye(req, tx); err != nil {
			_ = tx.Respond(sip.NewResponseFromRequest(req, sip.StatusCallTransactionDoesNotExists, "No Such Call", nil))
		}
	})
	// PBXs ask in this way whether a phone is still there.
	server.OnOptions(func(req *sip.Request, tx sip.ServerTransaction) {
		_ = tx.Respond(sip.NewResponseFromRequest(req, sip.StatusOK, "OK", nil))
	})
	ready := make(chan struct{})
	p.serving.Go(func() { _ = server.ServeUDP(&readyConn{PacketConn: conn, ready: ready}) })
	<-ready
	return p, nil
}

// readyConn tells when sipgo begins to read: from then on it sends from this socket too, and from no
// other.
type readyConn struct {
	net.PacketConn
	once  sync.Once
	ready chan struct{}
}

func (c *readyConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.once.Do(func() { close(c.ready) })
	return c.PacketConn.ReadFrom(b)
}

func (p *phone) close() error {
	err := p.ua.Close()
	_ = p.conn.Close()
	p.serving.Wait()
	return err
}

func (p *phone) contact() sip.Uri {
	return sip.Uri{Scheme: "sip", User: p.user, Host: p.addr.IP.String(), Port: p.addr.Port}
}

// outgoing sends a request from the phone's socket to the PBX, wherever its URI points.
func (p *phone) outgoing(req *sip.Request) *sip.Request {
	req.Laddr = sip.Addr{IP: p.addr.IP, Port: p.addr.Port}
	req.SetDestination(p.pbx)
	return req
}

// register registers for the given time, or unregisters with zero.
func (p *phone) register(ctx context.Context, expires time.Duration) error {
	req := p.outgoing(sip.NewRequest(sip.REGISTER, sip.Uri{Scheme: "sip", Host: p.domain}))
	req.AppendHeader(&sip.ToHeader{Address: sip.Uri{Scheme: "sip", User: p.user, Host: p.domain}})
	req.AppendHeader(&sip.ContactHeader{Address: p.contact()})
	req.AppendHeader(sip.NewHeader("Expires", fmt.Sprint(int(expires.Seconds()))))
	res, err := p.client.Do(ctx, req, sipgo.ClientRequestRegisterBuild)
	if err == nil && res.StatusCode == sip.StatusUnauthorized {
		res, err = p.client.DoDigestAuth(ctx, req, res, sipgo.DigestAuth{Username: p.user, Password: p.password})
	}
	switch {
	case err != nil:
		return fmt.Errorf("REGISTER: %w", err)
	case !res.IsSuccess():
		return fmt.Errorf("REGISTER: %s", res.StartLine())
	}
	return nil
}

// invite calls a number, with audio at the given address, and waits until it answers. The answer's SDP
// is of no interest to the phone: the tunnel sends the audio where it says.
func (p *phone) invite(ctx context.Context, number string, media net.Addr) (*sipgo.DialogClientSession, error) {
	req := p.outgoing(sip.NewRequest(sip.INVITE, sip.Uri{Scheme: "sip", User: number, Host: p.domain}))
	req.AppendHeader(&sip.ContactHeader{Address: p.contact()})
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	req.SetBody(offer(media.(*net.UDPAddr)))
	call, err := p.dialogs.WriteInvite(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("INVITE: %w", err)
	}
	if err := call.WaitAnswer(ctx, sipgo.AnswerOptions{Username: p.user, Password: p.password}); err != nil {
		return nil, fmt.Errorf("call to %s: %w", number, err)
	}
	if err := call.WriteAck(ctx, p.outgoing(p.inCall(call, sip.ACK))); err != nil {
		return nil, fmt.Errorf("ACK: %w", err)
	}
	return call, nil
}

func (p *phone) hangUp(ctx context.Context, call *sipgo.DialogClientSession) error {
	return call.WriteBye(ctx, p.outgoing(p.inCall(call, sip.BYE)))
}

// inCall makes a request within a call; sipgo fills in the rest.
func (p *phone) inCall(call *sipgo.DialogClientSession, method sip.RequestMethod) *sip.Request {
	target := call.InviteRequest.Recipient
	if c := call.InviteResponse.Contact(); c != nil {
		target = c.Address
	}
	return sip.NewRequest(method, target)
}

// offer is SDP for PCMU at an address.
func offer(addr *net.UDPAddr) []byte {
	family := "IP4"
	if addr.IP.To4() == nil {
		family = "IP6"
	}
	return fmt.Appendf(nil, "v=0\r\no=- 1 1 IN %[1]s %[2]s\r\ns=-\r\nc=IN %[1]s %[2]s\r\nt=0 0\r\n"+
		"m=audio %[3]d RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n", family, addr.IP, addr.Port)
}
