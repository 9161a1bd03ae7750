// Package tunnel is the client of siptunnel.
package tunnel

import (
	"context"
	"errors"
	"net"
	"time"
)

// Config says which server to connect to and how. Server, Name and Password
// are required.
type Config struct {
	Server   string // host:port of tunneld
	Name     string // of the credential, as in "default"
	Password string
	// Pin is the server's key as a join link or KeyPinned has it. Without it
	// the first server that proves to know the password is taken, and is kept
	// for the lifetime of the Client.
	Pin      string
	Software string // name and version of the program, for the server's admin
	// OnEvent is called with every event, one after the other, from a
	// goroutine of its own. It must not call Close.
	OnEvent func(Event)
	// Dialer makes the connections. nil: a net.Dialer.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client is a tunnel to one server. It connects in the background, again and
// again. All methods are safe for concurrent use.
type Client struct{}

// New makes a client, which starts to connect in the background. The error is
// about the Config only.
func New(c Config) (*Client, error) { return nil, errors.ErrUnsupported }

// Dial makes a client and waits until it is connected. It gives up at the
// first error that trying again will not help (ErrRefused, ErrKeyChanged,
// ErrVersion, ErrNotTunneld, ErrServerProof) and when ctx is done; the error
// then wraps the context's and the last reason.
func Dial(ctx context.Context, c Config) (*Client, error) { return nil, errors.ErrUnsupported }

// Up reports whether the tunnel is connected just now.
func (c *Client) Up() bool { return false }

// Domain returns the SIP domain of the PBX, as the server told it last.
func (c *Client) Domain() string { return "" }

// Pin returns the pin of the server: that of Config, else that of the server
// which was connected first, else "".
func (c *Client) Pin() string { return "" }

// Err returns why the tunnel is not up, nil when it is.
func (c *Client) Err() error { return nil }

// Status describes a Client at one moment.
type Status struct {
	Up       bool              `json:"up"`
	Server   string            `json:"server"`
	Remote   string            `json:"remote,omitempty"` // address of the server
	Session  string            `json:"session,omitempty"`
	Software string            `json:"software,omitempty"` // of the server
	Domain   string            `json:"domain,omitempty"`
	PBX      string            `json:"pbx,omitempty"`
	Pin      string            `json:"pin,omitempty"`
	Since    time.Time         `json:"since,omitzero"`  // when Up last changed
	RTT      time.Duration     `json:"rtt"`             // 0: not known yet
	BytesIn  uint64            `json:"bytes_in"`        // all connections
	BytesOut uint64            `json:"bytes_out"`       // all connections
	Connects uint64            `json:"connects"`        // connections made so far
	Phones   int               `json:"phones"`          // open
	Media    int               `json:"media"`           // open
	Error    string            `json:"error,omitempty"` // why it is not up
	Retry    time.Time         `json:"retry,omitzero"`  // when it is tried again
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// Status returns a description of the client.
func (c *Client) Status() Status { return Status{} }

// Close says Bye, closes all phones and media and waits for everything that
// the client started.
func (c *Client) Close() error { return nil }

// Phone opens a place beside the PBX for one phone, waiting for the tunnel if
// need be. The key names the phone for ever: the same key gets the same port
// again, now and after restarts, wherever possible. A key can be open once.
func (c *Client) Phone(ctx context.Context, key string) (*Phone, error) {
	return nil, errors.ErrUnsupported
}

// Media allocates a pair of sockets for RTP and RTCP beside the PBX, waiting
// for the tunnel if need be.
func (c *Client) Media(ctx context.Context) (*Media, error) { return nil, errors.ErrUnsupported }

// Phone is the SIP socket of one phone beside the PBX. Each packet is one SIP
// message; what is written goes to the PBX whatever the address says, and
// arrives there in order. While the tunnel is down it is kept for some time.
type Phone struct{ net.PacketConn }

// Key returns the key that the phone was opened with.
func (p *Phone) Key() string { return "" }

// Media is a pair of sockets for one stream of media beside the PBX.
type Media struct{}

// RTP returns the RTP socket. Its LocalAddr belongs into the SDP that goes to
// the PBX. Where packets go is for the PBX's SDP to say, not for WriteTo.
func (m *Media) RTP() net.PacketConn { return nil }

// RTCP returns the RTCP socket, one port above.
func (m *Media) RTCP() net.PacketConn { return nil }

// Close gives the sockets back.
func (m *Media) Close() error { return nil }
