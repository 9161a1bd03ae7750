package daemon

import (
	"context"
	"fmt"
	"net"
	"net/http"

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
	p, err := c.survey(ctx, resolveHost)
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
	rtt, err := p.way.askOptions(ctx, p.pbx, p.domain)
	if err != nil {
		list.Fail("PBX", &config.Error{Code: config.ExitUnreachable, Problem: p.pbx.String(), Err: err,
			Remedy: fmt.Sprintf("start it, correct --pbx, or have it accept SIP over %v from %v", p.way.transport, p.phoneAddress)})
	} else {
		list.OK("PBX", "%v answers OPTIONS over %v in %.1f ms", p.pbx, p.way.transport, admin.Milliseconds(rtt))
	}
	return list.Err()
}

// checkPorts looks whether the ports that serve takes are free.
func checkPorts(list *config.Checklist, s *settings, p *place) {
	ln, err := net.Listen("tcp", p.listen.String())
	if err != nil {
		list.Fail("listen", config.ListenError(err, "--listen", p.listen.String()+"/tcp"))
	} else {
		ln.Close()
		list.OK("listen", "%s/tcp is free", p.listen)
	}
	list.Ports("media ports", "--media-ports", p.mediaAddress, s.MediaPorts, 2)
	list.Ports("phone ports", "--phone-ports", p.phoneAddress, s.PhonePorts, 1)
	for _, t := range s.TrunkPort {
		list.Ports("trunk port", "--trunk-port", p.phoneAddress, config.PortRange{Low: t.port, High: t.port}, 1)
	}
	if !s.PhoneSources.shared() {
		list.OK("phone sources", "one of %v for each %s", s.SourceNetwork, s.PhoneSources)
	}
}
