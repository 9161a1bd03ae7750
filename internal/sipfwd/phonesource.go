package sipfwd

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"go.uber.org/zap"
)

// Sources says whose address the PBX sees: tunneld's for all phones, one for
// each credential, or one for each phone. A PBX that bans or permits by address
// hits no more than that.
type Sources string

// The values of Sources.
const (
	SharedSource Sources = "shared"
	OfficeSource Sources = "office"
	PhoneSource  Sources = "phone"
)

// ErrNoPhoneSource says that the network for the phones' addresses has none left.
var ErrNoPhoneSource = errors.New("no source address is free: widen --phone-source-network")

// maxSourceBits bounds the addresses of a network that are used, and looked
// through when it is full.
const maxSourceBits = 20

// SourceRange gives the first and the last address of network that phones may
// get: neither those that name the network and all of its hosts nor, of a large
// one, what is beyond the first million. ok is false when there is none.
func SourceRange(network netip.Prefix) (first, last netip.Addr, ok bool) {
	hostBits := network.Addr().BitLen() - network.Bits()
	if !network.IsValid() || hostBits < 2 {
		return netip.Addr{}, netip.Addr{}, false
	}
	n := uint32(1)<<min(hostBits, maxSourceBits) - 2
	return addrAt(network, 1), addrAt(network, n), true
}

// SourceCount is how many addresses SourceRange spans.
func SourceCount(network netip.Prefix) int {
	if _, _, ok := SourceRange(network); !ok {
		return 0
	}
	return 1<<min(network.Addr().BitLen()-network.Bits(), maxSourceBits) - 2
}

// addrAt is the n-th address of network.
func addrAt(network netip.Prefix, n uint32) netip.Addr {
	b := network.Masked().Addr().AsSlice()
	tail := b[len(b)-4:]
	binary.BigEndian.PutUint32(tail, binary.BigEndian.Uint32(tail)+n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// sourceOwner is whose address the phone id has: every phone of the same owner
// has the same one.
func (s Sources) owner(id phoneID) phoneID {
	if s == OfficeSource {
		return phoneID{Credential: id.Credential}
	}
	return id
}

// source is the address of the phone id, the one that it had before if there is
// one. A new one follows from the owner's name as long as nobody else has it, so
// that it is the same again where the file is lost. It is called with mu held.
func (p *PhonePorts) source(id phoneID) (netip.Addr, error) {
	mode := p.cfg.Sources
	if mode == SharedSource {
		return p.cfg.Addr, nil
	}
	owner := mode.owner(id)
	taken := make(map[netip.Addr]bool, len(p.book))
	for k, e := range p.book {
		switch {
		case e.SourceOf != mode || !p.cfg.SourceNetwork.Contains(e.Source):
		case mode.owner(k) == owner:
			return e.Source, nil
		default:
			taken[e.Source] = true
		}
	}
	count := uint32(SourceCount(p.cfg.SourceNetwork))
	sum := sha256.Sum256([]byte(owner.Credential + "\x00" + owner.Key))
	start := binary.BigEndian.Uint32(sum[:])
	for i := range count {
		a := addrAt(p.cfg.SourceNetwork, 1+(start%count+i)%count)
		if !taken[a] && !p.cfg.IsPBX(a) {
			return a, nil
		}
	}
	if a, ok := p.reuseSource(id.Credential); ok {
		return a, nil
	}
	p.cfg.Counters.Counter("sip.refused.no_phone_source").Inc()
	p.warn("a phone gets no address toward the PBX: widen --phone-source-network, or revoke the credential if it is not its office's",
		zap.String("credential", id.Credential), zap.Stringer("network", p.cfg.SourceNetwork))
	return netip.Addr{}, ErrNoPhoneSource
}

// reuseSource takes its address from the owner who has been away for longest, one
// of the credential's if there is one. It is called with mu held.
func (p *PhonePorts) reuseSource(credential string) (netip.Addr, bool) {
	mode := p.cfg.Sources
	type holder struct {
		entries []*bookEntry
		used    time.Time
		present bool
		own     bool
	}
	holders := make(map[phoneID]*holder)
	for k, e := range p.book {
		if e.SourceOf != mode || !p.cfg.SourceNetwork.Contains(e.Source) || p.cfg.IsPBX(e.Source) {
			continue
		}
		h := holders[mode.owner(k)]
		if h == nil {
			h = &holder{own: k.Credential == credential}
			holders[mode.owner(k)] = h
		}
		h.entries = append(h.entries, e)
		h.present = h.present || p.open[k] != nil
		if e.Used.After(h.used) {
			h.used = e.Used
		}
	}
	var longest *holder
	for _, h := range holders {
		if !h.present && (longest == nil || h.own && !longest.own || h.own == longest.own && h.used.Before(longest.used)) {
			longest = h
		}
	}
	if longest == nil {
		return netip.Addr{}, false
	}
	a := longest.entries[0].Source
	for _, e := range longest.entries {
		e.Source, e.SourceOf = netip.Addr{}, ""
	}
	return a, true
}
