package sipfwd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/dscp"
)

// ErrNoPhonePort says that the phones' range has no port left for another phone
// of the credential.
var ErrNoPhonePort = errors.New("no phone port is free: widen --phone-ports")

// saveDelay lets the phones of an office that comes back be written together.
const saveDelay = time.Second

// PhonePortsConfig configures PhonePorts. Counters and Logger may be nil.
type PhonePortsConfig struct {
	Addr      netip.Addr // that the PBX reaches us by
	Low, High uint16     // range of UDP ports, both ends included
	// StateFile remembers which phone had which port; "" forgets at exit.
	StateFile string
	// IsPBX is the door of every port: sources that it refuses are met with
	// silence.
	IsPBX    func(netip.Addr) bool
	Counters *counter.Set
	Logger   *zap.Logger
}

// PhonePorts owns the PBX-side UDP ports of the phones of all sessions. A phone
// gets the same port again, after restarts too, because its PBX keeps it as the
// phone's address. Methods are safe for concurrent use.
type PhonePorts struct {
	cfg PhonePortsConfig
	wg  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	book   map[phoneID]*bookEntry
	open   map[phoneID]*phonePort
	saving *time.Timer // runs while the book is newer than the file
	warned time.Time   // when the range was last reported as full
}

// phoneID names a phone of a tunnel credential.
type phoneID struct{ Credential, Key string }

// bookEntry is the memory of a phone's port. It is what the state file holds.
type bookEntry struct {
	Credential string    `json:"credential"`
	Key        string    `json:"key"`
	Port       uint16    `json:"port"`
	Used       time.Time `json:"used"`
}

// phonePort is one open port. Who owns it may change: a client that comes back
// with a new session takes over its phones' ports.
type phonePort struct {
	ports *PhonePorts
	id    phoneID
	conn  *net.UDPConn
	addr  netip.AddrPort

	mu    sync.Mutex
	owner *pbxPhone
	end   *time.Timer
	// Who had the port before still has transactions, those of its goodbyes
	// among them, until pastEnd.
	past    *pbxPhone
	pastEnd time.Time
}

