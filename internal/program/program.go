// Package program is what tunneld and tunnelproxy have in common as programs: the flags that every command takes, the
// way from a command line to an exit code, and the life of `serve` from its start to an end in reverse order. What the
// programs do is none of its business.
package program

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/alecthomas/kong"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/doze"
)

// Program is one of the two.
type Program struct {
	Name        string
	Description string // for --help
	StateDir    string // what its state directory holds, for --help
	Protocol    string // what the other end has to speak too
}

// Common is what every command takes.
type Common struct {
	Config   config.File `placeholder:"FILE" help:"Take the settings that are not on the command line from this YAML file. Its keys are the long flags of serve, without the dashes."`
	StateDir string      `setting:"" placeholder:"DIR" default:"${state_dir}" help:"Directory of ${state_dir_holds}, and of the control socket. Default: ${default}."`
}

// Streams are the standard streams of the process.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Client asks the program that runs with the state directory of the command line.
func (p Program) Client(c *Common) *admin.Client {
	return admin.NewClient(p.Name, filepath.Join(c.StateDir, p.SocketName()))
}

// SocketName is the name of the control socket in the state directory.
func (p Program) SocketName() string { return p.Name + ".sock" }

// Vars are what the help texts of Common are filled in with.
func (p Program) Vars() kong.Vars {
	return kong.Vars{"state_dir": config.DefaultStateDir(os.Getenv), "state_dir_holds": p.StateDir}
}

// heapGrowth is by how much, in percent, the heap grows before garbage is collected. What
// allocates is signalling, some 10 kB a call at each end, and not the packets. Collecting
// twice as often as the runtime would costs 40 us of CPU time a call and 10 us a
// registration, and saves more than 1 kB of memory a call.
const heapGrowth = 50

// Main runs a command line (without the program's name) and returns the exit code. cli is a pointer to the kong grammar,
// common the one in it. The Run methods of commands may ask for a context.Context, a *Common and a *Streams. It returns
// once ctx is done, also from serve.
func (p Program) Main(ctx context.Context, cli any, common *Common, args []string, s Streams) int {
	doze.MakeRoom()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
	parsed, err := config.Parse(cli, p.Name, p.Description, p.Vars(), args, s.Out, s.Err)
	if err == nil && parsed != nil {
		parsed.BindTo(ctx, (*context.Context)(nil))
		err = parsed.Run(p, common, &s)
	}
	return int(config.Report(s.Err, p.Name, err))
}

// VersionCommand shows the version.
type VersionCommand struct{}

// Run is kong's.
func (VersionCommand) Run(p Program, s *Streams) error {
	return config.WriteVersion(s.Out, p.Name, p.Protocol)
}

// StatusCommand shows what the running program says of itself. S is the answer to GET /v1/status.
type StatusCommand[S any, P interface {
	*S
	WriteTable(w io.Writer, now time.Time) error
}] struct {
	JSON bool `name:"json" help:"Print JSON."`
}

// Run is kong's.
func (c *StatusCommand[S, P]) Run(ctx context.Context, p Program, common *Common, s *Streams) error {
	var status S
	if err := p.Client(common).Call(ctx, http.MethodGet, "/v1/status", nil, &status); err != nil {
		return err
	}
	if c.JSON {
		return admin.WriteJSON(s.Out, status)
	}
	return P(&status).WriteTable(s.Out, time.Now())
}
