// Package ua is the user agent core that the test phone and the embedded PBX share: sockets, digest,
// and dialogs on top of the transactions of sipgo.
//
// sipgo has dialogs of its own. They are not used because they send CANCEL and ACK to where the
// request URI points, which is wrong behind an outbound proxy, and because a test needs to see each
// response and each retransmission. The rules here are those of RFC 3261 sections 12 to 15: requests
// in a dialog follow its route set, a 2xx is sent again until its ACK has come, a CANCEL waits for a
// provisional response, and a 2xx that crosses a CANCEL is acknowledged and hung up.
package ua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// settleTime is what messages under way have to be handled when an Agent is closed.
const settleTime = 10 * time.Millisecond

// ErrClosed is returned by everything that was under way when the Agent was closed.
var ErrClosed = errors.New("SIP user agent closed")

// allowed is what an Agent says in Allow; REGISTER comes on top where it is served.
var allowed = []string{"INVITE", "ACK", "CANCEL", "BYE", "OPTIONS"}

// Config describes an Agent.
type Config struct {
	// Addr is the address to bind. It has to name an address of this host, because it appears in Via
	// and Contact. Port 0 takes a free port.
	Addr netip.AddrPort
	// TCP makes the agent accept connections on the same port number too.
	TCP bool
	// Software is sent as User-Agent and Server.
	Software string
	// Accept says whose SIP is read; nil reads everybody's. What it refuses is dropped in silence.
	Accept func(source netip.AddrPort) bool
	// Invite is called in a goroutine of its own for each INVITE outside a dialog. It has to call
	// Answer or Reject before it returns; else the caller is told 480. Nil refuses all.
	Invite func(*Incoming)
	// Register answers REGISTER requests; nil refuses them.
	Register func(*sip.Request) *sip.Response
	// Logger gets what sipgo logs; nil discards it.
	Logger *slog.Logger
}

// Agent is a SIP endpoint on one address. Make it with Listen. It is safe for concurrent use.
type Agent struct {
	cfg    Config
	addr   netip.AddrPort
	core   *sipgo.UserAgent
	client *sipgo.Client
	udp    net.PacketConn
	tcp    net.Listener // nil without TCP

	ctx    context.Context // ends when the Agent is closed
	cancel context.CancelCauseFunc

	mu       sync.Mutex
	closed   bool
	dialogs  map[dialogKey]*Dialog
	handlers sync.WaitGroup // running handlers and retransmissions
	servers  sync.WaitGroup // readers of udp and tcp
}

// dialogKey finds the dialog of a request: Call-ID and the tag of this side.
type dialogKey struct{ callID, localTag string }

// Listen binds the sockets and begins to serve.
func Listen(cfg Config) (*Agent, error) {
	if !cfg.Addr.Addr().IsValid() || cfg.Addr.Addr().IsUnspecified() {
		return nil, fmt.Errorf("SIP address %s: name one address of this host", cfg.Addr)
	}
	udp, tcp, err := bind(cfg.Addr, cfg.TCP)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:     cfg,
		addr:    udp.LocalAddr().(*net.UDPAddr).AddrPort(),
		udp:     udp,
		tcp:     tcp,
		dialogs: make(map[dialogKey]*Dialog),
	}
	a.addr = netip.AddrPortFrom(a.addr.Addr().Unmap(), a.addr.Port())
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	if err := a.start(); err != nil {
		a.closeSockets()
		return nil, err
	}
	return a, nil
}

// bindAttempts bounds the search for a port number that is free for UDP and TCP.
const bindAttempts = 50

func bind(addr netip.AddrPort, withTCP bool) (udp net.PacketConn, tcp net.Listener, err error) {
	for range bindAttempts {
		udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		if err != nil {
			return nil, nil, fmt.Errorf("open the SIP port: %w", err)
		}
		if !withTCP {
			return udp, nil, nil
		}
		tcp, err = net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp, nil
		}
		err = fmt.Errorf("open the SIP port: %w", errors.Join(err, udp.Close()))
		if addr.Port() != 0 {
			break
		}
	}
	return nil, nil, err
}

