package daemon

import (
	"context"
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
	"github.com/siptunnel/siptunnel/internal/config/sdnotify"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// stopTimeout is how long a clean end may take before the program leaves all the same. Service managers and people
// count on five seconds.
const stopTimeout = 4500 * time.Millisecond

const (
	storeFileName  = "credentials.json"
	phonesFileName = "phone-ports.json"
)

// Reasons for the end of a session, as clients and logs see them.
var (
	errRevoked  = errors.New("the credential was revoked")
	errPBXMoved = errors.New("the PBX has another address")
)

type serveCommand struct {
	settings
}

func (c *serveCommand) Run(ctx context.Context, common *common, s *streams) error {
	log := logging.New(s.err, c.LogLevel, c.LogFormat)
	d := &daemon{settings: &c.settings, log: log, started: time.Now(), failed: make(chan error, 1), offices: map[*office]struct{}{}}
	err := d.start(ctx, common.StateDir, s)
	if err == nil {
		d.notify(sdnotify.Ready)
		select {
		case <-ctx.Done():
			log.Info("stopping")
		case err = <-d.failed:
		}
		d.notify(sdnotify.Stopping)
	}
	return errors.Join(err, d.stop())
}

// daemon is a running tunneld.
type daemon struct {
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
	server     *mux.Server

	failed  chan error // the server's end, when nobody asked for it
	closers []func()   // undo start, last first

	mu      sync.Mutex
	offices map[*office]struct{}
}

func (d *daemon) notify(state string) {
	if err := sdnotify.Notify(os.Getenv("NOTIFY_SOCKET"), state); err != nil {
		d.log.Warn("the service manager cannot be told", zap.String("state", state), zap.Error(err))
	}
}

// start brings everything up, or returns an error; stop is due in either case.
func (d *daemon) start(ctx context.Context, stateDir string, s *streams) error {
	var err error
	if d.place, err = d.settings.survey(ctx, resolveHost); err != nil {
		return err
	}
	dir, err := config.OpenStateDir(stateDir, program)
	if err != nil {
		return err
	}
	d.onStop(func() { _ = dir.Close() })

	// The port is taken before any key is made: a first start that fails here leaves a directory and a lock, and nothing that a
	// later start would take up.
	listener, err := net.Listen("tcp", d.place.listen.String())
	if err != nil {
		return config.ListenError(err, "--listen", d.place.listen.String()+"/tcp")
	}
	d.onStop(func() { _ = listener.Close() })
	if err := d.openPBXSide(dir); err != nil {
		return err
	}
	certificate, pin, err := mux.LoadOrCreateCertificate(stateDir)
	if err != nil {
		return config.StateError("the server's key", err, "")
	}
	d.pin = pin
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
		Software:    program + " " + config.Version(),
		Counters:    &d.counters,
		Logger:      d.log,
	})
	d.store.OnRevoke = func(name string) { d.server.CloseCredential(name, errRevoked) }
	if err := d.openControl(dir); err != nil {
		return err
	}
	if isFirst {
		if err := firstStart(d.store, dir, d.place.public, d.pin, s.out, d.log); err != nil {
			return err
		}
	} else if len(d.store.List()) == 0 {
		d.log.Warn("there are no credentials, nobody can connect; make one with: tunneld credential add NAME")
	}
	d.run(listener)
	return nil
}

// openPBXSide makes what faces the PBX.
func (d *daemon) openPBXSide(dir *config.StateDir) error {
	d.unknownRelay = d.counters.Counter("media.dropped.unknown_relay")
	d.pbx = newPBX(d.settings, d.place, d.log)
	d.pbx.moved = func(netip.AddrPort) { d.closeSessions(errPBXMoved) }
	var err error
	d.phonePorts, err = sipfwd.OpenPhonePorts(sipfwd.PhonePortsConfig{
		Addr: d.place.phoneAddress, Low: d.settings.PhonePorts.Low, High: d.settings.PhonePorts.High,
		StateFile: dir.Path(phonesFileName), IsPBX: d.pbx.Is, Counters: &d.counters, Logger: d.log,
	})
	if err != nil {
		return config.StateError("the ports of the phones", err, "remove "+dir.Path(phonesFileName)+" or its mistake; without it phones have new ports at the PBX")
	}
	d.onStop(func() { _ = d.phonePorts.Close() })
	d.mediaPorts, err = relay.NewPorts(d.place.mediaAddress, d.settings.MediaPorts.Low, d.settings.MediaPorts.High)
	if err != nil {
		return &config.Error{Code: config.ExitConfig, Problem: "media-ports", Err: err}
	}
	return nil
}

func (d *daemon) openControl(dir *config.StateDir) error {
	control, err := admin.Listen(dir.Path(socketName))
	if err != nil {
		return err
	}
	routes := http.NewServeMux()
	routes.Handle("GET /v1/status", admin.Route(func(*http.Request, struct{}) (admin.DaemonStatus, error) { return d.status(), nil }))
	(&credentials{store: d.store, public: d.place.public, pin: d.pin, sessions: d.sessionsByCredential}).routes(routes)
	server := admin.Serve(control, routes)
	d.onStop(func() { _ = server.Close() })
	return nil
}

// run starts the goroutines of the daemon; each is waited for by the function that it gives to onStop.
func (d *daemon) run(listener net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.pbx.run(ctx) })
	running.Go(func() {
		if err := d.server.Serve(listener); err != nil && ctx.Err() == nil {
			d.failed <- fmt.Errorf("the listener on %s broke: %w", d.place.listen, err)
		}
	})
	d.onStop(func() {
		cancel()
		_ = d.server.Close()
		running.Wait()
	})
	d.log.Info("tunneld is up",
		zap.String("version", config.Version()), zap.Stringer("listen", listener.Addr()), zap.Stringer("pbx", d.place.pbx),
		zap.String("domain", d.place.domain), zap.Stringer("media_address", d.place.mediaAddress), zap.String("pin", d.pin))
	if doubt := d.settings.publicDoubt(d.place); doubt != "" {
		d.log.Warn(doubt + "; " + publicRemedy)
	}
}

func (d *daemon) onStop(f func()) { d.closers = append(d.closers, f) }

// stop undoes start, in reverse, for no longer than stopTimeout.
func (d *daemon) stop() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := len(d.closers) - 1; i >= 0; i-- {
			d.closers[i]()
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

// closeSessions has all offices start a new session.
func (d *daemon) closeSessions(reason error) {
	for _, o := range d.allOffices() {
		o.session.Close(reason)
	}
}
