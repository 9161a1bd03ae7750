package quality

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A Name says which leg it is. The names are in the order of the way that sound takes,
// first from the phone to the PBX, then back.
type Name uint8

// The legs.
const (
	LANIn      Name = iota // phone to tunnelproxy
	TunnelUp               // tunnelproxy to tunneld
	PBXOut                 // tunneld to the PBX
	PBXIn                  // the PBX to tunneld
	TunnelDown             // tunneld to tunnelproxy
	LANOut                 // tunnelproxy to phone

	names
)

var nameTexts = [names]struct{ short, long string }{
	LANIn:      {"lan_in", "LAN leg, phone to tunnelproxy"},
	TunnelUp:   {"tunnel_up", "tunnel, tunnelproxy to tunneld"},
	PBXOut:     {"pbx_out", "PBX leg, tunneld to PBX"},
	PBXIn:      {"pbx_in", "PBX leg, PBX to tunneld"},
	TunnelDown: {"tunnel_down", "tunnel, tunneld to tunnelproxy"},
	LANOut:     {"lan_out", "LAN leg, tunnelproxy to phone"},
}

// String returns the name as it is in JSON: lan_in, for one.
func (n Name) String() string {
	if n >= names {
		return fmt.Sprintf("Name(%d)", uint8(n))
	}
	return nameTexts[n].short
}

// MarshalText is encoding.TextMarshaler's.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText is encoding.TextUnmarshaler's.
func (n *Name) UnmarshalText(text []byte) error {
	for i, t := range nameTexts {
		if t.short == string(text) {
			*n = Name(i)
			return nil
		}
	}
	return fmt.Errorf("no leg has the name %q", text)
}

// Describe returns the name for a person.
func (n Name) Describe() string {
	if n >= names {
		return n.String()
	}
	return nameTexts[n].long
}

// fewest is how many packets make a leg worth a judgement: a second of sound.
const fewest = 50

// A Leg is one leg of one media stream of a call, from the start of the call on. What
// is not known is zero and left out.
type Leg struct {
	Name Name `json:"leg"`
	// Packets counts those that went into the leg, Lost those of them that it lost.
	Packets     uint64  `json:"packets"`
	Lost        uint64  `json:"lost"`
	LossPercent float64 `json:"loss_percent"`
	JitterMS    float64 `json:"jitter_ms,omitempty"` // the mean that this leg has added
	RTTMS       float64 `json:"rtt_ms,omitempty"`
	Codec       string  `json:"codec,omitempty"`
	MOS         float64 `json:"mos,omitempty"` // estimated
	// Before says that the losses may have happened on the leg before, or in part: the
	// other end of the tunnel has not said what it got.
	Before bool `json:"or_before,omitempty"`
	// What who gets the packets says itself of what it hears (RFC 3611), where it does.
	ToldMOS          float64 `json:"told_mos,omitempty"`
	DiscardedPercent float64 `json:"discarded_percent,omitempty"` // came too late for it, or too early

	rating, own float64 // R, and what of its impairment is the codec's own
	lost        float64 // impairment by loss
}

// Measure makes a Leg of what was measured. Without packets there is none to speak of:
// it says false. voice says that codec is what the packets have; else there is no
// estimate.
func Measure(name Name, packets, lost uint64, jitter, rtt time.Duration, codec Codec, voice bool) (Leg, bool) {
	if packets == 0 {
		return Leg{}, false
	}
	l := Leg{
		Name: name, Packets: packets, Lost: lost,
		JitterMS: millis(jitter), RTTMS: millis(rtt),
	}
	loss := float64(lost) / float64(packets)
	l.LossPercent = round(100*loss, 100)
	if !voice {
		return l, true
	}
	l.Codec = codec.Name
	if packets >= fewest {
		l.rating = codec.Rating(loss, rtt, jitter)
		l.own, l.lost = codec.Impairment, codec.lossImpairment(loss)
		l.MOS = round(MOS(l.rating), 100)
	}
	return l, true
}

// Brief is a leg in few letters, its MOS and its loss: "4.40 0.0%", or "- 0.0%".
func (l Leg) Brief() string {
	mos := "-"
	if l.MOS != 0 {
		mos = fmt.Sprintf("%.2f", l.MOS)
	}
	return fmt.Sprintf("%s %.1f%%", mos, l.LossPercent)
}

func millis(d time.Duration) float64 { return round(d.Seconds()*1000, 10) }

func round(v, parts float64) float64 { return math.Round(v*parts) / parts }

// Grades of MOS: what of G.107 annex B is satisfied users, some that are not, many.
const (
	Good = 4.02
	Fair = 3.6
	Poor = 2.58
)

// Grade is a MOS in a word: good, fair, poor or bad; "" for none.
func Grade(mos float64) string {
	switch {
	case mos == 0:
		return ""
	case mos >= Good:
		return "good"
	case mos >= Fair:
		return "fair"
	case mos >= Poor:
		return "poor"
	}
	return "bad"
}

// Worst returns the leg with the lowest estimate, the first of several, and says
// whether any has one.
func Worst(legs []Leg) (worst Leg, ok bool) {
	for _, l := range legs {
		if l.MOS != 0 && (!ok || l.MOS < worst.MOS) {
			worst, ok = l, true
		}
	}
	return worst, ok
}

// Verdict says in a line how the legs are: "good", or what is not good about the worst
// of them, as in "poor: LAN leg, phone to tunnelproxy, lost 6.1 %". It is "" when
// nothing is known.
func Verdict(legs []Leg) string {
	l, ok := Worst(legs)
	switch {
	case !ok:
		return ""
	case l.MOS >= Good:
		return "good"
	}
	return Grade(l.MOS) + ": " + l.blame()
}

// blame names the leg and what there is about it.
func (l Leg) blame() string {
	var why []string
	delayed := bestRating - l.rating - l.own - l.lost
	const notable = 2 // of R: less is heard by nobody
	if l.lost >= notable {
		why = append(why, fmt.Sprintf("lost %.1f %%", l.LossPercent))
	}
	if delayed >= notable {
		if l.JitterMS*2*bufferFactor >= l.RTTMS {
			why = append(why, fmt.Sprintf("jitter %.0f ms", l.JitterMS))
		} else {
			why = append(why, fmt.Sprintf("round trip %.0f ms", l.RTTMS))
		}
	}
	if len(why) == 0 {
		return "codec " + l.Codec
	}
	where := l.Name.Describe()
	if l.Before {
		where += " or before"
	}
	return where + ", " + strings.Join(why, ", ")
}
