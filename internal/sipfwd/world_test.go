package sipfwd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// world is both halves of the proxy with phones and a PBX that do whatever a tape
// of bytes says, over virtual time and without sockets. It watches what comes out:
// see sent. It lives in a synctest bubble.
type world struct {
	t        *testing.T
	lan      *LANSide
	pbx      *PBXSide
	ports    *PhonePorts
	sock     *lanSocket
	tunnel   *worldTunnel
	media    *fakeMedia
	targets  *fakePBX
	counters *counter.Set
	handsets []*worldPhone
	talks    []*talk
	steps    []string // for the report

	mu       sync.Mutex
	heard    [2]map[string]bool // requests that came, from the phones and from the PBX: see identity
	ids      map[string]bool    // Call-IDs that anybody has ever used
	sources  map[netip.AddrPort]bool
	odd      int        // messages that came and are none
	altered  bool       // a message came with some bytes changed
	hostile  bool       // the tunnel has brought what neither half has sent
	atPBX    []arrival  // requests that the PBX has not answered
	atPhone  []arrival  // likewise
	contacts []string   // that the PBX knows
	invites  [2]string  // branches of the INVITEs that went out, each with a separator
	past     [][]byte   // all that was sent to the halves
	pastFrom []arrival  // how
	lastUp   *worldPort // where the last request came from at the PBX
}

// arrival is a message with where it is, or came from.
type arrival struct {
	msg   []byte
	phone *worldPhone
	port  *worldPort
}

// talk is a dialog, or one to be.
type talk struct {
	*call
	byPhone bool
	phone   *worldPhone
	port    *worldPort
	uri     string
	back    *call
}

type worldPhone struct {
	at     netip.AddrPort
	stream *flow // of TCP
	user   string
	inst   string
	calls  int
}

type worldPort struct{ *phonePort }

var (
	worldPBX   = netip.MustParseAddrPort("192.0.2.9:5060")
	worldProxy = netip.MustParseAddrPort("127.0.1.1:5060")
)

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, counters: new(counter.Set), ids: make(map[string]bool), sources: make(map[netip.AddrPort]bool),
		targets: &fakePBX{targets: []netip.AddrPort{worldPBX, netip.MustParseAddrPort("192.0.2.10:5060")}},
		media:   &fakeMedia{relays: make(map[netip.AddrPort]*fakeRelay)},
	}
	w.heard[0], w.heard[1] = make(map[string]bool), make(map[string]bool)
	var err error
	w.ports, err = OpenPhonePorts(PhonePortsConfig{
		Addr: netip.MustParseAddr("192.0.2.1"), Low: 6000, High: 6999, Counters: w.counters,
		IsPBX: func(a netip.Addr) bool { return a == worldPBX.Addr() },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.sock = &lanSocket{bound: worldProxy, out: officeEnd{w}}
	w.tunnel = &worldTunnel{w: w, up: true, open: make(map[uint32]*worldConn)}
	w.session()
	w.office(nil)
	for i := range 3 {
		w.handsets = append(w.handsets, &worldPhone{at: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(101 + i)}), 5060), user: fmt.Sprint(100 + i)})
	}
	w.handsets[1].inst = "1"
	w.connect(w.handsets[2])
	return w
}

// session gives the tunnel a new session.
func (w *world) session() {
	w.pbx = NewPBXSide(PBXSideConfig{
		Credential: "office", PBX: w.targets, Ports: w.ports, Counters: w.counters, Relay: w.media.relay,
		Send: w.tunnel.toOffice, SaveState: w.tunnel.save,
	})
}

func (w *world) office(kept []KeptPhone) {
	w.lan = NewLANSide(LANSideConfig{
		LANAddress: worldProxy.Addr(), Tunnel: w.tunnel, Allocate: w.media.allocate, Counters: w.counters, Kept: kept,
	})
	w.lan.mu.Lock()
	w.lan.udp = append(w.lan.udp, w.sock)
	w.lan.ports[int(worldProxy.Port())] = true
	w.lan.mu.Unlock()
	w.lan.attach(w.sock)
}

