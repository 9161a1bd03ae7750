package tunnel

import "fmt"

// Event is something that happened to a Client: one of Connected,
// Disconnected, SessionLost, Refused, KeyPinned, PhoneMoved and PhoneLost.
// Its String says it in one line, without secrets.
type Event interface {
	fmt.Stringer
	event()
}

// Connected: the tunnel is up.
type Connected struct {
	// Resumed says that the session goes on: phones, media and signalling are
	// as they were. Otherwise the session is a new one, in which the phones
	// are opened again behind the scenes.
	Resumed bool
	Server  string // address that was dialled
	Session string // name of the session, as the server's logs have it
}

// Disconnected: the connection is lost. The session goes on if another
// connection is made in time, which the client tries by itself.
type Disconnected struct{ Err error }

// SessionLost: the session could not be resumed. Its media sockets are closed
// and its calls are over; phones are opened again in the next session.
type SessionLost struct{ Err error }

// Refused: the server did not let the client in. It is tried again, slowly,
// unless Err is ErrKeyChanged.
type Refused struct{ Err error }

// KeyPinned: the client had no pin and takes this server, which has proven to
// know the password, as its server from now on. Keep the pin for Config.Pin.
type KeyPinned struct{ Pin string }

// PhoneMoved: a phone has another address beside the PBX than before.
type PhoneMoved struct{ Phone *Phone }

// PhoneLost: the server did not open a phone again in a new session. The phone
// is closed.
type PhoneLost struct {
	Phone *Phone
	Err   error
}

func (Connected) event()    {}
func (Disconnected) event() {}
func (SessionLost) event()  {}
func (Refused) event()      {}
func (KeyPinned) event()    {}
func (PhoneMoved) event()   {}
func (PhoneLost) event()    {}

func (e Connected) String() string {
	if e.Resumed {
		return "connected to " + e.Server + ", session " + e.Session + " goes on"
	}
	return "connected to " + e.Server + ", session " + e.Session + " begins"
}
func (e Disconnected) String() string { return "disconnected: " + e.Err.Error() }
func (e SessionLost) String() string  { return "session lost: " + e.Err.Error() }
func (e Refused) String() string      { return "refused: " + e.Err.Error() }
func (e KeyPinned) String() string    { return "server key pinned: " + e.Pin }
func (e PhoneMoved) String() string {
	return "phone " + e.Phone.Key() + " moved to " + e.Phone.LocalAddr().String()
}
func (e PhoneLost) String() string { return "phone " + e.Phone.Key() + " lost: " + e.Err.Error() }
