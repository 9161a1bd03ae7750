//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/test/e2e/lab"
	"github.com/siptunnel/siptunnel/test/e2e/pcap"
	"github.com/siptunnel/siptunnel/test/e2e/peers"
)

// malformed are messages with something wrong that a careless parser stumbles over.
func malformed() map[string][]byte {
	const head = "INVITE sip:carol@pbx.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.77.200;branch=z9hG4bKx\r\n" +
		"From: <sip:m@pbx.example>;tag=1\r\nTo: <sip:carol@pbx.example>\r\nCall-ID: malformed\r\nCSeq: 1 INVITE\r\n"
	messages := map[string][]byte{
		"nothing":                 {},
		"a null":                  {0},
		"keepalive":               []byte("\r\n\r\n"),
		"no headers":              []byte("INVITE sip:carol@pbx.example SIP/2.0\r\n\r\n"),
		"no end of head":          []byte(head),
		"no version":              []byte("INVITE sip:carol@pbx.example\r\n\r\n"),
		"binary":                  bytes.Repeat([]byte{0xff, 0x00, 0x0d, 0x0a}, 300),
		"negative length":         []byte(head + "Content-Length: -1\r\n\r\n"),
		"too great a length":      []byte(head + "Content-Length: 99999999999999999999\r\n\r\n"),
		"no such body":            []byte(head + "Content-Length: 900\r\n\r\nv=0\r\n"),
		"max-forwards of letters": []byte(head + "Max-Forwards: many\r\nContent-Length: 0\r\n\r\n"),
		"max-forwards of 0":       []byte(head + "Max-Forwards: 0\r\nContent-Length: 0\r\n\r\n"),
		"a status of 99":          []byte("SIP/2.0 99 Low\r\n" + head[strings.Index(head, "Via"):] + "\r\n"),
		"a status without Via":    []byte("SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\nCall-ID: x\r\n\r\n"),
		"a broken multipart":      []byte(head + "Content-Type: multipart/mixed;boundary=\"\r\nContent-Length: 4\r\n\r\n--\r\n"),
		"a broken SDP":            []byte(head + "Content-Type: application/sdp\r\nContent-Length: 16\r\n\r\nc=\r\nm=audio x\r\n=\r\n"),
		"a long header":           []byte(head + "X-Long: " + strings.Repeat("a", 60000) + "\r\nContent-Length: 0\r\n\r\n"),
		"many headers":            []byte(head + strings.Repeat("X: y\r\n", 9000) + "Content-Length: 0\r\n\r\n"),
		"a long method":           []byte(strings.Repeat("A", 30000) + " sip:carol@pbx.example SIP/2.0\r\n\r\n"),
	}
	// The torture tests of RFC 4475, where they are at hand.
	files, _ := filepath.Glob("../../../shared/corpora/rfc4475/*.dat")
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil {
			messages[filepath.Base(name)] = text
		}
	}
	return messages
}

