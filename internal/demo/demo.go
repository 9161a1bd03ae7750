// Package demo shows the whole chain at work on one machine, with nothing simulated but the people: a
// PBX (package minipbx), the two real programs as processes of their own, and two phones (package
// testphone) whose outbound proxy is tunnelproxy. It prints what it does step by step, and figures.
//
// It is also a test that cannot pass by accident. Each part has an address of its own, the phones take
// SIP and audio only from tunnelproxy's, both programs have to have counted the very packets that the
// phones sent, and a Break in each link of the chain has to make it fail.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/siptunnel/siptunnel/internal/minipbx"
	"github.com/siptunnel/siptunnel/internal/testphone"
	"github.com/siptunnel/siptunnel/internal/testphone/audio"
)

// Break is a link of the chain that is to be broken.
type Break string

// The links that can be broken, and a way around the tunnel.
const (
	Nothing    Break = ""
	PhoneSIP   Break = "phone-sip"   // between phones and tunnelproxy
	PhoneAudio Break = "phone-audio" // the same
	Tunnel     Break = "tunnel"      // between tunnelproxy and tunneld, once the phones are registered
	PBXSIP     Break = "pbx-sip"     // between tunneld and PBX
	PBXAudio   Break = "pbx-audio"   // the same
	Around     Break = "around"      // the phones talk to the PBX without the tunnel
)

// anchor has the PBX stand in the media in spite of DirectMedia.
const anchor Break = "anchor"

// Breaks are all that can be broken.
func Breaks() []Break { return []Break{PhoneSIP, PhoneAudio, Tunnel, PBXSIP, PBXAudio, Around} }

// startTime is what a program may take to start, on a machine with other things to do.
const startTime = 30 * time.Second

// The phones of the demo and their tones.
const (
	firstUser, secondUser = "101", "102"
	firstHz, secondHz     = 440, 660
	musicHz               = 350 // of the PBX
)

// domain is that of the PBX. It resolves nowhere, because phones with an outbound proxy need not
// resolve it.
const domain = "pbx.example"

// spareUsers are for real phones, with Keep.
var spareUsers = []string{"103", "104"}

// Config says how the demo runs. The zero value of a field is its default.
type Config struct {
	// Bin is a directory with the programs tunneld and tunnelproxy; empty builds them with `go build`.
	Bin string
	// Talk is how long the measured calls last; 3 s by default.
	Talk time.Duration
	// Patience is how long a step may take until it has failed, but for the start of programs; 10 s by
	// default.
	Patience time.Duration
	// Keep puts tunnelproxy on an address that real phones can reach, and leaves everything running
	// after the demo until the context ends.
	Keep bool
	// LAN is that address; by default the one of the default route.
	LAN netip.Addr
	// SIPPort is tunnelproxy's port; by default 5060, or the next free one.
	SIPPort uint16
	// Out gets the report; os.Stdout by default. Color allows terminal colours in it.
	Out   io.Writer
	Color bool
	// DirectMedia has the PBX send the two phones to each other, and shows that their audio stays in the
	// office but for music on hold, which is the PBX's.
	DirectMedia bool
	// Break breaks a link, for tests.
	Break Break
}

// ErrFailed says that a step has failed. What failed is in the report.
var ErrFailed = errors.New("the demo failed")

// demo is one run.
type demo struct {
	cfg       Config
	report    *report
	dir       string // of state and logs
	bin       string
	place     place
	passwords map[string]string
	stopwatch audio.Stopwatch

	pbx           *minipbx.PBX
	silent        net.PacketConn // stands in for who does not answer SIP
	forwarder     *forwarder
	daemon, proxy *process
	proxySIP      netip.AddrPort
	first, second *testphone.Phone
	figures       figures
}

// Run runs the demo. It returns nil when all was heard, ErrFailed when a step failed, and ctx's cause
// when it was interrupted; with Keep an interruption after the demo is its regular end.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Talk == 0 {
		cfg.Talk = 3 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Out == nil {
		cfg.Out = os.Stdout
	}
	d := &demo{cfg: cfg, report: &report{out: cfg.Out, color: cfg.Color}, passwords: make(map[string]string)}
	for _, user := range append([]string{firstUser, secondUser}, spareUsers...) {
		d.passwords[user] = rand.Text()[:12]
	}
	if err := d.locate(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "siptunnel-demo-")
	if err != nil {
		return err
	}
	d.dir = dir
	defer os.RemoveAll(dir)
	started := time.Now()
	err = d.scenario(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		} else {
			d.showLogs()
			err = fmt.Errorf("%w: %w", ErrFailed, err)
		}
		d.close()
		return err
	}
	d.report.line("")
	if !cfg.DirectMedia {
		d.figures.print(d.report)
		d.report.line("")
	}
	d.report.line("All was heard, in %.1f s.", time.Since(started).Seconds())
	if cfg.Keep {
		err = d.keep(ctx)
	}
	d.close()
	return err
}

