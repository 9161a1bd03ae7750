package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/internal/program"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
	"github.com/siptunnel/siptunnel/internal/udp"
)

const (
	storeFileName  = "credentials.json"
	phonesFileName = "phone-ports.json"
)

// errRevoked is the end of a session, as clients and logs see it.
var errRevoked = errors.New("the credential was revoked")

type serveCommand struct {
	settings
}

func (c *serveCommand) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	log := logging.New(s.Err, c.LogLevel, c.LogFormat)
	d := &daemon{Service: program.NewService(log), settings: &c.settings, log: log, started: time.Now(), offices: map[*office]struct{}{}}
	return d.Run(ctx, func() error { return d.start(ctx, common.StateDir, s) }, nil)
}

// daemon is a running tunneld.
type daemon struct {
	*program.Service
	settings *settings
	place    *place
	log      *zap.Logger
	started  time.Time
	pin      string

	counters     counter.Set
	unknownRelay *counter.Counter
	ledger       admin.Ledger

	store      *auth.Store
	pbx        *pbx
	phonePorts *sipfwd.PhonePorts
	mediaPorts *relay.Ports
	fromPBX    relay.Policy
	poller     *relay.Poller
	server     *mux.Server

	mu      sync.Mutex
	offices map[*office]struct{}
}

// start brings everything up, or returns an error.
func (d *daemon) start(ctx context.Context, stateDir string, s *program.Streams) error {
	var err error
	if d.place, err = d.settings.survey(ctx, net.DefaultResolver); err != nil {
		return err
	}
	dir, err := config.OpenStateDir(stateDir, name)
	if err != nil {
		return err
	}
	d.OnStop(func() { _ = dir.Close() })

	// The port is taken before any key is made: a first start that fails here leaves a directory and a lock, and nothing that a
	// later start would take up.
	listener, err := mux.Listen(d.place.listen.String(), d.settings.SignallingDSCP)
	if err != nil {
		return config.ListenError(err, "--listen", d.place.listen.String()+"/tcp")
	}
	d.OnStop(func() { _ = listener.Close() })
	certificate, pin, err := mux.LoadOrCreateCertificate(stateDir)
	if err != nil {
		return config.StateError("the server's key", err, "")
	}
	d.pin = pin
	if err := d.openPBXSide(dir, certificate); err != nil {
		return err
	}
	_, err = os.Stat(dir.Path(storeFileName))
	isFirst := errors.Is(err, fs.ErrNotExist)
	if d.store, err = auth.OpenStore(dir.Path(storeFileName)); err != nil {
		return config.StateError("the credentials", err, "")
	}
	d.server = mux.NewServer(mux.ServerConfig{
		Certificate: certificate,
		Store:       d.store,
		Throttle:    &auth.Throttle{},
		Handler:     d,
		Domain:      d.place.domain,
		PBX:         d.place.pbx,
		Software:    name + " " + config.Version(),
		Pacing:      mux.Pacing{Wait: d.settings.MediaWait.Wait, Adapt: d.settings.MediaWait.Auto, Manual: true},
		Counters:    &d.counters,
		Logger:      d.log,
	})
	if d.settings.MediaTransport != config.MediaTCP {
		datagrams, err := udp.Listen("udp", listener.Addr().String())
		if err != nil {
			return config.ListenError(err, "--listen", d.place.listen.String()+"/udp")
		}
		_ = datagrams.Mark(d.settings.MediaDSCP) // unmarked they arrive too
		d.server.ServeDatagrams(datagrams)
		d.OnStop(func() { _ = d.server.Close() })
	}
	d.store.OnRevoke = func(name string) { d.server.CloseCredential(name, errRevoked) }
	if err := d.openControl(dir); err != nil {
		return err
	}
	if isFirst {
		if err := firstStart(d.store, dir, d.place, d.pin, s.Out, d.log); err != nil {
			return err
		}
	} else if len(d.store.List()) == 0 {
		d.log.Warn("there are no credentials, nobody can connect; make one with: tunneld credential add NAME")
	}
	d.run(listener)
	return nil
}

