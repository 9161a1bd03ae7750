package daemon

import (
	"context"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/wire"
)

const (
	program     = "tunneld"
	description = "The end of the tunnel beside the PBX: offices connect to it, and the PBX sees their phones on this machine."
	socketName  = program + ".sock"
)

// common is what every command takes.
type common struct {
	Config   config.File `placeholder:"FILE" help:"Take the settings that are not on the command line from this YAML file. Its keys are the long flags of serve, without the dashes."`
	StateDir string      `setting:"" placeholder:"DIR" default:"${state_dir}" help:"Directory of the key, the credentials and the control socket. Default: ${default}."`
}

func (c *common) client() *admin.Client { return admin.NewClient(program, c.StateDir+"/"+socketName) }

type cli struct {
	common
	Serve      serveCommand      `cmd:"" help:"Run the daemon. Needs no settings beside a PBX on this machine."`
	Credential credentialCommand `cmd:"" help:"Passwords of offices: add, list, rotate, revoke. The daemon must be running."`
	Status     statusCommand     `cmd:"" help:"Show sessions, phones, calls and what was dropped."`
	Check      checkCommand      `cmd:"" help:"Check settings and surroundings: does the PBX answer, are ports free, are the keys safe."`
	Version    versionCommand    `cmd:"" help:"Show the version."`
}

// streams are the standard streams of the process.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// Main runs a command line (without the program's name) and returns the exit code. It returns once ctx is done, also
// from serve.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var line cli
	vars := kong.Vars{"state_dir": config.DefaultStateDir(os.Getenv)}
	parsed, err := config.Parse(&line, program, description, vars, args, stdout, stderr)
	if err == nil && parsed != nil {
		parsed.BindTo(ctx, (*context.Context)(nil))
		err = parsed.Run(&line.common, &streams{stdin, stdout, stderr})
	}
	return int(config.Report(stderr, program, err))
}

type versionCommand struct{}

func (versionCommand) Run(s *streams) error { return config.WriteVersion(s.out, program, wire.ALPN) }
