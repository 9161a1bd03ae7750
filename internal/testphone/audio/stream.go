package audio

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

// ErrNotHeard says that a tone was not heard in the time that there was.
var ErrNotHeard = errors.New("tone not heard")

// reportEvery is the number of packets between two RTCP sender reports: one second.
const reportEvery = int(time.Second / FrameDuration)

// maxPacket is the largest datagram that is taken.
const maxPacket = 1500

// Stream is the RTP and RTCP of one call: a tone goes out every 20 ms, what comes in is measured.
// It is made by Listen, is safe for concurrent use, and has three goroutines from Start to Close.
type Stream struct {
	rtp, rtcp *net.UDPConn
	stopwatch *Stopwatch
	epoch     time.Time

	mu         sync.Mutex
	remote     netip.AddrPort // the only address that packets are taken from; zero: none
	remoteRTCP netip.AddrPort
	tone       float64
	sending    bool
	lose       bool
	talkspurt  bool // the next packet is the first after a pause
	header     rtp.Header
	oscillator Oscillator
	octets     uint32
	stats      Stats
	reception  reception
	listeners  map[*listener]struct{}
	started    bool

	stop chan struct{}
	wg   sync.WaitGroup
}

type listener struct {
	detector *Detector
	windows  int
	heard    chan struct{}
}

// Listen binds an RTP and an RTCP port at addr. The stopwatch may be nil. Nothing is sent or read
// before Start.
func Listen(addr netip.Addr, stopwatch *Stopwatch) (*Stream, error) {
	rtpConn, rtcpConn, err := OpenPair(addr)
	if err != nil {
		return nil, err
	}
	return &Stream{
		rtp: rtpConn, rtcp: rtcpConn,
		stopwatch: stopwatch,
		epoch:     time.Now(),
		header: rtp.Header{
			Version:        2,
			PayloadType:    PayloadType,
			SSRC:           rand.Uint32(),
			SequenceNumber: uint16(rand.Uint32()),
			Timestamp:      rand.Uint32(),
		},
		listeners: make(map[*listener]struct{}),
		stop:      make(chan struct{}),
	}, nil
}

// LocalAddr is the address of the RTP port, which SDP has to name.
func (s *Stream) LocalAddr() netip.AddrPort { return LocalAddrPort(s.rtp) }

// SetRemote sets where packets go and the only address that they are taken from. With an invalid
// address nothing is sent and nothing taken.
func (s *Stream) SetRemote(rtpAddr, rtcpAddr netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remote, s.remoteRTCP = unmap(rtpAddr), unmap(rtcpAddr)
}

// SetTone sets the frequency that is sent, in Hz; zero is silence.
func (s *Stream) SetTone(frequency float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tone = frequency
}

// SetSending lets packets out, or holds them back. Once it has returned from holding them back, no
// packet is sent.
func (s *Stream) SetSending(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.talkspurt = on && !s.sending
	s.sending = on
}

// Lose makes the stream lose everything that it sends and receives from now on, as a broken network
// would. It is for tests of what notices that.
func (s *Stream) Lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = true
}

// Start begins to receive and, where SetSending says so, to send. A second Start does nothing.
func (s *Stream) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return
	}
	s.started = true
	s.wg.Go(s.send)
	s.wg.Go(s.receiveRTP)
	s.wg.Go(s.receiveRTCP)
}

// Close stops the stream, waits for its goroutines and closes its ports. It may be called again.
func (s *Stream) Close() {
	s.mu.Lock()
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.mu.Unlock()
	// The errors of closing a UDP socket tell nothing.
	_ = s.rtp.Close()
	_ = s.rtcp.Close()
	s.wg.Wait()
}

// Stats returns the figures so far.
func (s *Stream) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Lost = s.reception.lost + s.reception.missing()
	stats.Jitter = time.Duration(s.reception.jitter * float64(time.Second) / ClockRate)
	stats.Delay = summary(s.reception.delays)
	return stats
}

