package office

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/relay"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
)

const (
	poolSize   = 16              // media allocated ahead: a call does not wait a round trip for its relay
	refillWait = 5 * time.Second // after the server refused one, unless something has changed
)

// media is a tunnel.Media.
type media interface {
	RTP() net.PacketConn
	RTCP() net.PacketConn
	Deliver(func(rtcp bool, packet []byte))
	Close() error
}

// pool keeps some media of the present session allocated ahead. Its methods are safe for concurrent use.
type pool struct {
	allocate func(context.Context) (media, error)
	log      *zap.Logger
	wake     chan struct{} // capacity 1: there may be room

	mu      sync.Mutex
	ready   []media
	session uint64 // counts sessions: media of an earlier one are of no use
}

func newPool(allocate func(context.Context) (media, error), log *zap.Logger) *pool {
	return &pool{allocate: allocate, log: log, wake: make(chan struct{}, 1)}
}

// run refills the pool until ctx is done, and closes then what is in it.
func (p *pool) run(ctx context.Context) {
	defer p.discard()
	for {
		p.mu.Lock()
		full, session := len(p.ready) >= poolSize, p.session
		p.mu.Unlock()
		if full {
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		m, err := p.allocate(ctx)
		if err == nil {
			p.put(m, session)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		p.log.Debug("no media allocated ahead", zap.Error(err))
		wait := time.NewTimer(refillWait)
		select {
		case <-wait.C:
		case <-p.wake:
			wait.Stop()
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

func (p *pool) put(m media, session uint64) {
	p.mu.Lock()
	stale := p.session != session
	if !stale {
		p.ready = append(p.ready, m)
	}
	p.mu.Unlock()
	if stale {
		_ = m.Close()
	}
}

// take gives media that the caller closes: the oldest of the pool, else new ones.
func (p *pool) take(ctx context.Context) (media, error) {
	for {
		m := p.next()
		if m == nil {
			return p.allocate(ctx)
		}
		// The session may be lost and discard not called yet: then these are closed, as any operation shows.
		if m.RTP().SetReadDeadline(time.Time{}) == nil {
			return m, nil
		}
		_ = m.Close()
	}
}

// next takes one out of the pool and has another one allocated; nil when there is none.
func (p *pool) next() (m media) {
	p.mu.Lock()
	if len(p.ready) > 0 {
		m, p.ready[0] = p.ready[0], nil
		p.ready = p.ready[1:]
	}
	p.mu.Unlock()
	p.poke()
	return m
}

// poke has run look again.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// discard drops what is in the pool: the session that it belonged to is over.
func (p *pool) discard() {
	p.mu.Lock()
	old := p.ready
	p.ready = nil
	p.session++
	p.mu.Unlock()
	for _, m := range old {
		_ = m.Close()
	}
	p.poke()
}

// bridges makes the mediaPorts of calls.
type bridges struct {
	pool     *pool
	ports    *lanPorts
	poller   *relay.Poller
	networks []netip.Prefix
	ledger   *admin.Ledger
	rtt      func() time.Duration // through the tunnel, of media; nil: not known
}

// Allocate is sipfwd.LANSideConfig.Allocate.
func (b *bridges) Allocate(ctx context.Context, lan netip.Addr) (sipfwd.MediaPort, error) {
	pair, err := b.ports.open(lan)
	if err != nil {
		return nil, err
	}
	m, err := b.pool.take(ctx)
	if err != nil {
		_ = pair.Close()
		return nil, err
	}
	return b.bridge(pair, m)
}

// relay starts the LAN's end of m, in place of the one that it has, if it has one.
func (b *bridges) relay(pair *relay.Pair, m *mediaPort) (*relay.Relay, error) {
	return relay.Start(relay.Config{
		Pair:     pair,
		Poller:   b.poller,
		Accept:   relay.LANPolicy(m.signallingAddr, b.networks...),
		Sink:     m.fromPhone,
		Report:   true,
		Replaces: m.lan.Load(),
	})
}

// mediaPort joins a relay on the LAN to media in the tunnel. It is safe for concurrent use.
type mediaPort struct {
	bridges    *bridges
	lan        atomic.Pointer[relay.Relay] // another one after Move
	media      media
	signalling atomic.Pointer[netip.Addr]
	peer       atomic.Pointer[mediaPort] // who gets what the phone sends; nil: the tunnel
	direct     atomic.Uint64             // RTP packets that a peer got
	end        func()

	mu        sync.Mutex // orders SetPhone, Move and Close
	closed    bool
	rtp, rtcp netip.AddrPort // the phone's
}

func (b *bridges) bridge(pair *relay.Pair, tunnelled media) (*mediaPort, error) {
	m := &mediaPort{bridges: b, media: tunnelled}
	lan, err := b.relay(pair, m)
	if err != nil {
		_ = tunnelled.Close()
		return nil, err
	}
	m.lan.Store(lan)
	m.end = b.ledger.Open(func() admin.Relay {
		stats := m.lan.Load().Stats()
		figures := admin.RelayOf(stats, m.legs(stats))
		figures.LANAddress, figures.PBXAddress = m.LAN().String(), m.PBX().String()
		figures.PacketsDirect = m.direct.Load()
		if peer := m.peer.Load(); peer != nil {
			figures.Direct = peer.LAN().String()
		}
		return figures
	})
	tunnelled.Deliver(func(rtcp bool, packet []byte) {
		c := relay.RTP
		if rtcp {
			c = relay.RTCP
		}
		_ = m.lan.Load().Send(c, packet) // The relay counts what it drops.
	})
	return m, nil
}

// fromPhone is the Sink of the relay.
func (m *mediaPort) fromPhone(c relay.Component, packet []byte) {
	peer := m.peer.Load()
	if peer == nil {
		up := m.media.RTP()
		if c == relay.RTCP {
			up = m.media.RTCP()
		}
		// Where it goes is tunneld's to know, but WriteTo wants an address. The tunnel counts what it drops.
		_, _ = up.WriteTo(packet, up.LocalAddr())
		return
	}
	switch {
	case c == relay.RTP:
		m.direct.Add(1)
		m.lan.Load().Aside()
	case relay.IsReport(packet):
		return // It is for the other end of the tunnel, and would say there what is true here.
	}
	_ = peer.lan.Load().Send(c, packet) // The relay counts what it drops.
}

func (m *mediaPort) legs(stats relay.Stats) []quality.Leg {
	var tunnel time.Duration
	if m.bridges.rtt != nil {
		tunnel = m.bridges.rtt()
	}
	legs := admin.LegsOf(admin.LANEnd, stats.Quality, tunnel)
	if 2*m.direct.Load() > stats.In.Packets {
		// What the other end of the tunnel would be is the port of another phone, whose call has these legs.
		legs = slices.DeleteFunc(legs, func(l quality.Leg) bool { return l.Name != quality.LANIn && l.Name != quality.LANOut })
	}
	return legs
}

func (m *mediaPort) signallingAddr() netip.Addr {
	if addr := m.signalling.Load(); addr != nil {
		return *addr
	}
	return netip.Addr{}
}

// LAN is part of sipfwd.MediaPort, as are the methods that follow.
func (m *mediaPort) LAN() netip.AddrPort { return m.lan.Load().LocalAddr() }

func (m *mediaPort) PBX() netip.AddrPort { return addrPort(m.media.RTP().LocalAddr()) }

func (m *mediaPort) SetPhone(rtp, rtcp netip.AddrPort, signalling netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signalling.Store(&signalling)
	m.rtp, m.rtcp = rtp, rtcp
	m.lan.Load().SetRemote(rtp, rtcp)
}

func (m *mediaPort) Move(lan netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return net.ErrClosed
	}
	pair, err := m.bridges.ports.open(lan)
	if err != nil {
		return err
	}
	moved, err := m.bridges.relay(pair, m)
	if err != nil {
		return err
	}
	moved.SetRemote(m.rtp, m.rtcp)
	m.lan.Store(moved)
	return nil
}

func (m *mediaPort) Join(peer sipfwd.MediaPort) {
	port, _ := peer.(*mediaPort) // Nil of any kind parts it from its peer.
	m.peer.Store(port)
}

func (m *mediaPort) Stats() sipfwd.MediaStats {
	seen := m.lan.Load().Stats()
	stats := admin.MediaOf(seen, m.legs(seen))
	stats.PacketsDirect = m.direct.Load()
	return stats
}

func (m *mediaPort) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.end()
	return errors.Join(m.media.Close(), m.lan.Load().Close())
}

func addrPort(addr net.Addr) netip.AddrPort {
	if udp, ok := addr.(*net.UDPAddr); ok {
		return netip.AddrPortFrom(udp.AddrPort().Addr().Unmap(), udp.AddrPort().Port())
	}
	parsed, _ := netip.ParseAddrPort(addr.String())
	return parsed
}
