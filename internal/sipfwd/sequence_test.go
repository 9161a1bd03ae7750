package sipfwd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// tape is what happens, byte by byte. Behind its end it is zeros.
type tape []byte

func (t *tape) next(n int) int {
	if len(*t) == 0 {
		return 0
	}
	b := int((*t)[0])
	*t = (*t)[1:]
	return b % n
}

func pick[T any](t *tape, of []T) T { return of[t.next(len(of))] }

// maxSteps bounds one sequence.
const maxSteps = 80

// play does what the tape says and looks at the end whether all is as it was.
func play(t *testing.T, data []byte) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		in := tape(data)
		for n := 0; len(in) > 0 && n < maxSteps && !t.Failed(); n++ {
			step := pick(&in, worldSteps)
			w.steps = append(w.steps, step.name)
			step.do(w, &in)
			w.settle()
		}
		w.end()
	})
}

var worldSteps = []struct {
	name string
	do   func(*world, *tape)
}{
	{"register", (*world).register},
	{"the PBX answers", (*world).pbxAnswers},
	{"a phone asks", (*world).phoneAsks},
	{"the PBX asks", (*world).pbxAsks},
	{"a phone answers", (*world).phoneAnswers},
	{"a phone goes on", func(w *world, in *tape) { w.goesOn(in, true) }},
	{"the PBX goes on", func(w *world, in *tape) { w.goesOn(in, false) }},
	{"time passes", (*world).passes},
	{"again", (*world).again},
	{"spoilt", (*world).spoilt},
	{"tunnel", (*world).tunnelChanges},
	{"a phone moves", (*world).moves},
	{"the PBX answers", (*world).pbxAnswers},
	{"a phone answers", (*world).phoneAnswers},
	{"restart", (*world).restart},
	{"raw", (*world).raw},
}

var (
	worldStatuses = []string{
		"200 OK", "100 Trying", "180 Ringing", "183 Session Progress", "401 Unauthorized", "302 Moved", "404 Not Found",
		"486 Busy Here", "488 No", "503 Out", "603 Decline", "491 Pending", "202 Accepted",
	}
	worldMethods = []string{"INVITE", "SUBSCRIBE", "MESSAGE", "OPTIONS", "REFER", "NOTIFY", "PUBLISH", "INFO", "UNHEARD"}
	worldInside  = []string{"ACK", "BYE", "INVITE", "CANCEL", "UPDATE", "PRACK", "INFO", "NOTIFY", "REFER", "SUBSCRIBE"}
	worldPauses  = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 33 * time.Second, 200 * time.Second, 11 * time.Minute, 2 * time.Hour}
)

// body is SDP of a party at a, or none.
func worldBody(in *tape, a netip.Addr) []string {
	at := netip.AddrPortFrom(a, 7000)
	switch in.next(6) {
	case 0, 1:
		return nil
	case 2:
		return []string{sdpAt(at, "sendonly")}
	case 3:
		return []string{sdpAt(at) + "m=video 0 RTP/AVP 31\r\nm=message 9 TCP/MSRP *\r\n"}
	case 4:
		return []string{"v=0\r\nm=audio\r\n"}
	}
	return []string{sdpAt(at)}
}

func (w *world) phone(in *tape) *worldPhone { return pick(in, w.handsets) }

func (h *worldPhone) transport() string {
	if h.stream != nil {
		return "TCP"
	}
	return "UDP"
}

func (h *worldPhone) contact() string {
	c := "<sip:" + h.user + "@" + h.at.String()
	if h.stream != nil {
		c += ";transport=tcp"
	}
	return c + ">"
}

// newCall is the beginning of something that a phone does.
func (h *worldPhone) newCall(to string) *call {
	h.calls++
	return &call{
		id: fmt.Sprintf("%s-%d", h.user, h.calls), fromTag: fmt.Sprint("t", h.calls), transport: h.transport(), at: h.at,
		from: "<sip:" + h.user + "@" + testDomain + ">", to: "<sip:" + to + "@" + testDomain + ">",
	}
}

