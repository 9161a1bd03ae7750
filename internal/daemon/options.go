package daemon

import (
	"context"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/internal/probe"
)

// askOptions asks the PBX whether it is there.
func (w way) askOptions(ctx context.Context, pbx netip.AddrPort, domain string) (time.Duration, error) {
	return probe.Options(ctx, probe.Peer{Addr: pbx, Transport: w.transport.String(), Trust: w.trust, Host: domain})
}
