package sipfwd

import (
	"net/netip"
	"sync"
)

// crossbar joins the media ports of two phones of the office that the PBX has
// send to each other, so that what they say need not cross the tunnel twice. It
// guesses nothing: two ports are joined as long as the PBX's SDP for each of
// them names the relay of the other one, and for no longer. A PBX that stands in
// the media itself, to record a call or to play music on hold, names addresses
// of its own and gets everything.
//
// The zero value is ready for use. It is safe for concurrent use; a phone's lock
// may be held.
type crossbar struct {
	mu     sync.Mutex
	points map[netip.AddrPort]*crosspoint // by the port's address on the PBX side
}

// crosspoint is a media port that the PBX has send to far.
type crosspoint struct {
	port MediaPort
	far  netip.AddrPort
	peer *crosspoint // whom it is joined with
}

// point says that the PBX wants the media that comes from port at far. The zero
// address means nowhere, and has to be the last word before port is closed.
func (x *crossbar) point(port MediaPort, far netip.AddrPort) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := port.PBX()
	c := x.points[at]
	if c != nil && c.port != port {
		if !far.IsValid() {
			return
		}
		x.part(c) // its session is gone: the address belongs to another port now
		c = nil
	}
	switch {
	case c == nil && !far.IsValid() || c != nil && c.far == far:
		return
	case !far.IsValid():
		x.part(c)
		delete(x.points, at)
		return
	case c == nil:
		c = &crosspoint{port: port}
		if x.points == nil {
			x.points = make(map[netip.AddrPort]*crosspoint)
		}
		x.points[at] = c
	}
	x.part(c)
	c.far = far
	if peer := x.points[far]; peer != nil && peer != c && peer.far == at {
		c.peer, peer.peer = peer, c
		port.Join(peer.port)
		peer.port.Join(port)
	}
}

// part is called with mu held.
func (x *crossbar) part(c *crosspoint) {
	if c.peer == nil {
		return
	}
	c.port.Join(nil)
	c.peer.port.Join(nil)
	c.peer.peer, c.peer = nil, nil
}
