//go:build e2e

package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// A scripted is the chain with peers that do exactly what the test says: phones of the office, one a transport, and a server
// behind Kamailio, which sends numbers that begin with 9 there.
type scripted struct {
	*tunnel
	kamailio *lab.Process
	config   peers.PBXConfig
	turned   *lab.Capture // what reaches phones' ports over TCP
	server   *peers.Script
	phones   map[string]*peers.Script // by transport
}

// serverPort is where the scripted server listens, over UDP and TCP.
const serverPort = 5070

// newScripted starts the chain and registers the phones.
func newScripted(t *testing.T) *scripted {
	t.Helper()
	s := &scripted{tunnel: prepareTunnel(t, lab.New(t)), phones: map[string]*peers.Script{}}
	host := s.Desk("server")
	s.config = peers.PBXConfig{Domain: domain, Users: users, Presence: true,
		Trunk: netip.AddrPortFrom(host.Addr, serverPort)}
	s.kamailio = peers.StartKamailio(t, s.Lab, s.config)
	s.inside, s.turned = s.PBX.Capture("lo", insideFilter), s.PBX.Capture("lo", "tcp dst portrange 6000-6999")
	s.watchWAN()
	s.startDaemon()
	s.join()
	s.startProxy("--sip-tls-listen", ":5061")
	s.waitUp()
	s.server = peers.StartScript(t, host, peers.ScriptConfig{
		User: "server", Port: serverPort, To: netip.AddrPortFrom(lab.PBXDeskAddr, 5060)})
	for transport, user := range map[string]string{"UDP": "alice", "TCP": "bob", "TLS": "dave"} {
		config := peers.ScriptConfig{User: user, Password: users[user], Transport: transport, To: officeSIP}
		if transport == "TLS" {
			config.To = netip.AddrPortFrom(lab.ProxyAddr, 5061)
			config.TLS = &tls.Config{RootCAs: s.phoneCA(), ServerName: officeProxy}
		}
		phone := peers.StartScript(t, s.Phone(user), config)
		phone.Register(domain, "")
		s.phones[transport] = phone
	}
	return s
}

// phoneCertificate is what tunnelproxy has made for phones over TLS.
func (tun *tunnel) phoneCertificate() string {
	return filepath.Join(tun.state, "tunnelproxy", "sip-tls.crt")
}

func (tun *tunnel) phoneCA() *x509.CertPool {
	tun.t.Helper()
	pem, err := os.ReadFile(tun.phoneCertificate())
	if err != nil {
		tun.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

// TestFeatures: what phones do beside plain calls, with a phone over each transport and a server behind the PBX. What is sent at
// one end arrives at the other as it was sent, both ways.
func TestFeatures(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	for _, e := range events {
		t.Run("SUBSCRIBE to "+e.name, func(t *testing.T) {
			s.each(t, func(t *testing.T, phone *peers.Script) { s.subscription(t, phone, e) })
		})
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *peers.Script)
	}{
		{"SUBSCRIBE that forks", s.forkedSubscription},
		{"NOTIFY without subscription", s.unsolicited},
		{"requests outside of dialogs", s.outside},
		{"requests in a call", s.inCall},
		{"REFER", s.refer},
		{"INVITE with Replaces", s.replaces},
		{"OPTIONS of the PBX", s.qualify},
		{"keepalive", s.keepalive},
		{"large messages", s.large},
	} {
		t.Run(test.name, func(t *testing.T) { s.each(t, test.run) })
	}
	t.Run("a phone turns to TCP", s.turnsToTCP)
	t.Run("presence", s.presence)
	t.Run("lost datagrams", s.lossy)
	// These start other PBXs.
	t.Run("64 KiB", s.wholeSize)
	t.Run("digest with SHA-256", s.sha256)
}

// each runs the test with the phone of each transport.
func (s *scripted) each(t *testing.T, test func(t *testing.T, phone *peers.Script)) {
	for _, transport := range []string{"UDP", "TCP", "TLS"} {
		t.Run(transport, func(t *testing.T) {
			s.server.In(t)
			s.phones[transport].In(t)
			test(t, s.phones[transport])
		})
	}
}

// hopHeaders are those that every proxy on the way edits, and the credentials, which Kamailio consumes.
var hopHeaders = []string{"via", "max-forwards", "record-route", "route", "proxy-authorization"}

// untouched fails the test where what arrived is not what was sent, line by line and in the body, but for the hop headers and
// those named.
func untouched(t *testing.T, sent, arrived *pcap.Message, edited ...string) {
	t.Helper()
	if strings.Contains(sent.Header("Content-Type"), "application/sdp") {
		edited = append(edited, "content-length")
	}
	rest := func(m *pcap.Message) []string {
		return slices.DeleteFunc(m.Lines(), func(line string) bool {
			name, _, _ := strings.Cut(line, ":")
			name = strings.ToLower(strings.TrimSpace(name))
			return slices.Contains(hopHeaders, name) || slices.Contains(edited, name)
		})
	}
	want, got := rest(sent), rest(arrived)
	if !slices.Equal(want, got) {
		t.Errorf("%s arrived changed:\n%q\nwas sent as\n%q", sent.StartLine, got, want)
	}
	if strings.Contains(sent.Header("Content-Type"), "application/sdp") {
		return // the tests of calls look into it
	}
	if !bytes.Equal(sent.Body, arrived.Body) {
		t.Errorf("the body of %s arrived changed, %d bytes as %d:\n%.300q\nwas sent as\n%.300q",
			sent.StartLine, len(sent.Body), len(arrived.Body), arrived.Body, sent.Body)
	}
}

// A side is one party of a dialog: what its requests in the dialog say.
type side struct {
	*peers.Script
	uri, routes, from, to, callID string
	cseq                          int
}

// uri returns the URI of a name-addr.
func uri(value string) string {
	_, rest, ok := strings.Cut(value, "<")
	if !ok {
		return value
	}
	uri, _, _ := strings.Cut(rest, ">")
	return uri
}

// recordRoutes returns the values of the Record-Route headers, in their order.
func recordRoutes(m *pcap.Message) []string {
	var routes []string
	for _, line := range m.Lines() {
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "Record-Route") {
			for route := range strings.SplitSeq(value, ",") {
				routes = append(routes, strings.TrimSpace(route))
			}
		}
	}
	return routes
}

