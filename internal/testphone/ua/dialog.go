package ua

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"
)

const sdpType = "application/sdp"

// party is one side of a dialog as it appears in From or To.
type party struct {
	uri     sip.Uri
	display string
	tag     string
}

// Reinvite answers an INVITE of the peer within a dialog. It gets the offer, which is empty when the
// peer wants this side to offer, and returns the SDP of the 200. An error that is a StatusError is
// sent as such, any other as 488. It is called from one goroutine at a time.
type Reinvite func(offer []byte) (answer []byte, err error)

// Dialog is an answered call as one of its user agents sees it (RFC 3261 section 12). It is safe for
// concurrent use.
type Dialog struct {
	agent       *Agent
	callID      string
	local       party
	remote      party
	routes      []string // route set, in the order of Route headers
	transport   string
	flow        string // where the peer's messages come from
	credentials Credentials
	onReinvite  Reinvite

	mu        sync.Mutex
	target    sip.Uri // remote target
	seq       uint32
	remoteSeq uint32
	busy      bool          // an INVITE is under way, one way or the other
	ack       chan struct{} // closed by the ACK that a 2xx of ours waits for
	ackSeq    uint32
	reason    string

	done chan struct{}
}

// fromRequest is the dialog of an INVITE that this side answers.
func (a *Agent) fromRequest(req *sip.Request) *Dialog {
	d := &Dialog{
		agent:     a,
		callID:    string(*req.CallID()),
		local:     party{uri: req.To().Address, display: req.To().DisplayName},
		remote:    party{uri: req.From().Address, display: req.From().DisplayName},
		routes:    Values(req.GetHeaders("Record-Route")),
		transport: req.Transport(),
		flow:      req.Source(),
		target:    req.From().Address,
		remoteSeq: req.CSeq().SeqNo,
		done:      make(chan struct{}),
	}
	d.local.tag, _ = req.To().Params.Get("tag")
	d.remote.tag, _ = req.From().Params.Get("tag")
	if c := req.Contact(); c != nil {
		d.target = c.Address
	}
	return d
}

// fromResponse is the dialog that the 2xx to an INVITE of this side makes.
func (a *Agent) fromResponse(req *sip.Request, res *sip.Response, credentials Credentials) *Dialog {
	d := &Dialog{
		agent:       a,
		callID:      string(*req.CallID()),
		local:       party{uri: req.From().Address, display: req.From().DisplayName},
		remote:      party{uri: res.To().Address, display: res.To().DisplayName},
		routes:      Values(res.GetHeaders("Record-Route")),
		transport:   req.Transport(),
		flow:        res.Source(),
		credentials: credentials,
		target:      req.Recipient,
		seq:         req.CSeq().SeqNo,
		done:        make(chan struct{}),
	}
	slices.Reverse(d.routes)
	d.local.tag, _ = req.From().Params.Get("tag")
	d.remote.tag, _ = res.To().Params.Get("tag")
	if c := res.Contact(); c != nil {
		d.target = c.Address
	}
	return d
}

// Values returns the single values of headers such as Record-Route and Contact, of which one line may
// have several, separated by commas.
func Values(headers []sip.Header) []string {
	var values []string
	for _, h := range headers {
		rest, quoted, bracket, start := h.Value(), false, false, 0
		for i, c := range rest {
			switch {
			case c == '"' && !bracket:
				quoted = !quoted
			case c == '<' && !quoted:
				bracket = true
			case c == '>' && !quoted:
				bracket = false
			case c == ',' && !quoted && !bracket:
				values = append(values, strings.TrimSpace(rest[start:i]))
				start = i + 1
			}
		}
		values = append(values, strings.TrimSpace(rest[start:]))
	}
	return values
}

// register makes the dialog known for requests in it. It fails when the Agent is closed.
func (d *Dialog) register() error {
	a := d.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return ErrClosed
	}
	a.dialogs[dialogKey{d.callID, d.local.tag}] = d
	return nil
}

