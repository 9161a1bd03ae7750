//go:build linux

package peers

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
)

// optionsPort is where Options sends from: always the same port, as each is a phone of its own to tunnelproxy.
const optionsPort = 5099

// Options sends OPTIONS over UDP, once, from loopback if it goes there, else from the address of the host, and returns the
// status of the answer. An error is that there was none within 200 ms.
func Options(from *lab.Host, to netip.AddrPort, uri string) (status int, err error) {
	source := from.Addr
	if to.Addr().IsLoopback() {
		source = to.Addr()
	}
	conn, err := from.ListenUDP(netip.AddrPortFrom(source, optionsPort).String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	local := conn.LocalAddr().String()
	answer, err := Exchange(conn, to, fmt.Sprintf("OPTIONS %s SIP/2.0\r\n"+
		"Via: SIP/2.0/UDP %s;branch=z9hG4bK-options-%d;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:options@%s>;tag=options\r\nTo: <%s>\r\nCall-ID: options@%s\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
		uri, local, time.Now().UnixNano(), local, uri, local), 200*time.Millisecond)
	if err != nil {
		return 0, err
	}
	return answer.Status, nil
}

// Exchange sends a SIP message over UDP as it stands and returns the first SIP message that comes back within the limit.
func Exchange(conn net.PacketConn, to netip.AddrPort, message string, limit time.Duration) (*pcap.Message, error) {
	if _, err := conn.WriteTo([]byte(message), net.UDPAddrFromAddrPort(to)); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	buffer := make([]byte, 65535)
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return nil, err
		}
		packet := &pcap.Packet{Time: time.Now(), Protocol: pcap.UDP, Payload: buffer[:n]}
		if answer, ok := packet.SIP(); ok {
			return answer, nil
		}
	}
}
