// Package probe asks SIP peers whether they are there. Both programs and their checks use it.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/config"
)

// Timeout is how long a peer has for its answer; over UDP OPTIONS is sent again after 0.5, 1 and 2 s meanwhile (RFC 3261
// section 17.1.2.2).
const Timeout = 3 * time.Second

// refusalAfter is how long a peer over UDP may take before it is asked whether it is there at all.
const refusalAfter = 250 * time.Millisecond

// Peer is who is asked.
type Peer struct {
	Addr      netip.AddrPort
	Transport string      // "UDP", "TCP" or "TLS"
	Trust     *tls.Config // for TLS
	// Host and Port are what the Request-URI says; Port 0 is left out.
	Host string
	Port uint16
}

// Options sends OPTIONS from an ephemeral port of the address that routes to the peer, and gives the time until its answer.
// Any final response counts: 401, 404 or 405 come from a peer that lives too. 503 does not: the peer takes nothing at the
// moment.
func Options(ctx context.Context, peer Peer) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	source, err := config.RouteSource(peer.Addr.Addr())
	if err != nil {
		return 0, err
	}
	ua, err := sipgo.NewUA(
		sipgo.WithUserAgent("siptunnel"),
		sipgo.WithUserAgentHostname(source.String()),
		sipgo.WithUserAgenTLSConfig(peer.Trust),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(slog.New(slog.DiscardHandler))),
	)
	if err != nil {
		return 0, err
	}
	defer ua.Close()
	client, err := sipgo.NewClient(ua,
		sipgo.WithClientHostname(Bracketed(source)),
		sipgo.WithClientConnectionAddr(netip.AddrPortFrom(source, 0).String()),
	)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	request := sip.NewRequest(sip.OPTIONS, sip.Uri{Scheme: "sip", Host: peer.Host, Port: int(peer.Port)})
	request.SetTransport(peer.Transport)
	request.SetDestination(peer.Addr.String())
	start := time.Now()
	if peer.Transport == "UDP" {
		var refusing sync.WaitGroup
		refusing.Go(func() { stop(refusal(ctx, source, peer.Addr)) })
		defer refusing.Wait()
		defer stop(nil)
	}
	response, err := client.Do(ctx, request)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errRefused) {
			return 0, cause
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to OPTIONS within %v", Timeout)
		}
		return 0, err
	}
	if response.StatusCode == sip.StatusServiceUnavailable {
		return 0, fmt.Errorf("it answers %d %s", response.StatusCode, response.Reason)
	}
	return time.Since(start), nil
}

// errRefused says that no program listens at a peer's port.
var errRefused = errors.New("nothing listens there")

// refusal waits until ctx is done, or until the machine of a peer over UDP says that nothing listens at its port: on a socket
// of its own, as such a message comes back on a connected one only. What asks is a keep-alive (RFC 5626 section 3.5.1),
// which SIP peers do not mind; one that answers at once does not see it.
func refusal(ctx context.Context, source netip.Addr, peer netip.AddrPort) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(refusalAfter):
	}
	conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), net.UDPAddrFromAddrPort(peer))
	if err != nil {
		<-ctx.Done()
		return nil
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	_, err = conn.Write([]byte("\r\n\r\n"))
	for buf := make([]byte, 64); err == nil; {
		_, err = conn.Read(buf)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errRefused
	}
	<-ctx.Done()
	return nil
}

// Bracketed gives an address as it stands in SIP.
func Bracketed(addr netip.Addr) string {
	if addr.Is6() {
		return "[" + addr.String() + "]"
	}
	return addr.String()
}
