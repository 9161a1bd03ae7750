// Package testphone is a SIP phone without a speaker, for the demo and for tests. It registers with
// digest through an outbound proxy, over UDP or TCP, places and takes calls, holds and resumes them,
// sends a tone and measures the tone that it hears.
//
// It is made to notice what a tunnel may do wrong rather than to bear it: SIP and RTP are taken only
// from the proxy, RTP only from the very address that SDP named, requests in a dialog follow the
// route set, and a registration whose answer does not show the phone's own Contact has failed.
package testphone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// Stats are the figures of a call's audio.
type Stats = audio.Stats

// StatusError is a refusal by the other side: its Code is the SIP status.
type StatusError = ua.StatusError

// maxWaiting bounds the calls that wait in Incoming; further ones are busy.
const maxWaiting = 16

// hangupTime bounds how long Close waits for the answers to its BYEs.
const hangupTime = 2 * time.Second

// Config describes a Phone.
type Config struct {
	// User and Password are the account, Domain is that of the PBX: the host of the phone's address
	// of record.
	User, Password, Domain string
	// Proxy is the outbound proxy, or the PBX itself. SIP from anywhere else is not read.
	Proxy netip.AddrPort
	// Transport is "udp", the default, or "tcp".
	Transport string
	// Addr is the address of the phone; by default 127.0.0.1 and a free port.
	Addr netip.AddrPort
	// Route puts the proxy into a Route header too, as RFC 3261 section 8.1.1.1 has it. Many phones
	// only send there.
	Route bool
	// Media is the only address that SDP may send the phone's audio to; any other fails the call. The
	// zero value allows all.
	Media netip.Addr
	// Instance is the +sip.instance of the registration, such as
	// "urn:uuid:00000000-0000-4000-8000-000000000001"; empty leaves it out.
	Instance string
	// Tone is the frequency, in Hz, that calls send from the start; zero is silence.
	Tone float64
	// Stopwatch, shared by the phones of one process, measures delays; nil measures none.
	Stopwatch *audio.Stopwatch
	// LoseAudio makes the phone's audio get lost on its network, for tests of what notices that.
	LoseAudio bool
	// Software is the User-Agent; empty is "siptunnel-testphone".
	Software string
}

// Phone is a running phone. Make it with New. It is safe for concurrent use.
type Phone struct {
	cfg      Config
	agent    *ua.Agent
	incoming chan *Call

	mu       sync.Mutex
	callID   string // of the registration
	sequence uint32
	calls    map[*Call]struct{}
	closed   bool
	wg       sync.WaitGroup // outgoing calls
}

// New starts a phone. It does not register.
func New(cfg Config) (*Phone, error) {
	if !cfg.Proxy.IsValid() || cfg.Proxy.Port() == 0 {
		return nil, fmt.Errorf("phone %s: no proxy to send to", cfg.User)
	}
	if cfg.Transport == "" {
		cfg.Transport = "udp"
	}
	if cfg.Transport != "udp" && cfg.Transport != "tcp" {
		return nil, fmt.Errorf("phone %s: transport %q is neither udp nor tcp", cfg.User, cfg.Transport)
	}
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	if cfg.Software == "" {
		cfg.Software = "siptunnel-testphone"
	}
	p := &Phone{
		cfg:      cfg,
		incoming: make(chan *Call, maxWaiting),
		callID:   sip.GenerateTagN(24),
		calls:    make(map[*Call]struct{}),
	}
	agent, err := ua.Listen(ua.Config{
		Addr:     cfg.Addr,
		Software: cfg.Software,
		Accept:   func(source netip.AddrPort) bool { return source == cfg.Proxy },
		Invite:   p.invited,
	})
	if err != nil {
		return nil, fmt.Errorf("phone %s: %w", cfg.User, err)
	}
	p.agent = agent
	return p, nil
}

// Addr is the SIP address of the phone.
func (p *Phone) Addr() netip.AddrPort { return p.agent.Addr() }

// User is the user of the phone's account.
func (p *Phone) User() string { return p.cfg.User }

// Contact is the URI that the phone registers.
func (p *Phone) Contact() string {
	uri := p.agent.Contact(p.cfg.User, p.cfg.Transport)
	return uri.String()
}

// Incoming delivers calls to this phone, which ring already. Each has to be answered or rejected.
func (p *Phone) Incoming() <-chan *Call { return p.incoming }

// Close hangs up all calls, which takes 2 s at most, and stops the phone. It does not unregister.
func (p *Phone) Close() error {
	p.mu.Lock()
	p.closed = true
	var calls []*Call
	for c := range p.calls {
		calls = append(calls, c)
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), hangupTime)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range calls {
		// The peer may be gone; the phone goes anyway.
		wg.Go(func() { _ = c.Hangup(ctx) })
	}
	wg.Wait()
	err := p.agent.Close()
	p.wg.Wait()
	return err
}