// end marks the dialog as over; only the first reason counts.
func (d *Dialog) end(reason string) {
	d.mu.Lock()
	select {
	case <-d.done:
		d.mu.Unlock()
		return
	default:
	}
	d.reason = reason
	close(d.done)
	d.mu.Unlock()

	d.agent.mu.Lock()
	delete(d.agent.dialogs, dialogKey{d.callID, d.local.tag})
	d.agent.mu.Unlock()
}

// CallID returns the Call-ID.
func (d *Dialog) CallID() string { return d.callID }

// Done is closed when the dialog is over.
func (d *Dialog) Done() <-chan struct{} { return d.done }

// Reason says why the dialog is over; it is empty before.
func (d *Dialog) Reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reason
}

// newRequest makes a request in the dialog. ACK takes the sequence number of its INVITE.
func (d *Dialog) newRequest(method sip.RequestMethod, sequence uint32, body []byte) *sip.Request {
	d.mu.Lock()
	target := *d.target.Clone()
	d.mu.Unlock()
	req := sip.NewRequest(method, target)
	maxForwards := sip.MaxForwardsHeader(70)
	req.AppendHeader(&maxForwards)
	for _, route := range d.routes {
		req.AppendHeader(sip.NewHeader("Route", route))
	}
	from := &sip.FromHeader{DisplayName: d.local.display, Address: d.local.uri}
	from.Params.Add("tag", d.local.tag)
	to := &sip.ToHeader{DisplayName: d.remote.display, Address: d.remote.uri}
	if d.remote.tag != "" {
		to.Params.Add("tag", d.remote.tag)
	}
	callID := sip.CallIDHeader(d.callID)
	req.AppendHeader(from)
	req.AppendHeader(to)
	req.AppendHeader(&callID)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: sequence, MethodName: method})
	if method == sip.INVITE {
		req.AppendHeader(&sip.ContactHeader{Address: d.agent.Contact(d.local.uri.User, d.transport)})
	}
	d.agent.finish(req, sdpType, body, d.transport)
	if hop := d.nextHop(target); hop != "" {
		req.SetDestination(hop)
	}
	return req
}

// nextHop follows the route set, else the connection that the peer uses, else the remote target, for
// which it returns nothing.
func (d *Dialog) nextHop(target sip.Uri) string {
	if len(d.routes) > 0 {
		var uri sip.Uri
		if _, err := sip.ParseAddressValue(d.routes[0], &uri, nil); err == nil {
			if uri.Port == 0 {
				uri.Port = sip.DefaultPort(d.transport)
			}
			return uri.HostPort()
		}
	}
	if sip.IsReliable(d.transport) {
		return d.flow
	}
	if target.Port == 0 {
		target.Port = sip.DefaultPort(d.transport)
	}
	return target.HostPort()
}

func (d *Dialog) nextSequence() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq++
	return d.seq
}

// Bye hangs up and waits for the answer. The dialog is over in any case; of a dialog that is over
// already nothing is sent.
func (d *Dialog) Bye(ctx context.Context) error {
	select {
	case <-d.done:
		return nil
	default:
	}
	d.end("hung up by this side")
	res, err := d.agent.transact(ctx, d.newRequest(sip.BYE, d.nextSequence(), nil), d.credentials)
	if err != nil {
		return err
	}
	// 481: both sides hung up at the same time.
	if !res.IsSuccess() && res.StatusCode != sip.StatusCallTransactionDoesNotExists {
		return statusError(res)
	}
	return nil
}

// claim takes the right to have an INVITE under way, which one side at a time may have (RFC 3261
// section 14).
func (d *Dialog) claim() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		return false
	}
	d.busy = true
	return true
}

func (d *Dialog) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = false
}

