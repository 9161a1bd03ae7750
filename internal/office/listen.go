package office

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/dscp"
)

// listeners are the sockets that phones send to.
type listeners struct {
	udp []*net.UDPConn
	tcp []net.Listener
	tls []net.Listener // of TCP
}

func (l *listeners) close() {
	for _, conn := range l.udp {
		conn.Close()
	}
	for _, ln := range l.tcp {
		ln.Close()
	}
	for _, ln := range l.tls {
		ln.Close()
	}
}

// listenSIP takes the SIP ports.
func listenSIP(p *place, class dscp.Class) (*listeners, error) {
	l := new(listeners)
	err := l.listen(p, class)
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *listeners) listen(p *place, class dscp.Class) error {
	sockets := net.ListenConfig{Control: class.Control}
	tcp := func(into *[]net.Listener) func(family, address string) error {
		return func(family, address string) error {
			ln, err := sockets.Listen(context.Background(), "tcp"+family, address)
			if err == nil {
				*into = append(*into, class.Listener(ln))
			}
			return err
		}
	}
	udp := func(family, address string) error {
		conn, err := sockets.ListenPacket(context.Background(), "udp"+family, address)
		if err == nil {
			l.udp = append(l.udp, conn.(*net.UDPConn))
		}
		return err
	}
	for _, at := range p.listen {
		if err := everyFamily(at, udp); err != nil {
			return config.ListenError(err, "--sip-listen", at.String()+"/udp")
		}
		if err := everyFamily(at, tcp(&l.tcp)); err != nil {
			return config.ListenError(err, "--sip-listen", at.String()+"/tcp")
		}
	}
	for _, at := range p.tls {
		if err := everyFamily(at, tcp(&l.tls)); err != nil {
			return config.ListenError(err, "--sip-tls-listen", at.String()+"/tcp")
		}
	}
	return nil
}

// everyFamily has listen open what at stands for: a socket for each IP family where no host is named, so that 0.0.0.0 is
// IPv4 alone and [::] IPv6 alone. A machine without IPv6 does with the other one.
func everyFamily(at config.Endpoint, listen func(family, address string) error) error {
	addr, isAddr := at.Addr()
	switch {
	case at.Host == "":
		if err := listen("4", at.String()); err != nil {
			return err
		}
		err := listen("6", at.String())
		if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			return nil
		}
		return err
	case isAddr && addr.Is6():
		return listen("6", at.String())
	case isAddr:
		return listen("4", netip.AddrPortFrom(addr, at.Port).String())
	}
	return listen("", at.String())
}
