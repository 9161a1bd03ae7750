package minipbx

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/testphone/ua"
)

// parseRequest makes a REGISTER as sipgo reads it.
func parseRequest(t *testing.T, headers ...string) *sip.Request {
	t.Helper()
	raw := strings.Join(append([]string{
		"REGISTER sip:pbx.example SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx",
		"From: <sip:alice@pbx.example>;tag=x", "To: <sip:alice@pbx.example>",
	}, headers...), "\r\n") + "\r\nContent-Length: 0\r\n\r\n"
	message, err := sip.NewParser().ParseSIP([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	message.SetSource("192.0.2.1:5060")
	message.SetTransport("UDP")
	return message.(*sip.Request)
}

func TestRegistrar(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	r := newRegistrar(time.Hour, func() time.Time { return now })
	sequence := 0
	// Each step is a REGISTER, and what is bound after it.
	for i, step := range []struct {
		after   time.Duration
		callID  string
		cseq    int // 0: the next
		headers []string
		code    int // of a refusal
		want    []string
	}{
		{callID: "a", headers: []string{"Contact: <sip:alice@192.0.2.1:5060>;q=0.5;expires=60"}, want: []string{"sip:alice@192.0.2.1:5060;q=0.5 60s"}},
		{callID: "b", headers: []string{"m: \"A, B\" <sip:alice@192.0.2.2;transport=tcp>, <sip:alice@192.0.2.3>", "Expires: 7200"},
			want: []string{"sip:alice@192.0.2.3 3600s", "sip:alice@192.0.2.2;transport=tcp 3600s", "sip:alice@192.0.2.1:5060;q=0.5 60s"}},
		{callID: "a", headers: nil, want: []string{"sip:alice@192.0.2.3 3600s", "sip:alice@192.0.2.2;transport=tcp 3600s", "sip:alice@192.0.2.1:5060;q=0.5 60s"}},
		{after: time.Minute, callID: "a", headers: nil, want: []string{"sip:alice@192.0.2.3 3540s", "sip:alice@192.0.2.2;transport=tcp 3540s"}},
		{callID: "b", cseq: 1, headers: []string{"Contact: <sip:alice@192.0.2.3>;expires=0"}, code: 500,
			want: []string{"sip:alice@192.0.2.3 3540s", "sip:alice@192.0.2.2;transport=tcp 3540s"}},
		{callID: "b", headers: []string{"Contact: <sip:alice@192.0.2.3>;expires=0"}, want: []string{"sip:alice@192.0.2.2;transport=tcp 3540s"}},
		{callID: "b", headers: []string{"Contact: *"}, code: 400, want: []string{"sip:alice@192.0.2.2;transport=tcp 3540s"}},
		{callID: "b", headers: []string{"Contact: *, <sip:alice@192.0.2.3>", "Expires: 0"}, code: 400, want: []string{"sip:alice@192.0.2.2;transport=tcp 3540s"}},
		{callID: "c", headers: []string{"Contact: *", "Expires: 0"}},
		{callID: "d", headers: []string{"Contact: <sip:alice@192.0.2.1>;expires=soon"}, want: []string{"sip:alice@192.0.2.1 3600s"}},
		{callID: "d", headers: []string{"Contact: " + manyContacts(maxBindings)}, code: 403, want: []string{"sip:alice@192.0.2.1 3600s"}},
		{after: time.Hour, callID: "d"},
	} {
		now = now.Add(step.after)
		sequence++
		if step.cseq == 0 {
			step.cseq = 100 + sequence
		}
		req := parseRequest(t, append([]string{"Call-ID: " + step.callID, fmt.Sprintf("CSeq: %d REGISTER", step.cseq)}, step.headers...)...)
		_, err := r.update("alice", req)
		var status *ua.StatusError
		if errors.As(err, &status); (err != nil) != (step.code != 0) || err != nil && status.Code != step.code {
			t.Errorf("step %d: error %v, want %d", i, err, step.code)
		}
		var got []string
		for _, b := range r.bindings("alice") {
			got = append(got, fmt.Sprintf("%s%s %.0fs", b.contact, b.params, b.expires.Sub(now).Seconds()))
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: bound %q, want %q", i, got, step.want)
		}
	}
	if len(r.users) != 0 {
		t.Errorf("%d users kept without a binding", len(r.users))
	}
}

func manyContacts(n int) string {
	var contacts []string
	for i := range n {
		contacts = append(contacts, fmt.Sprintf("<sip:alice@192.0.2.%d>", 100+i))
	}
	return strings.Join(contacts, ", ")
}

func TestBindingKnowsItsConnection(t *testing.T) {
	r := newRegistrar(time.Hour, time.Now)
	req := parseRequest(t, "Call-ID: a", "CSeq: 1 REGISTER", "Contact: <sip:alice@192.0.2.9;transport=tcp>")
	req.SetTransport("TCP")
	list, err := r.update("alice", req)
	if err != nil || len(list) != 1 || list[0].transport != "tcp" || list[0].source != netip.MustParseAddrPort("192.0.2.1:5060") {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestWorse(t *testing.T) {
	code := func(n int) error {
		if n == 0 {
			return errors.New("no answer")
		}
		return &ua.StatusError{Code: n}
	}
	for _, test := range [][3]int{{0, 0, 0}, {0, 486, 486}, {486, 0, 486}, {486, 404, 404}, {404, 486, 404}, {404, 603, 603}, {603, 404, 603}, {600, 603, 600}} {
		if got := worse(code(test[0]), code(test[1])); got.Error() != code(test[2]).Error() {
			t.Errorf("worse(%d, %d) = %v, want %d", test[0], test[1], got, test[2])
		}
	}
}
