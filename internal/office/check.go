package office

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
)

type checkCommand struct {
	settings
}

func (c *checkCommand) Run(ctx context.Context, common *common, s *streams) error {
	list := config.NewChecklist(s.out)
	if err := config.CheckStateDir(common.StateDir); err != nil {
		list.Fail("state directory", err)
	} else {
		list.OK("state directory", "%s", common.StateDir)
	}
	var running admin.ProxyStatus
	isRunning := common.client().Call(ctx, http.MethodGet, "/v1/status", nil, &running) == nil
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
	udp, tcp, err := listenSIP(p)
	if err != nil {
		list.Fail("SIP port", err)
	} else {
		udp.Close()
		tcp.Close()
		list.OK("SIP port", "%v is free, UDP and TCP", p.listen)
	}
	for port := int(c.MediaPorts.Low); port <= int(c.MediaPorts.High); port++ {
		conn, err := net.ListenUDP("udp"+p.suffix, net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.lan, uint16(port))))
		if err == nil {
			conn.Close()
			list.OK("media ports", "%v at %v can be used", c.MediaPorts, p.lan)
			return
		}
		if port == int(c.MediaPorts.High) {
			list.Fail("media ports", config.ListenError(err, "--media-ports", p.lan.String()+" "+c.MediaPorts.String()+"/udp"))
		}
	}
}

func (c *checkCommand) checkServer(ctx context.Context, list *config.Checklist, stateDir string, s *streams) {
	a, err := c.access(stateDir, s.in)
	if err != nil {
		list.Fail("server", err)
		return
	}
	status, err := try(ctx, a)
	if err != nil {
		list.Fail("server", err)
		return
	}
	list.OK("server", "%s lets %s in", a.link.Server, a.link.Name)
	list.OK("PBX", "%s, of the domain %s", status.PBX, status.Domain)
}

// listenSIP takes the SIP port, UDP and TCP.
func listenSIP(p *place) (*net.UDPConn, net.Listener, error) {
	udp, err := net.ListenPacket("udp"+p.suffix, p.listen.String())
	if err != nil {
		return nil, nil, config.ListenError(err, "--sip-listen", p.listen.String()+"/udp")
	}
	tcp, err := net.Listen("tcp"+p.suffix, p.listen.String())
	if err != nil {
		udp.Close()
		return nil, nil, config.ListenError(err, "--sip-listen", p.listen.String()+"/tcp")
	}
	return udp.(*net.UDPConn), tcp, nil
}
