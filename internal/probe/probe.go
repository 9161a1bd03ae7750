// Package probe asks SIP peers whether they are there. Both programs and their checks use it.
package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/config"
)

// Timeout is how long a peer has for its answer; over UDP OPTIONS is sent again after 0.5, 1 and 2 s meanwhile (RFC 3261
// section 17.1.2.2).
const Timeout = 3 * time.Second

// Peer is who is asked.
type Peer struct {
	Addr      netip.AddrPort
	Transport string      // "UDP", "TCP" or "TLS"
	Trust     *tls.Config // for TLS
	// Host and Port are what the Request-URI says; Port 0 is left out.
	Host string
	Port uint16
}

// Options sends OPTIONS from an ephemeral port of the address that routes to the peer, and gives the time until its answer.
// Any final response counts: 401, 404 or 405 come from a peer that lives too. 503 does not: the peer takes nothing at the
// moment.
func Options(ctx context.Context, peer Peer) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	source, err := config.RouteSource(peer.Addr.Addr())
	if err != nil {
		return 0, err
	}
	ua, err := sipgo.NewUA(
		sipgo.WithUserAgent("siptunnel"),
		sipgo.WithUserAgentHostname(source.String()),
		sipgo.WithUserAgenTLSConfig(peer.Trust),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(slog.New(slog.DiscardHandler))),
	)
	if err != nil {
		return 0, err
	}
	defer ua.Close()
	client, err := sipgo.NewClient(ua,
		sipgo.WithClientHostname(Bracketed(source)),
		sipgo.WithClientConnectionAddr(netip.AddrPortFrom(source, 0).String()),
	)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	request := sip.NewRequest(sip.OPTIONS, sip.Uri{Scheme: "sip", Host: peer.Host, Port: int(peer.Port)})
	request.SetTransport(peer.Transport)
	request.SetDestination(peer.Addr.String())
	start := time.Now()
	response, err := client.Do(ctx, request)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to OPTIONS within %v", Timeout)
		}
		return 0, err
	}
	if response.StatusCode == sip.StatusServiceUnavailable {
		return 0, fmt.Errorf("it answers %d %s", response.StatusCode, response.Reason)
	}
	return time.Since(start), nil
}

// Bracketed gives an address as it stands in SIP.
func Bracketed(addr netip.Addr) string {
	if addr.Is6() {
		return "[" + addr.String() + "]"
	}
	return addr.String()
}
