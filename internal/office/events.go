package office

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/tunnel"
)

// events does what the tunnel's events call for, and logs them. The client calls it from one goroutine.
type events struct {
	proxy     *proxy
	ready     chan struct{} // closed when the proxy is complete: the client may be connected before
	connected bool          // it has been connected
	last      string        // the last refusal, which is not logged again
}

func (e *events) handle(event tunnel.Event) {
	<-e.ready
	p := e.proxy
	switch event := event.(type) {
	case tunnel.Connected:
		message := "tunnel up"
		if event.Resumed {
			message = "tunnel up again, the session goes on"
		}
		if !e.connected {
			close(p.settled)
		}
		e.connected, e.last = true, ""
		p.log.Info(message, zap.String("server", event.Server), zap.String("session", event.Session), zap.String("domain", p.client.Domain()))
	case tunnel.Disconnected:
		e.warn("tunnel down, phones get 503 until it is up again", zap.NamedError("reason", event.Err))
	case tunnel.SessionLost:
		e.warn("session lost, its calls are over", zap.NamedError("reason", event.Err))
		p.pool.discard()
		p.side.Reset(event.Err)
	case tunnel.Refused:
		e.refused(event.Err)
	case tunnel.KeyPinned:
		if err := p.access.keepPin(event.Pin); err != nil {
			p.log.Error("the server's key cannot be kept: the next start takes whichever knows the password", zap.Error(err))
			return
		}
		p.log.Info("the server's key is kept from now on", zap.String("server", p.access.link.Server), zap.String("key_pin", event.Pin))
	case tunnel.PhoneMoved:
		p.log.Info("phone moved to another port at the PBX", zap.String("key", event.Phone.Key()), zap.Stringer("address", event.Phone.LocalAddr()))
	case tunnel.PhoneLost:
		p.log.Warn("phone not opened again by the server", zap.String("key", event.Phone.Key()), zap.Error(event.Err))
	}
}

// warn is for what is an alarm unless this program stops, which is logged already.
func (e *events) warn(message string, reason zap.Field) {
	if !e.proxy.ending.Load() {
		e.proxy.log.Warn(message, reason)
	}
}

// refused ends the program where trying again is of no use: at the start, when somebody is there to read why, and where
// the client itself gives up. Later on the proxy stays, tells phones 503, and is let in again once that is put right.
func (e *events) refused(err error) {
	p := e.proxy
	explained := explain(p.access, err)
	if isDefinite(err) && !e.connected || errors.Is(err, tunnel.ErrKeyChanged) {
		p.Fail(explained)
		return
	}
	if text := explained.Error(); text != e.last {
		e.last = text
		p.log.Error("tunnel refused", zap.Error(explained))
	}
}

// watchInterval is between looks at why the tunnel is down.
const watchInterval = 2 * time.Second

// watch logs why the server is not reached, once for each reason: a network that is down is no event of the tunnel's, and
// for the admin it is the one that matters.
func (p *proxy) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	logged := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := p.client.Err()
		switch {
		case err == nil:
			logged = ""
		case errors.Is(err, tunnel.ErrUnreachable):
			explained := explain(p.access, err)
			if text := explained.Error(); text != logged {
				logged = text
				p.log.Warn("the server is not reached, it is tried again and again", zap.Error(explained))
			}
		}
	}
}
