package logging

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/sipfwd"
	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// Events logs what happens to phones and calls, with the fields that log has already.
func Events(log *zap.Logger) sipfwd.Events { return events{log} }

type events struct{ log *zap.Logger }

func (e events) PhoneRegistered(p sipfwd.PhoneInfo) {
	e.log.Info("phone registered", append(phone(p), text("agent", p.UserAgent), zap.Time("expires", p.Expires))...)
}

func (e events) PhoneGone(p sipfwd.PhoneInfo, reason string) {
	e.log.Info("phone gone", append(phone(p), text("reason", reason))...)
}

func (e events) TrunkOpened(t sipfwd.TrunkInfo) { e.log.Info("trunk open", trunk(t)...) }

func (e events) TrunkGone(t sipfwd.TrunkInfo, reason string) {
	e.log.Warn("trunk gone", append(trunk(t), text("reason", reason))...)
}

func (e events) CallStarted(c sipfwd.CallInfo) { e.log.Info("call started", call(c)...) }

func (e events) CallEnded(c sipfwd.CallInfo) {
	var in, out, lost, direct uint64
	var jitter time.Duration
	for _, m := range c.Media {
		in, out, lost, jitter = in+m.PacketsIn, out+m.PacketsOut, lost+m.Lost, max(jitter, m.Jitter)
		direct += m.PacketsDirect
	}
	stayed := zap.Skip()
	if direct > 0 {
		stayed = zap.Uint64("packets_direct", direct)
	}
	each := zap.Skip() // The figures of the only stream are those of the call.
	if len(c.Media) > 1 {
		streams := make([]stream, len(c.Media))
		for i, m := range c.Media {
			streams[i] = stream(m)
		}
		each = zap.Objects("media", streams)
	}
	legs := zap.Skip()
	if all := legsOf(c.Media); len(all) > 0 {
		legs = zap.Array("legs", all)
	}
	e.log.Info("call ended", append(call(c),
		zap.Bool("answered", !c.Answered.IsZero()), zap.Duration("duration", c.Duration), text("reason", c.Reason),
		zap.Uint64("packets_in", in), zap.Uint64("packets_out", out), stayed, zap.Uint64("lost", lost), zap.Duration("jitter", jitter),
		text("audio", quality.Verdict(c.Legs())), legs, each)...)
}

// leg is a leg of one of the media streams of a call, which are numbered from 1 on.
type leg struct {
	stream int // 0: there is one only
	quality.Leg
}

// legs are those of a call. As a text they are brief.
type legs []leg

func legsOf(media []sipfwd.MediaStats) (all legs) {
	for i, m := range media {
		for _, l := range m.Legs {
			if len(media) == 1 {
				i = -1
			}
			all = append(all, leg{i + 1, l})
		}
	}
	return all
}

// String is for logs that people read.
func (l legs) String() string {
	var parts []string
	for i, leg := range l {
		text := leg.Name.String() + " " + leg.Brief()
		if leg.JitterMS > 0 {
			text += fmt.Sprintf(" %.1fms", leg.JitterMS)
		}
		if leg.stream > 0 && (i == 0 || l[i-1].stream != leg.stream) {
			text = fmt.Sprintf("stream %d: %s", leg.stream, text)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// MarshalLogArray is zap's.
func (l legs) MarshalLogArray(encoder zapcore.ArrayEncoder) error {
	for _, leg := range l {
		if err := encoder.AppendObject(leg); err != nil {
			return err
		}
	}
	return nil
}

// MarshalLogObject is zap's. The names are those of a status.
func (l leg) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	encoder.AddString("leg", l.Name.String())
	if l.stream > 0 {
		encoder.AddInt("stream", l.stream)
	}
	encoder.AddUint64("packets", l.Packets)
	encoder.AddUint64("lost", l.Lost)
	encoder.AddFloat64("loss_percent", l.LossPercent)
	for _, known := range []struct {
		name  string
		value float64
	}{
		{"jitter_ms", l.JitterMS}, {"rtt_ms", l.RTTMS}, {"mos", l.MOS}, {"told_mos", l.ToldMOS}, {"discarded_percent", l.DiscardedPercent},
	} {
		if known.value != 0 {
			encoder.AddFloat64(known.name, known.value)
		}
	}
	if l.Codec != "" {
		encoder.AddString("codec", l.Codec)
	}
	if l.Before {
		encoder.AddBool("or_before", true)
	}
	return nil
}

// stream is one of the media streams of a call.
type stream sipfwd.MediaStats

// MarshalLogObject is zap's.
func (s stream) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	encoder.AddUint64("packets_in", s.PacketsIn)
	encoder.AddUint64("packets_out", s.PacketsOut)
	encoder.AddUint64("lost", s.Lost)
	encoder.AddDuration("jitter", s.Jitter)
	if s.PacketsDirect > 0 {
		encoder.AddUint64("packets_direct", s.PacketsDirect)
	}
	return nil
}

func phone(p sipfwd.PhoneInfo) []zap.Field {
	return []zap.Field{uri("phone", p.AOR), uri("contact", p.Contact), text("source", p.Source), text("address", p.Address)}
}

func trunk(t sipfwd.TrunkInfo) []zap.Field {
	return []zap.Field{text("trunk", t.Name), text("peer", t.Peer), text("address", t.Address)}
}

func call(c sipfwd.CallInfo) []zap.Field {
	return []zap.Field{uri("from", c.From), uri("to", c.To), text("direction", c.Direction), text("call_id", c.CallID)}
}

// uri is a field without what may be secret in a URI: its password, and the headers that
// a request to it is to have (RFC 3261 section 19.1.1).
func uri(key, value string) zap.Field {
	u, ok := sipmsg.ParseURI([]byte(value))
	if !ok {
		return text(key, broken(value))
	}
	if u.Headers != nil {
		value = value[:len(value)-len(u.Headers)-len("?")]
	}
	if i := bytes.IndexByte(u.User, ':'); i >= 0 {
		user := len(u.Scheme) + len(":")
		value = value[:user+i] + value[user+len(u.User):]
	}
	return text(key, value)
}

// broken is the text of a URI that cannot be parsed, without all that could be a password or
// headers in it.
func broken(value string) string {
	value, _, _ = strings.Cut(value, "?")
	at := strings.LastIndexByte(value, '@')
	if at < 0 {
		return value
	}
	scheme := strings.IndexByte(value[:at], ':') + 1
	if i := strings.IndexByte(value[scheme:at], ':'); i >= 0 {
		return value[:scheme+i] + value[at:]
	}
	return value
}

// text is a field that is left out when it is empty, and bounded: a peer chose it.
func text(key, value string) zap.Field {
	const longest = 200
	switch {
	case value == "":
		return zap.Skip()
	case len(value) > longest:
		value = value[:longest] + "..."
	}
	return zap.String(key, value)
}
