package ua

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
)

// StatusError is a final response that is no success.
type StatusError struct {
	Code       int
	Reason     string
	RetryAfter string // value of the Retry-After header, empty if there was none
}

// Error says the status line.
func (e *StatusError) Error() string { return fmt.Sprintf("answered %d %s", e.Code, e.Reason) }

func statusError(res *sip.Response) error {
	e := &StatusError{Code: res.StatusCode, Reason: res.Reason}
	if h := res.GetHeader("Retry-After"); h != nil {
		e.RetryAfter = h.Value()
	}
	return e
}

// Credentials answer digest challenges. They do not print their password.
type Credentials struct{ User, Password string }

// String shows the user only.
func (c Credentials) String() string { return c.User }

// GoString shows the user only.
func (c Credentials) GoString() string { return c.User }

// Request describes a request outside a dialog.
type Request struct {
	Method sip.RequestMethod
	URI    sip.Uri // request URI
	// From and To are the parties; From gets a tag, and the tag is removed from To.
	From, To sip.Uri
	Display  string // display name in From
	// CallID and Sequence are chosen when they are zero.
	CallID   string
	Sequence uint32
	// Transport is "udp" or "tcp".
	Transport string
	// NextHop is where the request is sent, whatever the URI says; invalid follows the URI.
	NextHop netip.AddrPort
	// Route makes the next hop appear in a Route header (a preloaded route, RFC 3261 section 8.1.1.1).
	Route       bool
	Headers     []sip.Header
	ContentType string
	Body        []byte
	Credentials Credentials // empty: a challenge is the final answer
	// Reinvite is for the dialog that an INVITE makes; nil refuses new offers of the peer.
	Reinvite Reinvite
}

// build makes the request that is sent first.
func (a *Agent) build(r Request) *sip.Request {
	req := sip.NewRequest(r.Method, r.URI)
	from := &sip.FromHeader{DisplayName: r.Display, Address: *r.From.Clone()}
	from.Params.Add("tag", sip.GenerateTagN(16))
	to := &sip.ToHeader{Address: *r.To.Clone()}
	if r.CallID == "" {
		r.CallID = sip.GenerateTagN(24)
	}
	callID := sip.CallIDHeader(r.CallID)
	maxForwards := sip.MaxForwardsHeader(70)
	req.AppendHeader(&maxForwards)
	if r.Route && r.NextHop.IsValid() {
		route := sip.Uri{Scheme: "sip", Host: r.NextHop.Addr().String(), Port: int(r.NextHop.Port())}
		if strings.EqualFold(r.Transport, "tcp") {
			route.UriParams.Add("transport", "tcp")
		}
		route.UriParams.Add("lr", "")
		req.AppendHeader(&sip.RouteHeader{Address: route})
	}
	req.AppendHeader(from)
	req.AppendHeader(to)
	req.AppendHeader(&callID)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: max(1, r.Sequence), MethodName: r.Method})
	for _, h := range r.Headers {
		req.AppendHeader(h)
	}
	a.finish(req, r.ContentType, r.Body, r.Transport)
	if r.NextHop.IsValid() {
		req.SetDestination(r.NextHop.String())
	}
	return req
}

// finish adds what all requests of this Agent have in common.
func (a *Agent) finish(req *sip.Request, contentType string, body []byte, transport string) {
	if a.cfg.Software != "" {
		req.AppendHeader(sip.NewHeader("User-Agent", a.cfg.Software))
	}
	if len(body) > 0 {
		req.AppendHeader(sip.NewHeader("Content-Type", contentType))
	}
	req.SetBody(body)
	req.SetTransport(sip.NetworkToUpper(transport))
	req.Laddr = sip.Addr{IP: a.addr.Addr().AsSlice(), Hostname: a.addr.Addr().String()}
	if !sip.IsReliable(req.Transport()) {
		// With the port, sipgo sends from the socket that listens there; without, it may open one.
		req.Laddr.Port = int(a.addr.Port())
	}
}

// Do sends a request other than INVITE and returns its final response, which is an answer to the
// digest challenge if there was one. It may be a refusal; errors are failures to get any answer.
func (a *Agent) Do(ctx context.Context, r Request) (*sip.Response, error) {
	return a.transact(ctx, a.build(r), r.Credentials)
}

// transact runs the transactions of a non-INVITE request: a second one after a challenge.
func (a *Agent) transact(ctx context.Context, req *sip.Request, credentials Credentials) (*sip.Response, error) {
	for attempt := 0; ; attempt++ {
		res, err := a.roundTrip(ctx, req)
		if err != nil {
			return nil, err
		}
		next, err := a.authorize(req, res, credentials, attempt)
		if err != nil {
			return nil, err
		}
		if next == nil {
			return res, nil
		}
		req = next
	}
}

func (a *Agent) roundTrip(ctx context.Context, req *sip.Request) (*sip.Response, error) {
	if !a.enter() {
		return nil, ErrClosed
	}
	defer a.handlers.Done()
	tx, err := a.client.TransactionRequest(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("%s to %s: %w", req.Method, req.Destination(), err)
	}
	defer tx.Terminate()
	for {
		select {
		case res := <-tx.Responses():
			if !res.IsProvisional() {
				return res, nil
			}
		case <-tx.Done():
			return nil, fmt.Errorf("%s to %s: %w", req.Method, req.Destination(), tx.Err())
		case <-ctx.Done():
			return nil, fmt.Errorf("%s to %s: no answer: %w", req.Method, req.Destination(), context.Cause(ctx))
		case <-a.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// authorize returns the request that answers the challenge in a response, or nil when the response
// is final: no challenge, no credentials, or a challenge that was answered before and is not stale.
func (a *Agent) authorize(req *sip.Request, res *sip.Response, credentials Credentials, attempt int) (*sip.Request, error) {
	var challengeName, answerName string
	switch res.StatusCode {
	case sip.StatusUnauthorized:
		challengeName, answerName = "WWW-Authenticate", "Authorization"
	case sip.StatusProxyAuthRequired:
		challengeName, answerName = "Proxy-Authenticate", "Proxy-Authorization"
	default:
		return nil, nil
	}
	header := res.GetHeader(challengeName)
	if header == nil || credentials.User == "" {
		return nil, nil
	}
	challenge, err := digest.ParseChallenge(header.Value())
	if err != nil {
		return nil, fmt.Errorf("challenge to %s: %w", req.Method, err)
	}
	if attempt > 0 && !(challenge.Stale && attempt == 1) {
		return nil, nil
	}
	answer, err := digest.Digest(challenge, digest.Options{
		Method:   string(req.Method),
		URI:      req.Recipient.String(),
		Username: credentials.User,
		Password: credentials.Password,
	})
	if err != nil {
		return nil, fmt.Errorf("challenge to %s: %w", req.Method, err)
	}
	next := req.Clone()
	next.RemoveHeader("Via")
	next.RemoveHeader(answerName)
	next.AppendHeader(sip.NewHeader(answerName, answer.String()))
	next.CSeq().SeqNo++
	return next, nil
}

// write sends a request that has no transaction: the ACK of a 2xx.
func (a *Agent) write(req *sip.Request) error {
	if !a.enter() {
		return ErrClosed
	}
	defer a.handlers.Done()
	return a.client.WriteRequest(req)
}

// keep is a request option of sipgo that adds nothing to a request: it is complete.
func keep(*sipgo.Client, *sip.Request) error { return nil }
