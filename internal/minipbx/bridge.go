package minipbx

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// The two sides of a bridge.
const (
	caller = 0
	callee = 1
)

// bridge is a call between two extensions: two dialogs, and between them SDP and, where the PBX
// stands in the media, two ports.
type bridge struct {
	ports     [2]*port // nil with direct media
	musicHz   float64
	musicAddr netip.Addr

	mu      sync.Mutex
	dialogs [2]*ua.Dialog
	told    [2][]byte // the SDP that each side got last
	music   *music    // nil unless somebody is on hold
}

// other is the other side.
func other(side int) int { return 1 - side }

func (p *PBX) openBridge() (*bridge, error) {
	b := &bridge{musicHz: p.cfg.MusicHz, musicAddr: p.cfg.Media}
	if p.cfg.DirectMedia {
		return b, nil
	}
	for side := range b.ports {
		opened, err := p.openPort()
		if err != nil {
			b.close()
			return nil, err
		}
		b.ports[side] = opened
	}
	connect(b.ports[caller], b.ports[callee])
	return b, nil
}

func (b *bridge) close() {
	b.stopMusic(caller)
	b.stopMusic(callee)
	for _, p := range b.ports {
		if p != nil {
			p.close()
		}
	}
}

func (b *bridge) legs() (legs [2]Leg) {
	for side, p := range b.ports {
		if p != nil {
			legs[side] = p.leg()
		}
	}
	return legs
}

// pass takes SDP from one side and returns what the other side is told.
func (b *bridge) pass(from int, sdp []byte) ([]byte, error) {
	if b.ports[from] != nil {
		d, err := audio.ParseTransport(sdp)
		if err != nil {
			return nil, err
		}
		b.ports[from].point(d)
		sdp = audio.Readdress(sdp, b.ports[other(from)].addr())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told[other(from)] = sdp
	return sdp, nil
}

// reinvite is what answers new offers of one side: it asks the other.
func (b *bridge) reinvite(from int) ua.Reinvite {
	return func(offer []byte) ([]byte, error) {
		b.mu.Lock()
		dialog, told := b.dialogs[other(from)], b.told[from]
		b.mu.Unlock()
		switch {
		case dialog == nil:
			return nil, &ua.StatusError{Code: sip.StatusRequestPending, Reason: "Request Pending"}
		case len(offer) == 0:
			return told, nil
		case b.holds(offer):
			return b.hold(from, offer, dialog)
		}
		defer b.stopMusic(from)
		offer, err := b.pass(from, offer)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), hangupTime)
		defer cancel()
		answer, err := dialog.Reinvite(ctx, offer)
		if err != nil {
			return nil, err
		}
		return b.pass(other(from), answer)
	}
}

// outcome is how the call to one contact ended.
type outcome struct {
	dialog *ua.Dialog
	sdp    []byte
	err    error
}

// serveExtension rings all contacts of a user and connects the caller with the first that answers.
func (p *PBX) serveExtension(in *ua.Incoming, user string) {
	bindings := p.registrar.bindings(user)
	if len(bindings) == 0 {
		in.Reject(sip.StatusTemporarilyUnavailable, "Temporarily Unavailable")
		return
	}
	b, err := p.openBridge()
	if err != nil {
		in.Reject(sip.StatusServiceUnavailable, "No Port Free")
		return
	}
	defer b.close()
	if len(in.Request.Body()) == 0 {
		notAcceptable(in)
		return
	}
	offer, err := b.pass(caller, in.Request.Body())
	if err != nil {
		notAcceptable(in)
		return
	}
	winner := p.ring(in, b, user, offer, bindings)
	if winner.err != nil {
		status := &ua.StatusError{Code: sip.StatusTemporarilyUnavailable, Reason: "Temporarily Unavailable"}
		errors.As(winner.err, &status)
		in.Reject(status.Code, status.Reason)
		return
	}
	p.talk(in, b, winner)
}

