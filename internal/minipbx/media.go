package minipbx

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
)

// maxPacket is the largest datagram that is forwarded whole.
const maxPacket = 1500

// port is the PBX's side of the audio of one phone: an RTP and an RTCP socket. Packets are taken from
// the signalled addresses only and handed on as they are.
type port struct {
	rtp, rtcp            *net.UDPConn
	lose                 bool // everything, both ways
	in, out, foreign     atomic.Uint64
	remoteRTP, remoteCtl atomic.Pointer[netip.AddrPort]
	readers              sync.WaitGroup
}

func (p *PBX) openPort() (*port, error) {
	rtp, rtcp, err := audio.OpenPair(p.cfg.Media)
	if err != nil {
		return nil, err
	}
	opened := &port{rtp: rtp, rtcp: rtcp, lose: p.cfg.LoseAudio}
	opened.point(audio.Description{})
	return opened, nil
}

// addr is what SDP has to name.
func (p *port) addr() netip.AddrPort { return audio.LocalAddrPort(p.rtp) }

// point sets where the phone receives and sends from.
func (p *port) point(d audio.Description) {
	p.remoteRTP.Store(&d.RTP)
	p.remoteCtl.Store(&d.RTCP)
}

// sendsTo is false while the phone is on hold the old way, with an address of zero.
func (p *port) sendsTo(remote netip.AddrPort) bool {
	return remote.IsValid() && !remote.Addr().IsUnspecified() && !p.lose
}

func (p *port) sendRTP(packet []byte) {
	if remote := *p.remoteRTP.Load(); p.sendsTo(remote) {
		if _, err := p.rtp.WriteToUDPAddrPort(packet, remote); err == nil {
			p.out.Add(1)
		}
	}
}

func (p *port) sendRTCP(packet []byte) {
	if remote := *p.remoteCtl.Load(); p.sendsTo(remote) {
		// Lost like any datagram.
		_, _ = p.rtcp.WriteToUDPAddrPort(packet, remote)
	}
}

// forward hands what comes from the phone to the given functions, until close.
func (p *port) forward(rtp, rtcp func([]byte)) {
	p.readers.Go(func() {
		p.read(p.rtp, &p.remoteRTP, func(packet []byte) {
			p.in.Add(1)
			rtp(packet)
		})
	})
	p.readers.Go(func() { p.read(p.rtcp, &p.remoteCtl, rtcp) })
}

func (p *port) read(conn *net.UDPConn, remote *atomic.Pointer[netip.AddrPort], deliver func([]byte)) {
	buffer := make([]byte, maxPacket)
	for {
		n, source, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		switch from := *remote.Load(); {
		case p.lose:
		case from == netip.AddrPortFrom(source.Addr().Unmap(), source.Port()):
			deliver(buffer[:n])
		case from.IsValid():
			p.foreign.Add(1)
		default:
			// Audio has overtaken the answer.
		}
	}
}

// echo sends everything back, under an SSRC of its own: a phone that sees its own would take it for
// a loop (RFC 3550 section 8.2).
func (p *port) echo() {
	ssrc := rand.Uint32()
	p.forward(func(packet []byte) {
		if len(packet) >= 12 && packet[0]>>6 == 2 {
			binary.BigEndian.PutUint32(packet[8:], ssrc)
		}
		p.sendRTP(packet)
	}, func([]byte) {})
}

func (p *port) leg() Leg {
	return Leg{In: p.in.Load(), Out: p.out.Load(), Foreign: p.foreign.Load()}
}

// close stops the readers and waits for them.
func (p *port) close() {
	_ = p.rtp.Close()
	_ = p.rtcp.Close()
	p.readers.Wait()
}

// connect forwards everything between two phones.
func connect(a, b *port) {
	a.forward(b.sendRTP, b.sendRTCP)
	b.forward(a.sendRTP, a.sendRTCP)
}
