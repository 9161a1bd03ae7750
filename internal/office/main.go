package office

import (
	"context"
	"io"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/program"
	"github.com/siptunnel/siptunnel/tunnel"
)

const name = "tunnelproxy"

func tunnelproxy() program.Program {
	return program.Program{
		Name:        name,
		Description: "The end of the tunnel in the office: phones use this machine as their outbound proxy and reach the PBX through tunneld.",
		StateDir:    "what join stored",
		Protocol:    tunnel.Protocol,
	}
}

type cli struct {
	program.Common
	Join    joinCommand            `cmd:"" help:"Store a join link, once, after trying it."`
	Serve   serveCommand           `cmd:"" help:"Run the proxy."`
	Status  statusCommand          `cmd:"" help:"Show the tunnel, phones, calls and what was dropped."`
	Check   checkCommand           `cmd:"" help:"Check settings and surroundings: is the server reachable, the password right, the SIP port free."`
	Version program.VersionCommand `cmd:"" help:"Show the version."`
}

type statusCommand = program.StatusCommand[admin.ProxyStatus, *admin.ProxyStatus]

// Main runs a command line (without the program's name) and returns the exit code. It returns once ctx is done, also
// from serve.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var line cli
	return tunnelproxy().Main(ctx, &line, &line.Common, args, program.Streams{In: stdin, Out: stdout, Err: stderr})
}
