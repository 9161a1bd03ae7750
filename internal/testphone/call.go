package testphone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// Errors of calls.
var (
	// ErrCallOver says that the call has ended, or was never answered.
	ErrCallOver = errors.New("call is over")
	// ErrMediaAddress says that SDP wanted the phone's audio to go somewhere else than to the proxy.
	ErrMediaAddress = errors.New("SDP names an address that is not the proxy's")
	// errCancelled is the reason of a call that this side gave up before it was answered.
	errCancelled = errors.New("cancelled by this side")
)

// Call is a call of a Phone. It is safe for concurrent use. Its audio runs from the answer, or from
// early media, to the end.
type Call struct {
	phone  *Phone
	remote string // the other side: the number called, or the user that calls
	id     string // Call-ID
	stream *audio.Stream

	ringing, early, answered, done chan struct{}

	orders chan func(*ua.Incoming) // an incoming call: what is to be done with it
	cancel context.CancelCauseFunc // an outgoing call: gives it up

	mu     sync.Mutex
	dialog *ua.Dialog
	local  audio.Description // what this side said last
	held   bool              // the other side does not want to receive
	err    error             // why the call is over
	over   sync.Once
}

func (p *Phone) newCall(remote, id string) (*Call, error) {
	stream, err := audio.Listen(p.agent.Addr().Addr(), p.cfg.Stopwatch)
	if err != nil {
		return nil, err
	}
	stream.SetTone(p.cfg.Tone)
	if p.cfg.LoseAudio {
		stream.Lose()
	}
	c := &Call{
		phone:    p,
		remote:   remote,
		id:       id,
		stream:   stream,
		ringing:  make(chan struct{}),
		early:    make(chan struct{}),
		answered: make(chan struct{}),
		done:     make(chan struct{}),
		local:    audio.Description{Session: rand.Uint64() >> 2, Version: 1, RTP: stream.LocalAddr(), Direction: audio.SendRecv},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		stream.Close()
		return nil, ua.ErrClosed
	}
	p.calls[c] = struct{}{}
	return c, nil
}

// Dial calls a number and returns at once; Wait tells what became of it.
func (p *Phone) Dial(number string) (*Call, error) {
	c, err := p.newCall(number, sip.GenerateTagN(24))
	if err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, c.cancel = context.WithCancelCause(context.Background())
	p.wg.Go(func() { c.run(ctx) })
	return c, nil
}

// Call calls a number and waits until it is answered. When ctx ends before, the call is cancelled. A
// refusal is a StatusError.
func (p *Phone) Call(ctx context.Context, number string) (*Call, error) {
	c, err := p.Dial(number)
	if err != nil {
		return nil, err
	}
	return c, c.Wait(ctx)
}

// run is the life of an outgoing call.
func (c *Call) run(ctx context.Context) {
	r := c.phone.request(sip.INVITE, c.phone.address(c.remote))
	c.mu.Lock()
	r.Body = c.local.Offer()
	c.mu.Unlock()
	r.Reinvite = c.reinvited
	r.CallID = c.id
	dialog, res, err := c.phone.agent.Invite(ctx, r, c.progress)
	if err != nil {
		c.finish(err)
		return
	}
	c.mu.Lock()
	c.dialog = dialog
	c.mu.Unlock()
	if err := c.connect(res.Body(), true); err != nil {
		bye, cancel := context.WithTimeout(context.Background(), hangupTime)
		defer cancel()
		c.finish(errors.Join(err, dialog.Bye(bye)))
		return
	}
	close(c.answered)
	<-dialog.Done()
	c.finish(fmt.Errorf("%w: %s", ErrCallOver, dialog.Reason()))
}

// progress sees the provisional responses of an outgoing call, one at a time.
func (c *Call) progress(res *sip.Response) {
	closeOnce(c.ringing)
	if len(res.Body()) == 0 {
		return
	}
	if err := c.connect(res.Body(), false); err != nil {
		c.cancel(err)
		return
	}
	closeOnce(c.early)
}

// closeOnce closes a Go channel that only one goroutine closes.
func closeOnce(done chan struct{}) {
	select {
	case <-done:
	default:
		close(done)
	}
}