// Hear waits until a tone of the given frequency has been heard without interruption for the given
// time, which is rounded up to full tenths of a second. When ctx ends before, or the stream is
// closed, the error is ErrNotHeard and says what was heard.
func (s *Stream) Hear(ctx context.Context, frequency float64, length time.Duration) error {
	l := &listener{
		detector: NewDetector(frequency),
		windows:  int((length + 100*time.Millisecond - 1) / (100 * time.Millisecond)),
		heard:    make(chan struct{}),
	}
	s.mu.Lock()
	s.listeners[l] = struct{}{}
	s.mu.Unlock()

	var reason string
	select {
	case <-l.heard:
		return nil
	case <-ctx.Done():
		reason = context.Cause(ctx).Error()
	case <-s.stop:
		reason = "call over"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
	heard, total := l.detector.Windows()
	return fmt.Errorf("%w: %.0f Hz in %d of %d tenths of a second, %d packets received, %d from elsewhere: %s",
		ErrNotHeard, frequency, heard, total, s.stats.Received, s.stats.Foreign, reason)
}

// send keeps to a schedule that is fixed at the start, so that late wake-ups do not add up.
func (s *Stream) send() {
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	packet := make([]byte, maxPacket)
	for frame := 1; ; frame++ {
		select {
		case <-s.stop:
			return
		case <-timer.C:
		}
		s.sendFrame(packet)
		if frame%reportEvery == 0 {
			s.sendReport()
		}
		due = due.Add(FrameDuration)
		timer.Reset(time.Until(due))
	}
}

// sendFrame sends the next packet, or lets its time pass.
func (s *Stream) sendFrame(packet []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.header.Timestamp += uint32(FrameSize) }()
	if !s.sending || !s.remote.IsValid() {
		s.talkspurt = true
		return
	}
	s.header.Marker = s.talkspurt
	n, err := s.header.MarshalTo(packet)
	if err != nil {
		return
	}
	s.oscillator.Fill(packet[n:n+FrameSize], s.tone)
	s.stopwatch.start(mark{s.header.SequenceNumber, s.header.Timestamp}, time.Now())
	if !s.lose {
		// A full socket buffer loses the packet, as a network does.
		_, _ = s.rtp.WriteToUDPAddrPort(packet[:n+FrameSize], s.remote)
	}
	s.talkspurt = false
	s.header.SequenceNumber++
	s.stats.Sent++
	s.octets += uint32(FrameSize)
}

func (s *Stream) sendReport() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sending || s.lose || !s.remoteRTCP.IsValid() {
		return
	}
	report, err := rtcp.Marshal([]rtcp.Packet{
		&rtcp.SenderReport{
			SSRC:        s.header.SSRC,
			NTPTime:     ntp(time.Now()),
			RTPTime:     s.header.Timestamp,
			PacketCount: uint32(s.stats.Sent),
			OctetCount:  s.octets,
		},
		rtcp.NewCNAMESourceDescription(s.header.SSRC, "testphone"),
	})
	if err != nil {
		return
	}
	if _, err := s.rtcp.WriteToUDPAddrPort(report, s.remoteRTCP); err == nil {
		s.stats.RTCPSent++
	}
}

// ntp returns a time as a 64-bit NTP timestamp (RFC 3550 section 4).
func ntp(t time.Time) uint64 {
	const unixEpoch = 2_208_988_800 // in seconds since 1900
	return uint64(t.Unix()+unixEpoch)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

func (s *Stream) receiveRTP() {
	buffer := make([]byte, maxPacket)
	var packet rtp.Packet
	for {
		n, source, err := s.rtp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		s.take(&packet, buffer[:n], unmap(source), time.Now())
	}
}

func (s *Stream) take(packet *rtp.Packet, datagram []byte, source netip.AddrPort, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.from(source, s.remote) {
		return
	}
	if err := packet.Unmarshal(datagram); err != nil || packet.Version != 2 || packet.PayloadType != PayloadType {
		s.stats.Malformed++
		return
	}
	s.stats.Received++
	s.reception.packet(packet.SSRC, packet.SequenceNumber, packet.Timestamp, now.Sub(s.epoch))
	if delay, ok := s.stopwatch.stop(mark{packet.SequenceNumber, packet.Timestamp}, now); ok {
		s.reception.delay(delay)
	}
	for l := range s.listeners {
		l.detector.Write(packet.Payload)
		if l.detector.Run() >= l.windows {
			close(l.heard)
			delete(s.listeners, l)
		}
	}
}

// from reports whether a packet came from where it should, and counts it where not; s.mu is held.
func (s *Stream) from(source, remote netip.AddrPort) bool {
	switch {
	case s.lose:
		return false
	case source == remote:
		return true
	case !remote.IsValid():
		s.stats.Early++
	default:
		s.stats.Foreign++
	}
	return false
}

func (s *Stream) receiveRTCP() {
	buffer := make([]byte, maxPacket)
	for {
		n, source, err := s.rtcp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		_, malformed := rtcp.Unmarshal(buffer[:n])
		s.mu.Lock()
		switch {
		case !s.from(unmap(source), s.remoteRTCP):
		case malformed != nil:
			s.stats.Malformed++
		default:
			s.stats.RTCPReceived++
		}
		s.mu.Unlock()
	}
}
