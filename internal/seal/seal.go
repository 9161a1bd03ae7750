// Package seal encrypts and authenticates the datagrams of the media path, one
// direction of one session at a time: keys from the TLS exporter, one after the
// other; a counter that is nonce and guard against replay. The layout is that of
// wire.DatagramHeader.
//
// The attacker that it is made for reads, drops, delays, repeats, changes and
// makes up datagrams, and does not know the exported secret. From an Opener he
// gets nothing that its peer's Sealer was not given, and nothing twice. He sees
// lengths, times, counters and connection ids.
//
// The package knows bytes only. Nothing in it is safe for concurrent use.
package seal

import (
	"errors"

	"github.com/siptunnel/siptunnel/internal/replay"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	// RekeyAfter is how many datagrams are sealed with one key before the next one
	// is taken: half of what RFC 9001 section 6.6 allows AES-GCM.
	RekeyAfter = 1 << 22
	// MaxSealed is how many are sealed with one key at most, should the peer not
	// confirm that it has the current one. It is the limit of RFC 9001 section 6.6
	// for packets of any size, with room to spare at wire.MaxDatagram
	// (appendix B.1.1: 2^28 of at most 2^11 bytes).
	MaxSealed = 1 << 26
	// MaxForged is how many forgeries an Opener survives (RFC 9001 section 6.6: 2^36
	// with ChaCha20-Poly1305, which is the lower one).
	MaxForged = 1 << 36
)

// Reasons for which a datagram is refused.
var (
	ErrMalformed  = errors.New("seal: not a datagram of the media path")
	ErrConnection = errors.New("seal: of another connection")
	ErrForged     = errors.New("seal: not authentic")
	ErrReplayed   = errors.New("seal: came before")
	ErrOld        = errors.New("seal: too old to tell whether it came before")
	ErrExhausted  = errors.New("seal: the keys are used up, start a new connection")
)

// A Sealer seals the datagrams of one direction.
type Sealer struct {
	connection uint32
	keys       *ratchet
	key        phaseKey
	phase      bool   // low bit of the phase
	start      uint64 // counter of the phase's first datagram
	next       uint64
	confirmed  bool // the peer has had a datagram of the phase
	nonce      [12]byte
}

// NewSealer returns a Sealer for the datagrams of sender. exported is the secret
// under ExporterLabel; connection is the id that the receiver has chosen.
func NewSealer(exported []byte, suite Suite, sender Sender, connection uint32) (*Sealer, error) {
	keys, err := newRatchet(exported, suite, sender)
	if err != nil {
		return nil, err
	}
	s := &Sealer{connection: connection, keys: keys}
	if s.key, err = keys.next(); err != nil {
		return nil, err
	}
	return s, nil
}

// Continue has the counter go on where that of an earlier Sealer of the same
// direction, with other keys, has got to.
func (s *Sealer) Continue(from *Sealer) { s.next, s.start = from.next, from.next }

// Next returns the counter that the next datagram will have.
func (s *Sealer) Next() uint64 { return s.next }

// Seal seals a datagram in its place: b is wire.DatagramHeaderLen bytes of room and
// the records. What it returns is b, wire.DatagramTagLen bytes longer, and the
// counter of the datagram; nothing is allocated if b has the capacity. The error
// is ErrExhausted, ErrMalformed if b is too short or too long, or one of key
// derivation.
func (s *Sealer) Seal(b []byte) (datagram []byte, counter uint64, err error) {
	if len(b) < wire.DatagramHeaderLen || len(b) > wire.MaxDatagram-wire.DatagramTagLen {
		return nil, 0, ErrMalformed
	}
	switch sealed := s.next - s.start; {
	case sealed >= RekeyAfter && s.confirmed:
		if err := s.rekey(); err != nil {
			return nil, 0, err
		}
	case sealed >= MaxSealed:
		return nil, 0, ErrExhausted
	}
	counter = s.next
	s.next++
	header := b[:wire.DatagramHeaderLen:wire.DatagramHeaderLen]
	wire.DatagramHeader{Phase: s.phase, Connection: s.connection, Counter: uint32(counter & (1<<wire.CounterBits - 1))}.Put(header)
	sealed := s.key.aead.Seal(b[:wire.DatagramHeaderLen], s.key.nonce(&s.nonce, counter), b[wire.DatagramHeaderLen:], header)
	return sealed, counter, nil
}

// Confirm says that the peer has authenticated the datagram with this counter.
// Only then can the key be changed again: a peer that missed a whole phase could
// never follow.
func (s *Sealer) Confirm(counter uint64) {
	if counter >= s.start && counter < s.next {
		s.confirmed = true
	}
}