// OpenPhonePorts reads the state file. No port is open yet.
func OpenPhonePorts(cfg PhonePortsConfig) (*PhonePorts, error) {
	if cfg.Low == 0 || cfg.High < cfg.Low {
		return nil, fmt.Errorf("phone ports %d-%d: not a range of ports", cfg.Low, cfg.High)
	}
	if cfg.Counters == nil {
		cfg.Counters = new(counter.Set)
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	p := &PhonePorts{cfg: cfg, book: make(map[phoneID]*bookEntry), open: make(map[phoneID]*phonePort)}
	if err := p.load(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *PhonePorts) load() error {
	if p.cfg.StateFile == "" {
		return nil
	}
	b, err := os.ReadFile(p.cfg.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries []bookEntry
	if err := json.Unmarshal(b, &entries); err != nil {
		return fmt.Errorf("%s is damaged: %w", p.cfg.StateFile, err)
	}
	for _, e := range entries {
		p.book[phoneID{e.Credential, e.Key}] = &e
	}
	return nil
}

// save writes the book. It is called with mu held.
func (p *PhonePorts) save() {
	if p.saving != nil {
		p.saving.Stop()
		p.saving = nil
	}
	if p.cfg.StateFile == "" {
		return
	}
	entries := make([]bookEntry, 0, len(p.book))
	for _, e := range p.book {
		entries = append(entries, *e)
	}
	slices.SortFunc(entries, func(a, b bookEntry) int { return cmp.Compare(a.Port, b.Port) })
	b, err := json.MarshalIndent(entries, "", " ")
	if err == nil {
		err = atomicfile.Write(p.cfg.StateFile, append(b, '\n'))
	}
	if err != nil {
		p.cfg.Logger.Error("phone ports cannot be saved: after a restart phones may get other ports",
			zap.String("file", p.cfg.StateFile), zap.Error(err))
	}
}

// acquire opens the port of the phone id for owner, or hands it over from past.
func (p *PhonePorts) acquire(id phoneID, owner *pbxPhone) (port *phonePort, past *pbxPhone, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, net.ErrClosed
	}
	port = p.open[id]
	if port == nil {
		conn, err := p.bind(id)
		if err != nil {
			return nil, nil, err
		}
		local := addrPort(conn.LocalAddr())
		port = &phonePort{ports: p, id: id, conn: conn, addr: local}
		p.open[id] = port
		p.wg.Add(1)
		go func() {
			defer p.wg.Done()
			port.read()
		}()
	}
	port.mu.Lock()
	defer port.mu.Unlock()
	past = port.owner
	port.owner, port.past, port.pastEnd = owner, past, time.Now().Add(2*txTimeout)
	if port.end != nil {
		port.end.Stop()
		port.end = nil
	}
	return port, past, nil
}

// bind finds the phone's port, or the first free one of the range.
func (p *PhonePorts) bind(id phoneID) (*net.UDPConn, error) {
	if e := p.book[id]; e != nil && e.Port >= p.cfg.Low && e.Port <= p.cfg.High {
		if conn, err := p.listen(e.Port); err == nil {
			e.Used = time.Now()
			return conn, nil
		}
	}
	taken := make(map[uint16]bool, len(p.book))
	own := 0
	for k, e := range p.book {
		taken[e.Port] = true
		if k.Credential == id.Credential {
			own++
		}
	}
	for n := int(p.cfg.Low); n <= int(p.cfg.High) && own < p.quota(); n++ {
		if taken[uint16(n)] {
			continue
		}
		if conn, err := p.listen(uint16(n)); err == nil {
			p.remember(id, uint16(n))
			return conn, nil
		}
	}
	return p.reuse(id, own >= p.quota())
}

// quota is how many ports one credential can have: a stolen one must not leave
// the other offices without.
func (p *PhonePorts) quota() int { return max(1, (int(p.cfg.High)-int(p.cfg.Low)+1)*3/4) }

// reuse takes the port of the phone that has been away for longest, one of the
// same credential if there is one, and only such a one if ownOnly.
func (p *PhonePorts) reuse(id phoneID, ownOnly bool) (*net.UDPConn, error) {
	var away []*bookEntry
	for k, e := range p.book {
		if p.open[k] == nil && k != id && (!ownOnly || k.Credential == id.Credential) {
			away = append(away, e)
		}
	}
	slices.SortFunc(away, func(a, b *bookEntry) int {
		if own := a.Credential == id.Credential; own != (b.Credential == id.Credential) {
			if own {
				return -1
			}
			return 1
		}
		return a.Used.Compare(b.Used)
	})
	for _, e := range away {
		if conn, err := p.listen(e.Port); err == nil {
			delete(p.book, phoneID{e.Credential, e.Key})
			p.remember(id, e.Port)
			return conn, nil
		}
	}
	p.cfg.Counters.Counter("sip.refused.no_phone_port").Inc()
	if now := time.Now(); now.Sub(p.warned) > time.Minute {
		p.warned = now
		p.cfg.Logger.Warn("a phone gets no port toward the PBX: widen --phone-ports, or revoke the credential if it is not its office's",
			zap.String("credential", id.Credential), zap.Int("ports_of_credential", p.quota()))
	}
	return nil, ErrNoPhonePort
}

func (p *PhonePorts) remember(id phoneID, port uint16) {
	p.book[id] = &bookEntry{Credential: id.Credential, Key: id.Key, Port: port, Used: time.Now()}
	if p.saving == nil {
		p.saving = time.AfterFunc(saveDelay, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.saving != nil {
				p.save()
			}
		})
	}
}

func (p *PhonePorts) listen(port uint16) (*net.UDPConn, error) {
	if port < p.cfg.Low || port > p.cfg.High {
		return nil, ErrNoPhonePort
	}
	lc := net.ListenConfig{Control: dscp.Signalling.Control}
	conn, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(p.cfg.Addr, port).String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Close closes every port and waits for their readers.
func (p *PhonePorts) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, port := range p.open {
		port.conn.Close()
	}
	p.save()
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// release says that owner needs the port no longer than d: the registration
// that the PBX holds will have ended by then.
func (port *phonePort) release(owner *pbxPhone, d time.Duration) {
	port.mu.Lock()
	defer port.mu.Unlock()
	if port.owner != owner {
		return
	}
	port.end = time.AfterFunc(d, func() { port.expire(owner) })
}

func (port *phonePort) expire(owner *pbxPhone) {
	p := port.ports
	p.mu.Lock()
	defer p.mu.Unlock()
	port.mu.Lock()
	defer port.mu.Unlock()
	if port.owner != owner {
		return
	}
	if e := p.book[port.id]; e != nil {
		e.Used = time.Now()
	}
	port.owner, port.past = nil, nil
	port.conn.Close()
	if p.open[port.id] == port {
		delete(p.open, port.id)
	}
}

func (port *phonePort) read() {
	buf := make([]byte, maxMessage)
	counters := port.ports.cfg.Counters
	for {
		n, from, err := port.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			counters.Counter("sip.dropped.receive_failed").Inc()
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if !port.ports.cfg.IsPBX(from.Addr()) {
			counters.Counter("sip.dropped.not_the_pbx").Inc()
			continue
		}
		port.deliver(from, buf[:n])
	}
}

func (port *phonePort) deliver(from netip.AddrPort, b []byte) {
	port.mu.Lock()
	if port.past != nil && time.Now().After(port.pastEnd) {
		port.past = nil
	}
	owner, past := port.owner, port.past
	port.mu.Unlock()
	if past != nil && past.finishes(from, b) {
		return
	}
	if owner != nil {
		owner.fromPBX(from, b)
	}
}

// pbxHop is the PBX as seen from a phone's port.
type pbxHop struct {
	port *phonePort
	addr netip.AddrPort
}

func (h pbxHop) reliable() bool { return false }

func (h pbxHop) send(msg []byte) {
	if len(msg) == 0 {
		return
	}
	if len(msg) > maxDatagramUDP {
		h.port.ports.cfg.Counters.Counter("sip.dropped.too_large_for_udp").Inc()
		return
	}
	if _, err := h.port.conn.WriteToUDPAddrPort(msg, h.addr); err != nil {
		h.port.ports.cfg.Counters.Counter("sip.dropped.send_failed").Inc()
	}
}
