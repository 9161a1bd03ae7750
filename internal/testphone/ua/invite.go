package ua

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"
)

// cancelWait bounds the wait for the final response to an INVITE that was given up. RFC 3261 section
// 9.1 would have 32 s, which a test has not.
const cancelWait = 4 * time.Second

// Invite sends an INVITE and waits for its final response. It returns the dialog and the 2xx, or the
// refusal as a StatusError. Each provisional response but 100 is handed to progress, which may be
// nil, from this goroutine. When ctx ends before the answer, the call is cancelled as RFC 3261
// section 9.1 wants it, and the error is the cause of ctx.
func (a *Agent) Invite(ctx context.Context, r Request, progress func(*sip.Response)) (*Dialog, *sip.Response, error) {
	r.Method = sip.INVITE
	r.ContentType = sdpType
	contact := a.Contact(r.From.User, r.Transport)
	r.Headers = append([]sip.Header{&sip.ContactHeader{Address: contact}}, r.Headers...)
	req := a.build(r)
	for attempt := 0; ; attempt++ {
		res, tx, err := a.invite(ctx, req, progress)
		if err != nil {
			return nil, nil, err
		}
		if res.IsSuccess() {
			d := a.fromResponse(req, res, r.Credentials)
			d.onReinvite = r.Reinvite
			return a.established(ctx, d, req, res, tx)
		}
		next, err := a.authorize(req, res, r.Credentials, attempt)
		if err != nil {
			return nil, nil, err
		}
		if next == nil {
			return nil, nil, statusError(res)
		}
		req = next
	}
}

// established acknowledges a 2xx, and hangs up at once when the call was given up in the meantime.
func (a *Agent) established(ctx context.Context, d *Dialog, req *sip.Request, res *sip.Response, tx sip.ClientTransaction) (*Dialog, *sip.Response, error) {
	if err := d.register(); err != nil {
		tx.Terminate()
		return nil, nil, err
	}
	if err := d.acknowledge(req, tx); err != nil {
		d.end(err.Error())
		return nil, nil, fmt.Errorf("ACK: %w", err)
	}
	if ctx.Err() == nil {
		return d, res, nil
	}
	bye, cancel := context.WithTimeout(a.ctx, 4*sip.T1)
	defer cancel()
	return nil, nil, errors.Join(context.Cause(ctx), d.Bye(bye))
}

// invite runs one INVITE transaction to its final response. After a 2xx the transaction lives on, to
// see retransmissions; it ends by itself or with the Agent.
func (a *Agent) invite(ctx context.Context, req *sip.Request, progress func(*sip.Response)) (*sip.Response, sip.ClientTransaction, error) {
	if !a.enter() {
		return nil, nil, ErrClosed
	}
	defer a.handlers.Done()
	tx, err := a.client.TransactionRequest(ctx, req)
	if err != nil {
		return nil, nil, fmt.Errorf("INVITE to %s: %w", req.Destination(), err)
	}
	var (
		giveUp     = ctx.Done()
		ringing    bool             // a provisional response has come
		cancelling bool             // the caller has given up
		limit      <-chan time.Time // for the final response after that
	)
	for {
		select {
		case res := <-tx.Responses():
			if !res.IsProvisional() {
				if !res.IsSuccess() && cancelling {
					return nil, nil, fmt.Errorf("INVITE to %s: cancelled: %w", req.Destination(), context.Cause(ctx))
				}
				return res, tx, nil
			}
			if !ringing && cancelling {
				a.sendCancel(req)
			}
			ringing = true
			if progress != nil && !cancelling && res.StatusCode > sip.StatusTrying {
				progress(res)
			}
		case <-giveUp:
			giveUp, cancelling, limit = nil, true, time.After(cancelWait)
			if ringing {
				a.sendCancel(req)
			}
		case <-limit:
			tx.Terminate()
			return nil, nil, fmt.Errorf("INVITE to %s: no answer: %w", req.Destination(), context.Cause(ctx))
		case <-tx.Done():
			return nil, nil, fmt.Errorf("INVITE to %s: %w", req.Destination(), tx.Err())
		case <-a.ctx.Done():
			tx.Terminate()
			return nil, nil, ErrClosed
		}
	}
}

// sendCancel sends the CANCEL of an INVITE that has got a provisional response: to the same place,
// with the same branch, route and sequence number.
func (a *Agent) sendCancel(invite *sip.Request) {
	cancel := sip.NewRequest(sip.CANCEL, *invite.Recipient.Clone())
	cancel.AppendHeader(sip.HeaderClone(invite.Via()))
	maxForwards := sip.MaxForwardsHeader(70)
	cancel.AppendHeader(&maxForwards)
	sip.CopyHeaders("Route", invite, cancel)
	cancel.AppendHeader(sip.HeaderClone(invite.From()))
	cancel.AppendHeader(sip.HeaderClone(invite.To()))
	cancel.AppendHeader(sip.HeaderClone(invite.CallID()))
	cancel.AppendHeader(&sip.CSeqHeader{SeqNo: invite.CSeq().SeqNo, MethodName: sip.CANCEL})
	a.finish(cancel, "", nil, invite.Transport())
	cancel.SetDestination(invite.Destination())
	tx, err := a.client.TransactionRequest(a.ctx, cancel, keep)
	if err != nil {
		return // the INVITE ends by its own timer
	}
	a.handlers.Add(1) // the caller holds one already
	go func() {
		defer a.handlers.Done()
		defer tx.Terminate()
		for {
			select {
			case res := <-tx.Responses():
				if !res.IsProvisional() {
					return
				}
			case <-tx.Done():
				return
			case <-a.ctx.Done():
				return
			}
		}
	}()
}

