package sipfwd

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/siptunnel/siptunnel/internal/counter"
)

// Relay is a port pair beside the PBX that carries one m-line through the
// tunnel.
type Relay interface {
	// SetRemote says where the PBX wants its media. The zero address stops
	// sending.
	SetRemote(rtp, rtcp netip.AddrPort)
	Stats() MediaStats
}

// PBXSideConfig configures a PBXSide. Events and Counters may be nil.
type PBXSideConfig struct {
	Credential string // whose session it is
	PBX        PBX    // where every request from the tunnel goes
	Ports      *PhonePorts
	// Send sends a message toward the client, in order. It must not block long.
	Send func(phone uint32, msg []byte)
	// SaveState gives the client the soft state of a phone to keep, which it
	// hands back to OpenPhone when this program has lost it.
	SaveState func(phone uint32, state []byte)
	// Relay is the relay of this session that has the RTP address local.
	Relay    func(local netip.AddrPort) (Relay, bool)
	Events   Events
	Counters *counter.Set
}

// PBXSide is the half of the proxy that faces the PBX, for the phones of one
// tunnel session. Its methods are safe for concurrent use; messages of one
// phone are handled in the order of the calls.
type PBXSide struct {
	cfg      PBXSideConfig
	counters *counter.Set
	budget   budget

	mu     sync.Mutex
	closed bool
	phones map[uint32]*pbxPhone
}

// NewPBXSide returns the proxy half for a new session.
func NewPBXSide(cfg PBXSideConfig) *PBXSide {
	if cfg.Events == nil {
		cfg.Events = noEvents{}
	}
	if cfg.Counters == nil {
		cfg.Counters = new(counter.Set)
	}
	return &PBXSide{cfg: cfg, counters: cfg.Counters, phones: make(map[uint32]*pbxPhone)}
}

// OpenPhone gives the phone that the client calls id, and that key recognises,
// its port. state is what SaveState gave for it earlier, possibly in another
// session; it comes from the client and is not trusted.
func (s *PBXSide) OpenPhone(id uint32, key string, state []byte) (netip.AddrPort, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return netip.AddrPort{}, errSessionOver
	}
	if p := s.phones[id]; p != nil {
		if p.key != key {
			return netip.AddrPort{}, fmt.Errorf("phone %d is open with another key", id)
		}
		return p.port.addr, nil
	}
	if len(s.phones) >= maxPhones {
		s.counters.Counter("sip.refused.too_many_phones").Inc()
		return netip.AddrPort{}, errTooManyPhones
	}
	p := newPBXPhone(s, id, key)
	p.mu.Lock() // the port must not deliver before the phone is complete
	defer p.mu.Unlock()
	port, past, err := s.cfg.Ports.acquire(phoneID{s.cfg.Credential, key}, p)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if past != nil { // its session is in its grace, and its client is here
		if kept := past.granted(); len(kept) > 0 && len(state) > 0 {
			state = kept // what this end has seen is newer than what the client could keep
			defer p.saveState()
		}
		past.end("taken over by another session")
		p.former = past.formerly()
	}
	p.port = port
	p.restore(state)
	s.phones[id] = p
	if p.trunk != "" {
		s.cfg.Events.TrunkOpened(p.trunkInfo())
	}
	return port.addr, nil
}

// ClosePhone says that the client has no more use for a phone.
func (s *PBXSide) ClosePhone(id uint32) {
	s.mu.Lock()
	p := s.phones[id]
	delete(s.phones, id)
	s.mu.Unlock()
	if p != nil {
		p.end("phone closed")
	}
}

// FromTunnel handles a message of a phone. msg is the caller's again afterwards.
func (s *PBXSide) FromTunnel(phone uint32, msg []byte) {
	s.mu.Lock()
	p := s.phones[phone]
	s.mu.Unlock()
	if p == nil {
		s.counters.Counter("sip.dropped.unknown_phone").Inc()
		return
	}
	p.fromTunnel(msg)
}

// Close ends the session's calls toward the PBX. The phones' ports answer 480
// until the PBX's registrations have ended or another session takes them over.
func (s *PBXSide) Close() {
	s.mu.Lock()
	s.closed = true
	phones := s.phones
	s.phones = make(map[uint32]*pbxPhone)
	s.mu.Unlock()
	for _, p := range phones {
		p.end("tunnel lost")
	}
}

func (s *PBXSide) allPhones() []*pbxPhone {
	s.mu.Lock()
	defer s.mu.Unlock()
	phones := make([]*pbxPhone, 0, len(s.phones))
	for _, p := range s.phones {
		phones = append(phones, p)
	}
	slices.SortFunc(phones, func(a, b *pbxPhone) int { return int(a.id) - int(b.id) })
	return phones
}

// Phones lists the bindings of the session's phones.
func (s *PBXSide) Phones() []PhoneInfo {
	var infos []PhoneInfo
	for _, p := range s.allPhones() {
		infos = append(infos, p.infos()...)
	}
	return infos
}

// Calls lists the calls that go on.
func (s *PBXSide) Calls() []CallInfo {
	var infos []CallInfo
	for _, p := range s.allPhones() {
		p.mu.Lock()
		infos = append(infos, p.legs.calls()...)
		p.mu.Unlock()
	}
	return infos
}
