package minipbx

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// call is a call that is up; its fields do not change.
type call struct {
	id, from, to string
	legs         func() [2]Leg
}

// invited serves an INVITE outside a dialog, from the challenge to the end of the call.
func (p *PBX) invited(in *ua.Incoming) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.served.Add(1)
	p.mu.Unlock()
	defer p.served.Done()

	if refusal := p.authenticate(in.Request, in.Request.From().Address.User, sip.StatusProxyAuthRequired); refusal != nil {
		in.Refuse(refusal)
		return
	}
	number := in.Request.Recipient.User
	_, extension := p.cfg.Users[number]
	switch {
	case number == Echo:
		p.serveEcho(in)
	case number == Tone:
		p.serveTone(in, 0)
	case number == EarlyMedia:
		p.serveTone(in, p.cfg.EarlyTime)
	case number == Busy:
		in.Reject(sip.StatusBusyHere, "Busy Here")
	case number == NoAnswer:
		in.Progress(sip.StatusRinging, "Ringing", nil)
		p.wait(in, nil)
	case extension:
		p.serveExtension(in, number)
	default:
		in.Reject(sip.StatusNotFound, "Not Found")
	}
}

// wait waits for a timer, and reports whether it came. It does not when the caller has given up, or
// the PBX is being closed, which the caller is told.
func (p *PBX) wait(in *ua.Incoming, timer <-chan time.Time) bool {
	select {
	case <-timer:
		return true
	case <-in.Cancelled():
		return false
	case <-p.ctx.Done():
		in.Reject(sip.StatusServiceUnavailable, "Service Unavailable")
		return false
	}
}

// newCall is the record of the call that an INVITE makes.
func newCall(in *ua.Incoming, legs func() [2]Leg) *call {
	return &call{
		id:   string(*in.Request.CallID()),
		from: in.Request.From().Address.User,
		to:   in.Request.Recipient.User,
		legs: legs,
	}
}

// untilOver waits for the end of a call of the PBX itself; when the PBX is closed it hangs up.
func (p *PBX) untilOver(c *call, dialog *ua.Dialog) {
	p.callBegins(c)
	defer p.callEnds(c)
	select {
	case <-dialog.Done():
	case <-p.ctx.Done():
		bye(dialog)
	}
}

// bye hangs up. Whether the other side has heard it makes no difference to the PBX.
func bye(dialog *ua.Dialog) {
	ctx, cancel := context.WithTimeout(context.Background(), hangupTime)
	defer cancel()
	_ = dialog.Bye(ctx)
}

// notAcceptable refuses a call without a usable offer.
func notAcceptable(in *ua.Incoming) { in.Reject(sip.StatusNotAcceptableHere, "Not Acceptable Here") }

// answerer makes the SDP of a number of the PBX itself, and takes that of the phone.
type answerer struct {
	local audio.Description
	point func(audio.Description)
}

func newAnswerer(local audio.Description, point func(audio.Description)) *answerer {
	local.Session, local.Version, local.Direction = rand.Uint64()>>2, 1, audio.SendRecv
	return &answerer{local: local, point: point}
}

// answer is a ua.Reinvite, and good for the first INVITE too.
func (a *answerer) answer(offer []byte) ([]byte, error) {
	a.local.Version++
	if len(offer) == 0 {
		return a.local.Offer(), nil
	}
	d, err := audio.ParseDescription(offer)
	if err != nil {
		return nil, err
	}
	a.point(d)
	local := a.local
	local.Direction = d.Direction.Reverse()
	return local.Answer(offer)
}

func (p *PBX) serveEcho(in *ua.Incoming) {
	port, err := p.openPort()
	if err != nil {
		in.Reject(sip.StatusServiceUnavailable, "No Port Free")
		return
	}
	defer port.close()
	a := newAnswerer(audio.Description{RTP: port.addr()}, port.point)
	sdp, err := a.answer(in.Request.Body())
	if err != nil || len(in.Request.Body()) == 0 {
		notAcceptable(in)
		return
	}
	port.echo()
	in.Progress(sip.StatusRinging, "Ringing", nil)
	dialog, err := in.Answer(sdp, a.answer)
	if err != nil {
		return
	}
	p.untilOver(newCall(in, func() [2]Leg { return [2]Leg{port.leg()} }), dialog)
}

// serveTone plays a tone, for the given time before it answers.
func (p *PBX) serveTone(in *ua.Incoming, early time.Duration) {
	stream, err := audio.Listen(p.cfg.Media, nil)
	if err != nil {
		in.Reject(sip.StatusServiceUnavailable, "No Port Free")
		return
	}
	defer stream.Close()
	stream.SetTone(p.cfg.ToneHz)
	if p.cfg.LoseAudio {
		stream.Lose()
	}
	a := newAnswerer(audio.Description{RTP: stream.LocalAddr()}, func(d audio.Description) {
		stream.SetRemote(d.RTP, d.RTCP)
		stream.SetSending(d.Direction.Receives())
	})
	sdp, err := a.answer(in.Request.Body())
	if err != nil || len(in.Request.Body()) == 0 {
		notAcceptable(in)
		return
	}
	stream.Start()
	if early > 0 {
		in.Progress(sip.StatusSessionInProgress, "Session Progress", sdp)
		timer := time.NewTimer(early)
		defer timer.Stop()
		if !p.wait(in, timer.C) {
			return
		}
	}
	dialog, err := in.Answer(sdp, a.answer)
	if err != nil {
		return
	}
	p.untilOver(newCall(in, func() [2]Leg {
		s := stream.Stats()
		return [2]Leg{{In: s.Received, Out: s.Sent, Foreign: s.Foreign}}
	}), dialog)
}
