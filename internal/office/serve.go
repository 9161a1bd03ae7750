package office

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/program"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
	"github.com/siptunnel/siptunnel/tunnel"
)

type serveCommand struct {
	settings
}

func (c *serveCommand) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	log := logging.New(s.Err, c.LogLevel, c.LogFormat)
	p := &proxy{Service: program.NewService(log), settings: &c.settings, log: log, started: time.Now(), settled: make(chan struct{})}
	return p.Run(ctx, func() error { return p.start(common.StateDir, s) }, p.settled)
}

// proxy is a running tunnelproxy.
type proxy struct {
	*program.Service
	settings *settings
	place    *place
	access   *access
	log      *zap.Logger
	started  time.Time

	counters counter.Set
	ledger   admin.Ledger
	client   *tunnel.Client
	pool     *pool
	side     *sipfwd.LANSide
	memory   *memory
	events   events

	settled chan struct{} // closed when the first connection is made
	ending  atomic.Bool   // this end stops: that the tunnel goes down is no alarm
}

// start brings everything up, or returns an error.
func (p *proxy) start(stateDir string, s *program.Streams) error {
	var err error
	if p.access, err = p.settings.access(stateDir, s.In); err != nil {
		return err
	}
	if p.place, err = p.settings.survey(); err != nil {
		return err
	}
	dir, err := config.OpenStateDir(stateDir, name)
	if err != nil {
		return err
	}
	p.OnStop(func() { _ = dir.Close() })
	sip, err := listenSIP(p.place, p.settings.SignallingDSCP)
	if err != nil {
		return err
	}
	p.OnStop(sip.close)
	var secure *tls.Config
	if len(sip.tls) > 0 {
		if secure, err = p.settings.tlsConfig(dir, p.place.lan); err != nil {
			return err
		}
	}
	office, err := officeName(dir)
	if err != nil {
		return err
	}
	poller, err := relay.NewPoller(relay.PollerConfig{
		Wait:  func() time.Duration { return p.settings.MediaWait.Wait },
		Flush: func() { p.client.FlushMedia() },

		Counters: &p.counters,
	})
	if err != nil {
		return err
	}
	p.OnStop(func() { _ = poller.Close() })
	p.memory = openMemory(dir.Path(phonesFileName), p.log)
	if err := p.openTunnel(office, poller); err != nil {
		return err
	}
	if err := p.openControl(dir); err != nil {
		return err
	}
	p.run(sip, secure)
	return nil
}

// openTunnel makes the client, which starts to connect, and what works on it.
func (p *proxy) openTunnel(office string, poller *relay.Poller) error {
	dial := p.access.link.Config()
	dial.Software = software()
	p.events = events{proxy: p, ready: make(chan struct{})}
	dial.OnEvent = p.events.handle
	dial.MediaWait, dial.AdaptMediaWait, dial.ManualFlush = p.settings.MediaWait.Wait, p.settings.MediaWait.Auto, true
	dial.MediaDSCP, dial.SignallingDSCP = p.settings.MediaDSCP.String(), p.settings.SignallingDSCP.String()
	dial.NoDatagrams = p.settings.MediaTransport == config.MediaTCP
	var err error
	if p.client, err = tunnel.New(dial); err != nil {
		return &config.Error{Code: config.ExitConfig, Problem: "server", Err: err}
	}
	p.pool = newPool(p.allocate, p.log)
	ports := &lanPorts{low: p.settings.MediaPorts.Low, high: p.settings.MediaPorts.High, class: p.settings.MediaDSCP}
	calls := &bridges{pool: p.pool, ports: ports, poller: poller, networks: p.settings.networks(), ledger: &p.ledger, rtt: p.mediaRTT}
	p.side = sipfwd.NewLANSide(sipfwd.LANSideConfig{
		Office:     office + ":",
		LANAddress: p.place.lan,
		Tunnel:     phones{p.client},
		Allocate:   calls.Allocate,
		Networks:   p.settings.networks(),
		Neighbour:  new(neighbours).of,
		Trunks:     p.settings.trunks(),
		Class:      p.settings.SignallingDSCP,
		Kept:       p.memory.read(),
		Changed:    p.memory.changed,
		Events:     logging.Events(p.log),
		Counters:   &p.counters,
	})
	close(p.events.ready)
	p.OnStop(func() {
		_ = p.side.Close()
		_ = p.client.Close()
	})
	return nil
}

func (p *proxy) allocate(ctx context.Context) (media, error) {
	m, err := p.client.Media(ctx)
	if err != nil {
		return nil, err // And not a nil *Media in an interface.
	}
	return m, nil
}

