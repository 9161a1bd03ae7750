package office

import (
	"context"
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
	var running admin.ProxyStatus
	isRunning := tunnelproxy().Client(common).Call(ctx, http.MethodGet, "/v1/status", nil, &running) == nil
	p, err := c.survey()
	switch {
	case err != nil:
		list.Fail("settings", err)
	case isRunning:
		list.OK("ports", "in use by the tunnelproxy that runs as process %d", running.PID)
	default:
		c.checkPorts(list, p)
	}
	c.checkServer(ctx, list, common.StateDir, s)
	c.checkTrunks(ctx, list)
	return list.Err()
}

func (c *checkCommand) checkPorts(list *config.Checklist, p *place) {
	addresses := p.addresses(p.listen, config.LANCandidates)
	if len(addresses) == 0 {
		list.Warn("LAN address", "connect it to the LAN; phones are served from then on", "this machine has none at the moment")
	}
	for _, at := range addresses {
		list.OK("LAN address", "%v", at.Addr())
	}
	sip, err := listenSIP(p, c.SignallingDSCP)
	if err != nil {
		list.Fail("SIP port", err)
	} else {
		sip.close()
		for _, at := range p.listen {
			list.OK("SIP port", "%v is free, UDP and TCP", at)
		}
		for _, at := range p.tls {
			list.OK("SIP over TLS", "%v is free", at)
		}
	}
	if c.TLSCert != "" {
		if _, err := c.tlsConfig(nil, p.lan); err != nil {
			list.Fail("certificate", err)
		} else {
			list.OK("certificate", "%s", c.TLSCert)
		}
	}
	for _, at := range addresses {
		list.Ports("media ports", "--media-ports", at.Addr(), c.MediaPorts, 2)
	}
}

func (c *checkCommand) checkServer(ctx context.Context, list *config.Checklist, stateDir string, s *program.Streams) {
	a, err := c.access(stateDir, s.In)
	if err != nil {
		list.Fail("server", err)
		return
	}
	status, err := try(ctx, a)
	if err != nil {
		list.Fail("server", err)
		return
	}
	list.OK("server", "%s lets %s in; its PBX is %s with the domain %s", a.link.Server, a.link.Name, status.PBX, status.Domain)
}
