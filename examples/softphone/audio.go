package main

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"time"

	"github.com/pion/rtp"
)

// The audio: 20 ms of PCMU in each packet.
const (
	clockRate = 8000
	frame     = 20 * time.Millisecond
	frameSize = 160
	toneHz    = 440
	toneTime  = time.Second     // has to be heard
	patience  = 3 * time.Second // of audio that is something else
)

// listen sends a tone and waits until it has come back for a second without a break.
func listen(ctx context.Context, conn net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send(ctx, conn)
	}()
	defer func() { cancel(); <-sent }()
	// Reading ends with the context.
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()

	var packet rtp.Packet
	buffer := make([]byte, 1500)
	packets, heard := 0, 0
	for {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("the tone does not come back, after %d packets: %w", packets, err)
		}
		if packet.Unmarshal(buffer[:n]) != nil || packet.PayloadType != 0 {
			continue
		}
		packets++
		if heard++; !isTone(packet.Payload) {
			heard = 0
		}
		switch {
		case heard == int(toneTime/frame):
			return nil
		case packets == int(patience/frame):
			return fmt.Errorf("the tone does not come back, but %v of something else", patience)
		}
	}
}

// send sends the tone until ctx ends. Each packet has its time; a late one does not delay the others.
func send(ctx context.Context, conn net.PacketConn) {
	packet := rtp.Packet{Header: rtp.Header{
		Version: 2, Marker: true, SSRC: rand.Uint32(), SequenceNumber: uint16(rand.Uint32()), Timestamp: rand.Uint32(),
	}}
	packet.Payload = make([]byte, frameSize)
	ticker := time.NewTicker(frame)
	defer ticker.Stop()
	for sample := 0; ; sample += frameSize {
		for i := range packet.Payload {
			packet.Payload[i] = muLaw(8000 * math.Sin(2*math.Pi*toneHz*float64(sample+i)/clockRate))
		}
		raw, err := packet.Marshal()
		if err != nil {
			return
		}
		// The tunnel knows where to send: to where the PBX's SDP said. A packet may get lost.
		_, _ = conn.WriteTo(raw, nil)
		packet.Marker = false
		packet.SequenceNumber++
		packet.Timestamp += frameSize
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// isTone reports whether a frame is the tone and little else, with the Goertzel algorithm.
func isTone(codes []byte) bool {
	coefficient := 2 * math.Cos(2*math.Pi*toneHz/clockRate)
	var s1, s2, energy float64
	for _, code := range codes {
		x := linear(code)
		s1, s2 = x+coefficient*s1-s2, s1
		energy += x * x
	}
	power := s1*s1 + s2*s2 - coefficient*s1*s2
	return energy > 0 && 2*power/(energy*float64(len(codes))) > 0.8
}

// muLaw encodes a sample of 16 bits (ITU-T G.711).
func muLaw(sample float64) byte {
	magnitude := min(int(math.Abs(sample))/4, 8126) + 33
	segment := bits.Len(uint(magnitude)) - 6
	code := ^byte(segment<<4|magnitude>>(segment+1)&0x0f) & 0x7f
	if sample >= 0 {
		code |= 0x80
	}
	return code
}

// linear decodes a sample.
func linear(code byte) float64 {
	code = ^code
	magnitude := float64((int(code&0x0f)*2+33)<<(code>>4&0x07) - 33)
	if code&0x80 != 0 {
		return -4 * magnitude
	}
	return 4 * magnitude
}
