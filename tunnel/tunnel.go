// Package tunnel is the client of siptunnel: it connects a SIP phone, or a
// whole office of them, with a PBX through one outbound connection to a
// tunneld that runs beside the PBX.
//
// # Use
//
// [Dial] connects with what [ParseLink] makes of a join link. [Client.Phone]
// gives a phone its own SIP socket beside the PBX, [Client.Media] a pair of
// sockets for RTP and RTCP there. Both are [net.PacketConn]s whose LocalAddr is
// the address beside the PBX: a phone that puts them into its Contact and its
// SDP needs no knowledge of the tunnel and no rewriting. Its SDP names these
// addresses only: what offers others, ICE candidates among them, is answered
// 488. [New] instead of Dial connects in the background, for programs that have to start without a
// network.
//
// A Client connects again by itself, for ever, and its session outlives its
// connections: phones and media stay open through a cut, SIP messages are
// delivered exactly once and in order, media of the meantime is lost. Only when
// the session itself is lost (the server was started anew, or no connection
// came back within its grace) are media sockets closed, with [ErrSessionLost];
// phones are opened again by themselves, usually at the same address.
//
// # Threat model
//
// The connection is TLS 1.3, and both ends prove knowledge of the password to
// each other inside of it (SPAKE2+, RFC 9383), bound to that very connection,
// before anything else is said. Somebody in between, or a server that poses as
// tunneld, learns nothing about the password that could be tested offline. The
// server's key is pinned, by the link or after the first success. The server
// enforces all that a client may do: SIP goes to its PBX only, media only where
// the PBX's SDP says, whatever WriteTo is told. Between tunneld and the PBX,
// and between this program and a phone, nothing is encrypted by the tunnel.
//
// # Compatibility
//
// The package follows semantic versioning with its module. Fields may be added
// to Config and Status, and events and errors may be added. It exposes no type
// of another module but the standard library's, reads no environment and
// writes no log. A Client works with every server of the same protocol version;
// others are refused with [ErrVersion].
package tunnel

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/counter"
	"github.com/siptunnel/siptunnel/internal/dscp"
	"github.com/siptunnel/siptunnel/internal/mux"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// maxMediaWait bounds Config.MediaWait: more is heard as delay.
const maxMediaWait = 20 * time.Millisecond

// Protocol names the protocol, with the version that both ends have to agree on.
const Protocol = wire.ALPN

