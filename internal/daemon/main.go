package daemon

import (
	"context"
	"io"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/program"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const name = "tunneld"

func tunneld() program.Program {
	return program.Program{
		Name:        name,
		Description: "The end of the tunnel beside the PBX: offices connect to it, and the PBX sees their phones on this machine.",
		StateDir:    "the key and the credentials",
		Protocol:    wire.ALPN,
	}
}

type cli struct {
	program.Common
	Serve      serveCommand           `cmd:"" help:"Run the daemon. Needs no settings beside a PBX on this machine."`
	Credential credentialCommand      `cmd:"" help:"Passwords of offices: add, list, rotate, revoke. The daemon must be running."`
	Status     statusCommand          `cmd:"" help:"Show sessions, phones, calls and what was dropped."`
	Check      checkCommand           `cmd:"" help:"Check settings and surroundings: does the PBX answer, are ports free, are the keys safe."`
	Version    program.VersionCommand `cmd:"" help:"Show the version."`
}

type statusCommand = program.StatusCommand[admin.DaemonStatus, *admin.DaemonStatus]

// Main runs a command line (without the program's name) and returns the exit code. It returns once ctx is done, also
// from serve.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var line cli
	return tunneld().Main(ctx, &line, &line.Common, args, program.Streams{In: stdin, Out: stdout, Err: stderr})
}
