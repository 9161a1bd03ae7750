package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteJSON writes a status or another answer for scripts, indented.
func WriteJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// WriteTable writes the status for a person.
func (s *DaemonStatus) WriteTable(w io.Writer, now time.Time) error {
	p := newPage(w)
	p.header(s.Program, now)
	public := "offices connect to " + s.PublicAddress
	if s.PublicAddress == "" {
		public = "by an address that is not known: set --public-address"
	}
	p.fact("listening", "%s, %s", s.Listen, public)
	p.fact("key pin", "%s", s.Pin)
	p.fact("PBX", "%s", s.PBX.describe(now))
	p.fact("media", "%s: %d packets in, %d out, %d lost, %d dropped since the start",
		s.MediaAddress, s.RelayTotals.PacketsIn, s.RelayTotals.PacketsOut, s.RelayTotals.Lost, s.RelayTotals.Dropped)
	if targets := s.PBX.Targets; len(targets) > 0 {
		p.table("PBX addresses", "", "ADDRESS\tNAME\tSTATE\tRTT\tASKED\tERROR", len(targets), func(i int) []any { return targets[i].row(now) })
	}
	p.table("sessions", "none: no office is connected", "SESSION\tCREDENTIAL\tFROM\tSTATE\tSINCE\tRTT\tMEDIA ON\tOPEN PHONES\tCALLS", len(s.Sessions), func(i int) []any {
		e := s.Sessions[i]
		state := "up"
		if !e.Attached {
			state = "cut, waiting"
		}
		return []any{e.ID, e.Credential, e.Remote, state, ago(now, e.Since), millis(e.RTTMS), e.Path.Describe(), e.Phones, e.Calls}
	})
	p.phones(s.Phones, now)
	p.trunks(s.Trunks, now)
	p.calls(s.Calls, now)
	p.relays(s.Relays)
	p.audio(s.Relays)
	p.counters(s.Counters)
	return p.flush()
}

// WriteTable writes the status for a person.
func (s *ProxyStatus) WriteTable(w io.Writer, now time.Time) error {
	p := newPage(w)
	p.header(s.Program, now)
	where := strings.Join(s.SIPListen, " and ") + ", UDP and TCP"
	if len(s.SIPTLSListen) > 0 {
		where += ", and " + strings.Join(s.SIPTLSListen, " and ") + ", TLS"
	}
	proxy := "nothing: this machine has no LAN address at the moment"
	if len(s.PhonesUse) > 0 {
		proxy = strings.Join(s.PhonesUse, " or ") + " as their outbound proxy"
	}
	p.fact("phones use", "%s (listening on %s)", proxy, where)
	p.fact("tunnel", "%s", s.Tunnel.describe(now))
	if s.Tunnel.Pin != "" {
		p.fact("key pin", "%s", s.Tunnel.Pin)
	}
	local := ""
	if n := s.RelayTotals.PacketsDirect; n > 0 {
		local = fmt.Sprintf(", %d stayed in the office", n)
	}
	p.fact("media", "%d packets in, %d out, %d lost, %d dropped since the start%s",
		s.RelayTotals.PacketsIn, s.RelayTotals.PacketsOut, s.RelayTotals.Lost, s.RelayTotals.Dropped, local)
	p.phones(s.Phones, now)
	p.trunks(s.Trunks, now)
	p.calls(s.Calls, now)
	p.relays(s.Relays)
	p.audio(s.Relays)
	p.counters(s.Counters)
	return p.flush()
}

func (b PBX) describe(now time.Time) string {
	text := b.Name
	if b.Address != b.Name && b.Address != "" {
		text += " (" + b.Address + ")"
	}
	switch {
	case b.Checked.IsZero():
		return text + ", not asked yet"
	case b.Answers:
		return text + ", answers OPTIONS in " + millis(b.RTTMS)
	}
	return fmt.Sprintf("%s, DOES NOT ANSWER (asked %s ago): %s", text, ago(now, b.Checked), b.Error)
}

func (t PBXTarget) row(now time.Time) []any {
	state := "ready"
	switch {
	case t.Down && t.Answers:
		state = "answers again"
	case t.Down:
		state = "DOWN"
	}
	if t.Current {
		state += ", in use"
	}
	asked := ""
	if !t.Checked.IsZero() {
		asked = ago(now, t.Checked) + " ago"
	}
	return []any{t.Address, t.Name, state, millis(t.RTTMS), asked, t.Error}
}

func (t Tunnel) describe(now time.Time) string {
	state := "DOWN"
	if t.Up {
		state = "up"
	}
	text := fmt.Sprintf("%s as %s, %s", t.Server, t.Name, state)
	if !t.Since.IsZero() {
		text += " for " + ago(now, t.Since)
	}
	if t.Up && t.RTTMS > 0 {
		text += ", round trip " + millis(t.RTTMS)
	}
	if t.Up {
		text += ", media on " + t.Path.Describe()
	}
	if t.Up && t.Domain != "" {
		text += ", domain of the PBX " + t.Domain
	}
	if !t.Up && t.LastError != "" {
		text += ": " + t.LastError
	}
	return text
}

// page writes facts and tables; what is written shows at flush. Cells are cleaned: phones choose their texts.
type page struct {
	*tabwriter.Writer
}

func newPage(w io.Writer) page { return page{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)} }

func (p page) flush() error { return p.Flush() }

func (p page) header(program Program, now time.Time) {
	p.fact(program.Name, "%s, protocol %s, process %d, up %s", program.Version, program.Protocol, program.PID, ago(now, program.Started))
}

func (p page) fact(name, format string, args ...any) {
	fmt.Fprintf(p, "%s\t%s\n", clean(name), clean(fmt.Sprintf(format, args...)))
}

