// Siptunnel-demo shows siptunnel at work on this machine: a small PBX, tunneld, tunnelproxy and two
// phones that call each other through them and measure what they hear. It exits with 0 only if all
// was heard.
//
//	go run ./cmd/siptunnel-demo          # the demo
//	go run ./cmd/siptunnel-demo -keep    # the same, and then it stays, for real phones
//	go run ./cmd/siptunnel-demo -direct-media
//	                                     # two phones of one office, whose audio stays there
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/emiago/sipgo/sip"
	"golang.org/x/term"

	"github.com/siptunnel/siptunnel/internal/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("siptunnel-demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var cfg demo.Config
	flags.StringVar(&cfg.Bin, "bin", "", "`directory` with tunneld and tunnelproxy; without it they are built")
	flags.BoolVar(&cfg.DirectMedia, "direct-media", false, "have the PBX send the phones to each other, and see their audio stay in the office")
	flags.BoolVar(&cfg.Keep, "keep", false, "leave everything running, for real phones")
	flags.TextVar(&cfg.LAN, "lan", netip.Addr{}, "with -keep, the `address` that real phones can reach (default: that of the default route)")
	port := flags.Uint("sip-port", 0, "the `port` that phones use at tunnelproxy (default: 5060, or the next free one)")
	flags.DurationVar(&cfg.Talk, "talk", 3*time.Second, "how long the measured calls last")
	flags.DurationVar(&cfg.Patience, "patience", 10*time.Second, "how long a step may take")
	flags.Func("break", fmt.Sprintf("break a `link` and see the demo fail: one of %v", demo.Breaks()), func(s string) error {
		for _, b := range demo.Breaks() {
			if s == string(b) {
				cfg.Break = b
				return nil
			}
		}
		return fmt.Errorf("there is no such link")
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || *port > 65535 {
		fmt.Fprintln(stderr, "siptunnel-demo: see -help for what it takes")
		return 2
	}
	cfg.SIPPort = uint16(*port)
	// Connections of sipgo log to its default logger, whatever logger they are given.
	sip.SetDefaultLogger(slog.New(slog.DiscardHandler))
	cfg.Out = stdout
	if f, ok := stdout.(*os.File); ok && os.Getenv("NO_COLOR") == "" {
		cfg.Color = term.IsTerminal(int(f.Fd()))
	}
	if err := demo.Run(ctx, cfg); err != nil {
		fmt.Fprintf(stderr, "siptunnel-demo: %v\n", err)
		return 1
	}
	return 0
}
