package logging

import (
	"bytes"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

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
	e.log.Info("call ended", append(call(c),
		zap.Bool("answered", !c.Answered.IsZero()), zap.Duration("duration", c.Duration), text("reason", c.Reason),
		zap.Uint64("packets_in", in), zap.Uint64("packets_out", out), stayed, zap.Uint64("lost", lost), zap.Duration("jitter", jitter), each)...)
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
		return text(key, value)
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
