package office

import (
	"context"
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
	var running admin.ProxyStatus
	isRunning := tunnelproxy().Client(common).Call(ctx, http.MethodGet, "/v1/status", nil, &running) == nil
	p, err := c.survey(config.LANCandidates)
	switch {
	case err != nil:
		list.Fail("settings", err)
	case isRunning:
		list.OK("ports", "in use by the tunnelproxy that runs as process %d", running.PID)
	default:
		c.checkPorts(list, p)
	}
	c.checkServer(ctx, list, common.StateDir, s)
	return list.Err()
}

func (c *checkCommand) checkPorts(list *config.Checklist, p *place) {
	list.OK("LAN address", "%v", p.lan)
	sip, err := listenSIP(p)
	if err != nil {
		list.Fail("SIP port", err)
	} else {
		sip.close()
		list.OK("SIP port", "%v is free, UDP and TCP", p.listen)
		if !p.tls.IsZero() {
			list.OK("SIP over TLS", "%v is free", p.tls)
		}
	}
	if c.TLSCert != "" {
		if _, err := c.tlsConfig(nil, p.lan); err != nil {
			list.Fail("certificate", err)
		} else {
			list.OK("certificate", "%s", c.TLSCert)
		}
	}
	list.Ports("media ports", "--media-ports", p.lan, c.MediaPorts, 2)
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

// listeners are the sockets that phones send to.
type listeners struct {
	udp *net.UDPConn
	tcp net.Listener
	tls net.Listener // of TCP; nil without TLS
}

func (l *listeners) close() {
	l.udp.Close()
	l.tcp.Close()
	if l.tls != nil {
		l.tls.Close()
	}
}

// listenSIP takes the SIP ports.
func listenSIP(p *place) (*listeners, error) {
	udp, err := net.ListenPacket("udp"+p.suffix, p.listen.String())
	if err != nil {
		return nil, config.ListenError(err, "--sip-listen", p.listen.String()+"/udp")
	}
	l := &listeners{udp: udp.(*net.UDPConn)}
	if l.tcp, err = net.Listen("tcp"+p.suffix, p.listen.String()); err != nil {
		udp.Close()
		return nil, config.ListenError(err, "--sip-listen", p.listen.String()+"/tcp")
	}
	if p.tls.IsZero() {
		return l, nil
	}
	if l.tls, err = net.Listen("tcp"+p.suffix, p.tls.String()); err != nil {
		l.close()
		return nil, config.ListenError(err, "--sip-tls-listen", p.tls.String()+"/tcp")
	}
	return l, nil
}