// Incoming is an INVITE that waits for its answer. It belongs to the goroutine that it was handed to,
// apart from Cancelled.
type Incoming struct {
	Request *sip.Request
	agent   *Agent
	tx      sip.ServerTransaction
	dialog  *Dialog
	over    chan struct{}
	once    sync.Once
	final   bool
}

// handleInvite serves INVITE requests inside and outside dialogs.
func (a *Agent) handleInvite(req *sip.Request, tx sip.ServerTransaction) {
	if req.CallID() == nil || req.CSeq() == nil || req.From() == nil || req.To() == nil {
		a.respond(tx, a.NewResponse(req, sip.StatusBadRequest, "Bad Request"))
		return
	}
	if req.To().Params.Has("tag") {
		a.handleReinvite(req, tx)
		return
	}
	// Right away, because this stops the timer after which sipgo reads the request to send a 100.
	a.respond(tx, sip.NewResponseFromRequest(req, sip.StatusTrying, "Trying", nil))
	// All responses have to carry the same tag, also the 487 that sipgo makes from this request.
	req.To().Params.Add("tag", sip.GenerateTagN(16))
	in := &Incoming{Request: req, agent: a, tx: tx, over: make(chan struct{})}
	if a.cfg.Invite == nil {
		in.Reject(sip.StatusTemporarilyUnavailable, "Temporarily Unavailable")
		return
	}
	if !tx.OnCancel(func(*sip.Request) { in.giveUp() }) {
		return
	}
	unwatch := context.AfterFunc(a.ctx, in.giveUp)
	defer unwatch()
	a.cfg.Invite(in)
	if !in.final {
		in.Reject(sip.StatusTemporarilyUnavailable, "Temporarily Unavailable")
	}
	if in.dialog != nil {
		// sipgo drops a transaction over TCP when its handler returns; the 2xx may have to be repeated.
		in.dialog.untilAcknowledged()
	}
}

func (in *Incoming) giveUp() { in.once.Do(func() { close(in.over) }) }

// Cancelled is closed when the caller has cancelled, or the Agent is being closed. The caller has got
// its answer then.
func (in *Incoming) Cancelled() <-chan struct{} { return in.over }

// Progress sends a provisional response, with SDP for early media.
func (in *Incoming) Progress(code int, reason string, sdp []byte) {
	res := in.agent.NewResponse(in.Request, code, reason)
	res.AppendHeader(&sip.ContactHeader{Address: in.contact()})
	if len(sdp) > 0 {
		res.AppendHeader(sip.NewHeader("Content-Type", sdpType))
		res.SetBody(sdp)
	}
	in.agent.respond(in.tx, res)
}

func (in *Incoming) contact() sip.Uri {
	return in.agent.Contact(in.Request.To().Address.User, in.Request.Transport())
}

// Reject sends a final response that is no success.
func (in *Incoming) Reject(code int, reason string) {
	in.Refuse(in.agent.NewResponse(in.Request, code, reason))
}

// Refuse sends a final response that is no success and was made from the Request. After a
// cancellation it does nothing.
func (in *Incoming) Refuse(res *sip.Response) {
	in.final = true
	select {
	case <-in.over:
	default:
		in.agent.respond(in.tx, res)
	}
}

// Answer sends a 200 with SDP and returns the dialog. The 200 is repeated until its ACK has come.
// New offers of the caller go to reinvite; nil refuses them.
func (in *Incoming) Answer(sdp []byte, reinvite Reinvite) (*Dialog, error) {
	in.final = true
	d := in.agent.fromRequest(in.Request)
	d.onReinvite = reinvite
	if err := d.register(); err != nil {
		return nil, err
	}
	select {
	case <-in.over:
		d.end("cancelled")
		return nil, errors.New("cancelled by the caller")
	default:
	}
	if err := d.accept(in.Request, in.tx, sdp); err != nil {
		d.end(err.Error())
		return nil, err
	}
	in.dialog = d
	return d, nil
}

func (a *Agent) handleReinvite(req *sip.Request, tx sip.ServerTransaction) {
	d := a.dialog(req)
	if d == nil {
		a.respond(tx, a.NewResponse(req, sip.StatusCallTransactionDoesNotExists, "Call/Transaction Does Not Exist"))
		return
	}
	d.mu.Lock()
	stale := req.CSeq().SeqNo <= d.remoteSeq
	d.remoteSeq = max(d.remoteSeq, req.CSeq().SeqNo)
	d.mu.Unlock()
	if stale {
		a.respond(tx, a.NewResponse(req, sip.StatusInternalServerError, "CSeq Out of Order"))
		return
	}
	if !d.claim() {
		a.respond(tx, a.NewResponse(req, sip.StatusRequestPending, "Request Pending"))
		return
	}
	d.answerReinvite(req, tx)
	d.untilAcknowledged() // see handleInvite
}

// answerReinvite has an INVITE in the dialog answered. The next may come as soon as the answer is out.
func (d *Dialog) answerReinvite(req *sip.Request, tx sip.ServerTransaction) {
	refusal := &StatusError{Code: sip.StatusNotAcceptableHere, Reason: "Not Acceptable Here"}
	err := error(refusal)
	var sdp []byte
	if d.onReinvite != nil {
		sdp, err = d.onReinvite(req.Body())
	}
	d.release()
	if err != nil {
		errors.As(err, &refusal)
		d.agent.respond(tx, d.agent.NewResponse(req, refusal.Code, refusal.Reason))
		return
	}
	d.retarget(req.Contact())
	if err := d.accept(req, tx, sdp); err != nil {
		d.end(err.Error())
	}
}
