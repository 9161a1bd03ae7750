package office

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
)

const (
	program     = "tunnelproxy"
	description = "The end of the tunnel in the office: phones use this machine as their outbound proxy and reach the PBX through tunneld."
	socketName  = program + ".sock"
	// protocol is what versions of both ends must agree on.
	protocol = "siptunnel/1"
)

// common is what every command takes.
type common struct {
	Config   config.File `placeholder:"FILE" help:"Take the settings that are not on the command line from this YAML file. Its keys are the long flags of serve, without the dashes."`
	StateDir string      `setting:"" placeholder:"DIR" default:"${state_dir}" help:"Directory of what join stored and of the control socket. Default: ${default}."`
}

func (c *common) client() *admin.Client {
	return admin.NewClient(program, filepath.Join(c.StateDir, socketName))
}

type cli struct {
	common
	Join    joinCommand    `cmd:"" help:"Store a join link, once, after trying it."`
	Serve   serveCommand   `cmd:"" help:"Run the proxy."`
	Status  statusCommand  `cmd:"" help:"Show the tunnel, phones, calls and what was dropped."`
	Check   checkCommand   `cmd:"" help:"Check settings and surroundings: is the server reachable, the password right, the SIP port free."`
	Version versionCommand `cmd:"" help:"Show the version."`
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

func (versionCommand) Run(s *streams) error { return config.WriteVersion(s.out, program, protocol) }
