package daemon

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/program"
)

type checkCommand struct {
	settings
}

func (c *checkCommand) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	list := config.NewChecklist(s.Out)
	if err := config.CheckStateDir(common.StateDir); err != nil {
		list.Fail("state directory", err)
	} else {
		list.OK("state directory", "%s", common.StateDir)
	}
	p, err := c.survey(ctx, net.DefaultResolver)
	if err != nil {
		list.Fail("settings", err)
		return list.Err()
	}
	list.OK("settings", "PBX %v with domain %s, media at %v", p.pbx, p.domain, p.mediaAddress)

	var running admin.DaemonStatus
	if err := tunneld().Client(common).Call(ctx, http.MethodGet, "/v1/status", nil, &running); err == nil {
		list.OK("ports", "in use by the tunneld that runs as process %d", running.PID)
	} else {
		checkPorts(list, &c.settings, p)
	}
	if doubt := c.publicDoubt(p); doubt != "" {
		list.Warn("public address", publicRemedy, "%s", doubt)
	} else {
		list.OK("public address", "%s", p.public)
	}
	checkPBX(ctx, list, p)
	return list.Err()
}

// checkPBX asks all targets. Those that do not answer are a failure when no other does.
func checkPBX(ctx context.Context, list *config.Checklist, p *place) {
	for _, doubt := range p.doubts {
		list.Warn("PBX", "correct --pbx, or the network of this machine", "%s", doubt)
	}
	targets := p.targets()
	rtts, errs := make([]time.Duration, len(targets)), make([]error, len(targets))
	var asked sync.WaitGroup
	for i, t := range targets {
		asked.Go(func() { rtts[i], errs[i] = p.way.askOptions(ctx, t, p.domain) })
	}
	asked.Wait()
	none := !slices.Contains(errs, nil)
	for i, t := range targets {
		remedy := fmt.Sprintf("start it, correct --pbx, or have it accept SIP over %v from %v", p.way.transport, p.phoneSource)
		switch {
		case errs[i] == nil:
			list.OK("PBX", "%v answers OPTIONS over %v in %.1f ms", t.addr, p.way.transport, admin.Milliseconds(rtts[i]))
		case none:
			list.Fail("PBX", &config.Error{Code: config.ExitUnreachable, Problem: t.addr.String(), Err: errs[i], Remedy: remedy})
		default:
			list.Warn("PBX", remedy, "%v: %v", t.addr, errs[i])
		}
	}
}

// checkFree takes the port that offices connect to over one network, and gives it back.
func checkFree(list *config.Checklist, at config.Endpoint, network string, listen func(at string) (io.Closer, error)) {
	socket, err := listen(at.String())
	if err != nil {
		list.Fail("listen", config.ListenError(err, "--listen", at.String()+"/"+network))
		return
	}
	socket.Close()
	list.OK("listen", "%s/%s is free", at, network)
}

// checkPorts looks whether the ports that serve takes are free.
func checkPorts(list *config.Checklist, s *settings, p *place) {
	checkFree(list, p.listen, "tcp", func(at string) (io.Closer, error) { return net.Listen("tcp", at) })
	if s.MediaTransport != config.MediaTCP {
		checkFree(list, p.listen, "udp", func(at string) (io.Closer, error) { return net.ListenPacket("udp", at) })
	}
	list.Ports("media ports", "--media-ports", p.mediaAddress, s.MediaPorts, 2)
	list.Ports("phone ports", "--phone-ports", p.phoneAddress, s.PhonePorts, 1, "udp", "tcp")
	for _, t := range s.TrunkPort {
		list.Ports("trunk port", "--trunk-port", p.phoneAddress, config.PortRange{Low: t.port, High: t.port}, 1, "udp", "tcp")
	}
	if !s.PhoneSources.shared() {
		list.OK("phone sources", "one of %v for each %s", s.SourceNetwork, s.PhoneSources)
	}
}