// Rekey takes the next key, if the peer has confirmed the current one, and says
// whether it did. Seal does so by itself after RekeyAfter datagrams; callers do
// it when a key has been in use for an hour.
func (s *Sealer) Rekey() (bool, error) {
	if !s.confirmed {
		return false, nil
	}
	return true, s.rekey()
}

func (s *Sealer) rekey() error {
	key, err := s.keys.next()
	if err != nil {
		return err
	}
	s.key, s.phase, s.start, s.confirmed = key, !s.phase, s.next, false
	return nil
}

// Refused counts what an Opener refused, by reason.
type Refused struct {
	Malformed, Connection, Forged, Replayed, Old, Exhausted uint64
}

// An Opener opens the datagrams of one direction.
type Opener struct {
	connection uint32
	keys       *ratchet
	current    phaseKey
	following  phaseKey // of the next phase, made ahead
	previous   phaseKey // without aead if there is none any more
	phase      bool
	start      uint64 // lowest counter seen in the current phase
	window     replay.Window
	received   uint64
	refused    Refused
	nonce      [12]byte
}

// NewOpener returns an Opener for the datagrams of sender. connection is the id
// that this end has chosen.
func NewOpener(exported []byte, suite Suite, sender Sender, connection uint32) (*Opener, error) {
	keys, err := newRatchet(exported, suite, sender)
	if err != nil {
		return nil, err
	}
	o := &Opener{connection: connection, keys: keys}
	if o.current, err = keys.next(); err != nil {
		return nil, err
	}
	if o.following, err = keys.next(); err != nil {
		return nil, err
	}
	return o, nil
}

// Continue takes over what an earlier Opener of the same direction, with other keys,
// has received: counters go on.
func (o *Opener) Continue(from *Opener) {
	o.window, o.received, o.refused = from.window, from.received, from.refused
	o.start = from.window.Highest()
}

// Highest returns the highest counter that was authenticated, Received how many
// datagrams were opened, Refused what was not.
func (o *Opener) Highest() uint64  { return o.window.Highest() }
func (o *Opener) Received() uint64 { return o.received }
func (o *Opener) Refused() Refused { return o.refused }

// Open opens a datagram in its place. The plaintext is part of b; b is destroyed
// even when the datagram is refused. Nothing is allocated, but when the peer has
// taken a new key.
func (o *Opener) Open(b []byte) (plaintext []byte, counter uint64, err error) {
	header, ok := wire.ParseDatagramHeader(b)
	switch {
	case !ok:
		o.refused.Malformed++
		return nil, 0, ErrMalformed
	case header.Connection != o.connection:
		o.refused.Connection++
		return nil, 0, ErrConnection
	case o.refused.Forged >= MaxForged:
		o.refused.Exhausted++
		return nil, 0, ErrExhausted
	}
	counter = o.window.Reconstruct(header.Counter, wire.CounterBits)
	key := o.choose(header.Phase, counter)
	if key.aead == nil {
		o.refused.Old++
		return nil, 0, ErrOld
	}
	plaintext, err = key.aead.Open(b[wire.DatagramHeaderLen:wire.DatagramHeaderLen], key.nonce(&o.nonce, counter),
		b[wire.DatagramHeaderLen:], b[:wire.DatagramHeaderLen])
	if err != nil {
		o.refused.Forged++
		return nil, 0, ErrForged
	}
	switch o.window.Accept(counter) {
	case replay.Seen:
		o.refused.Replayed++
		return nil, 0, ErrReplayed
	case replay.Old:
		o.refused.Old++
		return nil, 0, ErrOld
	}
	o.received++
	if key == &o.following {
		if err := o.promote(counter); err != nil {
			return nil, 0, err
		}
		return plaintext, counter, nil
	}
	o.settle(header.Phase, counter)
	return plaintext, counter, nil
}

// choose returns the key that a datagram must be sealed with. Counters never go
// back, so one of the other phase bit is of the phase before if it is below all of
// the current one, and of the phase after otherwise (RFC 9001 section 6.3).
func (o *Opener) choose(phase bool, counter uint64) *phaseKey {
	switch {
	case phase == o.phase:
		return &o.current
	case counter < o.start:
		return &o.previous
	}
	return &o.following
}

// promote makes the next phase the current one.
func (o *Opener) promote(counter uint64) error {
	o.previous, o.current = o.current, o.following
	o.phase, o.start = !o.phase, counter
	var err error
	o.following, err = o.keys.next()
	return err
}

// settle notes how far the current phase reaches back, and forgets the key of the
// previous one once the replay window has left it behind.
func (o *Opener) settle(phase bool, counter uint64) {
	if phase == o.phase {
		o.start = min(o.start, counter)
	}
	if o.previous.aead != nil && o.window.Highest()-o.start >= replay.Size {
		o.previous = phaseKey{}
	}
}