// TestMalformedSIP: what no SIP parser likes, from the LAN over UDP and TCP and from the PBX's own address, while a call goes on.
func TestMalformedSIP(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	mallory := v.Phone("mallory")
	phonePort := v.inside.WaitSIP(soon, "alice is registered", request("REGISTER")).Src

	from := func(host *lab.Host, address string, to netip.AddrPort) {
		conn, err := host.ListenUDP(address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for name, message := range malformed() {
			if _, err := conn.WriteTo(message, net.UDPAddrFromAddrPort(to)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	from(mallory, mallory.Addr.String()+":5060", officeSIP)
	from(v.PBX, "127.0.0.1:0", phonePort)
	for name, message := range malformed() {
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		conn, err := mallory.Dial(ctx, "tcp", officeSIP.String())
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = conn.SetDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = conn.Write(message)
		_, _ = conn.Read(make([]byte, 1)) // gives the proxy the time to read it
		_ = conn.Close()
	}
	if status := v.options(); status != 200 {
		t.Errorf("afterwards OPTIONS through the tunnel are answered with %d", status)
	}
	tunneld, tunnelproxy := v.unhurt(t)
	for _, counters := range []map[string]uint64{tunneld, tunnelproxy} {
		if counters["sip.refused.malformed"] == 0 {
			t.Error("one of the programs counted no malformed message")
		}
	}
}

// TestHostileFlows: one host of the LAN sends from as many ports as it likes, each of them a phone as far as anybody can tell.
func TestHostileFlows(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	mallory := v.Phone("mallory")
	for range many {
		conn, err := mallory.ListenUDP(mallory.Addr.String() + ":0")
		if err != nil {
			t.Fatal(err)
		}
		_, err = conn.WriteTo([]byte(registerRequest("mallory", mallory.Addr)), net.UDPAddrFromAddrPort(officeSIP))
		_ = conn.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	v.unhurt(t)
}

// TestBadMessageOnTCP: a message on a phone's TCP connection that cannot be understood does not take the next one down.
func TestBadMessageOnTCP(t *testing.T) {
	t.Parallel()
	tun := newTunnel(t, nil)
	host := tun.Phone("mallory")
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	conn, err := host.Dial(ctx, "tcp", officeSIP.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	bad := "INVITE carol SIP/2.0\r\nVia: nonsense\r\nFrom:\r\nCSeq: x\r\nContent-Length: 5\r\n\r\nabcde"
	good := fmt.Sprintf("OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/TCP %v:5060;branch=z9hG4bKgood\r\nMax-Forwards: 70\r\n"+
		"From: <sip:m@%[1]s>;tag=1\r\nTo: <sip:%[1]s>\r\nCall-ID: good\r\nCSeq: 7 OPTIONS\r\nContent-Length: 0\r\n\r\n", domain, host.Addr)
	if _, err := conn.Write([]byte(bad + good + bad + good)); err != nil {
		t.Fatal(err)
	}
	var answers []byte
	reader := bufio.NewReader(conn)
	for bytes.Count(answers, []byte("200 ")) < 1 || !bytes.Contains(answers, []byte("CSeq: 7 OPTIONS")) {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			t.Fatalf("no answer to the message after the bad one: %v; got %q", err, answers)
		}
		answers = append(answers, line...)
	}
}

// TestStolenClient: somebody with an office's password speaks the tunnel's protocol by the book and sends malformed SIP and
// other people's addresses through it.
func TestStolenClient(t *testing.T) {
	t.Parallel()
	v := startCall(t)
	client, err := v.softphone(t)
	if err != nil {
		t.Fatal(err)
	}
	p, err := client.Phone(t.Context(), "stolen")
	if err != nil {
		t.Fatal(err)
	}
	before := len(v.inside.SIP())
	for name, message := range malformed() {
		if _, err := p.WriteTo(message, nil); err != nil {
			t.Logf("%s is refused: %v", name, err)
		}
	}
	// SDP that has the PBX send media to somebody else: tunneld says 488, and the PBX never sees it.
	sdp := "v=0\r\no=- 1 1 IN IP4 172.20.0.103\r\ns=-\r\nc=IN IP4 172.20.0.103\r\nt=0 0\r\nm=audio 7078 RTP/AVP 0\r\n"
	local := p.LocalAddr().String()
	invite := fmt.Sprintf("INVITE sip:carol@%[1]s SIP/2.0\r\nVia: SIP/2.0/UDP %[2]s;branch=z9hG4bKstolen\r\nMax-Forwards: 70\r\n"+
		"From: <sip:alice@%[1]s>;tag=s\r\nTo: <sip:carol@%[1]s>\r\nCall-ID: stolen\r\nCSeq: 1 INVITE\r\nContact: <sip:alice@%[2]s>\r\n"+
		"Content-Type: application/sdp\r\nContent-Length: %[3]d\r\n\r\n%[4]s", domain, local, len(sdp), sdp)
	if _, err := p.WriteTo([]byte(invite), nil); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 65535)
	_ = p.SetReadDeadline(time.Now().Add(soon))
	for refused := false; !refused; {
		n, _, err := p.ReadFrom(buffer)
		if err != nil {
			t.Fatalf("SDP with another's address is not answered: %v", err)
		}
		answer, ok := (&pcap.Packet{Protocol: pcap.UDP, Payload: buffer[:n]}).SIP()
		refused = ok && answer.Header("Call-ID") == "stolen" && answer.Status == 488
	}
	for _, m := range v.inside.SIP()[before:] {
		if m.Header("Call-ID") == "stolen" && m.Method == "INVITE" {
			t.Error("the PBX was sent SDP with another's address")
		}
		if !m.Dst.Addr().IsLoopback() {
			t.Errorf("tunneld sent to %v", m.Dst)
		}
	}
	if err := client.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if status, _ := peers.Options(v.Office, officeSIP, "sip:"+domain); status != 200 {
		t.Errorf("afterwards OPTIONS through the tunnel are answered with %d", status)
	}
	if daemon, _ := v.unhurt(t); daemon["sip.refused.foreign_media_address"] == 0 {
		t.Error("SDP with another's address was not counted")
	}
}
