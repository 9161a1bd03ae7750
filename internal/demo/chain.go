package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/siptunnel/siptunnel/internal/admin"
)

// The usual ports.
const (
	sipPort    = 5060
	tunnelPort = 5090
)

// joinLinkFile is where tunneld, started without a terminal, leaves its first join link.
const joinLinkFile = "join-link"

// startDaemon starts tunneld, with the forwarder before it as the address that its join link says.
func (d *demo) startDaemon(ctx context.Context) error {
	return d.stepWithin(ctx, startTime, "tunneld serves", func(ctx context.Context) (string, error) {
		port, err := freePort(d.place.server, tunnelPort)
		if err != nil {
			return "", err
		}
		listen := netip.AddrPortFrom(d.place.server, port)
		if d.forwarder, err = newForwarder(d.place.server, listen); err != nil {
			return "", err
		}
		pbx := d.pbx.Addr()
		if d.cfg.Break == PBXSIP {
			if pbx, err = d.silence(d.place.pbx); err != nil {
				return "", err
			}
		}
		d.daemon, err = d.start("tunneld", "serve",
			"--state-dir", d.state("tunneld"),
			"--listen", listen.String(),
			"--public-address", d.forwarder.addr(),
			"--pbx", pbx.String(),
			"--domain", domain,
			"--media-address", d.place.server.String())
		if err != nil {
			return "", err
		}
		link := filepath.Join(d.state("tunneld"), joinLinkFile)
		var info os.FileInfo
		err = until(ctx, d.daemon, func() error {
			info, err = os.Stat(link)
			return err
		})
		if err != nil {
			return "", err
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			return "", fmt.Errorf("the join link is in a file of mode %o", mode)
		}
		return fmt.Sprintf("%s, its join link is in a file of mode 0600", listen), nil
	})
}

// startProxy has tunnelproxy join, and serve the phones.
func (d *demo) startProxy(ctx context.Context) error {
	link := filepath.Join(d.state("tunneld"), joinLinkFile)
	err := d.stepWithin(ctx, startTime, "tunnelproxy joins with the link", func(ctx context.Context) (string, error) {
		_, err := d.run(ctx, "tunnelproxy", "join", "--state-dir", d.state("tunnelproxy"), link)
		return "", err
	})
	if err != nil {
		return err
	}
	return d.stepWithin(ctx, startTime, "tunnelproxy is connected", func(ctx context.Context) (string, error) {
		port, err := d.sipPort()
		if err != nil {
			return "", err
		}
		d.proxySIP = netip.AddrPortFrom(d.place.lan, port)
		d.proxy, err = d.start("tunnelproxy", "serve",
			"--state-dir", d.state("tunnelproxy"),
			"--sip-listen", d.proxySIP.String(),
			"--lan-address", d.place.lan.String())
		if err != nil {
			return "", err
		}
		err = until(ctx, d.proxy, func() error {
			s, err := status[admin.ProxyStatus](ctx, d, "tunnelproxy")
			if err == nil && !s.Tunnel.Up {
				err = errors.New("the tunnel is not up: " + s.Tunnel.LastError)
			}
			return err
		})
		return fmt.Sprintf("phones use %s as their outbound proxy", d.proxySIP), err
	})
}

// sipPort is the port of tunnelproxy: the one that was asked for, else the usual one, else a free one.
func (d *demo) sipPort() (uint16, error) {
	if port := d.cfg.SIPPort; port != 0 {
		if !isFree(netip.AddrPortFrom(d.place.lan, port)) {
			return 0, fmt.Errorf("port %d of %s is taken", port, d.place.lan)
		}
		return port, nil
	}
	return freePort(d.place.lan, sipPort)
}