// Config says which server to connect to and how. Server, Name and Password
// are required. The formats of package fmt show it without the password.
type Config struct {
	Server   string // host:port of tunneld
	Name     string // of the credential, as in "default"
	Password string
	// Pin is the server's key as a join link or KeyPinned has it. Without it
	// the first server that proves to know the password is taken, and is kept
	// for the lifetime of the Client.
	Pin string
	// Software is the name and version of the program, for the server's admin.
	Software string
	// OnEvent is called with every event, one after the other, from a
	// goroutine of its own. It must not call Close.
	OnEvent func(Event)
	// Media goes as datagrams on UDP, to the same port of the server, as long as
	// that works, else over the connection. NoDatagrams has all of it go over the
	// connection; so does a Dialer whose connections have no TCP address.
	NoDatagrams bool
	// MediaWait is for how long a packet of media may wait for others that share its
	// datagram, 0 to 20 ms. It pays from two streams on. AdaptMediaWait has packets
	// wait for up to 20 ms while the path is short of bandwidth.
	MediaWait      time.Duration
	AdaptMediaWait bool
	// ManualFlush is for programs that handle packets in batches: what is written to
	// media leaves at FlushMedia, which must be called soon after.
	ManualFlush bool
	// MediaDSCP and SignallingDSCP are what datagrams and the connection are marked
	// with in the IP header (RFC 2474), so that a network can tell voice from
	// downloads: a name like "EF", "AF41" or "CS3", or a number of 0 to 63. Empty: EF
	// and CS3. Connections of a Dialer are the caller's to mark.
	MediaDSCP, SignallingDSCP string
	// Dialer makes the connections. nil: a net.Dialer.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// Format shows the server and the name, whatever the verb.
func (c Config) Format(f fmt.State, _ rune) {
	io.WriteString(f, "tunnel.Config{"+c.Name+"@"+c.Server+"}")
}

// check says what is wrong with c.
func (c *Config) check() error {
	if host, port, err := net.SplitHostPort(c.Server); err != nil || host == "" || port == "" {
		return fmt.Errorf("the server %q is not HOST:PORT", c.Server)
	}
	if !auth.ValidName(c.Name) {
		return fmt.Errorf("%q is not the name of a credential", c.Name)
	}
	if c.Password == "" {
		return errors.New("the password is empty")
	}
	if c.MediaWait < 0 || c.MediaWait > maxMediaWait {
		return fmt.Errorf("MediaWait is %v, not 0 to %v", c.MediaWait, maxMediaWait)
	}
	if pin, err := base64.RawURLEncoding.DecodeString(c.Pin); c.Pin != "" && (err != nil || len(pin) != 32) {
		return errors.New("the pin is not the 43 characters that a join link ends with")
	}
	return nil
}

// classes are the marks of media and of signalling.
func (c *Config) classes() (classes [2]dscp.Class, err error) {
	for i, of := range []struct{ text, fallback, name string }{
		{c.MediaDSCP, "EF", "MediaDSCP"}, {c.SignallingDSCP, "CS3", "SignallingDSCP"},
	} {
		if classes[i], err = dscp.Parse(cmp.Or(of.text, of.fallback)); err != nil {
			return classes, fmt.Errorf("%s: %w", of.name, err)
		}
	}
	return classes, nil
}

// Client is a tunnel to one server. It connects in the background, again and
// again. All methods are safe for concurrent use.
type Client struct {
	config   Config
	mux      *mux.Client
	counters *counter.Set
	events   eventQueue

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something below changes
	closed  bool
	up      bool
	since   time.Time // when up last changed
	err     error     // why it is not up
	retry   time.Time
	made    uint64             // connections
	session *mux.ClientSession // nil: none
	server  string             // software of the server
	domain  string
	pbx     *net.UDPAddr // nil: not known yet
	pbxHost *net.UDPAddr // the same without a port

	phones    map[uint32]*Phone
	keys      map[string]*Phone
	lastPhone uint32
	opening   int // phones whose answer is awaited

	mediaMu     sync.RWMutex // after mu
	media       map[uint32]*Media
	lastChannel uint32
}

// New makes a client, which starts to connect in the background. The error is
// about the Config only.
func New(c Config) (*Client, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	classes, err := c.classes()
	if err != nil {
		return nil, err
	}
	client := &Client{
		config: c, counters: new(counter.Set),
		changed: make(chan struct{}), since: time.Now(), err: ErrDown,
		phones: make(map[uint32]*Phone), keys: make(map[string]*Phone), media: make(map[uint32]*Media),
	}
	client.events.start(c.OnEvent)
	// Calls of the handler may come before mux is assigned, and wait for it.
	client.mu.Lock()
	defer client.mu.Unlock()
	client.mux = mux.NewClient(mux.ClientConfig{
		Server: c.Server, Name: c.Name, Password: auth.NewPassword([]byte(c.Password)), Pin: c.Pin,
		Software: c.Software, Dial: c.Dialer, Handler: handler{client}, Counters: client.counters,
		NoDatagrams: c.NoDatagrams, Pacing: mux.Pacing{Wait: c.MediaWait, Adapt: c.AdaptMediaWait, Manual: c.ManualFlush},
		Media: classes[0], Signalling: classes[1],
	})
	return client, nil
}

// FlushMedia sends what was written to media, with Config.ManualFlush.
func (c *Client) FlushMedia() { c.mux.FlushMedia() }

// Dial makes a client and waits until it is connected. It gives up at the
// first error that trying again will not help (ErrRefused, ErrKeyChanged,
// ErrVersion, ErrNotTunneld, ErrServerProof) and when ctx is done; the error
// then wraps the context's and that of the last attempt.
func Dial(ctx context.Context, c Config) (*Client, error) {
	client, err := New(c)
	if err != nil {
		return nil, err
	}
	if err := client.awaitUp(ctx, mux.Definite); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}

// awaitUp waits until the tunnel is up, for as long as ctx allows and the
// reason why it is not up is none to give up at.
func (c *Client) awaitUp(ctx context.Context, giveUp func(error) bool) error {
	for {
		c.mu.Lock()
		up, closed, err, changed := c.up, c.closed, c.err, c.changed
		c.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case up:
			return nil
		case giveUp(err):
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// notify wakes those who wait for a change. c.mu is held.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Up reports whether the tunnel is connected just now.
func (c *Client) Up() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.up
}

// Domain returns the SIP domain of the PBX, as the server told it last, "" if
// it never did.
func (c *Client) Domain() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.domain
}

// Pin returns the pin of the server: that of Config, else that of the server
// which was connected first, else "".
func (c *Client) Pin() string { return c.mux.Pin() }

// Err returns why the tunnel is not up, nil when it is.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says Bye, closes all phones and media and waits for everything that
// the client started, OnEvent included.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.notify()
	c.mu.Unlock()
	err := c.mux.Close()
	c.mu.Lock()
	for _, p := range c.phones {
		c.dropPhone(p, net.ErrClosed)
	}
	c.mu.Unlock()
	c.closeMedia(net.ErrClosed)
	c.events.close()
	return err
}