// connect lets the audio run to and from where the other side's SDP says.
func (c *Call) connect(sdp []byte, send bool) error {
	d, err := audio.ParseDescription(sdp)
	if err != nil {
		return err
	}
	if err := c.allowed(d); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.apply(d, send)
	return nil
}

func (c *Call) allowed(d audio.Description) error {
	if media := c.phone.cfg.Media; media.IsValid() && d.RTP.Addr() != media && !d.RTP.Addr().IsUnspecified() {
		return fmt.Errorf("%w: %s", ErrMediaAddress, d.RTP)
	}
	return nil
}

// apply takes over the other side's description; c.mu is held.
func (c *Call) apply(d audio.Description, send bool) {
	c.held = !d.Direction.Receives()
	c.stream.SetRemote(d.RTP, d.RTCP)
	c.stream.SetSending(send && !c.held && c.local.Direction.Sends())
	c.stream.Start()
}

// finish ends the audio and tells everybody who waits; only the first error counts.
func (c *Call) finish(err error) {
	c.over.Do(func() {
		c.stream.Close()
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		c.phone.mu.Lock()
		delete(c.phone.calls, c)
		c.phone.mu.Unlock()
		close(c.done)
	})
}

// invited is the life of an incoming call; it runs in the goroutine of its INVITE.
func (p *Phone) invited(in *ua.Incoming) {
	offer, err := audio.ParseDescription(in.Request.Body())
	c, newErr := p.newCall(in.Request.From().Address.User, string(*in.Request.CallID()))
	if newErr != nil {
		in.Reject(sip.StatusTemporarilyUnavailable, "Temporarily Unavailable")
		return
	}
	c.orders = make(chan func(*ua.Incoming))
	if err == nil {
		err = c.allowed(offer)
	}
	if err != nil {
		in.Reject(sip.StatusNotAcceptableHere, "Not Acceptable Here")
		c.finish(err)
		return
	}
	select {
	case p.incoming <- c:
	default:
		in.Reject(sip.StatusBusyHere, "Busy Here")
		c.finish(fmt.Errorf("%w: too many calls wait", ErrCallOver))
		return
	}
	in.Progress(sip.StatusRinging, "Ringing", nil)
	close(c.ringing)
	for {
		select {
		case order := <-c.orders:
			order(in)
		case <-in.Cancelled():
			c.finish(fmt.Errorf("%w: cancelled by the caller", ErrCallOver))
			return
		case <-c.done:
			return
		}
		c.mu.Lock()
		dialog := c.dialog
		c.mu.Unlock()
		if dialog != nil {
			close(c.answered)
			p.wg.Go(func() {
				<-dialog.Done()
				c.finish(fmt.Errorf("%w: %s", ErrCallOver, dialog.Reason()))
			})
			return
		}
	}
}

// Answer answers an incoming call and returns when the 200 is on its way; the audio runs then.
func (c *Call) Answer(ctx context.Context) error {
	return c.order(ctx, func(in *ua.Incoming) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		offer, err := audio.ParseDescription(in.Request.Body())
		if err != nil {
			return err
		}
		answer, err := c.local.Answer(in.Request.Body())
		if err != nil {
			return err
		}
		c.apply(offer, true)
		c.dialog, err = in.Answer(answer, c.reinvited)
		return err
	})
}

// Reject refuses an incoming call with a SIP status, such as 486 and "Busy Here".
func (c *Call) Reject(ctx context.Context, code int, reason string) error {
	return c.order(ctx, func(in *ua.Incoming) error {
		in.Reject(code, reason)
		c.finish(fmt.Errorf("%w: rejected by this side", ErrCallOver))
		return nil
	})
}

