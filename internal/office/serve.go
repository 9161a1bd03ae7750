package office

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/config/sdnotify"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
	"github.com/siptunnel/siptunnel/tunnel"
)

// stopTimeout is how long a clean end may take before the program leaves all the same. Service managers and people
// count on five seconds.
const stopTimeout = 4500 * time.Millisecond

type serveCommand struct {
	settings
}

func (c *serveCommand) Run(ctx context.Context, common *common, s *streams) error {
	log := logging.New(s.err, c.LogLevel, c.LogFormat)
	p := &proxy{settings: &c.settings, log: log, started: time.Now(), failed: make(chan error, 1)}
	err := p.start(common.StateDir, s)
	if err == nil {
		p.notify(sdnotify.Ready)
		select {
		case <-ctx.Done():
			log.Info("stopping")
		case err = <-p.failed:
		}
		p.notify(sdnotify.Stopping)
	}
	return errors.Join(err, p.stop())
}

// proxy is a running tunnelproxy.
type proxy struct {
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
	events   events

	failed  chan error // capacity 1: why it cannot go on
	closers []func()   // undo start, last first
}

func (p *proxy) notify(state string) {
	if err := sdnotify.Notify(os.Getenv("NOTIFY_SOCKET"), state); err != nil {
		p.log.Warn("the service manager cannot be told", zap.String("state", state), zap.Error(err))
	}
}

// fail ends serve with err, unless something else has ended it already.
func (p *proxy) fail(err error) {
	select {
	case p.failed <- err:
	default:
	}
}

// start brings everything up, or returns an error; stop is due in either case.
func (p *proxy) start(stateDir string, s *streams) error {
	var err error
	if p.access, err = p.settings.access(stateDir, s.in); err != nil {
		return err
	}
	if p.place, err = p.settings.survey(config.LANCandidates); err != nil {
		return err
	}
	dir, err := config.OpenStateDir(stateDir, program)
	if err != nil {
		return err
	}
	p.onStop(func() { _ = dir.Close() })
	udp, tcp, err := listenSIP(p.place)
	if err != nil {
		return err
	}
	p.onStop(func() { udp.Close(); tcp.Close() })
	ports, err := relay.NewPorts(p.place.lan, p.settings.MediaPorts.Low, p.settings.MediaPorts.High)
	if err != nil {
		return &config.Error{Code: config.ExitConfig, Problem: "media-ports", Err: err}
	}
	name, err := officeName(dir)
	if err != nil {
		return err
	}
	if err := p.openTunnel(name, ports); err != nil {
		return err
	}
	if err := p.openControl(dir); err != nil {
		return err
	}
	p.run(udp, tcp)
	return nil
}

// openTunnel makes the client, which starts to connect, and what works on it.
func (p *proxy) openTunnel(office string, ports *relay.Ports) error {
	dial := p.access.link.Config()
	dial.Software = software()
	p.events = events{proxy: p, ready: make(chan struct{})}
	dial.OnEvent = p.events.handle
	var err error
	if p.client, err = tunnel.New(dial); err != nil {
		return &config.Error{Code: config.ExitConfig, Problem: "server", Err: err}
	}
	p.pool = newPool(p.allocate, p.log)
	calls := &bridges{pool: p.pool, ports: ports, networks: p.settings.networks(), counters: &p.counters, ledger: &p.ledger}
	p.side = sipfwd.NewLANSide(sipfwd.LANSideConfig{
		Office:     office + ":",
		LANAddress: p.place.lan,
		Tunnel:     phones{p.client},
		Allocate:   calls.Allocate,
		Networks:   p.settings.networks(),
		Events:     logging.Events(p.log),
		Counters:   &p.counters,
	})
	close(p.events.ready)
	p.onStop(func() {
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
func (t phones) OpenPhone(ctx context.Context, key string) (net.PacketConn, error) {
	phone, err := t.Phone(ctx, key)
	if err != nil {
		return nil, err // And not a nil *Phone in an interface.
	}
	return phone, nil
}

func (p *proxy) openControl(dir *config.StateDir) error {
	control, err := admin.Listen(dir.Path(socketName))
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("GET /v1/status", admin.Route(func(*http.Request, struct{}) (admin.ProxyStatus, error) { return p.status(), nil }))
	server := admin.Serve(control, routes)
	p.onStop(func() { _ = server.Close() })
	return nil
}

// run starts the goroutines of the proxy; the function that it gives to onStop waits for them.
func (p *proxy) run(udp *net.UDPConn, tcp net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.pool.run(ctx) })
	running.Go(func() { p.watch(ctx) })
	listen := func(transport string, serve func() error) {
		running.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				p.fail(fmt.Errorf("the listener on %v/%s broke: %w", p.place.listen, transport, err))
			}
		})
	}
	listen("udp", func() error { return p.side.ServeUDP(udp) })
	listen("tcp", func() error { return p.side.ServeTCP(tcp) })
	p.onStop(func() {
		cancel()
		_ = p.side.Close()
		running.Wait()
	})
	p.log.Info("tunnelproxy is up, phones use it as their outbound proxy",
		zap.String("version", config.Version()), zap.Stringer("sip_listen", p.place.listen),
		zap.Stringer("lan_address", p.place.lan), zap.String("server", p.access.link.Server), zap.String("name", p.access.link.Name))
}

func (p *proxy) onStop(f func()) { p.closers = append(p.closers, f) }

// stop undoes start, in reverse, for no longer than stopTimeout.
func (p *proxy) stop() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := len(p.closers) - 1; i >= 0; i-- {
			p.closers[i]()
		}
	}()
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-done:
		return nil
	case <-timeout.C:
		return config.Errorf(config.ExitFailed, "", "the end took longer than %v and was cut short", stopTimeout)
	}
}

// status is the answer of a running proxy.
func (p *proxy) status() admin.ProxyStatus {
	tunnel := p.client.Status()
	s := admin.ProxyStatus{
		Program: admin.Program{
			Name: program, Version: config.Version(), Protocol: protocol, PID: os.Getpid(), Started: p.started,
		},
		SIPListen:  p.place.listen.String(),
		LANAddress: p.place.lan.String(),
		Tunnel: admin.Tunnel{
			Server: tunnel.Server, Name: p.access.link.Name, Pin: tunnel.Pin, Session: tunnel.Session, Up: tunnel.Up, Since: tunnel.Since,
			RTTMS: admin.Milliseconds(tunnel.RTT), BytesIn: tunnel.BytesIn, BytesOut: tunnel.BytesOut, Connects: tunnel.Connects,
			Domain: tunnel.Domain, LastError: tunnel.Error,
		},
		Phones:   admin.PhonesOf("", p.side.Phones()),
		Calls:    admin.CallsOf("", p.side.Calls()),
		Counters: p.counters.Snapshot(),
	}
	for name, n := range tunnel.Counters {
		s.Counters[name] += n
	}
	s.Relays, s.EndedRelays, s.RelayTotals = p.ledger.Snapshot()
	return s
}
