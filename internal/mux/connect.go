package mux

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/wire"
)

// connection is a connection whose Attach was answered.
type connection struct {
	raw      *rawConn
	ys       *yamux.Session
	control  *yamux.Stream
	attached wire.Attached
	secret   []byte // for the media path
	started  time.Time
}

// connect makes a connection and attaches it to s, or to a new session if s is
// nil or the server does not know it.
func (c *Client) connect(s *ClientSession) (_ *connection, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, attemptTimeout)
	defer cancel()
	if s != nil {
		// Later than this there is nothing to resume.
		var cancelAtEnd context.CancelFunc
		ctx, cancelAtEnd = context.WithDeadline(ctx, s.until)
		defer cancelAtEnd()
	}
	conn, err := c.config.Dial(ctx, "tcp", c.config.Server)
	if err != nil {
		return nil, unreachable(err)
	}
	// Everything below fails soon after the connection is closed.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
			if ctx.Err() != nil {
				err = unreachable(ctx.Err())
			}
		}
	}()
	raw := newRawConn(conn)
	raw.unlimit()
	secure, err := c.authenticate(ctx, raw)
	if err != nil {
		return nil, err
	}
	ys, err := startYamux(raw, secure, true)
	if err != nil {
		return nil, err
	}
	control, attached, err := c.attach(ys, secure, s)
	if err != nil {
		conn.Close()
		ys.Close()
		return nil, err
	}
	secret, err := mediaSecret(secure)
	if err != nil {
		conn.Close()
		ys.Close()
		return nil, err
	}
	return &connection{raw: raw, ys: ys, control: control, attached: attached, secret: secret, started: time.Now()}, nil
}

// authenticate makes sure that both ends know the password and that the server
// is the one with the pin.
func (c *Client) authenticate(ctx context.Context, raw *rawConn) (*tls.Conn, error) {
	pin := c.Pin()
	secure := tls.Client(raw, clientTLS(pin))
	if err := clientHandshake(ctx, secure); err != nil {
		return nil, err
	}
	b, err := binding(secure)
	if err != nil {
		return nil, err
	}
	if err := auth.Authenticate(secure, c.config.Name, c.config.Password, b); err != nil {
		if isNetwork(err) {
			return nil, fmt.Errorf("%w (the connection ended during authentication: %w)", ErrUnreachable, err)
		}
		return nil, err
	}
	if pin == "" {
		pin = Pin(secure.ConnectionState().PeerCertificates[0])
		c.mu.Lock()
		c.pin = pin
		c.mu.Unlock()
		c.config.Handler.Pinned(pin)
	}
	return secure, nil
}

// attach opens the control stream and asks for the session.
func (c *Client) attach(ys *yamux.Session, secure *tls.Conn, s *ClientSession) (*yamux.Stream, wire.Attached, error) {
	none := wire.Attached{}
	m := wire.Attach{Epoch: 1, Software: c.config.Software}
	if s != nil {
		s.epoch++
		m.Session, m.Epoch, m.Received = s.id, s.epoch, s.received.Load()
		var err error
		if m.Proof, err = resumeProof(secure, s.secret, m.Epoch); err != nil {
			return nil, none, err
		}
	}
	control, err := ys.OpenStream()
	if err != nil {
		return nil, none, err
	}
	if _, err := control.Write(m.Append([]byte{byte(wire.StreamControl)})); err != nil {
		return nil, none, err
	}
	t, body, _, err := wire.ReadFrame(control, make([]byte, wire.MaxControl), wire.MaxControl)
	if err != nil {
		return nil, none, fmt.Errorf("%w (it closed the connection instead of attaching: %w)", ErrUnreachable, err)
	}
	if t != wire.TypeAttached {
		return nil, none, attachError(t, body)
	}
	attached, err := wire.ParseAttached(body)
	if err != nil {
		return nil, none, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return control, attached, nil
}

// attachError is what an answer other than Attached means.
func attachError(t wire.Type, body []byte) error {
	switch t {
	case wire.TypeRefused:
		m, err := wire.ParseRefused(body)
		if err != nil {
			return err
		}
		return byeError(wire.Bye(m))
	case wire.TypeBye:
		m, err := wire.ParseBye(body)
		if err != nil {
			return err
		}
		return byeError(m)
	}
	return fmt.Errorf("%w: %v in answer to Attach", ErrProtocol, t)
}

func unreachable(err error) error { return fmt.Errorf("%w (%w)", ErrUnreachable, err) }
