package fidelity

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ports is a range of media ports of one program.
type ports struct {
	addr      netip.Addr
	low, high int
}

// relays remembers the media ports that the programs put into session
// descriptions: those of a call stay the same.
type relays struct {
	tunneld, tunnelproxy ports
	seen                 map[string][]int // by phone, Call-ID and direction
}

var offerAnswer = []string{"INVITE", "ACK", "PRACK", "UPDATE"}

// edit points the session descriptions in m to the relays that out, the message
// that came out, names, and checks those.
func (r *relays) edit(m, out *text, side ports, key string) error {
	if !slices.Contains(offerAnswer, m.method()) {
		return nil
	}
	from, to, ok := findSDP(m.get("content-type"), m.body)
	if !ok {
		return nil
	}
	named, err := r.named(m.body[from:to], out, side, key)
	if err != nil {
		return err
	}
	before := len(m.body)
	m.body = m.body[:from] + pointTo(m.body[from:to], side.addr.String(), named) + m.body[to:]
	m.lengthFollows(before)
	return nil
}

var (
	mediaPort    = regexp.MustCompile(`^m=\S+ +(\d+)`)
	severalPorts = regexp.MustCompile(`^/([02-9]|\d\d+)`)
)

func mediaPorts(sdp string) []int {
	var all []int
	for l := range strings.Lines(sdp) {
		if p := mediaPort.FindStringSubmatch(l); p != nil {
			n, _ := strconv.Atoi(p[1])
			all = append(all, n)
		}
	}
	return all
}

// named are the ports in out of the media lines of sdp.
func (r *relays) named(sdp string, out *text, side ports, key string) ([]int, error) {
	want := mediaPorts(sdp)
	var got []int
	if from, to, ok := findSDP(out.get("content-type"), out.body); ok {
		got = mediaPorts(out.body[from:to])
	}
	if len(got) != len(want) {
		return nil, fmt.Errorf("%d media lines became %d", len(want), len(got))
	}
	before := r.seen[key]
	for i := range want {
		switch {
		case want[i] == 0 || overTCP(sdp, i):
			continue // no relay
		case got[i]%2 != 0 || got[i] < side.low || got[i] > side.high:
			return nil, fmt.Errorf("media line %d has port %d: not an RTP port of %d-%d", i, got[i], side.low, side.high)
		case i < len(before) && before[i] != 0 && before[i] != got[i]:
			return nil, fmt.Errorf("media line %d moved from port %d to %d", i, before[i], got[i])
		case slices.Index(got, got[i]) != i:
			return nil, fmt.Errorf("media line %d shares port %d", i, got[i])
		}
		for len(before) <= i {
			before = append(before, 0)
		}
		before[i] = got[i]
	}
	r.seen[key] = before
	for i := range want {
		if want[i] != 0 && overTCP(sdp, i) {
			got[i] = refused
		}
	}
	return got, nil
}

// refused stands for the port of a media line that is refused: relays carry
// UDP.
const refused = -1

var streamed = regexp.MustCompile(`(?i)^(tcp|sctp|dccp|tls)`)

// overTCP says whether the i-th media line of sdp is not for UDP, but for a TCP
// connection mostly.
func overTCP(sdp string, i int) bool {
	for l := range strings.Lines(sdp) {
		if !strings.HasPrefix(l, "m=") {
			continue
		}
		if i--; i < 0 {
			f := strings.Fields(l)
			return len(f) > 2 && streamed.MatchString(f[2])
		}
	}
	return false
}

// findSDP finds the session description in a body.
func findSDP(contentType, body string) (from, to int, ok bool) {
	kind, params, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.Trim(kind, space))
	if kind == "application/sdp" {
		return 0, len(body), strings.TrimSpace(body) != ""
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return 0, 0, false
	}
	b, has := param(";"+params, "boundary")
	if !has {
		return 0, 0, false
	}
	mark := "--" + strings.Trim(b.value, `"`)
	pos, open := 0, -1
	for l := range strings.Lines(body) {
		if s := strings.TrimRight(l, space); s == mark || s == mark+"--" {
			if open >= 0 {
				end := open + len(strings.TrimSuffix(strings.TrimSuffix(body[open:pos], "\n"), "\r"))
				// Content-Length is nothing in MIME, though some write it there.
				if part, err := cut([]byte("P\n" + strings.ReplaceAll(body[open:end], "Content-Length:", "Content-Xength:"))); err == nil {
					if _, _, ok := findSDP(part.get("content-type"), part.body); ok {
						return end - len(part.body), end, true
					}
				}
			}
			open = pos + len(l)
		}
		pos += len(l)
	}
	return 0, 0, false
}

var (
	otherPath  = regexp.MustCompile(`(?i)^a=(candidate|remote-candidates|end-of-candidates|ice-[a-z0-9]+|altc|path)(:|$)`)
	connection = regexp.MustCompile(`^c=IN IP[46] +([^\s/]+)[^\r\n]*`)
	rtcpLine   = regexp.MustCompile(`(?i)^a=rtcp:(\d+)( IN IP[46] (\S+))?`)
)

func unspecified(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

// pointTo is a session description with its media at these ports of host.
func pointTo(sdp, host string, named []int) string {
	active := slices.ContainsFunc(named, func(n int) bool { return n > 0 })
	var b strings.Builder
	media := -1
	for l := range strings.Lines(sdp) {
		if strings.HasPrefix(l, "m=") {
			media++
		}
		if media < 0 && !active || media >= 0 && named[media] <= 0 { // refused: left alone
			if at := mediaPort.FindStringSubmatchIndex(l); at != nil && media >= 0 && named[media] == refused {
				l = l[:at[2]] + "0" + l[at[3]:]
			}
			if media >= 0 && named[media] == refused && otherPath.MatchString(strings.TrimRight(l, space)) {
				continue
			}
			b.WriteString(l)
			continue
		}
		switch {
		case mediaPort.MatchString(l):
			at := mediaPort.FindStringSubmatchIndex(l)
			l = l[:at[2]] + strconv.Itoa(named[media]) + severalPorts.ReplaceAllString(l[at[3]:], "")
		case connection.MatchString(l):
			if p := connection.FindStringSubmatch(l); !unspecified(p[1]) {
				l = "c=IN IP4 " + host + l[len(p[0]):]
			}
		case otherPath.MatchString(strings.TrimRight(l, space)):
			continue
		case rtcpLine.MatchString(l) && media >= 0:
			p := rtcpLine.FindStringSubmatch(l)
			if p[2] != "" && unspecified(p[3]) {
				break
			}
			rtcp := "a=rtcp:" + strconv.Itoa(named[media]+1)
			if p[2] != "" {
				rtcp += " IN IP4 " + host
			}
			l = rtcp + l[len(p[0]):]
		}
		b.WriteString(l)
	}
	return b.String()
}

// answerTo is an answer to an offer, of a party at host.
func answerTo(offer, host string) string {
	var b strings.Builder
	b.WriteString("v=0\r\no=- 20518 20518 IN IP4 " + host + "\r\ns=call\r\nc=IN IP4 " + host + "\r\nt=0 0\r\n")
	port := 18000
	for l := range strings.Lines(offer) {
		f := strings.Fields(l)
		if !strings.HasPrefix(l, "m=") || len(f) < 4 {
			continue
		}
		n := port
		if f[1] == "0" {
			n = 0
		}
		fmt.Fprintf(&b, "%s %d %s %s\r\n", f[0], n, f[2], f[3])
		port += 2
	}
	return b.String()
}