func (a *Agent) start() error {
	logger := a.cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	core, err := sipgo.NewUA(
		sipgo.WithUserAgent(a.cfg.Software),
		sipgo.WithUserAgentTransportLayerOptions(
			sip.WithTransportLayerLogger(logger),
			sip.WithTransportLayerReadFilter(a.filter),
		),
		sipgo.WithUserAgentTransactionLayerOptions(
			sip.WithTransactionLayerLogger(logger),
			sip.WithTransactionLayerUnhandledResponseHandler(func(*sip.Response) {}),
		),
	)
	if err != nil {
		return err
	}
	a.core = core
	a.client, err = sipgo.NewClient(core,
		sipgo.WithClientLogger(logger),
		sipgo.WithClientHostname(a.addr.Addr().String()),
		sipgo.WithClientPort(int(a.addr.Port())),
		sipgo.WithClientNAT(), // asks for rport
	)
	if err != nil {
		return err
	}
	server, err := sipgo.NewServer(core, sipgo.WithServerLogger(logger))
	if err != nil {
		return err
	}
	a.route(server)

	ready := make(chan struct{})
	a.servers.Go(func() { _ = server.ServeUDP(&readyConn{PacketConn: a.udp, ready: ready}) })
	if a.tcp != nil {
		a.servers.Go(func() { _ = server.ServeTCP(a.tcp) })
	}
	<-ready
	return nil
}

// readyConn tells when sipgo reads from the socket for the first time: from then on it knows the
// socket and requests can be sent from it.
type readyConn struct {
	net.PacketConn
	once  sync.Once
	ready chan struct{}
}

func (c *readyConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.once.Do(func() { close(c.ready) })
	return c.PacketConn.ReadFrom(b)
}

// filter sees what was read before sipgo does. A closing Agent reads nothing more: sipgo would open
// sockets to answer.
func (a *Agent) filter(props sip.TransportReadProps, data []byte) ([]byte, error) {
	if a.ctx.Err() != nil {
		return nil, nil
	}
	if a.cfg.Accept == nil {
		return data, nil
	}
	source, err := netip.ParseAddrPort(props.RemoteAddr.String())
	if err != nil || !a.cfg.Accept(netip.AddrPortFrom(source.Addr().Unmap(), source.Port())) {
		return nil, nil
	}
	return data, nil
}

func (a *Agent) route(server *sipgo.Server) {
	server.OnInvite(a.handler(a.handleInvite))
	server.OnAck(a.handler(a.handleAck))
	server.OnBye(a.handler(a.handleBye))
	server.OnOptions(a.handler(a.handleOptions))
	// sipgo itself answers a CANCEL that matches an INVITE.
	server.OnCancel(a.handler(func(req *sip.Request, tx sip.ServerTransaction) {
		a.respond(tx, a.NewResponse(req, sip.StatusCallTransactionDoesNotExists, "Call/Transaction Does Not Exist"))
	}))
	if a.cfg.Register != nil {
		server.OnRegister(a.handler(func(req *sip.Request, tx sip.ServerTransaction) {
			a.respond(tx, a.cfg.Register(req))
		}))
	}
	server.OnNoRoute(a.handler(func(req *sip.Request, tx sip.ServerTransaction) {
		res := a.NewResponse(req, sip.StatusMethodNotAllowed, "Method Not Allowed")
		a.respond(tx, a.allow(res))
	}))
}

// handler counts the running handlers, so that Close can wait for them.
func (a *Agent) handler(f sipgo.RequestHandler) sipgo.RequestHandler {
	return func(req *sip.Request, tx sip.ServerTransaction) {
		if !a.enter() {
			return
		}
		defer a.handlers.Done()
		f(req, tx)
	}
}

