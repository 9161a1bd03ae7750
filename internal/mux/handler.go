package mux

import (
	"net/netip"
	"time"
)

// Handler makes the far side of sessions. NewSession is called once for each
// session, before anything else happens in it, possibly for several sessions
// at once. An error refuses the session and reaches the client as a code; its
// text stays here.
type Handler interface {
	NewSession(s *Session) (SessionHandler, error)
}

// SessionHandler does what the client of one session asks for.
//
// All calls for one session are made one after the other, but Media, which is
// called from several goroutines and along with any other call. No call may
// block for long: the session's signalling waits for it. Byte slices are valid
// only during the call. Methods of the Session may be called from within.
type SessionHandler interface {
	// OpenPhone gives the phone its place and returns its address beside the
	// PBX. The key is what a later session of the same credential may ask for
	// again; state is what SavePhoneState last said about it, or empty: it
	// comes from the client and may be forged.
	OpenPhone(id uint32, key string, state []byte) (netip.AddrPort, error)
	ClosePhone(id uint32)
	// OpenRelay returns the RTP address of a new relay. RTCP is on the next
	// port.
	OpenRelay(channel uint32) (netip.AddrPort, error)
	CloseRelay(channel uint32)
	// SIP is a message of an open phone toward the PBX.
	SIP(phone uint32, msg []byte)
	// Media is an RTP or RTCP packet of an open relay toward the PBX.
	Media(channel uint32, rtcp bool, packet []byte)
	// Attached is called when a connection carries the session, the first
	// time included, before its first frame is handled.
	Attached()
	// Detached is called when the session has lost its connection. It may get
	// another one within its grace.
	Detached(reason error)
	// Closed is the last call. Phones and relays that are still open are the
	// handler's to close.
	Closed(reason error)
}

// Limits bound what clients can ask for. Zero fields take the default.
type Limits struct {
	Pending               int // connections that are not authenticated yet: 128
	Sessions              int // in the whole server: 1,024
	SessionsPerCredential int // 64
	Phones                int // per session: 1,024
	Relays                int // per session: 1,024
}

func (l Limits) withDefaults() Limits {
	for _, v := range []struct {
		field *int
		value int
	}{
		{&l.Pending, 128}, {&l.Sessions, 1024}, {&l.SessionsPerCredential, 64},
		{&l.Phones, 1024}, {&l.Relays, 1024},
	} {
		if *v.field <= 0 {
			*v.field = v.value
		}
	}
	return l
}

// SessionInfo describes a session at one moment.
type SessionInfo struct {
	ID         string        `json:"id"`
	Credential string        `json:"credential"`
	Remote     string        `json:"remote,omitempty"` // of its connection, or of the last one
	Software   string        `json:"software,omitempty"`
	Since      time.Time     `json:"since"`    // start of the session
	Attached   bool          `json:"attached"` // a connection carries it
	Changed    time.Time     `json:"changed"`  // when Attached last changed
	Resumes    uint64        `json:"resumes"`  // connections after the first
	RTT        time.Duration `json:"rtt"`      // of the connection, 0 when not known yet
	BytesIn    uint64        `json:"bytes_in"` // on the wire below TLS framing, all connections
	BytesOut   uint64        `json:"bytes_out"`
	Phones     int           `json:"phones"`
	Relays     int           `json:"relays"`
	Path       PathInfo      `json:"path"`
}
