package sipfwd

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
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
	Low, High uint16     // range of ports, UDP and TCP, both ends included
	// Sources "" is SharedSource: Addr is every phone's. Otherwise phones have
	// addresses out of SourceNetwork, which this machine must be able to bind.
	Sources       Sources
	SourceNetwork netip.Prefix
	// TrunkPorts are the ports of certain trunks, inside the range or not. Nobody
	// else gets them.
	TrunkPorts map[TrunkID]uint16
	// Transport of the phones' requests to the PBX, "UDP" (also for ""), "TCP"
	// or "TLS". With TLS, ClientTLS says what is trusted to be the PBX at a
	// target, and ServerTLS is for connections of the PBX to the ports.
	Transport string
	ClientTLS func(target netip.AddrPort) *tls.Config
	ServerTLS *tls.Config
	// Class marks what goes to the PBX.
	Class dscp.Class
	// StateFile remembers which phone had which port; "" forgets at exit.
	StateFile string
	// IsPBX is the door of every port: sources that it refuses are met with
	// silence.
	IsPBX    func(netip.Addr) bool
	Counters *counter.Set
	Logger   *zap.Logger
}

// PhonePorts owns the PBX-side ports of the phones of all sessions. A phone
// gets the same port again, after restarts too, because its PBX keeps it as the
// phone's address. Methods are safe for concurrent use.
type PhonePorts struct {
	cfg  PhonePortsConfig
	wg   sync.WaitGroup
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	buffers sync.Pool // of *[maxMessage]byte

	mu     sync.Mutex
	closed bool
	book   map[phoneID]*bookEntry
	open   map[phoneID]*phonePort
	saving *time.Timer // runs while the book is newer than the file
	warned time.Time   // see warn
}

// phoneID names a phone of a tunnel credential.
type phoneID struct{ Credential, Key string }

