package minipbx

import (
	"context"
	"math/rand/v2"

	"github.com/siptunnel/siptunnel/internal/testphone/audio"
	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// music is what one side of a call hears while the other one has it on hold.
type music struct {
	stream *audio.Stream
	holder int // side
}

// holds reports whether an offer of a side puts the other one on hold, in a PBX
// that plays music then.
func (b *bridge) holds(offer []byte) bool {
	d, err := audio.ParseTransport(offer)
	return b.musicHz != 0 && err == nil && !d.Direction.Receives()
}

// hold answers the offer of a side that holds, and has the other one listen to
// music, from a port of the PBX whatever else goes directly from phone to phone.
func (b *bridge) hold(from int, offer []byte, held *ua.Dialog) ([]byte, error) {
	wanted, err := audio.ParseTransport(offer)
	if err != nil {
		return nil, err
	}
	b.stopMusic(from)
	stream, err := audio.Listen(b.musicAddr, nil)
	if err != nil {
		return nil, err
	}
	stream.SetTone(b.musicHz)
	local := audio.Description{Session: rand.Uint64() >> 2, Version: 1, RTP: stream.LocalAddr(), Direction: audio.SendOnly}
	ctx, cancel := context.WithTimeout(context.Background(), hangupTime)
	defer cancel()
	toHeld := local.Offer()
	answer, err := held.Reinvite(ctx, toHeld)
	if err != nil {
		stream.Close()
		return nil, err
	}
	d, err := audio.ParseDescription(answer)
	if err != nil {
		stream.Close()
		return nil, err
	}
	stream.SetRemote(d.RTP, d.RTCP)
	stream.SetSending(d.Direction.Receives())
	stream.Start()
	local.Direction = wanted.Direction.Reverse()
	toHolder, err := local.Answer(offer)
	b.mu.Lock()
	b.music = &music{stream: stream, holder: from}
	b.told[from], b.told[other(from)] = toHolder, toHeld
	b.mu.Unlock()
	return toHolder, err
}

// stopMusic ends the music that a side has ordered.
func (b *bridge) stopMusic(holder int) {
	b.mu.Lock()
	m := b.music
	if m != nil && m.holder == holder {
		b.music = nil
	}
	b.mu.Unlock()
	if m != nil && m.holder == holder {
		m.stream.Close()
	}
}
