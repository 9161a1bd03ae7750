package probe

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// TestNothingListens: the answer that there will be none is not waited for.
func TestNothingListens(t *testing.T) {
	for _, ip := range []string{"127.0.0.1", "::1"} {
		conn, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Skip(err)
		}
		peer := Peer{Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), Transport: "UDP", Host: "pbx.example"}
		conn.Close()
		start := time.Now()
		if _, err := Options(t.Context(), peer); !errors.Is(err, errRefused) || time.Since(start) > Timeout/2 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	}
}

// TestSilence: what listens and says nothing is waited for.
func TestSilence(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = Options(ctx, Peer{Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), Transport: "UDP", Host: "pbx.example"})
	if err == nil || errors.Is(err, errRefused) || time.Since(start) < 200*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}