func (w *world) register(in *tape) {
	h := w.phone(in)
	c := h.newCall(h.user)
	c.fromTag = "reg"
	contact := "Contact: " + h.contact()
	if h.inst != "" {
		contact += `;+sip.instance="<urn:uuid:` + h.inst + `>"`
	}
	expires := pick(in, []string{"3600", "60", "0", "3600"})
	if expires == "0" && in.next(2) == 1 {
		contact = "Contact: *"
	}
	w.toOffice(h, []byte(c.request("REGISTER", "sip:"+testDomain, contact, "Expires: "+expires)))
}

func (w *world) phoneAsks(in *tape) {
	h, method := w.phone(in), pick(in, worldMethods)
	c := h.newCall(pick(in, []string{"200", "100", "101"}))
	headers := append([]string{"Contact: " + h.contact()}, worldBody(in, h.at.Addr())...)
	if method == "REFER" {
		headers = append([]string{"Refer-To: <sip:300@" + worldProxy.String() + ">"}, headers...)
	}
	t := &talk{call: c, byPhone: true, phone: h, uri: "sip:200@" + worldPBX.String()}
	w.talks = append(w.talks, t)
	w.toOffice(h, []byte(c.request(method, "sip:200@"+testDomain, headers...)))
	w.settle()
	t.port = w.latest()
}

// latest is the port that the PBX was asked from last.
func (w *world) latest() *worldPort {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lastUp
}

func (w *world) pbxAsks(in *tape) {
	w.mu.Lock()
	contacts, port := w.contacts, w.lastUp
	w.mu.Unlock()
	if port == nil {
		return
	}
	uri := "sip:100@" + port.addr.String()
	if len(contacts) > 0 && in.next(4) > 0 {
		uri = pick(in, contacts)
	}
	for _, c := range w.tunnel.conns() {
		if strings.Contains(uri, "@"+c.local.String()) {
			w.ports.mu.Lock()
			if p := w.ports.open[phoneID{"office", c.key}]; p != nil {
				port = &worldPort{p}
			}
			w.ports.mu.Unlock()
		}
	}
	c := &call{
		id: fmt.Sprint("pbx-", len(w.talks)), fromTag: "p", transport: "UDP", at: worldPBX,
		from: "<sip:200@" + testDomain + ">", to: "<" + uri + ">",
	}
	w.talks = append(w.talks, &talk{call: c, port: port, uri: uri})
	headers := append([]string{"Contact: <sip:200@" + worldPBX.String() + ">"}, worldBody(in, worldPBX.Addr())...)
	w.toPort(port, []byte(c.request(pick(in, worldMethods), uri, headers...)))
}

// take takes one of the requests that wait, mostly out of the list.
func (w *world) take(in *tape, from *[]arrival) (arrival, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(*from) == 0 {
		return arrival{}, false
	}
	i := len(*from) - 1 - in.next(min(4, len(*from)))
	a := (*from)[i]
	if in.next(4) > 0 {
		*from = append((*from)[:i:i], (*from)[i+1:]...)
	}
	return a, true
}

// reply is the answer to a by a party at at.
func worldReply(in *tape, a arrival, at netip.Addr, contact string) []byte {
	r := received{raw: string(a.msg)}
	if r.Parse(a.msg) != nil {
		return nil
	}
	status := pick(in, worldStatuses)
	headers := []string{"Contact: " + contact}
	if string(r.Method()) == "REGISTER" {
		headers = nil
		for it := r.Values(sipmsg.Contact); it.Next(); {
			headers = append(headers, "Contact: "+string(it.Bytes())+pick(in, []string{";expires=600", "", ";expires=0"}))
		}
	}
	return []byte(answer(r, status, append(headers, worldBody(in, at)...)...))
}

func (w *world) pbxAnswers(in *tape) {
	if a, ok := w.take(in, &w.atPBX); ok {
		w.toPort(a.port, worldReply(in, a, worldPBX.Addr(), "<sip:200@"+worldPBX.String()+">"))
	}
}

func (w *world) phoneAnswers(in *tape) {
	if a, ok := w.take(in, &w.atPhone); ok && a.phone != nil {
		w.toOffice(a.phone, worldReply(in, a, a.phone.at.Addr(), a.phone.contact()))
	}
}