// bookEntry is the memory of a phone's port. It is what the state file holds.
type bookEntry struct {
	Credential string    `json:"credential"`
	Key        string    `json:"key"`
	Port       uint16    `json:"port"`
	Used       time.Time `json:"used"`
	// Source is the phone's address, where it is not the one that all share, and
	// SourceOf whose it is.
	Source   netip.Addr `json:"source,omitzero"`
	SourceOf Sources    `json:"source_of,omitempty"`
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
	if cfg.Transport == "" {
		cfg.Transport = "UDP"
	}
	if cfg.Sources == "" {
		cfg.Sources = SharedSource
	}
	if cfg.Sources != SharedSource && SourceCount(cfg.SourceNetwork) == 0 {
		return nil, fmt.Errorf("phone source network %v: not a network with addresses for phones", cfg.SourceNetwork)
	}
	p := &PhonePorts{cfg: cfg, book: make(map[phoneID]*bookEntry), open: make(map[phoneID]*phonePort)}
	if err := p.load(); err != nil {
		return nil, err
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
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
		id := phoneID{e.Credential, e.Key}
		if of, port, ok := p.fixed(id); e.Port != port && p.isFixed(e.Port) || ok && of != id {
			continue // the port is a trunk's now, or the trunk has another one
		}
		p.book[id] = &e
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
	id, _, _ = p.fixed(id)
	port = p.open[id]
	if port == nil {
		socks, err := p.bind(id)
		if err != nil {
			return nil, nil, err
		}
		port = newPhonePort(p, id, socks)
		p.open[id] = port
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
func (p *PhonePorts) bind(id phoneID) (sockets, error) {
	source, err := p.source(id)
	if err != nil {
		return sockets{}, err
	}
	if _, port, ok := p.fixed(id); ok {
		return p.bindFixed(id, source, port)
	}
	if e := p.book[id]; e != nil && e.Port >= p.cfg.Low && e.Port <= p.cfg.High {
		if socks, err := p.listen(source, e.Port, p.cfg.Transport != "UDP"); err == nil {
			p.remember(id, source, e.Port)
			return socks, nil
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
		if taken[uint16(n)] || p.isFixed(uint16(n)) {
			continue
		}
		if socks, err := p.listen(source, uint16(n), true); err == nil {
			p.remember(id, source, uint16(n))
			return socks, nil
		}
	}
	return p.reuse(id, source, own >= p.quota())
}

// bindFixed opens the port that is configured for the trunk id.
func (p *PhonePorts) bindFixed(id phoneID, source netip.Addr, port uint16) (sockets, error) {
	socks, err := p.listen(source, port, true)
	if err == nil {
		p.remember(id, source, port)
		return socks, nil
	}
	p.cfg.Counters.Counter("sip.refused.no_trunk_port").Inc()
	p.warn("a trunk's port is not free: stop the other program (ss -lnptu names it), or choose another --trunk-port",
		zap.String("credential", id.Credential), zap.String("trunk", strings.TrimPrefix(id.Key, trunkMark)), zap.Error(err))
	return socks, err
}

// buffer is one that holds any datagram.
func (p *PhonePorts) buffer() *[maxMessage]byte {
	if b, ok := p.buffers.Get().(*[maxMessage]byte); ok {
		return b
	}
	return new([maxMessage]byte)
}

// quota is how many ports one credential can have: a stolen one must not leave
// the other offices without.
func (p *PhonePorts) quota() int { return max(1, (int(p.cfg.High)-int(p.cfg.Low)+1)*3/4) }

// reuse takes the port of the phone that has been away for longest, one of the
// same credential if there is one, and only such a one if ownOnly.
func (p *PhonePorts) reuse(id phoneID, source netip.Addr, ownOnly bool) (sockets, error) {
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
		if e.Port < p.cfg.Low || e.Port > p.cfg.High || p.isFixed(e.Port) {
			continue
		}
		if socks, err := p.listen(source, e.Port, true); err == nil {
			delete(p.book, phoneID{e.Credential, e.Key})
			p.remember(id, source, e.Port)
			return socks, nil
		}
	}
	p.cfg.Counters.Counter("sip.refused.no_phone_port").Inc()
	p.warn("a phone gets no port toward the PBX: widen --phone-ports, or revoke the credential if it is not its office's",
		zap.String("credential", id.Credential), zap.Int("ports_of_credential", p.quota()))
	return sockets{}, ErrNoPhonePort
}

// warn logs that a phone cannot be opened, once a minute: it is tried again all the
// time. It is called with mu held.
func (p *PhonePorts) warn(text string, fields ...zap.Field) {
	if now := time.Now(); now.Sub(p.warned) > time.Minute {
		p.warned = now
		p.cfg.Logger.Warn(text, fields...)
	}
}

// remember notes what the phone id has, and has it written if that is new.
func (p *PhonePorts) remember(id phoneID, source netip.Addr, port uint16) {
	e := &bookEntry{Credential: id.Credential, Key: id.Key, Port: port, Used: time.Now()}
	if p.cfg.Sources != SharedSource {
		e.Source, e.SourceOf = source, p.cfg.Sources
	}
	was := p.book[id]
	p.book[id] = e
	isNew := was == nil || was.Port != e.Port || was.Source != e.Source || was.SourceOf != e.SourceOf
	if isNew && p.saving == nil {
		p.saving = time.AfterFunc(saveDelay, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.saving != nil {
				p.save()
			}
		})
	}
}

// sockets of a port. There may be none for TCP.
type sockets struct {
	udp *net.UDPConn
	tcp net.Listener
}

// listen opens port for UDP and TCP. A phone that has had the port keeps it, if
// need be, while another program has it for TCP.
func (p *PhonePorts) listen(source netip.Addr, port uint16, both bool) (socks sockets, err error) {
	lc := net.ListenConfig{Control: p.cfg.Class.Control}
	at := netip.AddrPortFrom(source, port).String()
	udp, err := lc.ListenPacket(context.Background(), "udp", at)
	if err != nil {
		return socks, err
	}
	socks.udp = udp.(*net.UDPConn)
	if socks.tcp, err = lc.Listen(context.Background(), "tcp", at); err != nil {
		if both {
			udp.Close()
			return socks, err
		}
		p.cfg.Logger.Warn("another program has a phone's port for TCP: large messages of the PBX may not arrive", zap.String("port", at), zap.Error(err))
		return socks, nil
	}
	socks.tcp = p.cfg.Class.Listener(socks.tcp)
	return socks, nil
}

// Close closes every port and waits for their readers.
func (p *PhonePorts) Close() error {
	p.mu.Lock()
	p.closed = true
	p.stop()
	for _, port := range p.open {
		port.shut()
	}
	p.save()
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}
