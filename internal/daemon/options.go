package daemon

import (
	"context"
	"time"

	"github.com/siptunnel/siptunnel/internal/probe"
)

// askOptions asks the PBX at a target whether it is there.
func (w way) askOptions(ctx context.Context, pbx target, domain string) (time.Duration, error) {
	return probe.Options(ctx, probe.Peer{Addr: pbx.addr, Transport: w.transport.String(), Trust: w.trusted(pbx.host), Host: domain})
}