// openPBXSide makes what faces the PBX.
func (d *daemon) openPBXSide(dir *config.StateDir, certificate tls.Certificate) error {
	d.unknownRelay = d.counters.Counter("media.dropped.unknown_relay")
	d.pbx = newPBX(d.settings, d.place, d.log)
	d.pbx.left = func(target netip.AddrPort) {
		for _, o := range d.allOffices() {
			o.side.PBXDown(target)
		}
	}
	var err error
	d.phonePorts, err = sipfwd.OpenPhonePorts(sipfwd.PhonePortsConfig{
		Addr: d.place.phoneAddress, Low: d.settings.PhonePorts.Low, High: d.settings.PhonePorts.High,
		Sources: sipfwd.Sources(d.settings.PhoneSources), SourceNetwork: d.settings.SourceNetwork.Prefix,
		TrunkPorts: d.settings.trunkPorts(), Class: d.settings.SignallingDSCP,
		StateFile: dir.Path(phonesFileName), IsPBX: d.pbx.Is, Counters: &d.counters, Logger: d.log,
		Transport: d.place.way.transport.String(), ClientTLS: d.pbx.trust, ServerTLS: d.serverTLS(certificate),
	})
	if err != nil {
		return config.StateError("the ports of the phones", err, "remove "+dir.Path(phonesFileName)+" or its mistake; without it phones have new ports at the PBX")
	}
	d.OnStop(func() { _ = d.phonePorts.Close() })
	d.fromPBX = relay.PBXPolicy(d.pbx.Is, d.pbx.IsLocal)
	d.mediaPorts, err = relay.NewPorts(d.place.mediaAddress, d.settings.MediaPorts.Low, d.settings.MediaPorts.High)
	if err != nil {
		return config.ListenError(err, "--media-ports", net.JoinHostPort(d.place.mediaAddress.String(), d.settings.MediaPorts.String())+"/udp")
	}
	d.mediaPorts.Mark(d.settings.MediaDSCP)
	d.poller, err = relay.NewPoller(relay.PollerConfig{
		Wait:  func() time.Duration { return d.settings.MediaWait.Wait },
		Flush: func() { d.server.FlushMedia() },

		Counters: &d.counters,
	})
	if err != nil {
		return err
	}
	d.OnStop(func() { _ = d.poller.Close() })
	return nil
}

// serverTLS is for the connections of a PBX over TLS to the phones' ports, nil for another.
func (d *daemon) serverTLS(certificate tls.Certificate) *tls.Config {
	if d.place.way.trust == nil {
		return nil
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}}
}

func (d *daemon) openControl(dir *config.StateDir) error {
	control, err := admin.Listen(dir.Path(tunneld().SocketName()))
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("GET /v1/status", admin.Route(func(*http.Request, struct{}) (admin.DaemonStatus, error) { return d.status(), nil }))
	(&credentials{store: d.store, public: d.publicAddress, pin: d.pin, sessions: d.sessionsByCredential}).routes(routes)
	server := admin.Serve(control, routes)
	d.OnStop(func() { _ = server.Close() })
	return nil
}

// run starts the goroutines of the daemon; each is waited for by the function that it gives to OnStop.
func (d *daemon) run(listener net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.pbx.run(ctx) })
	running.Go(func() {
		if err := d.server.Serve(listener); err != nil && ctx.Err() == nil {
			d.Fail(fmt.Errorf("the listener on %s broke: %w", d.place.listen, err))
		}
	})
	d.OnStop(func() {
		cancel()
		_ = d.server.Close()
		running.Wait()
	})
	d.log.Info("tunneld is up",
		zap.String("version", config.Version()), zap.Stringer("listen", listener.Addr()), zap.Stringer("pbx", d.place.pbx),
		zap.Stringer("pbx_transport", d.place.way.transport),
		zap.String("domain", d.place.domain), zap.Stringer("media_address", d.place.mediaAddress), zap.String("key_pin", d.pin))
	if doubt := d.settings.publicDoubt(d.place); doubt != "" {
		d.log.Warn(doubt + "; " + publicRemedy)
	}
	for _, doubt := range d.place.doubts {
		d.log.Warn(doubt)
	}
}

// publicAddress is what join links say, also when the network came up later than this program.
func (d *daemon) publicAddress() config.Endpoint {
	return d.settings.publicAddress(d.place.listen.Port, config.DefaultSource)
}

// NewSession is part of mux.Handler.
func (d *daemon) NewSession(session *mux.Session) (mux.SessionHandler, error) {
	o := newOffice(d, session)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offices[o] = struct{}{}
	return o, nil
}

func (d *daemon) forget(o *office) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.offices, o)
}

func (d *daemon) allOffices() []*office {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*office, 0, len(d.offices))
	for o := range d.offices {
		all = append(all, o)
	}
	return all
}