// goesOn has one of the parties say something in a dialog.
func (w *world) goesOn(in *tape, phone bool) {
	if len(w.talks) == 0 {
		return
	}
	t := w.talks[len(w.talks)-1-in.next(min(4, len(w.talks)))]
	method := pick(in, worldInside)
	t.toTag = pick(in, []string{"callee", "callee", "", "other"})
	c := t.call
	if t.byPhone != phone {
		if t.back == nil {
			t.back = t.reverse(worldPBX)
			t.back.seq = 50
		}
		c = t.back
		c.fromTag, c.toTag = t.toTag, t.fromTag
	}
	h := t.phone
	if h == nil {
		h = w.handsets[in.next(len(w.handsets))]
	}
	at := worldPBX.Addr()
	if phone {
		at, c.at, c.transport = h.at.Addr(), h.at, h.transport()
	}
	build := c.request
	if method == "CANCEL" {
		build = c.again
	}
	uri := t.uri
	if !phone && t.byPhone && t.port != nil {
		uri = "sip:" + h.user + "@" + t.port.addr.String()
	}
	msg := []byte(build(method, uri, append([]string{"Contact: <sip:x@" + netip.AddrPortFrom(at, 5060).String() + ">"}, worldBody(in, at)...)...))
	if phone {
		w.toOffice(h, msg)
	} else {
		w.toPort(t.port, msg)
	}
}

func (w *world) passes(in *tape) { time.Sleep(pick(in, worldPauses)) }

// say has a message that was said come again, as b.
func (w *world) say(how arrival, b []byte) {
	if how.phone != nil {
		w.toOffice(how.phone, b)
	} else {
		w.toPort(how.port, b)
	}
}

func (w *world) someMessage(in *tape) (arrival, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pastFrom) == 0 {
		return arrival{}, false
	}
	return w.pastFrom[len(w.pastFrom)-1-in.next(min(8, len(w.pastFrom)))], true
}

func (w *world) again(in *tape) {
	if how, ok := w.someMessage(in); ok {
		w.say(how, how.msg)
	}
}

// spoilt is a message of before with some bytes changed.
func (w *world) spoilt(in *tape) {
	how, ok := w.someMessage(in)
	if !ok || len(how.msg) == 0 {
		return
	}
	b := bytes.Clone(how.msg)
	for range 1 + in.next(3) {
		i := (in.next(256)<<8 | in.next(256)) % len(b)
		switch in.next(3) {
		case 0:
			b[i] = byte(in.next(256))
		case 1:
			b = append(b[:i:i], b[i+1:]...)
		default:
			b = append(b[:i:i], append(pick(in, [][]byte{[]byte("\r\n"), []byte(";lr"), []byte("<"), []byte(","), []byte("\x00")}), b[i:]...)...)
		}
		if len(b) == 0 {
			return
		}
	}
	w.mu.Lock()
	w.altered = true // its SDP may be none, for us
	w.mu.Unlock()
	w.say(how, b)
}

func (w *world) tunnelChanges(in *tape) {
	t := w.tunnel
	switch in.next(4) {
	case 0, 1:
		t.mu.Lock()
		t.up = !t.up
		t.mu.Unlock()
	case 2: // the session is lost, and its phones are opened in the next one
		old := w.pbx
		w.session()
		w.lan.Reset(errors.New("test"))
		for _, c := range t.conns() {
			if c.openAt(w.pbx) != nil {
				w.errorf("phone %s is not opened again", c.key)
			}
		}
		old.Close()
	case 3:
		w.targets.set(w.targets.targets[:in.next(2)]...)
	}
}

func (w *world) moves(in *tape) {
	h := w.phone(in)
	if h.stream != nil {
		w.connect(h)
		return
	}
	host := byte(101 + in.next(4)) // of which some are other phones'
	h.at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, host}), 5060)
}