// ring calls all contacts at once. It returns the first answer, or the refusal to pass on; when it
// returns, all other calls are over.
func (p *PBX) ring(in *ua.Incoming, b *bridge, user string, offer []byte, bindings []binding) outcome {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	results := make(chan outcome, len(bindings))
	progress := make(chan *sip.Response)
	for _, binding := range bindings {
		// ring waits for all results.
		go func() { results <- p.ringOne(ctx, in, b, user, offer, binding, progress) }()
	}
	given := in.Cancelled()
	winner := outcome{err: errors.New("no contact")}
	for waiting := len(bindings); waiting > 0; {
		select {
		case res := <-progress:
			if winner.dialog == nil {
				p.pass(in, b, res)
			}
		case <-given:
			given = nil
			cancel()
		case result := <-results:
			waiting--
			switch {
			case result.err != nil:
				if winner.dialog == nil {
					winner.err = worse(winner.err, result.err)
				}
			case winner.dialog != nil:
				bye(result.dialog) // two answered at the same moment
			default:
				winner = result
				cancel()
			}
		}
	}
	return winner
}

// ringOne calls one contact: one over UDP where it said, one over TCP on the connection that it
// registered with.
func (p *PBX) ringOne(ctx context.Context, in *ua.Incoming, b *bridge, user string, offer []byte, to binding, progress chan<- *sip.Response) outcome {
	from := in.Request.From()
	r := ua.Request{
		URI:       *to.uri.Clone(),
		From:      sip.Uri{Scheme: "sip", User: from.Address.User, Host: p.cfg.Domain},
		Display:   from.DisplayName,
		To:        sip.Uri{Scheme: "sip", User: user, Host: p.cfg.Domain},
		Transport: to.transport,
		Body:      offer,
		Reinvite:  b.reinvite(callee),
	}
	if to.transport == "tcp" {
		r.NextHop = to.source
	} else if addr, err := netip.ParseAddr(to.uri.Host); err == nil {
		r.NextHop = netip.AddrPortFrom(addr, uint16(to.uri.Port))
		if to.uri.Port == 0 {
			r.NextHop = netip.AddrPortFrom(addr, uint16(sip.DefaultUdpPort))
		}
	}
	dialog, res, err := p.agent.Invite(ctx, r, func(res *sip.Response) {
		select {
		case progress <- res:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return outcome{err: err}
	}
	return outcome{dialog: dialog, sdp: res.Body()}
}

// pass hands a provisional response of the callee to the caller.
func (p *PBX) pass(in *ua.Incoming, b *bridge, res *sip.Response) {
	var sdp []byte
	if len(res.Body()) > 0 {
		passed, err := b.pass(callee, res.Body())
		if err != nil {
			return
		}
		sdp = passed
	}
	in.Progress(res.StatusCode, res.Reason, sdp)
}

// worse picks the refusal that the caller gets (RFC 3261 section 16.7): a global one, else the one
// with the lowest code; failures to get an answer come last.
func worse(a, b error) error {
	var x, y *ua.StatusError
	switch {
	case !errors.As(b, &y):
		return a
	case !errors.As(a, &x):
		return b
	case y.Code >= 600 && x.Code < 600, y.Code < x.Code && x.Code < 600:
		return b
	default:
		return a
	}
}

// talk answers the caller and keeps the two legs together until one hangs up.
func (p *PBX) talk(in *ua.Incoming, b *bridge, winner outcome) {
	answer, err := b.pass(callee, winner.sdp)
	if err != nil {
		bye(winner.dialog)
		notAcceptable(in)
		return
	}
	b.mu.Lock()
	b.dialogs[callee] = winner.dialog
	b.mu.Unlock()
	dialog, err := in.Answer(answer, b.reinvite(caller))
	if err != nil {
		bye(winner.dialog)
		return
	}
	b.mu.Lock()
	b.dialogs[caller] = dialog
	b.mu.Unlock()

	c := newCall(in, b.legs)
	p.callBegins(c)
	defer p.callEnds(c)
	select {
	case <-dialog.Done():
	case <-winner.dialog.Done():
	case <-p.ctx.Done():
	}
	// Of the dialog that is over, nothing is sent.
	var wg sync.WaitGroup
	for _, d := range []*ua.Dialog{dialog, winner.dialog} {
		wg.Go(func() { bye(d) })
	}
	wg.Wait()
}
