package sipmsg_test

import (
	"os"
	"testing"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/sipmsg"
)

// BenchmarkPeers parses the same INVITE and prints it again, unchanged, beside
// the parser of sipgo, which is made for user agents.
func BenchmarkPeers(b *testing.B) {
	msg, err := os.ReadFile("testdata/yealink-t46u-invite.sip")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sipmsg", func(b *testing.B) {
		b.ReportAllocs()
		var m sipmsg.Message
		var dst []byte
		for b.Loop() {
			if err := m.Parse(msg); err != nil {
				b.Fatal(err)
			}
			dst = m.AppendTo(dst[:0])
		}
	})
	b.Run("sipgo", func(b *testing.B) {
		b.ReportAllocs()
		p := sip.NewParser()
		for b.Loop() {
			m, err := p.ParseSIP(msg)
			if err != nil {
				b.Fatal(err)
			}
			_ = m.String()
		}
	})
}
