// Command tunnelproxy is the end of the tunnel in the office: the outbound proxy of its phones. See `tunnelproxy --help`.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/emiago/sipgo/sip"

	"github.com/siptunnel/siptunnel/internal/office"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signal.Ignore(syscall.SIGHUP)                       // A closed terminal or a habit of log rotation must not end calls.
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler)) // It belongs to the process; what matters comes back as errors.
	return office.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