// connect gives a phone a new connection.
func (w *world) connect(h *worldPhone) {
	if h.stream != nil {
		w.disconnect(h)
	}
	h.at = netip.AddrPortFrom(h.at.Addr(), h.at.Port()+1)
	st := newStream(nil, w.counters)
	h.stream = &flow{transport: "TCP", remote: h.at, local: worldProxy, at: worldProxy.Addr(), stream: st, counters: w.counters}
	w.mu.Lock()
	w.sources[h.at] = true
	w.mu.Unlock()
	at := h.at
	go func() {
		for {
			select {
			case <-st.wake:
			case <-st.done:
				return
			}
			st.mu.Lock()
			msgs := st.waiting
			st.waiting, st.bytes = nil, 0
			st.mu.Unlock()
			for _, msg := range msgs {
				w.sent(true, at, msg, nil)
			}
		}
	}()
}

func (w *world) disconnect(h *worldPhone) {
	h.stream.stream.close()
	h.stream.gone.Store(true)
	for _, p := range w.lan.forget(h.stream) {
		p.flowLost(h.stream)
	}
}

// officeEnd and pbxEnd are sockets whose other ends are the world.
type officeEnd struct{ w *world }

func (e officeEnd) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	e.w.sent(true, to, b, nil)
	return len(b), nil
}

func (e officeEnd) WriteMsgUDPAddrPort(b, _ []byte, to netip.AddrPort) (int, int, error) {
	n, err := e.WriteToUDPAddrPort(b, to)
	return n, 0, err
}

type pbxEnd struct {
	officeEnd
	port *worldPort
}

func (e pbxEnd) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	e.w.sent(false, to, b, e.port)
	return len(b), nil
}

// worldTunnel joins the halves. What one says the other hears at once.
type worldTunnel struct {
	w    *world
	up   bool
	mu   sync.Mutex
	next uint32
	open map[uint32]*worldConn
}

type worldConn struct {
	net.PacketConn
	tunnel *worldTunnel
	id     uint32
	key    string
	in     chan []byte
	done   chan struct{}
	once   sync.Once
	state  []byte
	local  netip.AddrPort
}

func (t *worldTunnel) Up() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up
}
func (t *worldTunnel) Domain() string { return testDomain }

func (t *worldTunnel) OpenPhone(_ context.Context, key string, state []byte) (PhoneConn, error) {
	if !t.Up() {
		return nil, errors.New("down")
	}
	t.mu.Lock()
	t.next++
	c := &worldConn{tunnel: t, id: t.next, key: key, in: make(chan []byte, 4096), done: make(chan struct{}), state: state}
	t.open[c.id] = c
	t.mu.Unlock()
	return c, c.openAt(t.w.pbx)
}

// openAt opens the phone beside the PBX, at a port without sockets.
func (c *worldConn) openAt(side *PBXSide) (err error) {
	ports, id := c.tunnel.w.ports, phoneID{"office", c.key}
	ports.mu.Lock()
	if ports.open[id] == nil {
		n := uint16(6000)
		for _, e := range ports.open {
			n = max(n, e.addr.Port()+1)
		}
		port := &phonePort{
			ports: ports, id: id, addr: netip.AddrPortFrom(ports.cfg.Addr, n), socks: sockets{udp: new(net.UDPConn)},
			streams: make(map[*stream]struct{}), links: make(map[netip.AddrPort]*stream),
		}
		port.out = pbxEnd{officeEnd{c.tunnel.w}, &worldPort{port}}
		ports.open[id] = port
	}
	ports.mu.Unlock()
	c.tunnel.mu.Lock()
	state := c.state
	c.tunnel.mu.Unlock()
	c.local, err = side.OpenPhone(c.id, c.key, state)
	return err
}

func (t *worldTunnel) toOffice(phone uint32, msg []byte) {
	t.mu.Lock()
	c := t.open[phone]
	t.mu.Unlock()
	if c != nil {
		c.in <- bytes.Clone(msg)
	}
}

