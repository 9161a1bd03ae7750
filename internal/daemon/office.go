package daemon

import (
	"errors"
	"net/netip"
	"sync"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

// office is what one session has beside the PBX: its half of the proxy and the relays of its calls. It is the
// mux.SessionHandler of the session and lives as long as it.
type office struct {
	daemon  *daemon
	session *mux.Session
	side    *sipfwd.PBXSide
	log     *zap.Logger
	known   bool // the session has been attached before; only the session's own sequence of calls uses it

	mu        sync.RWMutex // read for every packet
	byChannel map[uint32]*mediaRelay
	byPort    map[uint16]*mediaRelay // all have the address of daemon.mediaPorts
}

// mediaRelay is a relay with its entry in the ledger.
type mediaRelay struct {
	*relay.Relay
	session *mux.Session
	end     func()
}

// Stats gives what a call's log line says of the relay.
func (r *mediaRelay) Stats() sipfwd.MediaStats {
	stats := r.Relay.Stats()
	return admin.MediaOf(stats, r.legs(stats))
}

func (r *mediaRelay) legs(stats relay.Stats) []quality.Leg {
	return admin.LegsOf(admin.PBXEnd, stats.Quality, r.session.MediaRTT())
}

func (r *mediaRelay) close() {
	r.end() // Before the sockets go: nothing is counted after them, and the ledger wants figures while they are there.
	_ = r.Close()
}

func newOffice(d *daemon, session *mux.Session) *office {
	o := &office{
		daemon:    d,
		session:   session,
		log:       d.log.With(zap.String("session", session.ID()), zap.String("credential", session.Credential())),
		byChannel: map[uint32]*mediaRelay{},
		byPort:    map[uint16]*mediaRelay{},
	}
	o.side = sipfwd.NewPBXSide(sipfwd.PBXSideConfig{
		Credential: session.Credential(),
		PBX:        d.pbx,
		Ports:      d.phonePorts,
		Send: func(phone uint32, msg []byte) {
			_ = session.SendSIP(phone, msg) // The session is over, and Closed is about to say so.
		},
		SaveState: session.SavePhoneState,
		Relay:     o.relayAt,
		Events:    logging.Events(o.log),
		Counters:  &d.counters,
	})
	return o
}

func (o *office) relayAt(local netip.AddrPort) (sipfwd.Relay, bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	r := o.byPort[local.Port()]
	return r, r != nil && r.LocalAddr() == local
}

// OpenPhone is part of mux.SessionHandler, as are the methods that follow.
func (o *office) OpenPhone(id uint32, key string, state []byte) (netip.AddrPort, error) {
	return o.side.OpenPhone(id, key, state)
}

func (o *office) ClosePhone(id uint32) { o.side.ClosePhone(id) }

func (o *office) SIP(phone uint32, msg []byte) { o.side.FromTunnel(phone, msg) }

func (o *office) OpenRelay(channel uint32) (netip.AddrPort, error) {
	d := o.daemon
	pair, err := d.mediaPorts.Open()
	if err != nil {
		return netip.AddrPort{}, err
	}
	r := &mediaRelay{session: o.session}
	r.Relay, err = relay.Start(relay.Config{
		Pair:   pair,
		Poller: d.poller,
		Accept: d.fromPBX,
		Sink: func(c relay.Component, packet []byte) {
			o.session.SendMedia(channel, c == relay.RTCP, packet)
		},
	})
	if err != nil {
		return netip.AddrPort{}, err
	}
	r.end = d.ledger.Open(func() admin.Relay {
		stats := r.Relay.Stats()
		figures := admin.RelayOf(stats, r.legs(stats))
		figures.Session, figures.PBXAddress = o.session.ID(), r.LocalAddr().String()
		return figures
	})
	o.mu.Lock()
	old := o.byChannel[channel]
	if old != nil {
		delete(o.byPort, old.LocalAddr().Port())
	}
	o.byChannel[channel] = r
	o.byPort[r.LocalAddr().Port()] = r
	o.mu.Unlock()
	if old != nil {
		old.close()
	}
	return r.LocalAddr(), nil
}

func (o *office) CloseRelay(channel uint32) {
	o.mu.Lock()
	r := o.byChannel[channel]
	delete(o.byChannel, channel)
	if r != nil {
		delete(o.byPort, r.LocalAddr().Port())
	}
	o.mu.Unlock()
	if r != nil {
		r.close()
	}
}

func (o *office) Media(channel uint32, rtcp bool, packet []byte) {
	o.mu.RLock()
	r := o.byChannel[channel]
	o.mu.RUnlock()
	if r == nil {
		o.daemon.unknownRelay.Inc()
		return
	}
	component := relay.RTP
	if rtcp {
		component = relay.RTCP
	}
	_ = r.Send(component, packet) // The relay counts what it drops, by reason.
}

func (o *office) Attached() {
	event := "session up"
	if o.known {
		event = "session resumed"
	}
	o.known = true
	o.log.Info(event, zap.Stringer("remote", o.session.RemoteAddr()))
}

func (o *office) Detached(reason error) {
	if o.session.Over() || isFinal(reason) {
		return // Closed follows.
	}
	o.log.Info("session cut, its place is kept", zap.Duration("grace", mux.DefaultGrace), zap.NamedError("reason", reason))
}

// isFinal reports whether a session ends with the connection that it lost like this.
func isFinal(reason error) bool {
	_, bye := errors.AsType[*mux.ByeError](reason)
	return bye || errors.Is(reason, mux.ErrProtocol)
}

func (o *office) Closed(reason error) {
	o.side.Close()
	o.mu.Lock()
	relays := o.byChannel
	o.byChannel, o.byPort = map[uint32]*mediaRelay{}, map[uint16]*mediaRelay{}
	o.mu.Unlock()
	for _, r := range relays {
		r.close()
	}
	o.daemon.forget(o)
	o.log.Info("session down", zap.NamedError("reason", reason))
}