func routeHeaders(routes []string) string {
	var b strings.Builder
	for _, route := range routes {
		b.WriteString("Route: " + route + "\n")
	}
	return b.String()
}

// called is the side of a dialog that got the request which began it, and answers with the tag.
func called(s *peers.Script, request *pcap.Message, tag string) *side {
	return &side{Script: s, uri: uri(request.Header("Contact")), routes: routeHeaders(recordRoutes(request)),
		from: request.Header("To") + ";tag=" + tag, to: request.Header("From"), callID: request.Header("Call-ID"), cseq: 100}
}

// calling is the side that sent the request which began the dialog; the message from the other one may be the response to it, or
// a NOTIFY.
func calling(s *peers.Script, request, other *pcap.Message) *side {
	d := &side{Script: s, uri: uri(other.Header("Contact")), from: request.Header("From"), to: other.Header("To"),
		callID: request.Header("Call-ID"), cseq: 10}
	routes := recordRoutes(other)
	if other.Status != 0 {
		slices.Reverse(routes)
	} else {
		d.to = other.Header("From")
	}
	d.routes = routeHeaders(routes)
	return d
}

// send sends a request in the dialog, with these lines and body.
func (d *side) send(method, lines string) *pcap.Message {
	d.cseq++
	return d.Send(fmt.Sprintf("%s %s SIP/2.0\nVia: {via}\n%sMax-Forwards: 70\nFrom: %s\nTo: %s\nCall-ID: %s\nCSeq: %d %s\n%s",
		method, d.uri, d.routes, d.from, d.to, d.callID, d.cseq, method, lines))
}

// arrives waits for the request at the other end.
func arrives(t *testing.T, at *peers.Script, sent *pcap.Message) *peers.Message {
	t.Helper()
	return at.Wait(soon, sent.StartLine, func(m *pcap.Message) bool {
		return m.Method == sent.Method && m.Header("Call-ID") == sent.Header("Call-ID") && m.Header("CSeq") == sent.Header("CSeq")
	})
}

// through sends a request in the dialog that the other side answers with 200, and compares what arrived, both ways.
func (d *side) through(t *testing.T, other *peers.Script, method, lines string, edited ...string) (request, answer *peers.Message) {
	t.Helper()
	sent := d.send(method, lines)
	request = arrives(t, other, sent)
	untouched(t, sent, request.Message, edited...)
	answered := other.Answer(request, "200 OK", "", "X-Answer: \"as it is\" ;  x=1\n")
	answer = d.Final(soon, sent)
	untouched(t, answered, answer.Message, edited...)
	return request, answer
}