func (t *worldTunnel) save(phone uint32, state []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.open[phone]; c != nil {
		c.state = bytes.Clone(state)
	}
}

// conns are the open phones.
func (t *worldTunnel) conns() []*worldConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*worldConn
	for id := range t.next + 1 {
		if c := t.open[id]; c != nil {
			all = append(all, c)
		}
	}
	return all
}

func (c *worldConn) Receive(f func(msg []byte)) error {
	select {
	case msg := <-c.in:
		f(msg)
		return nil
	case <-c.done:
		return net.ErrClosed
	}
}

func (c *worldConn) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.tunnel.w.pbx.FromTunnel(c.id, b)
	return len(b), nil
}

func (c *worldConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

func (c *worldConn) State() []byte {
	c.tunnel.mu.Lock()
	defer c.tunnel.mu.Unlock()
	return c.state
}

func (c *worldConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.tunnel.mu.Lock()
		delete(c.tunnel.open, c.id)
		c.tunnel.mu.Unlock()
		c.tunnel.w.pbx.ClosePhone(c.id)
	})
	return nil
}

// identity is what a response has in common with its request. One that was spoilt
// may have nothing but what the transaction is found by.
func identity(m *sipmsg.Message, spoilt bool) string {
	via, _ := m.TopVia()
	seq, method := m.CSeq()
	branch, _, _ := bytes.Cut(via.Branch, []byte(`"`)) // one that is not closed has the rest of the line
	if spoilt {
		return fmt.Sprintf("%s %s", branch, method)
	}
	return fmt.Sprintf("%s %s %d %s", branch, m.CallID(), seq, method)
}

// comes notes what the world is about to say to a half.
func (w *world) comes(side int, b []byte, how arrival) {
	w.mu.Lock()
	defer w.mu.Unlock()
	how.msg = bytes.Clone(b)
	w.past, w.pastFrom = append(w.past, how.msg), append(w.pastFrom, how)
	var m sipmsg.Message
	if m.Parse(b) != nil {
		w.odd++
		return
	}
	w.ids[string(m.CallID())] = true
	if m.IsRequest() {
		w.heard[side][identity(&m, false)], w.heard[side][identity(&m, true)] = true, true
	}
}

// sent is where the invariants are: it sees every message that leaves a half.
func (w *world) sent(toPhone bool, to netip.AddrPort, b []byte, port *worldPort) {
	w.mu.Lock()
	defer w.mu.Unlock()
	side := 1
	if toPhone {
		side = 0
		if !w.sources[to] {
			w.errorf("a message to %v, where no phone is:\n%s", to, b)
		}
	} else if to.Addr() != worldPBX.Addr() && to.Addr() != w.targets.targets[1].Addr() {
		w.errorf("a message to %v, which is not the PBX:\n%s", to, b)
	}
	if len(b) <= 4 {
		return
	}
	var m sipmsg.Message
	if err := m.Parse(bytes.Clone(b)); err != nil {
		// What is wrong with a request is in the headers of its refusal too.
		if w.odd--; w.odd < 0 || !bytes.HasPrefix(b, []byte("SIP/2.0 4")) && !bytes.HasPrefix(b, []byte("SIP/2.0 505")) {
			w.errorf("%v in what was sent:\n%q", err, b)
		}
		return
	}
	foreign := [2]string{"c=IN IP4 192.0.2.9\r", "c=IN IP4 127.0.1.1"}[side]
	negotiates := slices.Contains([]string{"INVITE", "ACK", "PRACK", "UPDATE"}, string(m.Method())) && m.StatusCode() < 300
	if negotiates && !w.hostile && !w.altered && bytes.Contains(b, []byte(foreign)) {
		w.errorf("an address of the other side in SDP:\n%s", b)
	}
	if !m.IsRequest() {
		if isLate := toPhone && m.StatusCode()/100 == 2 && string(m.Method()) == "INVITE" && w.ids[string(m.CallID())]; isLate {
			return // RFC 3261 section 16.7: however late, and whatever the PBX has made of its Via
		}
		if !w.heard[side][identity(&m, w.altered)] && !w.hostile {
			if w.odd--; w.odd < 0 {
				w.errorf("a response to nothing:\n%s", b)
			}
		}
		return
	}
	if !w.ids[string(m.CallID())] {
		w.errorf("a request of nobody:\n%s", b)
	}
	via, _ := m.TopVia()
	switch method := string(m.Method()); {
	case method == "INVITE":
		w.invites[side] += string(via.Branch) + " "
	case method == "CANCEL" && !strings.Contains(w.invites[side], string(via.Branch)+" "):
		w.errorf("a CANCEL of nothing:\n%s", b)
	case method == "ACK" || method == "CANCEL":
		return
	}
	in := arrival{msg: bytes.Clone(b), port: port}
	if !toPhone {
		w.lastUp = port
		w.atPBX = append(w.atPBX, in)
		if u := contactURI(&m); u != "" && string(m.Method()) == "REGISTER" {
			w.contacts = append(w.contacts, u)
		}
		return
	}
	for _, h := range w.handsets {
		if h.at == to {
			in.phone = h
		}
	}
	w.atPhone = append(w.atPhone, in)
}

