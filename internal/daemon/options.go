package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/config"
)

// optionsTimeout is how long a PBX has for its answer; OPTIONS is sent again after 0.5, 1 and 2 s meanwhile
// (RFC 3261 section 17.1.2.2).
const optionsTimeout = 3 * time.Second

// askOptions sends OPTIONS to the PBX from an ephemeral port of the address that routes to it, and gives the time until its
// answer. Any final response counts: 401, 404 or 405 come from a PBX that lives too.
func (w way) askOptions(ctx context.Context, pbx netip.AddrPort, domain string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, optionsTimeout)
	defer cancel()
	source, err := config.RouteSource(pbx.Addr())
	if err != nil {
		return 0, err
	}
	ua, err := sipgo.NewUA(
		sipgo.WithUserAgent("siptunnel"),
		sipgo.WithUserAgentHostname(source.String()),
		sipgo.WithUserAgenTLSConfig(w.trust),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(slog.New(slog.DiscardHandler))),
	)
	if err != nil {
		return 0, err
	}
	defer ua.Close()
	client, err := sipgo.NewClient(ua,
		sipgo.WithClientHostname(bracketed(source)),
		sipgo.WithClientConnectionAddr(netip.AddrPortFrom(source, 0).String()),
	)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	request := sip.NewRequest(sip.OPTIONS, sip.Uri{Scheme: "sip", Host: domain})
	request.SetTransport(w.transport.String())
	request.SetDestination(pbx.String())
	start := time.Now()
	if _, err := client.Do(ctx, request); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to OPTIONS within %v", optionsTimeout)
		}
		return 0, err
	}
	return time.Since(start), nil
}

// bracketed gives an address as it stands in SIP.
func bracketed(addr netip.Addr) string {
	if addr.Is6() {
		return "[" + addr.String() + "]"
	}
	return addr.String()
}