// order has something done in the goroutine of the INVITE.
func (c *Call) order(ctx context.Context, f func(*ua.Incoming) error) error {
	if c.orders == nil {
		return errors.New("not an incoming call")
	}
	result := make(chan error, 1)
	select {
	case c.orders <- func(in *ua.Incoming) { result <- f(in) }:
		return <-result
	case <-c.answered:
		return errors.New("answered already")
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Remote is the number that was called, or the user that calls.
func (c *Call) Remote() string { return c.remote }

// CallID is the Call-ID on this side of the PBX.
func (c *Call) CallID() string { return c.id }

// Ringing is closed when the other side rings, of an incoming call when this side does.
func (c *Call) Ringing() <-chan struct{} { return c.ringing }

// EarlyMedia is closed when audio runs before the answer.
func (c *Call) EarlyMedia() <-chan struct{} { return c.early }

// Answered is closed when the call is answered.
func (c *Call) Answered() <-chan struct{} { return c.answered }

// Done is closed when the call is over, for whatever reason.
func (c *Call) Done() <-chan struct{} { return c.done }

// Err says why the call is over; it is nil before.
func (c *Call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Wait waits until the call is answered. When ctx ends before, an outgoing call is cancelled.
func (c *Call) Wait(ctx context.Context) error {
	select {
	case <-c.answered:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		if c.cancel == nil {
			return context.Cause(ctx)
		}
		c.cancel(context.Cause(ctx))
		<-c.done
		return c.Err()
	}
}

// Hangup ends the call in whatever state it is: it cancels, rejects with 603 or sends BYE, and waits
// for the answer. A call that is over already is no error.
func (c *Call) Hangup(ctx context.Context) error {
	c.mu.Lock()
	dialog := c.dialog
	c.mu.Unlock()
	switch {
	case dialog != nil:
		err := dialog.Bye(ctx)
		<-c.done
		return err
	case c.cancel != nil:
		c.cancel(errCancelled)
		select {
		case <-c.done:
			return nil
		case <-c.answered: // the answer crossed
			return c.Hangup(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	default:
		if err := c.Reject(ctx, sip.StatusGlobalDecline, "Decline"); err != nil && !errors.Is(err, ErrCallOver) {
			return err
		}
		return nil
	}
}

// SetTone changes the frequency that is sent.
func (c *Call) SetTone(frequency float64) { c.stream.SetTone(frequency) }

// Mute stops sending, until Unmute or until a re-INVITE turns it on again. When it returns, no packet
// is sent any more.
func (c *Call) Mute() { c.stream.SetSending(false) }

// Unmute sends again.
func (c *Call) Unmute() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream.SetSending(!c.held && c.local.Direction.Sends())
}

// Hear waits until a tone has been heard for a while, see audio.Stream.Hear.
func (c *Call) Hear(ctx context.Context, frequency float64, length time.Duration) error {
	return c.stream.Hear(ctx, frequency, length)
}

// Stats are the figures of the call's audio, also when it is over.
func (c *Call) Stats() audio.Stats { return c.stream.Stats() }

// Hold asks the other side not to send. This side goes on sending, as a PBX with music would.
func (c *Call) Hold(ctx context.Context) error { return c.redirect(ctx, audio.SendOnly) }

// Resume takes Hold back.
func (c *Call) Resume(ctx context.Context) error { return c.redirect(ctx, audio.SendRecv) }

// Held reports whether the other side has put this one on hold.
func (c *Call) Held() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}

func (c *Call) redirect(ctx context.Context, direction audio.Direction) error {
	c.mu.Lock()
	dialog, before := c.dialog, c.local.Direction
	if dialog == nil {
		c.mu.Unlock()
		return errors.New("call is not answered")
	}
	c.local.Direction = direction
	c.local.Version++
	offer := c.local.Offer()
	c.mu.Unlock()
	answer, err := dialog.Reinvite(ctx, offer)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.local.Direction = before
		return err
	}
	return c.connect(answer, true)
}

// reinvited answers a new offer of the other side, or makes one when it wants that.
func (c *Call) reinvited(sdp []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.local.Version++
	if len(sdp) == 0 {
		return c.local.Offer(), nil
	}
	offer, err := audio.ParseDescription(sdp)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(offer); err != nil {
		return nil, err
	}
	answer := c.local
	answer.Direction = narrow(offer.Direction.Reverse(), c.local.Direction)
	c.apply(offer, true)
	return answer.Answer(sdp)
}

// narrow is the direction that lets through what both let through.
func narrow(a, b audio.Direction) audio.Direction {
	switch send, receive := a.Sends() && b.Sends(), a.Receives() && b.Receives(); {
	case send && receive:
		return audio.SendRecv
	case send:
		return audio.SendOnly
	case receive:
		return audio.RecvOnly
	default:
		return audio.Inactive
	}
}