// Status describes a Client at one moment.
type Status struct {
	Up       bool          `json:"up"`
	Server   string        `json:"server"`             // as configured
	Remote   string        `json:"remote,omitempty"`   // address of the server
	Session  string        `json:"session,omitempty"`  // name of the session, as the server's logs have it
	Software string        `json:"software,omitempty"` // of the server
	Domain   string        `json:"domain,omitempty"`   // of the PBX
	PBX      string        `json:"pbx,omitempty"`      // address, as the server sees it
	Pin      string        `json:"pin,omitempty"`
	Since    time.Time     `json:"since"`     // when Up last changed
	RTT      time.Duration `json:"rtt"`       // 0: not known yet
	BytesIn  uint64        `json:"bytes_in"`  // all connections, TLS included, and datagrams
	BytesOut uint64        `json:"bytes_out"` // the same
	Connects uint64        `json:"connects"`  // connections made so far
	Phones   int           `json:"phones"`    // open
	Media    int           `json:"media"`     // open
	// Datagrams says that media goes as datagrams now, and not over the connection.
	// PathRTT is their round trip, PathLoss the share of those sent in the last 10 s
	// that was lost.
	Datagrams bool          `json:"datagrams"`
	PathRTT   time.Duration `json:"path_rtt"`
	PathLoss  float64       `json:"path_loss"`

	Error    string            `json:"error,omitempty"`
	Retry    time.Time         `json:"retry,omitzero"`     // when it is tried again
	Counters map[string]uint64 `json:"counters,omitempty"` // of drops, refusals and fallbacks, by reason
}

// Status returns a description of the client.
func (c *Client) Status() Status {
	s := Status{Server: c.config.Server, Pin: c.mux.Pin(), Counters: c.counters.Snapshot()}
	in, out, rtt, remote := c.mux.Traffic()
	s.BytesIn, s.BytesOut, s.RTT = in, out, rtt
	if remote != nil {
		s.Remote = remote.String()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Up, s.Since, s.Connects, s.Retry = c.up, c.since, c.made, c.retry
	s.Software, s.Domain, s.Phones = c.server, c.domain, len(c.phones)
	if c.session != nil {
		s.Session = c.session.ID()
		path := c.session.Path()
		s.Datagrams, s.PathRTT, s.PathLoss = path.Datagrams, path.RTT, path.Loss
		s.BytesIn += path.BytesIn
		s.BytesOut += path.BytesOut
	}
	if c.pbx != nil {
		s.PBX = c.pbx.String()
	}
	if c.err != nil {
		s.Error = c.err.Error()
	}
	c.mediaMu.RLock()
	defer c.mediaMu.RUnlock()
	s.Media = len(c.media)
	return s
}
