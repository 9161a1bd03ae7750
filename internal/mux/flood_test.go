package mux

import (
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/siptunnel/siptunnel/internal/wire"
)

// TestFloodIsExplained: whoever runs the server learns why a client is disconnected
// again and again, and what to do, but not once for each time.
func TestFloodIsExplained(t *testing.T) {
	for _, tt := range []struct {
		name, counter, says string
		do                  func(*testServer, *rawClient)
	}{
		{"streams", "tunnel.closed.too_many_streams", "floods", func(ts *testServer, r *rawClient) {
			ts.session().s.tellEnd(errManyStreams) // of the guard; refused streams may end the connection first
			r.ys.Close()
		}},
		{"pings", "tunnel.closed.too_many_pings", "floods", func(_ *testServer, r *rawClient) {
			for range 2 * pingBurst {
				if _, err := r.ys.Ping(); err != nil {
					return
				}
			}
		}},
		{"protocol", "tunnel.closed.protocol_error", "broke the protocol", func(_ *testServer, r *rawClient) {
			r.control.Write([]byte{byte(wire.TypeBye), 0, 0, 1, 0})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			core, logs := observer.New(zapcore.WarnLevel)
			ts := newTestServer(t, func(c *ServerConfig) { c.Logger = zap.New(core) })
			for range 2 {
				r := ts.raw(t)
				r.attach(wire.Attach{Epoch: 1})
				r.signalling()
				tt.do(ts, r)
				r.gone()
			}
			until(t, func() bool { return ts.counters.Snapshot()[tt.counter] == 2 })
			ts.stop() // nobody logs any more
			all := logs.All()
			if len(all) != 1 || !strings.Contains(all[0].Message, tt.says) || all[0].ContextMap()["credential"] != "office" {
				t.Errorf("logged %v", all)
			}
		})
	}
}