// enter reports whether the Agent is open; each success is to be followed by handlers.Done.
func (a *Agent) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.handlers.Add(1)
	return true
}

// Addr is the address that the Agent is bound to.
func (a *Agent) Addr() netip.AddrPort { return a.addr }

// Contact is the URI under which the Agent can be reached over a transport ("udp" or "tcp").
func (a *Agent) Contact(user, transport string) sip.Uri {
	uri := sip.Uri{Scheme: "sip", User: user, Host: a.addr.Addr().String(), Port: int(a.addr.Port())}
	if strings.EqualFold(transport, "tcp") {
		uri.UriParams.Add("transport", "tcp")
	}
	return uri
}

// Close ends everything that is under way, without telling the peers, and waits for it. Hang up
// calls before.
func (a *Agent) Close() error {
	a.mu.Lock()
	first := !a.closed
	a.closed = true
	dialogs := slices.Collect(maps.Values(a.dialogs))
	a.mu.Unlock()
	if !first {
		return nil
	}
	a.cancel(ErrClosed)
	for _, d := range dialogs {
		d.end("user agent closed")
	}
	a.handlers.Wait()
	// Nothing more is read, but sipgo handles each message in a goroutine that nobody can wait for,
	// and opens a new socket to answer when it finds the old one gone. It gets a moment to finish; a
	// straggler is closed a little later.
	time.Sleep(settleTime)
	err := a.core.Close()
	a.closeSockets()
	a.servers.Wait()
	time.AfterFunc(time.Second, func() { _ = a.core.Close() })
	return err
}

func (a *Agent) closeSockets() {
	_ = a.udp.Close()
	if a.tcp != nil {
		_ = a.tcp.Close()
	}
}

// NewResponse makes a response with the headers that all responses of this Agent have.
func (a *Agent) NewResponse(req *sip.Request, code int, reason string) *sip.Response {
	res := sip.NewResponseFromRequest(req, code, reason, nil)
	if a.cfg.Software != "" {
		res.AppendHeader(sip.NewHeader("Server", a.cfg.Software))
	}
	return res
}

func (a *Agent) allow(res *sip.Response) *sip.Response {
	methods := allowed
	if a.cfg.Register != nil {
		methods = append(slices.Clone(methods), "REGISTER")
	}
	res.AppendHeader(sip.NewHeader("Allow", strings.Join(methods, ", ")))
	return res
}

// respond sends a response. An error means that the transport is gone, and the peer with it.
func (a *Agent) respond(tx sip.ServerTransaction, res *sip.Response) {
	_ = tx.Respond(res)
}

func (a *Agent) handleOptions(req *sip.Request, tx sip.ServerTransaction) {
	res := a.allow(a.NewResponse(req, sip.StatusOK, "OK"))
	res.AppendHeader(sip.NewHeader("Accept", "application/sdp"))
	a.respond(tx, res)
}

func (a *Agent) handleBye(req *sip.Request, tx sip.ServerTransaction) {
	d := a.dialog(req)
	if d == nil {
		a.respond(tx, a.NewResponse(req, sip.StatusCallTransactionDoesNotExists, "Call/Transaction Does Not Exist"))
		return
	}
	// In this order: who has got the answer may rely on the end.
	d.end("hung up by the other side")
	a.respond(tx, a.NewResponse(req, sip.StatusOK, "OK"))
}

func (a *Agent) handleAck(req *sip.Request, _ sip.ServerTransaction) {
	if d := a.dialog(req); d != nil {
		d.acknowledged(req)
	}
}

// dialog finds the dialog that a request is in, or nil.
func (a *Agent) dialog(req *sip.Request) *Dialog {
	if req.CallID() == nil || req.To() == nil {
		return nil
	}
	tag, _ := req.To().Params.Get("tag")
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dialogs[dialogKey{string(*req.CallID()), tag}]
}