func (w *world) errorf(format string, args ...any) {
	w.t.Errorf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(w.steps, "\n"))
}

// toOffice has the phone say b.
func (w *world) toOffice(h *worldPhone, b []byte) {
	w.comes(0, b, arrival{phone: h})
	var m sipmsg.Message
	if h.stream != nil {
		if !h.stream.gone.Load() && len(bytes.TrimSpace(b)) > 0 {
			w.lan.deliver(h.stream, b, &m)
		}
		return
	}
	w.mu.Lock()
	w.sources[h.at] = true
	if m.Parse(b) == nil && m.IsRequest() { // it may want its answers elsewhere
		via, _ := m.TopVia()
		w.sources[replyAddr(via, h.at)] = true
	}
	w.mu.Unlock()
	w.lan.datagram(w.sock, worldProxy.Addr(), h.at, b, &m)
}

// toPort has the PBX say b to a phone's port.
func (w *world) toPort(port *worldPort, b []byte) {
	if port == nil {
		return
	}
	w.comes(1, b, arrival{port: port})
	port.deliver(source{addr: worldPBX}, b)
}

// settle waits until nothing moves.
func (w *world) settle() {
	synctest.Wait()
	for _, b := range []*budget{&w.lan.budget, &w.pbx.budget} {
		if n := b.used.Load(); n < 0 || n > maxState {
			w.errorf("%d bytes of budget are taken", n)
		}
	}
}

// end lets all time pass that any state can take, and looks whether some is left.
func (w *world) end() {
	for _, h := range w.handsets {
		if h.stream != nil {
			w.disconnect(h)
		}
	}
	w.tunnel.mu.Lock()
	w.tunnel.up = true
	w.tunnel.mu.Unlock()
	time.Sleep(heldSilence + 2*time.Hour)
	synctest.Wait()
	w.lan.mu.Lock()
	left := fmt.Sprint(len(w.lan.phones), len(w.lan.flows), len(w.lan.byFlow), len(w.lan.lines))
	w.lan.mu.Unlock()
	if left != "0 0 0 0" {
		w.errorf("phones, flows, owners of flows and lines left in the office: %s", left)
	}
	w.ports.mu.Lock()
	open := len(w.ports.open)
	w.ports.mu.Unlock()
	if n := len(w.pbx.allPhones()); n+open > 0 {
		w.errorf("%d phones and %d ports left beside the PBX", n, open)
	}
	for i, p := range w.media.ports {
		if !p.isClosed() {
			w.errorf("media port %d is open", i)
		}
	}
	if a, b := w.lan.budget.used.Load(), w.pbx.budget.used.Load(); a != 0 || b != 0 {
		w.errorf("%d and %d bytes of budget not given back", a, b)
	}
	w.lan.Close()
	w.pbx.Close()
	w.ports.Close()
}