// scenario is the demo itself; it ends at the first step that fails.
func (d *demo) scenario(ctx context.Context) error {
	d.report.line("%s", d.place.drawing())
	parts := []func(context.Context) error{
		d.build, d.startPBX, d.compare, d.startDaemon, d.startProxy, d.register, d.call, d.echo, d.leave,
	}
	if d.cfg.DirectMedia {
		parts = []func(context.Context) error{
			d.build, d.startPBX, d.startDaemon, d.startProxy, d.register, d.callInOffice, d.leave,
		}
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step runs one step with the time that a step may take, and reports it.
func (d *demo) step(ctx context.Context, what string, f func(ctx context.Context) (detail string, err error)) error {
	return d.stepWithin(ctx, d.cfg.Patience, what, f)
}

func (d *demo) stepWithin(ctx context.Context, limit time.Duration, what string, f func(ctx context.Context) (detail string, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v", limit))
	defer cancel()
	detail, err := f(ctx)
	d.report.step(what, detail, err)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// startPBX starts the PBX, and the phones' accounts on it.
func (d *demo) startPBX(ctx context.Context) error {
	return d.step(ctx, "PBX started", func(context.Context) (string, error) {
		pbx, err := minipbx.Start(context.WithoutCancel(ctx), minipbx.Config{
			Addr:        netip.AddrPortFrom(d.place.pbx, 0),
			Domain:      domain,
			Users:       d.passwords,
			DirectMedia: d.cfg.DirectMedia && d.cfg.Break != anchor,
			MusicHz:     musicHz,
			LoseAudio:   d.cfg.Break == PBXAudio,
		})
		if err != nil {
			return "", err
		}
		d.pbx = pbx
		return fmt.Sprintf("%s, users %s and %s", pbx.Addr(), firstUser, secondUser), nil
	})
}

// phone makes a phone that sends to the given proxy and takes audio from the given address.
func (d *demo) phone(user, transport string, addr netip.Addr, proxy netip.AddrPort, media netip.Addr, tone float64) (*testphone.Phone, error) {
	return testphone.New(testphone.Config{
		User:      user,
		Password:  d.passwords[user],
		Domain:    d.pbx.Domain(),
		Proxy:     proxy,
		Transport: transport,
		Addr:      netip.AddrPortFrom(addr, 0),
		Media:     media,
		Tone:      tone,
		Stopwatch: &d.stopwatch,
		LoseAudio: d.cfg.Break == PhoneAudio && media == d.place.lan,
	})
}

// compare measures a call that does not go through the tunnel.
func (d *demo) compare(ctx context.Context) error {
	if d.cfg.Break == PBXAudio {
		return nil // has none to compare with
	}
	return d.step(ctx, "a call without the tunnel, to compare with", func(ctx context.Context) (string, error) {
		var phones [2]*testphone.Phone
		for i, user := range []string{firstUser, secondUser} {
			p, err := d.phone(user, "udp", d.place.phones[i], d.pbx.Addr(), d.place.pbx, []float64{firstHz, secondHz}[i])
			if err != nil {
				return "", err
			}
			defer p.Close()
			if _, err := p.Register(ctx, time.Minute); err != nil {
				return "", err
			}
			phones[i] = p
		}
		near, far, err := dial(ctx, phones[0], phones[1])
		if err != nil {
			return "", err
		}
		if err := talk(ctx, near, far, min(d.cfg.Talk, time.Second)); err != nil {
			return "", err
		}
		d.figures.direct = [2]testphone.Stats{near.Stats(), far.Stats()}
		for _, p := range phones {
			if err := p.Unregister(ctx); err != nil {
				return "", err
			}
		}
		delay := d.figures.direct[1].Delay
		return fmt.Sprintf("%d packets, %s under way", d.figures.direct[1].Received, milliseconds(delay.Median)), near.Hangup(ctx)
	})
}

// dial has one phone call another, which answers.
func dial(ctx context.Context, from, to *testphone.Phone) (near, far *testphone.Call, err error) {
	near, err = from.Dial(to.User())
	if err != nil {
		return nil, nil, err
	}
	far, err = ringing(ctx, near, to)
	if err != nil {
		return nil, nil, err
	}
	if err := far.Answer(ctx); err != nil {
		return nil, nil, err
	}
	return near, far, near.Wait(ctx)
}

// ringing waits until a call reaches a phone.
func ringing(ctx context.Context, near *testphone.Call, to *testphone.Phone) (*testphone.Call, error) {
	select {
	case far := <-to.Incoming():
		return far, nil
	case <-near.Done():
		if err := near.Err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("the call ended before %s rang", to.User())
	case <-ctx.Done():
		return nil, fmt.Errorf("%s does not ring: %w", to.User(), context.Cause(ctx))
	}
}

// talk waits until both sides have heard the other's tone for so long.
func talk(ctx context.Context, near, far *testphone.Call, length time.Duration) error {
	heard := make(chan error, 2)
	go func() { heard <- near.Hear(ctx, secondHz, length) }()
	go func() { heard <- far.Hear(ctx, firstHz, length) }()
	return errors.Join(<-heard, <-heard)
}

// register has both phones register through tunnelproxy, one over UDP and one over TCP.
func (d *demo) register(ctx context.Context) error {
	proxy := d.proxySIP
	switch d.cfg.Break {
	case PhoneSIP:
		silent, err := d.silence(d.place.lan)
		if err != nil {
			return err
		}
		proxy = silent
	case Around:
		proxy = d.pbx.Addr()
	}
	for i, p := range []struct {
		phone     **testphone.Phone
		user      string
		transport string
		tone      float64
	}{{&d.first, firstUser, "udp", firstHz}, {&d.second, secondUser, "tcp", secondHz}} {
		err := d.step(ctx, "phone "+p.user+" registers over "+p.transport, func(ctx context.Context) (string, error) {
			var err error
			*p.phone, err = d.phone(p.user, p.transport, d.place.phones[i], proxy, d.place.lan, p.tone)
			if err != nil {
				return "", err
			}
			granted, err := (*p.phone).Register(ctx, time.Hour)
			if err != nil {
				return "", err
			}
			contacts := d.pbx.Contacts(p.user)
			if len(contacts) != 1 {
				return "", fmt.Errorf("the PBX knows the contacts %q", contacts)
			}
			return fmt.Sprintf("the PBX sees it at %s, for %v", contacts[0], granted), nil
		})
		if err != nil {
			return err
		}
	}
	if d.cfg.Break == Tunnel {
		d.forwarder.cut()
	}
	return nil
}

// silence is an address where SIP is read by nobody.
func (d *demo) silence(addr netip.Addr) (netip.AddrPort, error) {
	silent, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return netip.AddrPort{}, err
	}
	d.silent = silent
	return audio.LocalAddrPort(silent), nil
}

// leave unregisters the phones and looks for what is left, unless they stay.
func (d *demo) leave(ctx context.Context) error {
	if d.cfg.Keep {
		return nil
	}
	for _, p := range []*testphone.Phone{d.first, d.second} {
		err := d.step(ctx, "phone "+p.User()+" unregisters", func(ctx context.Context) (string, error) {
			if err := p.Unregister(ctx); err != nil {
				return "", err
			}
			if left := d.pbx.Contacts(p.User()); len(left) > 0 {
				return "", fmt.Errorf("the PBX still has %q", left)
			}
			return "", nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// close ends everything that was started, phones first.
func (d *demo) close() {
	for _, p := range []*testphone.Phone{d.first, d.second} {
		if p != nil {
			_ = p.Close()
		}
	}
	d.proxy.stop()
	d.daemon.stop()
	if d.forwarder != nil {
		d.forwarder.Close()
	}
	if d.silent != nil {
		_ = d.silent.Close()
	}
	if d.pbx != nil {
		_ = d.pbx.Close()
	}
}

// showLogs prints the end of the programs' logs.
func (d *demo) showLogs() {
	for _, name := range []string{"tunneld", "tunnelproxy"} {
		d.report.tail(name, filepath.Join(d.dir, name+".log"))
	}
}