// restart has the office's program start anew.
func (w *world) restart(in *tape) {
	kept := w.lan.Kept()
	for _, h := range w.handsets {
		if h.stream != nil {
			w.disconnect(h)
		}
	}
	w.lan.Close()
	if in.next(2) == 0 {
		w.pbx.Close()
	}
	old := w.pbx
	w.session()
	w.office(kept)
	for _, h := range w.handsets {
		if h.stream != nil {
			w.connect(h)
		}
	}
	w.settle()
	old.Close()
}

// raw is the rest of the tape as one message, from any of the four sides.
func (w *world) raw(in *tape) {
	side, n := in.next(4), 0
	rest := bytes.Clone(*in)
	*in = (*in)[len(*in):]
	conns := w.tunnel.conns()
	switch {
	case side == 0:
		w.toOffice(w.handsets[0], rest)
	case side == 1:
		w.toPort(w.latest(), rest)
	case len(conns) > 0 && side == 2:
		w.fromStranger(rest)
		w.pbx.FromTunnel(conns[n].id, rest)
	case len(conns) > 0:
		w.fromStranger(rest)
		w.tunnel.toOffice(conns[n].id, rest)
	}
}

// fromStranger notes what an end of the tunnel makes up.
func (w *world) fromStranger(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hostile = true
	var m sipmsg.Message
	if m.Parse(bytes.Clone(b)) == nil {
		w.ids[string(m.CallID())] = true
	}
}

// TestRandomWalks plays tapes that nobody has thought up. A failure names its seed.
func TestRandomWalks(t *testing.T) {
	const walks = 150
	for seed := range uint64(walks) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			play(t, walk(seed))
		})
	}
}

func walk(seed uint64) []byte {
	from := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, 400)
	for i := range data {
		data[i] = byte(from.UintN(256))
	}
	for i := range data { // "raw" would eat the rest
		if data[i]%16 == 15 && i < 390 {
			data[i]--
		}
	}
	return data
}

// FuzzProxy has phones, PBX and tunnel do what a tape says, valid or not. Whatever
// that is: no message goes to a third address, every response has a request, what
// is kept is within its bounds, and in the end nothing of it is left.
func FuzzProxy(f *testing.F) {
	for _, seed := range []string{
		"\x00\x00\x00\x01\x00\x00", // registered
		"\x02\x00\x00\x00\x05\x01\x00\x00\x00\x05\x05\x00\x00\x00\x05\x00\x01\x00", // a call up
		"\x00\x00\x00\x01\x00\x00\x03\x01\x00\x00\x05\x04\x00\x00\x00\x05\x06\x00\x00\x00\x06\x00\x01\x00",
		"\x02\x02\x00\x00\x05\x0b\x02\x01\x00\x00\x02\x07\x05",
	} {
		f.Add([]byte(seed))
	}
	for seed := range uint64(20) {
		f.Add(walk(1000 + seed))
	}
	c := &call{id: "seed", from: "<sip:a@b>", to: "<sip:c@d>", fromTag: "x", transport: "UDP", at: worldPBX}
	for side := range byte(4) {
		for _, msg := range []string{
			c.request("REGISTER", "sip:d", "Contact: <sip:a@127.0.1.101:5060>;expires=60"),
			c.request("INVITE", "sip:c@d", "Contact: <sip:a@127.0.0.1>", "Supported: path, outbound", sdpAt(testRTP)),
			c.request("INVITE", "sip:c@d", "Supported: path,x,path,y,gruu", strings.Replace(sdpAt(testRTP, "rtcp:9 IN IP4 0.0.0.0"), " RTP/", "/2 RTP/", 1)),
			c.request("REGISTER", "sip:d", "Contact: <sip:a@b@c>, sip:a@127.0.1.101?x=y, *", "Expires: 0"),
			c.again("ACK", "sip:c@d", sdpAt(testRTP)),
			c.again("CANCEL", "sip:c@d"),
			c.request("BYE", "sip:c@d", "Route: <sip:127.0.1.1;lr>, <sip:x>"),
			testResponse("200 OK", "INVITE", testBranch),
			"\r\n\r\n",
		} {
			f.Add(append([]byte{0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 5, 15, side}, msg...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxMessage {
			return
		}
		play(t, data)
	})
}
