package admin

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/quality"
	"github.com/siptunnel/siptunnel/internal/relay"
)

type question struct {
	Text string `json:"text"`
}

// serve runs a control socket with one route.
func serve(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "test.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.Handle("POST /v1/echo", Route(func(_ *http.Request, q question) (question, error) {
		switch q.Text {
		case "plain":
			return question{}, errors.New("plain error")
		case "known":
			return question{}, config.Errorf(config.ExitTaken, "take another", "port %d is taken", 1)
		}
		return q, nil
	}))
	server := Serve(ln, routes)
	t.Cleanup(func() {
		server.Close()
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return path
}

func TestErrorsCrossTheSocket(t *testing.T) {
	path := serve(t)
	client := NewClient("test", path)
	var answer question
	if err := client.Call(t.Context(), http.MethodPost, "/v1/echo", question{"hello"}, &answer); err != nil || answer.Text != "hello" {
		t.Errorf("%v, %v", answer, err)
	}
	err := client.Call(t.Context(), http.MethodPost, "/v1/echo", question{"plain"}, nil)
	if err == nil || err.Error() != "plain error" || config.ExitOf(err) != config.ExitFailed {
		t.Errorf("%v", err)
	}
	err = client.Call(t.Context(), http.MethodPost, "/v1/echo", question{"known"}, nil)
	if e, ok := errors.AsType[*config.Error](err); !ok || e.Code != config.ExitTaken || e.Remedy != "take another" || e.Problem != "port 1 is taken" {
		t.Errorf("%v", err)
	}
	if err := client.Call(t.Context(), http.MethodPost, "/v1/echo", map[string]string{"txet": "x"}, nil); config.ExitOf(err) != config.ExitUsage {
		t.Errorf("an unknown field: %v", err)
	}
	if err := client.Call(t.Context(), http.MethodPost, "/v1/echo", question{strings.Repeat("x", maxRequest)}, nil); err == nil {
		t.Error("a huge request was taken")
	}
	if err := client.Call(t.Context(), http.MethodGet, "/v2/unknown", nil, nil); err == nil || !strings.Contains(err.Error(), "same version") {
		t.Errorf("an unknown path: %v", err)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	path := serve(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "test.sock")
	if err := NewClient("test", path).Call(t.Context(), http.MethodGet, "/", nil, nil); config.ExitOf(err) != config.ExitNotRunning {
		t.Errorf("no socket: %v", err)
	}
	// A socket that its program left behind is in nobody's way.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if err := NewClient("test", path).Call(t.Context(), http.MethodGet, "/", nil, nil); config.ExitOf(err) != config.ExitNotRunning {
		t.Errorf("stale socket: %v", err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	long := filepath.Join(dir, strings.Repeat("x", maxPath))
	if _, err := Listen(long); config.ExitOf(err) != config.ExitConfig {
		t.Errorf("long path: %v", err)
	}
}

func TestLedger(t *testing.T) {
	var ledger Ledger
	now := Relay{PBXAddress: "a", PacketsIn: 3, PacketsOut: 2, Lost: 1}
	end := ledger.Open(func() Relay { return now })
	unused := ledger.Open(func() Relay { return Relay{PBXAddress: "b"} })
	active, ended, totals := ledger.Snapshot()
	if len(active) != 2 || active[0].PBXAddress != "a" || len(ended) != 0 || totals != (RelayTotals{Opened: 2, PacketsIn: 3, PacketsOut: 2, Lost: 1}) {
		t.Errorf("%v %v %+v", active, ended, totals)
	}
	now.PacketsIn = 10
	end()
	now.PacketsIn = 99
	end()
	unused()
	active, ended, totals = ledger.Snapshot()
	if len(active) != 0 || len(ended) != 1 || ended[0].PacketsIn != 10 || ended[0].Ended.IsZero() || totals.PacketsIn != 10 || totals.Opened != 2 {
		t.Errorf("%v %v %+v", active, ended, totals)
	}
	for i := range 2 * endedKept {
		ledger.Open(func() Relay { return Relay{PBXAddress: fmt.Sprint(i), PacketsOut: 1} })()
	}
	if _, ended, _ = ledger.Snapshot(); len(ended) != endedKept || ended[endedKept-1].PBXAddress != fmt.Sprint(2*endedKept-1) {
		t.Errorf("%d kept", len(ended))
	}
}

func TestTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := DaemonStatus{
		Program: Program{Name: "tunneld", Version: "v1", Protocol: "siptunnel/1", PID: 7, Started: now.Add(-25 * time.Hour)},
		Listen:  ":5090", PublicAddress: "tunnel.example:5090", Pin: "PIN", MediaAddress: "192.0.2.1",
		PBX:      PBX{Name: "pbx.example:5060", Address: "192.0.2.9:5060", Answers: true, RTTMS: 1.25, Checked: now},
		Sessions: []Session{{ID: "s1", Credential: "berlin", Remote: "198.51.100.1:4000", Since: now.Add(-90 * time.Second), Attached: true, RTTMS: 20, Path: Path{Datagrams: true, RTTMS: 20.5}, Phones: 1, Calls: 1}},
		Phones:   []Phone{{Session: "s1", Key: "k", AOR: "sip:101@example", Port: 6000, Address: "192.0.2.1:6000", UserAgent: "Evil\x1b[2J\tphone", Expires: now.Add(time.Minute)}},
		Trunks:   []Trunk{{Session: "s1", Office: "berlin", Name: "pbx", Address: "192.0.2.1:6900"}},
		Calls:    []Call{{Session: "s1", CallID: strings.Repeat("c", 100), From: "sip:101@example", To: "sip:102@example", Direction: "up", Started: now.Add(-time.Minute), Answered: now.Add(-5 * time.Second)}},
		Relays: []Relay{
			{PBXAddress: "192.0.2.1:50000", Remote: "192.0.2.9:7000", PacketsIn: 5, PacketsOut: 6, JitterMS: 0.5},
			{PBXAddress: "192.0.2.1:50002"},
		},
		Counters: map[string]uint64{"sip.dropped.x": 2, "sip.dropped.y": 0},
	}
	var out bytes.Buffer
	if err := s.WriteTable(&out, now); err != nil {
		t.Fatal(err)
	}
	want := `tunneld    v1, protocol siptunnel/1, process 7, up 1d1h
listening  :5090, offices connect to tunnel.example:5090
key pin    PIN
PBX        pbx.example:5060 (192.0.2.9:5060), answers OPTIONS in 1.2 ms
media      192.0.2.1: 0 packets in, 0 out, 0 lost, 0 dropped since the start

sessions: 1
SESSION  CREDENTIAL  FROM               STATE  SINCE  RTT      MEDIA ON      OPEN PHONES  CALLS
s1       berlin      198.51.100.1:4000  up     1m30s  20.0 ms  UDP, 20.5 ms  1            1

registered phones: 1
AOR              SESSION  PBX SENDS TO    EXPIRES  USER-AGENT
sip:101@example  s1       192.0.2.1:6000  1m0s     Evil?[2J?phone

trunks: 1
TRUNK       SESSION  PBX SENDS TO
berlin/pbx  s1       192.0.2.1:6900

calls: 1
FROM             TO               DIRECTION  STATE    FOR  SESSION  CALL-ID
sip:101@example  sip:102@example  up         talking  5s   s1       ` + strings.Repeat("c", 57) + `...

relays: 1
PBX SIDE         REMOTE          IN  OUT  LOST  JITTER  DROPPED
192.0.2.1:50000  192.0.2.9:7000  5   6    0     0.5 ms  0

counters: 1
COUNT  WHAT
2      sip.dropped.x
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}

	out.Reset()
	p := ProxyStatus{
		Relays: []Relay{
			{PBXAddress: "192.0.2.1:50000", LANAddress: "10.0.0.2:40000", PacketsIn: 5, PacketsDirect: 4, Direct: "10.0.0.2:40002"},
			{PBXAddress: "192.0.2.1:50004", LANAddress: "10.0.0.2:40004", PacketsIn: 5},
		},
		RelayTotals: RelayTotals{PacketsIn: 10, PacketsDirect: 4},
	}
	if err := p.WriteTable(&out, now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"4 stayed in the office", "local 10.0.0.2:40002", " tunnel "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestAudioTable: a column for each leg that is known, and beneath it what is wrong. It fits a terminal.
func TestAudioTable(t *testing.T) {
	leg := func(name quality.Name, lost uint64) quality.Leg {
		l, _ := quality.Measure(name, 1000, lost, 0, 0, quality.Assumed(), true)
		return l
	}
	all := []quality.Leg{leg(quality.LANIn, 0), leg(quality.TunnelUp, 3), leg(quality.PBXOut, 0), leg(quality.PBXIn, 122), leg(quality.TunnelDown, 0), leg(quality.LANOut, 0)}
	s := DaemonStatus{
		Relays: []Relay{
			{PBXAddress: "203.0.113.110:50000", PacketsIn: 1, Legs: all, Audio: quality.Verdict(all)},
			{PBXAddress: "203.0.113.110:50002", PacketsIn: 1, Legs: all[:1], Audio: quality.Verdict(all[:1])},
			{PBXAddress: "203.0.113.110:50004"},
		},
		Calls: []Call{{From: "sip:101@example", To: "sip:102@example", Direction: "up", Audio: quality.Verdict(all)}},
	}
	var out bytes.Buffer
	if err := s.WriteTable(&out, time.Now()); err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(out.String(), "\naudio")
	text, _, _ = strings.Cut(text, "\n\n")
	want := ` by leg, estimated MOS and loss: 2
PBX SIDE             LAN IN     TUNNEL UP  PBX OUT    PBX IN      TUNNEL DOWN  LAN OUT    AUDIO
203.0.113.110:50000  4.40 0.0%  4.38 0.3%  4.40 0.0%  3.18 12.2%  4.40 0.0%    4.40 0.0%  poor
203.0.113.110:50002  4.40 0.0%  -          -          -           -            -          good
203.0.113.110:50000  poor: PBX leg, PBX to tunneld, lost 12.2 %`
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if !strings.Contains(out.String(), "  poor\n") {
		t.Errorf("the call has no audio in\n%s", out.String())
	}
}

// TestLegsOf: what one end calls in the other calls out, and what is not known is left out.
func TestLegsOf(t *testing.T) {
	q := relay.Quality{
		Near: relay.Side{In: relay.Leg{Packets: 1000, Lost: 1}, Tunnel: relay.Leg{Packets: 1000, Lost: 2}, Out: relay.Leg{Packets: 1000, Lost: 3, RTT: 8 * time.Millisecond}},
		Far:  relay.Side{In: relay.Leg{Packets: 1000, Lost: 4}, Tunnel: relay.Leg{Packets: 1000, Lost: 5}},
		In:   relay.Format{PayloadType: 18, ClockRate: 8000, Known: true}, Out: relay.Format{PayloadType: 34, ClockRate: 90000, Known: true},
		Opinion: relay.Opinion{MOS: 3.1, Discarded: 0.25},
	}
	for end, want := range map[End]string{
		LANEnd: "lan_in 1 8 G.729, tunnel_up 5 30 G.729, pbx_in 4 0 , tunnel_down 2 30  or before, lan_out 3 8  told 3.1 25 %",
		PBXEnd: "tunnel_up 2 30  or before, pbx_out 3 8  told 3.1 25 %, pbx_in 1 8 G.729, tunnel_down 5 30 G.729, lan_in 4 0 ",
	} {
		got := map[string]bool{}
		for _, l := range LegsOf(end, q, 30*time.Millisecond) {
			text := fmt.Sprintf("%v %d %v %s", l.Name, l.Lost, l.RTTMS, l.Codec)
			if l.Before {
				text += " or before"
			}
			if l.ToldMOS != 0 {
				text += fmt.Sprintf(" told %v %v %%", l.ToldMOS, l.DiscardedPercent)
			}
			got[text] = true
		}
		for _, leg := range strings.Split(want, ", ") {
			if !got[leg] {
				t.Errorf("end %v: no %q in %v", end, leg, got)
			}
			delete(got, leg)
		}
		if len(got) > 0 {
			t.Errorf("end %v: also %v", end, got)
		}
	}
	if legs := LegsOf(LANEnd, relay.Quality{}, time.Second); len(legs) != 0 {
		t.Errorf("%+v of a relay that was never used", legs)
	}
}

func TestProxyTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := ProxyStatus{
		Program:   Program{Name: "tunnelproxy", Version: "v1", Protocol: "siptunnel/1", PID: 7, Started: now.Add(-time.Minute)},
		SIPListen: []string{":5080"}, PhonesUse: []string{"192.0.2.7:5080", "[2001:db8::7]:5080"},
		Tunnel: Tunnel{Server: "tunnel.example:5090", Name: "berlin", Pin: "PIN", Since: now.Add(-time.Second), LastError: "no answer"},
	}
	var out bytes.Buffer
	if err := s.WriteTable(&out, now); err != nil {
		t.Fatal(err)
	}
	want := `tunnelproxy  v1, protocol siptunnel/1, process 7, up 1m0s
phones use   192.0.2.7:5080 or [2001:db8::7]:5080 as their outbound proxy (listening on :5080, UDP and TCP)
tunnel       tunnel.example:5090 as berlin, DOWN for 1s: no answer
key pin      PIN
media        0 packets in, 0 out, 0 lost, 0 dropped since the start

registered phones: none

calls: none

relays: none in use

counters: nothing was dropped or refused
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestTableOfSeveralPBXs(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := DaemonStatus{PBX: PBX{Name: "b.example:5062", Address: "192.0.2.2:5062", Answers: true, RTTMS: 2, Checked: now, Targets: []PBXTarget{
		{Name: "a.example:5060", Address: "192.0.2.1:5060", Down: true, Checked: now.Add(-3 * time.Second), Error: "no answer"},
		{Name: "b.example:5062", Address: "192.0.2.2:5062", Answers: true, RTTMS: 2, Checked: now, Current: true},
		{Name: "c.example:5060", Address: "192.0.2.3:5060", Answers: true, Down: true, Checked: now},
		{Name: "d.example:5060", Address: "192.0.2.4:5060"},
	}}}
	var out bytes.Buffer
	if err := s.WriteTable(&out, now); err != nil {
		t.Fatal(err)
	}
	want := `PBX addresses: 4
ADDRESS         NAME            STATE          RTT     ASKED   ERROR
192.0.2.1:5060  a.example:5060  DOWN           -       3s ago  no answer
192.0.2.2:5062  b.example:5062  ready, in use  2.0 ms  0s ago  -
192.0.2.3:5060  c.example:5060  answers again  -       0s ago  -
192.0.2.4:5060  d.example:5060  ready          -       -       -
`
	if !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
