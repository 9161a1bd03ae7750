package minipbx

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// maxBindings bounds the contacts of one user.
const maxBindings = 10

// binding is one contact of a user.
type binding struct {
	contact   string // the URI as registered
	uri       sip.Uri
	params    string // of the Contact header, but expires: q, +sip.instance
	transport string
	source    netip.AddrPort // where the REGISTER came from: the connection of a phone over TCP
	callID    string
	sequence  uint32
	expires   time.Time
}

// registrar keeps the bindings of RFC 3261 section 10.3, in memory.
type registrar struct {
	maxExpires time.Duration
	now        func() time.Time

	mu    sync.Mutex
	users map[string][]binding // the latest first
}

func newRegistrar(maxExpires time.Duration, now func() time.Time) *registrar {
	return &registrar{maxExpires: maxExpires, now: now, users: make(map[string][]binding)}
}

// bindings returns what a user has registered and not let expire.
func (r *registrar) bindings(user string) []binding {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.live(user))
}

// live drops what has expired; r.mu is held.
func (r *registrar) live(user string) []binding {
	now := r.now()
	list := slices.DeleteFunc(r.users[user], func(b binding) bool { return !b.expires.After(now) })
	if len(list) == 0 {
		delete(r.users, user)
		return nil
	}
	r.users[user] = list
	return list
}

// contact is one value of the Contact headers of a REGISTER.
type contact struct {
	uri     sip.Uri
	params  string
	expires time.Duration
}

// statusError builds the refusals of update.
func statusError(code int, reason string) error {
	return &ua.StatusError{Code: code, Reason: reason}
}

// update applies a REGISTER of a user whole or, with a StatusError, not at all.
func (r *registrar) update(user string, req *sip.Request) ([]binding, error) {
	values := ua.Values(req.GetHeaders("Contact"))
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(values) == 1 && values[0] == "*" {
		if h := req.GetHeader("Expires"); h == nil || strings.TrimSpace(h.Value()) != "0" {
			return nil, statusError(sip.StatusBadRequest, "Wildcard Without Expires 0")
		}
		if err := r.inOrder(r.live(user), req); err != nil {
			return nil, err
		}
		delete(r.users, user)
		return nil, nil
	}
	list := slices.Clone(r.live(user))
	for _, value := range values {
		c, err := r.parse(value, req)
		if err != nil {
			return nil, err
		}
		uri := c.uri.String()
		at := slices.IndexFunc(list, func(b binding) bool { return b.contact == uri })
		if at >= 0 {
			if err := r.inOrder(list[at:at+1], req); err != nil {
				return nil, err
			}
			list = slices.Delete(list, at, at+1)
		}
		if c.expires == 0 {
			continue
		}
		source, _ := netip.ParseAddrPort(req.Source())
		list = slices.Insert(list, 0, binding{
			contact:   uri,
			uri:       c.uri,
			params:    c.params,
			transport: strings.ToLower(req.Transport()),
			source:    source,
			callID:    string(*req.CallID()),
			sequence:  req.CSeq().SeqNo,
			expires:   r.now().Add(c.expires),
		})
	}
	if len(list) > maxBindings {
		return nil, statusError(sip.StatusForbidden, "Too Many Contacts")
	}
	r.users[user] = list
	return r.live(user), nil
}

// inOrder refuses a REGISTER that is older than what is there (RFC 3261 section 10.3, step 7).
func (r *registrar) inOrder(list []binding, req *sip.Request) error {
	for _, b := range list {
		if b.callID == string(*req.CallID()) && req.CSeq().SeqNo <= b.sequence {
			return statusError(sip.StatusInternalServerError, "CSeq Out of Order")
		}
	}
	return nil
}

func (r *registrar) parse(value string, req *sip.Request) (contact, error) {
	var c contact
	var params sip.HeaderParams
	if _, err := sip.ParseAddressValue(value, &c.uri, &params); err != nil || c.uri.Host == "" || c.uri.Wildcard {
		return c, statusError(sip.StatusBadRequest, "Bad Contact")
	}
	seconds := ""
	if h := req.GetHeader("Expires"); h != nil {
		seconds = strings.TrimSpace(h.Value())
	}
	for _, p := range params {
		if strings.EqualFold(p.K, "expires") {
			seconds = p.V
			continue
		}
		c.params += ";" + p.K
		if p.V != "" {
			c.params += "=" + p.V
		}
	}
	c.expires = r.maxExpires
	// A value that cannot be read counts as absent (RFC 3261 section 10.3, step 6).
	if n, err := strconv.ParseUint(seconds, 10, 32); err == nil {
		c.expires = min(c.expires, time.Duration(n)*time.Second)
	}
	return c, nil
}

// register answers a REGISTER.
func (p *PBX) register(req *sip.Request) *sip.Response {
	if req.To() == nil || req.From() == nil || req.CallID() == nil || req.CSeq() == nil {
		return p.agent.NewResponse(req, sip.StatusBadRequest, "Bad Request")
	}
	user := req.To().Address.User
	if refusal := p.authenticate(req, user, sip.StatusUnauthorized); refusal != nil {
		return refusal
	}
	list, err := p.registrar.update(user, req)
	if err != nil {
		status := err.(*ua.StatusError)
		return p.agent.NewResponse(req, status.Code, status.Reason)
	}
	res := p.agent.NewResponse(req, sip.StatusOK, "OK")
	now := p.cfg.Now()
	for _, b := range list {
		// Rounded up: a binding that is there has a second left.
		left := cmp.Or(int((b.expires.Sub(now)+time.Second-1)/time.Second), 1)
		res.AppendHeader(sip.NewHeader("Contact", fmt.Sprintf("<%s>%s;expires=%d", b.contact, b.params, left)))
	}
	res.AppendHeader(sip.NewHeader("Date", now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")))
	return res
}
