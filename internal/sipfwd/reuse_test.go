package sipfwd

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// registerOn registers user over a connection, with the Contact and its header
// parameters, and returns the Contact URI that the PBX was given.
func (r *rig) registerOn(a *agent, user, contact, params string) string {
	r.t.Helper()
	c := phoneCall(r.t, a, user, user)
	proxy := r.proxy
	if a.transport() == "TLS" {
		proxy = r.secure
	}
	a.send(proxy, c.request("REGISTER", "sip:"+testDomain, "Contact: <"+contact+">"+params, "Expires: 600"))
	m := r.pbxSock.next()
	seen := m.header("Contact")
	r.pbxSock.reply(m, "200 OK", "Contact: "+seen+";expires=300")
	if res := a.next(); res.StatusCode() != 200 || !strings.HasPrefix(res.header("Contact"), "<"+contact+">") {
		r.t.Fatalf("%s got:\n%s", user, res.raw)
	}
	uri, _, _ := strings.Cut(strings.TrimPrefix(seen, "<"), ">")
	return uri
}

// TestSeveralPhonesOnOneConnection: a gateway has all its phones on one connection,
// each with an instance of its own or none of them with one. Every request for one
// of them comes on that connection, never where a Contact points; what one of them
// sends is its own.
func TestSeveralPhonesOnOneConnection(t *testing.T) {
	for _, transport := range []string{"TCP", "TLS"} {
		for _, instances := range []bool{true, false} {
			name := transport + " without instances"
			if instances {
				name = transport + " with instances"
			}
			t.Run(name, func(t *testing.T) { severalPhonesOnOneConnection(t, transport, instances) })
		}
	}
}

func severalPhonesOnOneConnection(t *testing.T, transport string, instances bool) {
	r := newRig(t)
	connect := func() *agent {
		if transport == "TLS" {
			return newTLSAgent(t, r.secure)
		}
		return newTCPAgent(t, r.proxy)
	}
	// Where the Contacts point something listens that must hear nothing.
	elsewhere, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	gateway := connect()
	users := []string{"alice", "bob"}
	contact, at, params := map[string]string{}, map[string]string{}, map[string]string{}
	register := func() {
		for _, user := range users {
			contact[user] = "sip:" + user + "@" + elsewhere.Addr().String() + ";transport=" + strings.ToLower(transport)
			if instances {
				params[user] = `;+sip.instance="<urn:uuid:00000000-0000-0000-0000-` + user + `>";reg-id=1`
			}
			at[user] = r.registerOn(gateway, user, contact[user], params[user])
		}
	}
	inAndOut := func() {
		t.Helper()
		for _, user := range users {
			_, port, _ := strings.Cut(at[user], "@")
			in := phoneCall(t, r.pbxSock, "carol"+newBranch(), user)
			r.pbxSock.send(netip.MustParseAddrPort(port), in.request("INVITE", at[user], "Contact: <sip:carol@"+r.pbxSock.addr().String()+">"))
			m := gateway.next()
			if got := string(m.RequestURI()); got != contact[user] {
				t.Errorf("a call for %s reaches %s", user, got)
			}
			gateway.send(r.proxy, answer(m, "200 OK", "Contact: <"+contact[user]+">"+params[user]))
			if res := r.pbxSock.next(); res.StatusCode() != 200 || !strings.Contains(res.header("Contact"), at[user]) {
				t.Errorf("the PBX got:\n%s", res.raw)
			}
			in.toTag = "callee"
			r.pbxSock.send(netip.MustParseAddrPort(port), in.request("ACK", at[user]))
			if m = gateway.next(); string(m.Method()) != "ACK" {
				t.Errorf("the gateway got:\n%s", m.raw)
			}
			bye := in.reverse(gateway.addr())
			bye.transport, bye.seq = transport, 100
			gateway.send(r.proxy, bye.request("BYE", "sip:carol@"+r.pbxSock.addr().String()))
			m = r.pbxSock.next()
			if r.pbxSock.from.String() != port {
				t.Errorf("%s hangs up from %v, its port is %s", user, r.pbxSock.from, port)
			}
			r.pbxSock.reply(m, "200 OK")
			gateway.next()

			out := phoneCall(t, gateway, user, "dave"+newBranch())
			gateway.send(r.proxy, out.request("MESSAGE", "sip:dave@"+testDomain))
			m = r.pbxSock.next()
			if r.pbxSock.from.String() != port {
				t.Errorf("what %s sends comes from %v, its port is %s", user, r.pbxSock.from, port)
			}
			r.pbxSock.reply(m, "200 OK")
			gateway.next()
		}
	}
	register()
	inAndOut()

	before := map[string]string{"alice": at["alice"], "bob": at["bob"]}
	gateway.tcp.Close()
	gateway = connect()
	users = []string{"bob", "alice"} // in another order than before
	register()
	for user, was := range before {
		if at[user] != was {
			t.Errorf("%s is %s after it has connected again, was %s", user, at[user], was)
		}
	}
	inAndOut()
	elsewhere.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if conn, err := elsewhere.Accept(); err == nil {
		t.Errorf("a connection to where the Contact points, from %v", conn.RemoteAddr())
	}
}

// TestKeepalivesOnAConnection: RFC 5626 section 3.5.1, between messages and inside
// of nothing.
func TestKeepalivesOnAConnection(t *testing.T) {
	r := newRig(t)
	for _, phone := range []*agent{newTCPAgent(t, r.proxy), newTLSAgent(t, r.secure)} {
		for range 3 {
			phone.send(r.proxy, "\r\n\r\n")
			pong := make([]byte, 2)
			phone.tcp.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.ReadFull(phone.in, pong); err != nil || string(pong) != "\r\n" {
				t.Errorf("%s: answered with %q, %v", phone.transport(), pong, err)
			}
		}
		phone.send(r.proxy, "\r\n") // a pong of its own, or half a ping
		at := r.registerOn(phone, "alice"+phone.transport(), "sip:alice@"+phone.addr().String(), "")
		if at == "" {
			t.Error("not registered")
		}
	}
}