func (p *Phone) aor() sip.Uri {
	return p.address(p.cfg.User)
}

// address is the URI of a user of the PBX.
func (p *Phone) address(user string) sip.Uri {
	uri := sip.Uri{Scheme: "sip", User: user, Host: p.cfg.Domain}
	// A domain with a port is possible where a phone is told an address instead of a domain.
	if addr, err := netip.ParseAddrPort(p.cfg.Domain); err == nil {
		uri.Host, uri.Port = addr.Addr().String(), int(addr.Port())
	}
	return uri
}

func (p *Phone) request(method sip.RequestMethod, target sip.Uri) ua.Request {
	return ua.Request{
		Method:      method,
		URI:         target,
		From:        p.aor(),
		To:          target,
		Transport:   p.cfg.Transport,
		NextHop:     p.cfg.Proxy,
		Route:       p.cfg.Route,
		Credentials: ua.Credentials{User: p.cfg.User, Password: p.cfg.Password},
	}
}

// ErrContact says that the registrar's answer does not show the phone's own Contact, as RFC 3261
// section 10.3 wants it, byte for byte.
var ErrContact = errors.New("the answer to REGISTER does not show this phone's Contact")

// Register registers, or refreshes, and returns the time that was granted. A refusal is a
// StatusError.
func (p *Phone) Register(ctx context.Context, expires time.Duration) (granted time.Duration, err error) {
	contacts, err := p.register(ctx, fmt.Sprintf("<%s>%s", p.Contact(), p.instance()), expires)
	if err != nil {
		return 0, err
	}
	for _, contact := range contacts {
		var uri sip.Uri
		var params sip.HeaderParams
		if _, err := sip.ParseAddressValue(contact, &uri, &params); err != nil {
			return 0, fmt.Errorf("%w: %q: %w", ErrContact, contact, err)
		}
		if uri.String() != p.Contact() {
			continue
		}
		seconds, err := strconv.Atoi(params.GetOr("expires", ""))
		if err != nil || seconds < 1 {
			return 0, fmt.Errorf("answer to REGISTER: %q grants no time", contact)
		}
		return time.Duration(seconds) * time.Second, nil
	}
	return 0, fmt.Errorf("%w: %s not in %q", ErrContact, p.Contact(), contacts)
}

// Unregister removes this phone's binding.
func (p *Phone) Unregister(ctx context.Context) error {
	contacts, err := p.register(ctx, fmt.Sprintf("<%s>%s", p.Contact(), p.instance()), 0)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(contacts, func(c string) bool { return strings.Contains(c, "<"+p.Contact()+">") }) {
		return fmt.Errorf("answer to REGISTER: %s is still bound", p.Contact())
	}
	return nil
}

// UnregisterAll removes all bindings of the account, those of other phones too.
func (p *Phone) UnregisterAll(ctx context.Context) error {
	contacts, err := p.register(ctx, "*", 0)
	if err == nil && len(contacts) > 0 {
		err = fmt.Errorf("answer to REGISTER: %q are still bound", contacts)
	}
	return err
}

func (p *Phone) instance() string {
	if p.cfg.Instance == "" {
		return ""
	}
	return `;+sip.instance="<` + p.cfg.Instance + `>"`
}

func (p *Phone) register(ctx context.Context, contact string, expires time.Duration) (contacts []string, err error) {
	r := p.request(sip.REGISTER, p.address(""))
	r.To = p.aor()
	p.mu.Lock()
	r.CallID = p.callID
	r.Sequence = p.sequence + 1
	p.sequence += 3 // answers to challenges count on, twice at most
	p.mu.Unlock()
	r.Headers = []sip.Header{
		sip.NewHeader("Contact", contact),
		sip.NewHeader("Expires", strconv.Itoa(int(expires/time.Second))),
		sip.NewHeader("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS"),
	}
	res, err := p.agent.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	if !res.IsSuccess() {
		return nil, statusError(res)
	}
	return ua.Values(res.GetHeaders("Contact")), nil
}

// Options asks the PBX whether it is there.
func (p *Phone) Options(ctx context.Context) error {
	res, err := p.agent.Do(ctx, p.request(sip.OPTIONS, p.address("")))
	if err == nil && !res.IsSuccess() {
		err = statusError(res)
	}
	return err
}

func statusError(res *sip.Response) error {
	e := &StatusError{Code: res.StatusCode, Reason: res.Reason}
	if h := res.GetHeader("Retry-After"); h != nil {
		e.RetryAfter = h.Value()
	}
	return e
}