// phones is the tunnel as sipfwd wants it.
type phones struct{ *tunnel.Client }

// OpenPhone is part of sipfwd.Tunnel.
func (t phones) OpenPhone(ctx context.Context, key string, state []byte) (sipfwd.PhoneConn, error) {
	phone, err := t.RestorePhone(ctx, key, state)
	if err != nil {
		return nil, err // And not a nil *Phone in an interface.
	}
	return phone, nil
}

func (p *proxy) openControl(dir *config.StateDir) error {
	control, err := admin.Listen(dir.Path(tunnelproxy().SocketName()))
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("GET /v1/status", admin.Route(func(*http.Request, struct{}) (admin.ProxyStatus, error) { return p.status(), nil }))
	server := admin.Serve(control, routes)
	p.OnStop(func() { _ = server.Close() })
	return nil
}

// run starts the goroutines of the proxy; the function that it gives to OnStop waits for them.
func (p *proxy) run(sip *listeners, secure *tls.Config) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.pool.run(ctx) })
	running.Go(func() { p.watch(ctx) })
	running.Go(func() { p.watchTrunks(ctx) })
	running.Go(func() { p.memory.run(ctx, p.side.Kept) })
	listen := func(at net.Addr, transport string, serve func() error) {
		running.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				p.Fail(fmt.Errorf("the listener on %v/%s broke: %w", at, transport, err))
			}
		})
	}
	for _, conn := range sip.udp {
		listen(conn.LocalAddr(), "udp", func() error { return p.side.ServeUDP(conn) })
	}
	for _, ln := range sip.tcp {
		listen(ln.Addr(), "tcp", func() error { return p.side.ServeTCP(ln) })
	}
	for _, ln := range sip.tls {
		listen(ln.Addr(), "tls", func() error { return p.side.ServeTLS(ln, secure) })
	}
	p.OnStop(func() {
		p.ending.Store(true)
		p.memory.save(p.side.Kept())
		cancel()
		_ = p.side.Close()
		running.Wait()
	})
	p.log.Info("tunnelproxy listens and connects to its server",
		zap.String("version", config.Version()), zap.Strings("sip_listen", p.place.listen.texts()), zap.Strings("sip_tls_listen", p.place.tls.texts()),
		zap.Stringers("phones_use", p.place.addresses(p.place.listen, config.LANCandidates)), zap.String("server", p.access.link.Server), zap.String("name", p.access.link.Name))
}

// mediaRTT is the round trip through the tunnel of media, 0 when it is not known.
func (p *proxy) mediaRTT() time.Duration {
	now := p.client.Status()
	if now.Datagrams {
		return now.PathRTT
	}
	return now.RTT
}

// status is the answer of a running proxy.
func (p *proxy) status() admin.ProxyStatus {
	now := p.client.Status()
	s := admin.ProxyStatus{
		Program: admin.Program{
			Name: name, Version: config.Version(), Protocol: tunnel.Protocol, PID: os.Getpid(), Started: p.started,
			Runtime: admin.RuntimeNow(),
		},
		SIPListen:    p.place.listen.texts(),
		SIPTLSListen: p.place.tls.texts(),
		Tunnel: admin.Tunnel{
			Server: now.Server, Name: p.access.link.Name, Pin: now.Pin, Session: now.Session, Up: now.Up, Since: now.Since,
			RTTMS: admin.Milliseconds(now.RTT), BytesIn: now.BytesIn, BytesOut: now.BytesOut, Connects: now.Connects,
			Domain: now.Domain,
			Path:   admin.Path{Datagrams: now.Datagrams, RTTMS: admin.Milliseconds(now.PathRTT), Loss: now.PathLoss},
		},
		Phones:   admin.PhonesOf("", p.side.Phones()),
		Trunks:   admin.TrunksOf("", p.side.Trunks()),
		Calls:    admin.CallsOf("", p.side.Calls()),
		Counters: p.counters.Snapshot(),
	}
	for _, at := range p.place.addresses(p.place.listen, config.LANCandidates) {
		s.PhonesUse = append(s.PhonesUse, at.String())
	}
	// ErrDown says that there has been no attempt yet, which is no news.
	if err := p.client.Err(); err != nil && !errors.Is(err, tunnel.ErrDown) {
		s.Tunnel.LastError = explain(p.access, err).Error()
	}
	for name, n := range now.Counters {
		s.Counters[name] += n
	}
	s.Relays, s.EndedRelays, s.RelayTotals = p.ledger.Snapshot()
	return s
}