// Reinvite sends a new offer within the dialog and returns the answer. A refusal is a StatusError;
// the call then goes on as it was.
func (d *Dialog) Reinvite(ctx context.Context, offer []byte) (answer []byte, err error) {
	if !d.claim() {
		return nil, &StatusError{Code: sip.StatusRequestPending, Reason: "Request Pending"}
	}
	defer d.release()
	req := d.newRequest(sip.INVITE, d.nextSequence(), offer)
	for attempt := 0; ; attempt++ {
		res, tx, err := d.agent.invite(ctx, req, nil)
		if err != nil {
			return nil, err
		}
		if res.IsSuccess() {
			d.retarget(res.Contact())
			return res.Body(), d.acknowledge(req, tx)
		}
		next, err := d.agent.authorize(req, res, d.credentials, attempt)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return nil, statusError(res)
		}
		req = next
		d.mu.Lock()
		d.seq = req.CSeq().SeqNo
		d.mu.Unlock()
	}
}

func (d *Dialog) retarget(c *sip.ContactHeader) {
	if c == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = c.Address
}

// acknowledge sends the ACK of a 2xx, and again for each retransmission of the 2xx.
func (d *Dialog) acknowledge(invite *sip.Request, tx sip.ClientTransaction) error {
	ack := d.newRequest(sip.ACK, invite.CSeq().SeqNo, nil)
	again := ack.Clone()
	tx.OnRetransmission(func(res *sip.Response) {
		if res.IsSuccess() {
			_ = d.agent.write(again.Clone())
		}
	})
	return d.agent.write(ack)
}

// acknowledged takes an ACK from the peer.
func (d *Dialog) acknowledged(req *sip.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ack != nil && req.CSeq() != nil && req.CSeq().SeqNo == d.ackSeq {
		close(d.ack)
		d.ack = nil
	}
}

// untilAcknowledged waits for the ACK of the last 2xx.
func (d *Dialog) untilAcknowledged() {
	d.mu.Lock()
	ack := d.ack
	d.mu.Unlock()
	if ack == nil {
		return
	}
	select {
	case <-ack:
	case <-d.done:
	}
}

// accept sends a 2xx again and again until its ACK has come (RFC 3261 section 13.3.1.4), over TCP
// too. Without an ACK the call is hung up.
func (d *Dialog) accept(req *sip.Request, tx sip.ServerTransaction, body []byte) error {
	res := d.agent.allow(d.agent.NewResponse(req, sip.StatusOK, "OK"))
	res.AppendHeader(&sip.ContactHeader{Address: d.agent.Contact(d.local.uri.User, d.transport)})
	if len(body) > 0 {
		res.AppendHeader(sip.NewHeader("Content-Type", sdpType))
	}
	res.SetBody(body)
	ack := make(chan struct{})
	d.mu.Lock()
	if d.ack != nil {
		close(d.ack) // a new INVITE says as well that the 2xx to the last one has arrived
	}
	d.ack, d.ackSeq = ack, req.CSeq().SeqNo
	d.mu.Unlock()
	if err := tx.Respond(res); err != nil {
		return err
	}
	d.agent.handlers.Add(1) // the caller is a handler, so that the counter is not zero
	go func() {
		defer d.agent.handlers.Done()
		d.repeat(res, tx, ack)
	}()
	return nil
}

func (d *Dialog) repeat(res *sip.Response, tx sip.ServerTransaction, ack <-chan struct{}) {
	interval := sip.T1
	timer := time.NewTimer(interval)
	defer timer.Stop()
	deadline := time.NewTimer(64 * sip.T1)
	defer deadline.Stop()
	for {
		select {
		case <-ack:
			return
		case <-d.done:
			return
		case <-deadline.C:
			ctx, cancel := context.WithTimeout(d.agent.ctx, 4*sip.T1)
			defer cancel()
			_ = d.Bye(ctx)
			return
		case <-timer.C:
			if err := tx.Respond(res); err != nil {
				d.end(fmt.Sprintf("connection lost: %v", err))
				return
			}
			interval = min(2*interval, sip.T2)
			timer.Reset(interval)
		}
	}
}
