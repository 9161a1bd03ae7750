package auth

import (
	"container/list"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Limits of a Throttle.
const (
	// From startupsBegin connections that have not authenticated yet on, new
	// ones are dropped at random, with a chance that begins at startupsRate and
	// is certainty at startupsFull. Trusted sources have trustedReserve more.
	startupsBegin  = 32
	startupsRate   = 0.3
	startupsFull   = 128
	trustedReserve = 64

	// maxSources bounds each of the two memories, of strangers and of trusted
	// sources. They are apart, so that a crowd of strangers does not push out a
	// trusted one.
	maxSources = 4096

	// trustTime is how long a source is trusted after a login. An office whose
	// tunnel stood for weeks is to find its trust when it comes back.
	trustTime = 30 * 24 * time.Hour

	// maxPolite bounds how many refusals per second are worth a TLS handshake
	// and an answer; the others are silent.
	maxPolite = 16
)

// penalty says how failures of a source are counted: a failure adds 1 to its
// score, which falls by 1 per recovery. Score and attempts under way together
// stay within burst; who would exceed it waits.
type penalty struct {
	burst    float64
	recovery time.Duration
}

// A stranger gets 10 guesses at once and then 720 a day. In the trusted case
// the failures may be those of a health check, of a second client with a wrong
// password or of a guesser behind the same NAT: none is to keep the office out
// for long.
var (
	strangerPenalty = penalty{burst: 10, recovery: 2 * time.Minute}
	trustedPenalty  = penalty{burst: 50, recovery: 10 * time.Second}
)

// Throttle decides which new connections may try to authenticate, before
// anything is spent on them. A source is an IPv4 address or an IPv6 /64. The
// zero value is ready; it is safe for concurrent use and takes at most a few
// megabytes.
//
// A source that has logged in lately is judged by its own conduct only, and
// mildly: neither the penalties nor the number of others can keep it out, unless
// others that are trusted fill trustedReserve too.
type Throttle struct {
	mu       sync.Mutex
	active   int // connections between Begin and release
	known    sources
	trusted  sources
	politeAt time.Time // begin of the second that polite counts
	polite   int
}

// source is the state of one source. It moves from known to trusted and back.
type source struct {
	prefix  netip.Prefix
	active  int
	score   float64   // at scored
	scored  time.Time // when score was right
	trusted time.Time // of the last login; zero for a stranger
}

// Begin asks for permission to authenticate a connection from src. When it is
// given, the caller calls release exactly once, at the end of the attempt and
// whatever it was, with success when Verify returned no error. Otherwise err is
// a *ThrottledError, to be told with [RefuseThrottled], or ErrTooManyStartups, to
// be dropped silently; release is nil then.
func (t *Throttle) Begin(src netip.Addr) (release func(success bool), err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	prefix := sourcePrefix(src)
	s := t.find(prefix, now)
	rules, score := s.penalty(), s.scoreAt(now)
	if score+float64(s.active)+1 > rules.burst {
		// The attempts under way will be over soon. The score takes longer.
		wait := time.Duration((score + 1 - rules.burst) * float64(rules.recovery))
		return nil, t.refuse(max(wait, time.Second), now)
	}
	if !t.room(!s.trusted.IsZero()) {
		return nil, ErrTooManyStartups
	}
	t.active++
	s.active++
	var once sync.Once
	return func(success bool) { once.Do(func() { t.end(s, success) }) }, nil
}

// room tells whether one more startup is possible, with the lock held.
func (t *Throttle) room(trusted bool) bool {
	switch {
	case trusted:
		return t.active < startupsFull+trustedReserve
	case t.active < startupsBegin:
		return true
	case t.active >= startupsFull:
		return false
	}
	part := float64(t.active-startupsBegin) / (startupsFull - startupsBegin)
	return rand.Float64() >= startupsRate+(1-startupsRate)*part
}

// refuse is the error for a source that has to wait: a ThrottledError as long as
// answers are affordable.
func (t *Throttle) refuse(wait time.Duration, now time.Time) error {
	if now.Sub(t.politeAt) >= time.Second {
		t.politeAt, t.polite = now, 0
	}
	if t.polite >= maxPolite || t.active >= startupsBegin {
		return ErrTooManyStartups
	}
	t.polite++
	return &ThrottledError{RetryAfter: (wait + time.Second - 1).Truncate(time.Second)}
}

// end takes the result of an attempt.
func (t *Throttle) end(s *source, success bool) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active--
	s.active--
	s.score, s.scored = s.scoreAt(now), now
	if success {
		// The score stays: else who has one password could guess at the others
		// between two logins of his own.
		t.known.remove(s.prefix)
		s.trusted = now
		t.trusted.add(s)
		return
	}
	s.score++
	if s.trusted.IsZero() {
		t.known.add(s) // it may have been pushed out meanwhile
	}
}

// find returns the state of a source, which is remembered from now on.
func (t *Throttle) find(prefix netip.Prefix, now time.Time) *source {
	if s := t.trusted.get(prefix); s != nil {
		if now.Sub(s.trusted) < trustTime {
			return s
		}
		t.trusted.remove(prefix)
		s.trusted = time.Time{}
		t.known.add(s)
		return s
	}
	s := t.known.get(prefix)
	if s == nil {
		s = &source{prefix: prefix}
		t.known.add(s)
	}
	return s
}

func (s *source) penalty() penalty {
	if s.trusted.IsZero() {
		return strangerPenalty
	}
	return trustedPenalty
}

func (s *source) scoreAt(now time.Time) float64 {
	return max(0, s.score-float64(now.Sub(s.scored))/float64(s.penalty().recovery))
}

// sourcePrefix is the network that an address stands for: who has one IPv6
// address usually has the /64.
func sourcePrefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // the zero Addr: all without an address are one source
	}
	return p
}

// sources remembers the last maxSources that were used. The zero value is ready.
type sources struct {
	byPrefix map[netip.Prefix]*list.Element // of *source
	recent   list.List                      // the most recently used in front
}

func (m *sources) get(p netip.Prefix) *source {
	e := m.byPrefix[p]
	if e == nil {
		return nil
	}
	m.recent.MoveToFront(e)
	return e.Value.(*source)
}

// add puts s in front, in place of what is known by its prefix.
func (m *sources) add(s *source) {
	m.remove(s.prefix)
	if m.byPrefix == nil {
		m.byPrefix = make(map[netip.Prefix]*list.Element)
	}
	m.byPrefix[s.prefix] = m.recent.PushFront(s)
	for m.recent.Len() > maxSources {
		m.remove(m.recent.Back().Value.(*source).prefix)
	}
}

func (m *sources) remove(p netip.Prefix) {
	if e := m.byPrefix[p]; e != nil {
		m.recent.Remove(e)
		delete(m.byPrefix, p)
	}
}