func (p page) table(title, none, head string, n int, row func(i int) []any) {
	_ = p.Flush() // Columns of one table are not aligned with those of the next. The last Flush reports a broken pipe.
	if n == 0 {
		fmt.Fprintf(p, "\n%s: %s\n", title, none)
		return
	}
	fmt.Fprintf(p, "\n%s: %d\n", title, n)
	rows := [][]string{strings.Split(head, "\t")}
	filled := make([]bool, len(rows[0]))
	for i := range n {
		var texts []string
		for j, cell := range row(i) {
			text := clean(fmt.Sprint(cell))
			filled[j] = filled[j] || text != ""
			texts = append(texts, short(text))
		}
		rows = append(rows, texts)
	}
	for _, texts := range rows {
		var shown []string
		for j, text := range texts {
			if filled[j] { // Or the column says nothing of anything.
				shown = append(shown, text)
			}
		}
		fmt.Fprintln(p, strings.Join(shown, "\t"))
	}
}

func (p page) phones(phones []Phone, now time.Time) {
	p.table("registered phones", "none", "AOR\tSESSION\tSOURCE\tPBX SENDS TO\tEXPIRES\tUSER-AGENT", len(phones), func(i int) []any {
		e := phones[i]
		name := e.AOR
		if name == "" {
			name = e.Key
		}
		expires := ""
		if !e.Expires.IsZero() {
			expires = ago(e.Expires, now)
		}
		return []any{name, e.Session, e.Source, e.Address, expires, e.UserAgent}
	})
}

func (p page) trunks(trunks []Trunk, now time.Time) {
	if len(trunks) == 0 {
		return
	}
	p.table("trunks", "none", "TRUNK\tSESSION\tSOURCE\tPBX SENDS TO\tHEARD", len(trunks), func(i int) []any {
		e := trunks[i]
		name, heard := e.Name, ""
		if e.Office != "" {
			name = e.Office + "/" + e.Name
		}
		if !e.Heard.IsZero() {
			heard = ago(now, e.Heard) + " ago"
		}
		return []any{name, e.Session, e.Peer, e.Address, heard}
	})
}

func (p page) calls(calls []Call, now time.Time) {
	p.table("calls", "none", "FROM\tTO\tDIRECTION\tSTATE\tFOR\tAUDIO\tSESSION\tCALL-ID", len(calls), func(i int) []any {
		e := calls[i]
		state, since := "ringing", e.Started
		if !e.Answered.IsZero() {
			state, since = "talking", e.Answered
		}
		return []any{e.From, e.To, e.Direction, state, ago(now, since), grade(e.Audio), e.Session, e.CallID}
	})
}

func (p page) relays(relays []Relay) {
	used := slices.DeleteFunc(slices.Clone(relays), func(r Relay) bool { return r.PacketsIn+r.PacketsOut+r.Dropped == 0 })
	none := "none in use"
	if ahead := len(relays) - len(used); ahead > 0 {
		none += fmt.Sprintf(", %d ready", ahead)
	}
	p.table("relays", none, "PBX SIDE\tLAN SIDE\tREMOTE\tVIA\tIN\tOUT\tLOST\tJITTER\tDROPPED", len(used), func(i int) []any {
		e := used[i]
		via := ""
		switch {
		case e.Direct != "":
			via = "local " + e.Direct
		case e.LANAddress != "":
			via = "tunnel"
		}
		return []any{e.PBXAddress, e.LANAddress, e.Remote, via, e.PacketsIn, e.PacketsOut, e.Lost, millis(e.JitterMS), e.Dropped}
	})
}

// audio has a column for each leg, in the order of the way: from the phone to the PBX, and back.
func (p page) audio(relays []Relay) {
	known := slices.DeleteFunc(slices.Clone(relays), func(r Relay) bool { return len(r.Legs) == 0 })
	if len(known) == 0 {
		return
	}
	const head = "PBX SIDE\tLAN IN\tTUNNEL UP\tPBX OUT\tPBX IN\tTUNNEL DOWN\tLAN OUT\tAUDIO"
	p.table("audio by leg, estimated MOS and loss", "none", head, len(known), func(i int) []any {
		e := known[i]
		row := []any{e.PBXAddress, "", "", "", "", "", "", grade(e.Audio)}
		for _, leg := range e.Legs {
			if at := int(leg.Name) + 1; at < len(row)-1 {
				row[at] = leg.Brief()
			}
		}
		return row
	})
	_ = p.Flush()
	for _, e := range known {
		if grade(e.Audio) != e.Audio { // There is more to say.
			p.fact(e.PBXAddress, "%s", e.Audio)
		}
	}
}

// grade is the first word of a verdict: good, fair, poor or bad.
func grade(audio string) string {
	word, _, _ := strings.Cut(audio, ":")
	return word
}

func (p page) counters(counters map[string]uint64) {
	names := slices.Sorted(maps.Keys(counters))
	names = slices.DeleteFunc(names, func(name string) bool { return counters[name] == 0 })
	p.table("counters", "nothing was dropped or refused", "COUNT\tWHAT", len(names), func(i int) []any {
		return []any{counters[names[i]], names[i]}
	})
}

// clean replaces what would draw on a terminal or break a column.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
}

// short fits a text into a cell.
func short(s string) string {
	const longest = 60
	switch {
	case s == "":
		return "-"
	case len(s) > longest:
		return s[:longest-3] + "..."
	}
	return s
}

func millis(ms float64) string {
	if ms <= 0 {
		return ""
	}
	return fmt.Sprintf("%.1f ms", ms)
}

// ago is the time from then to now with two units at most: 3d4h, 2h5m, 1m3s.
func ago(now, then time.Time) string {
	d := max(0, now.Sub(then)).Round(time.Second)
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
