package sipfwd

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// What a restart must not cost: the phones with their registrations, so that calls
// reach them before they register again. A phone over UDP is reached where it was.
// One over TCP or TLS has lost its connection; it is reached from the first message
// on the next one that says whose it is.

const (
	reopenSoon  = 100 * time.Millisecond // between looks whether a phone can be opened
	reopenLater = 10 * time.Second       // when none waits for it, or it was refused
)

// KeptPhone is a phone as it is stored.
type KeptPhone struct {
	Key      string        `json:"key"`
	Source   netip.Addr    `json:"source"`
	State    []byte        `json:"state,omitempty"` // for Tunnel.OpenPhone
	Bindings []KeptBinding `json:"bindings"`
}

// KeptBinding is a Contact of the phone that the PBX has accepted, and the flow
// that leads to it.
type KeptBinding struct {
	AOR     string    `json:"aor"`
	Contact string    `json:"contact"`
	Device  string    `json:"device,omitempty"` // see deviceOf
	CallID  string    `json:"call_id,omitempty"`
	Agent   string    `json:"agent,omitempty"`
	Expires time.Time `json:"expires"`

	Transport string         `json:"transport"` // "UDP", "TCP" or "TLS"
	Remote    netip.AddrPort `json:"remote"`    // the phone
	At        netip.AddrPort `json:"at"`        // of ours that it uses
	Heard     time.Time      `json:"heard,omitzero"`
	Link      string         `json:"link,omitempty"` // hardware address of the phone
}

// valid says whether a binding that was stored can be one. The file is ours, but
// files get damaged.
func (k *KeptBinding) valid() bool {
	_, ok := sipmsg.ParseURI([]byte(k.Contact))
	known := slices.Contains([]string{"UDP", "TCP", "TLS"}, k.Transport)
	return ok && known && k.Remote.IsValid() && k.At.IsValid() && time.Until(k.Expires) > 0 &&
		len(k.Contact) <= maxURILength && len(k.AOR) <= maxURILength && !strings.ContainsAny(k.Contact+k.AOR, "\r\n<>\" ")
}

// Kept are the phones that an administrator would miss after a restart.
func (s *LANSide) Kept() []KeptPhone {
	var kept []KeptPhone
	for _, p := range s.allPhones() {
		if k := p.kept(); len(k.Bindings) > 0 {
			kept = append(kept, k)
		}
	}
	slices.SortFunc(kept, func(a, b KeptPhone) int { return strings.Compare(a.Key, b.Key) })
	return kept
}

func (p *lanPhone) kept() KeptPhone {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := KeptPhone{Key: p.key, Source: p.source, State: p.state}
	if p.conn != nil {
		k.State = p.conn.State()
	}
	p.side.mu.Lock()
	defer p.side.mu.Unlock()
	for _, b := range p.bindings {
		f := b.flow
		k.Bindings = append(k.Bindings, KeptBinding{
			AOR: b.info.AOR, Contact: b.info.Contact, Device: b.device, CallID: b.line.callID, Agent: b.info.UserAgent,
			Expires: b.info.Expires, Transport: f.transport, Remote: f.remote, At: netip.AddrPortFrom(f.at, f.local.Port()),
			Heard: f.tenant.heard, Link: f.tenant.link,
		})
	}
	slices.SortFunc(k.Bindings, func(a, b KeptBinding) int { return strings.Compare(a.Contact, b.Contact) })
	return k
}

// restore makes the phones of an earlier run. They lead nowhere until ServeUDP has
// the socket that they use.
func (s *LANSide) restore(kept []KeptPhone) {
	for _, k := range kept {
		_, isTrunk := trunkOfKey(k.Key)
		if k.Key == "" || k.Key != truncateKey(k.Key) || isTrunk || s.phones[k.Key] != nil || len(s.phones) >= maxPhones {
			s.counters.Counter("sip.dropped.bad_state").Inc()
			continue
		}
		p := newLANPhone(s, k.Key, k.Source)
		p.known, p.state = true, k.State
		p.mu.Lock()
		for i := range k.Bindings {
			p.rebind(&k.Bindings[i])
		}
		p.mu.Unlock()
		if len(p.bindings) > 0 {
			s.phones[p.key] = p
			s.wg.Add(1)
			go p.serve()
		}
	}
	s.wg.Add(1)
	go s.keepOpen()
}

