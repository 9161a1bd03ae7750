package daemon

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/siptunnel/siptunnel/internal/probe"
)

// answerOnce answers the first datagram with a 404 that repeats what a response must repeat.
func answerOnce(t *testing.T, ip string) (netip.AddrPort, func() []byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { conn.Close() })
	got := make(chan []byte, 1)
	go func() {
		buffer := make([]byte, 65535)
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var reply bytes.Buffer
		reply.WriteString("SIP/2.0 404 Not Found\r\n")
		for line := range bytes.SplitSeq(buffer[:n], []byte("\r\n")) {
			for _, name := range []string{"Via:", "From:", "To:", "Call-ID:", "CSeq:"} {
				if bytes.HasPrefix(line, []byte(name)) {
					reply.Write(line)
					reply.WriteString("\r\n")
				}
			}
		}
		reply.WriteString("Content-Length: 0\r\n\r\n")
		conn.WriteTo(reply.Bytes(), from)
		got <- buffer[:n]
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), func() []byte { return <-got }
}

func TestAnyAnswerToOptionsCounts(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			pbx, request := answerOnce(t, ip)
			rtt, err := way{transport: "udp"}.askOptions(t.Context(), target{addr: pbx}, "pbx.example")
			if err != nil {
				t.Fatal(err)
			}
			if rtt <= 0 || rtt > probe.Timeout {
				t.Errorf("round trip %v", rtt)
			}
			if text := request(); !bytes.HasPrefix(text, []byte("OPTIONS sip:pbx.example SIP/2.0\r\n")) {
				t.Errorf("sent %q", text)
			}
		})
	}
}

func TestSilenceIsAnError(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = way{transport: "udp"}.askOptions(ctx, target{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}, "127.0.0.1")
	if err == nil {
		t.Error("silence was taken for an answer")
	}
}
