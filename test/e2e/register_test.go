//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// TestRegister: what the PBX stores for a phone is a port of tunneld's, one for each phone; what the phone gets back is its own
// Contact; digest passes through both.
func TestRegister(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	ports := map[netip.AddrPort]string{}
	for _, transport := range []string{"udp", "tcp"} {
		user := map[string]string{"udp": "alice", "tcp": "bob"}[transport]
		host := tun.Phone(user)
		lan := host.Capture("eth0", "")
		start(t, host, phone(user, transport, officeProxy))

		asked := tun.inside.WaitSIP(soon, "REGISTER with digest reaches Kamailio", func(m *pcap.Message) bool {
			return m.Method == "REGISTER" && m.Header("Authorization") != "" && strings.Contains(m.Header("To"), user)
		})
		if want := fmt.Sprintf("@%v", asked.Src); !strings.Contains(asked.Header("Contact"), want) {
			t.Errorf("%s: Contact at the PBX is %s, want one with %s, where it came from", user, asked.Header("Contact"), want)
		}
		if other := ports[asked.Src]; other != "" {
			t.Errorf("%s and %s share the port %v toward the PBX", user, other, asked.Src)
		}
		ports[asked.Src] = user

		sent := lan.WaitSIP(soon, user+" registers", request("REGISTER"))
		granted := lan.WaitSIP(soon, user+" is registered", response(200, "REGISTER"))
		own, _, _ := strings.Cut(sent.Header("Contact"), ">")
		if !strings.Contains(granted.Header("Contact"), own) {
			t.Errorf("%s gets Contact %s back, want its own %s", user, granted.Header("Contact"), own)
		}
		if strings.Contains(granted.Header("Contact"), asked.Src.String()) {
			t.Errorf("%s sees the port of tunneld in %s", user, granted.Header("Contact"))
		}
	}
}

// TestUnregister: a phone that is switched off is gone at the PBX.
func TestUnregister(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	alice := start(t, tun.Phone("alice"), phone("alice", "udp", officeProxy))
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	alice.Stop()
	tun.inside.WaitSIP(soon, "Kamailio forgets alice", func(m *pcap.Message) bool {
		return m.Status == 200 && m.CSeqMethod() == "REGISTER" && m.Header("Contact") == "" && strings.Contains(m.Header("To"), "alice")
	})
	mark := carol.Mark()
	carol.Dial("sip:alice@" + domain)
	if closed := carol.Wait(soon, mark, "CALL_CLOSED"); !strings.Contains(closed.Param, "480") {
		t.Errorf("a call to the phone that is gone ended with %q, want 480", closed.Param)
	}
}

// TestRefresh: a registration is renewed through the tunnel before it runs out, and stays one.
func TestRefresh(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	config := answering(phone("alice", "tcp", officeProxy))
	config.Expires = 6
	alice := start(t, tun.Phone("alice"), config)
	alice.Wait(soon, alice.Mark(), "REGISTER_OK")
	alice.Wait(soon, alice.Mark(), "REGISTER_OK")
	carol := start(t, tun.Desk("carol"), phone("carol", "udp", deskPBX))
	c := dial(t, carol, alice).established()
	carol.Hangup()
	alice.Wait(soon, c.marks[1], "CALL_CLOSED")
}

// TestProxyAsDomain: phones may be told that the office's own machine is their PBX.
func TestProxyAsDomain(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	config := answering(phone("alice", "udp", officeProxy))
	config.Domain = officeProxy
	alice := peers.StartBaresip(t, tun.Phone("alice"), config)
	alice.Wait(soon, 0, "REGISTER_OK")
}

// TestTunnelDown: a phone that asks while there is no tunnel is told so at once, so that it can try another way.
func TestTunnelDown(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	tun.tunneld.Stop()
	host := tun.Phone("alice")
	conn, err := host.ListenUDP(netip.AddrPortFrom(host.Addr, 5060).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var answer *pcap.Message
	lab.Eventually(t, soon, "a phone is told 503", func() bool {
		answer, err = peers.Exchange(conn, officeSIP, registerRequest("alice", host.Addr), time.Second)
		return err == nil && answer.Status == 503
	})
	if answer.Header("Retry-After") == "" {
		t.Errorf("503 without Retry-After:\n%s", answer.Payload)
	}
}

// registerRequest is a REGISTER over UDP without credentials, in a transaction of its own.
func registerRequest(user string, from netip.Addr) string {
	return fmt.Sprintf("REGISTER sip:%[2]s SIP/2.0\r\nVia: SIP/2.0/UDP %[3]v:5060;branch=z9hG4bK-%[4]s;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%[1]s@%[2]s>;tag=1\r\nTo: <sip:%[1]s@%[2]s>\r\nCall-ID: register-%[1]s@%[3]v\r\nCSeq: 1 REGISTER\r\n"+
		"Contact: <sip:%[1]s@%[3]v:5060>\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n", user, domain, from, rand.Text())
}
