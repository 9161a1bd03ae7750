// Package minipbx is a small PBX for the demo and for tests, and for nothing else: it keeps nothing
// on disk, has no protection against guessing or flooding, and its passwords are in memory in clear.
//
// It is a registrar with digest, and a back-to-back user agent: a call between two extensions is two
// calls, each with its own dialog, and by default the PBX stands in the media too, with ports of its
// own, as a PBX that records or transfers does. These numbers are served by itself:
//
//	600  echo
//	601  a tone
//	602  busy
//	603  rings and is never answered
//	604  early media, then the answer
//
// It is strict on purpose: audio is taken only from the address that SDP named, and a phone over UDP
// is called at the Contact that it registered.
package minipbx

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// The numbers that the PBX serves by itself.
const (
	Echo       = "600"
	Tone       = "601"
	Busy       = "602"
	NoAnswer   = "603"
	EarlyMedia = "604"
)

// software is what the PBX calls itself.
const software = "siptunnel-minipbx"

// hangupTime bounds how long a hang-up waits for the other leg's answer.
const hangupTime = 5 * time.Second

// Config describes a PBX. The zero value of each field is its default.
type Config struct {
	// Addr is where SIP is served, over UDP and TCP; 127.0.0.1 and a free port by default. It has to be
	// one address, and so has Media.
	Addr netip.AddrPort
	// Media is the address of the PBX's audio; that of Addr by default.
	Media netip.Addr
	// Domain is the realm and the domain of the users; the address by default.
	Domain string
	// Users are the extensions with their passwords.
	Users map[string]string
	// DirectMedia passes SDP from phone to phone, so that audio does not go through the PBX.
	DirectMedia bool
	// MusicHz is the frequency that a side hears from the PBX while the other one has it on hold, with
	// DirectMedia too; zero leaves it to the phones what is heard.
	MusicHz float64
	// ToneHz is the frequency of 601 and 604; 425 Hz by default.
	ToneHz float64
	// EarlyTime is how long 604 plays before it answers; 1 s by default.
	EarlyTime time.Duration
	// LoseAudio makes all audio get lost at the PBX, for tests of what notices that.
	LoseAudio bool
	// MaxExpires limits registrations; one hour by default.
	MaxExpires time.Duration
	// Now is the clock of the registrar; time.Now by default.
	Now func() time.Time
	// Logger gets what sipgo logs; nil discards it.
	Logger *slog.Logger
}

// PBX is a running PBX. Make it with Start. It is safe for concurrent use.
type PBX struct {
	cfg       Config
	agent     *ua.Agent
	registrar *registrar
	auth      *authenticator
	ctx       context.Context
	cancel    context.CancelFunc
	unwatch   func() bool

	mu     sync.Mutex
	closed bool
	calls  map[*call]struct{}
	idle   chan struct{}  // closed when the last call ends
	served sync.WaitGroup // INVITEs
}

// Start starts a PBX. It runs until Close, or until ctx ends.
func Start(ctx context.Context, cfg Config) (*PBX, error) {
	setDefaults(&cfg)
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return nil, err
	}
	p := &PBX{
		cfg:       cfg,
		registrar: newRegistrar(cfg.MaxExpires, cfg.Now),
		calls:     make(map[*call]struct{}),
		idle:      make(chan struct{}),
	}
	close(p.idle)
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// Requests may come as soon as the agent listens, but the domain is known only then.
	started := make(chan struct{})
	agent, err := ua.Listen(ua.Config{
		Addr:     cfg.Addr,
		TCP:      true,
		Software: software,
		Logger:   cfg.Logger,
		Invite:   func(in *ua.Incoming) { <-started; p.invited(in) },
		Register: func(req *sip.Request) *sip.Response { <-started; return p.register(req) },
	})
	if err != nil {
		p.cancel()
		return nil, fmt.Errorf("PBX: %w", err)
	}
	p.agent = agent
	if p.cfg.Domain == "" {
		p.cfg.Domain = agent.Addr().Addr().String()
	}
	p.auth = &authenticator{realm: p.cfg.Domain, users: maps.Clone(cfg.Users), secret: secret, now: cfg.Now}
	close(started)
	p.unwatch = context.AfterFunc(ctx, func() { _ = p.Close() })
	return p, nil
}

func setDefaults(cfg *Config) {
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	if !cfg.Media.IsValid() {
		cfg.Media = cfg.Addr.Addr()
	}
	if cfg.ToneHz == 0 {
		cfg.ToneHz = 425
	}
	if cfg.EarlyTime == 0 {
		cfg.EarlyTime = time.Second
	}
	if cfg.MaxExpires == 0 {
		cfg.MaxExpires = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
}

// Addr is the SIP address.
func (p *PBX) Addr() netip.AddrPort { return p.agent.Addr() }

// Domain is the domain of the users.
func (p *PBX) Domain() string { return p.cfg.Domain }

// Contacts are the URIs under which a user is registered now, the latest first.
func (p *PBX) Contacts(user string) []string {
	var uris []string
	for _, b := range p.registrar.bindings(user) {
		uris = append(uris, b.contact)
	}
	return uris
}

// Leg are the audio packets of one side of a call that the PBX has in its hands.
type Leg struct {
	// In counts the packets taken from the phone, Out those sent to it, Foreign those that came from
	// elsewhere than SDP said.
	In, Out, Foreign uint64
}

// Call describes a call that is up.
type Call struct {
	// CallID is that of the caller's side.
	CallID string
	// From and To are the user that calls and the number called.
	From, To string
	// Legs are the caller's and the callee's; a number of the PBX itself has no callee, and with
	// DirectMedia both stay zero.
	Legs [2]Leg
}

// Calls lists the calls that are up.
func (p *PBX) Calls() []Call {
	p.mu.Lock()
	var calls []*call
	for c := range p.calls {
		calls = append(calls, c)
	}
	p.mu.Unlock()
	var list []Call
	for _, c := range calls {
		list = append(list, Call{CallID: c.id, From: c.from, To: c.to, Legs: c.legs()})
	}
	return list
}

// Idle waits until no call is up.
func (p *PBX) Idle(ctx context.Context) error {
	p.mu.Lock()
	idle := p.idle
	p.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("PBX: %d calls are still up: %w", len(p.Calls()), context.Cause(ctx))
	}
}

func (p *PBX) callBegins(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) == 0 {
		p.idle = make(chan struct{})
	}
	p.calls[c] = struct{}{}
}

func (p *PBX) callEnds(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, c)
	if len(p.calls) == 0 {
		close(p.idle)
	}
}

// Close hangs up all calls and stops the PBX; when it returns, none of its goroutines is left. It may
// be called again.
func (p *PBX) Close() error {
	p.unwatch()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.served.Wait()
	return p.agent.Close()
}