// rebind takes a binding over from an earlier run.
func (p *lanPhone) rebind(k *KeptBinding) {
	if !k.valid() || len(p.bindings) >= maxBindings || p.bindings[k.Contact] != nil {
		return
	}
	f := &flow{transport: k.Transport, remote: k.Remote, local: k.At, at: k.At.Addr(), counters: p.side.counters}
	f.gone.Store(true) // for now
	f.tenant = tenant{heard: k.Heard, link: k.Link, agent: clip([]byte(k.Agent), 256)}
	if strings.HasPrefix(p.key, instancePrefix) {
		f.tenant.instance = p.key
	}
	life := min(time.Until(k.Expires), longestLife)
	isNew := !p.reachable(k.AOR)
	b := &lanBinding{flow: f, device: k.Device, info: PhoneInfo{
		Key: p.key, AOR: k.AOR, Contact: k.Contact, Source: f.String(), UserAgent: k.Agent, Expires: time.Now().Add(life),
	}}
	p.bindings[k.Contact] = b
	p.edge.arm(&b.expires, life+legLinger, func() { p.unbind(k.Contact, "registration expired") })
	p.enlist(b, k.CallID)
	if isNew {
		p.side.cfg.Events.PhoneRegistered(b.info)
	}
}

// enlist puts b, which came from an earlier run, among the lines of the office.
func (p *lanPhone) enlist(b *lanBinding, callID string) {
	s := p.side
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsettle(b.line)
	b.line = &line{phone: p, flow: b.flow, aor: b.info.AOR, contact: b.info.Contact, device: b.device, callID: callID}
	s.lines[b.line.aor] = append(s.lines[b.line.aor], b.line)
}

// attach leads the phones of an earlier run to where they were, by way of sock.
func (s *LANSide) attach(sock *lanSocket) {
	for _, p := range s.allPhones() {
		p.mu.Lock()
		for _, b := range p.bindings {
			if f := b.flow; f.transport == "UDP" && f.sock == nil && sock.serves(netip.AddrPortFrom(f.at, f.local.Port())) {
				p.reattach(b, sock)
			}
		}
		p.mu.Unlock()
	}
}

// serves says whether what is sent to at comes to k.
func (k *lanSocket) serves(at netip.AddrPort) bool {
	if k.wildcard() {
		return k.bound.Port() == at.Port() && (k.both || k.bound.Addr().Is4() == at.Addr().Is4())
	}
	return k.bound == at
}

// reattach has b use sock, unless another device has its address by now.
func (p *lanPhone) reattach(b *lanBinding, sock *lanSocket) {
	s, old := p.side, b.flow
	if link := s.neighbour(old.remote.Addr()); link != "" && old.tenant.link != "" && link != old.tenant.link {
		s.counters.Counter("sip.moved.address_taken").Inc()
		return
	}
	s.mu.Lock()
	f := s.flows[flowKey{sock, old.at, old.remote}]
	if f == nil {
		f = s.newUDPFlow(sock, old.at, old.remote)
		f.tenant = old.tenant
	}
	s.link(f, p)
	s.mu.Unlock()
	b.flow = f
	p.enlist(b, b.line.callID)
}

// keepOpen opens the registered phones that the tunnel does not know: those of an
// earlier run, and those that it has lost.
func (s *LANSide) keepOpen() {
	defer s.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.done:
			return
		}
		pause := reopenLater
		for _, p := range s.allPhones() {
			if !p.unopened() {
				continue
			}
			pause = reopenSoon
			if s.cfg.Tunnel.Up() {
				p.nudge()
			}
		}
		timer.Reset(pause)
	}
}

// unopened says whether a phone that the PBX may call waits to be opened.
func (p *lanPhone) unopened() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trunk == nil && p.conn == nil && !p.closed && len(p.bindings) > 0 && time.Now().After(p.openLater)
}

// nudge has the phone's goroutine look after what has happened to it.
func (p *lanPhone) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// reopen opens the phone if it waits for that.
func (p *lanPhone) reopen() {
	if p.unopened() && p.side.cfg.Tunnel.Up() {
		p.mu.Lock()
		p.open()
		p.mu.Unlock()
	}
}
