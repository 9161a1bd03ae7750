package config

import (
	"errors"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// Parse reads a command line into cli, a pointer to a kong grammar. It returns the context whose Run method runs the
// chosen command, or nil without error when the command line asked for help, which has then been written to stdout.
// Errors are *Error with ExitUsage, or ExitConfig when the file named by --config is at fault.
func Parse(cli any, program, description string, vars kong.Vars, args []string, stdout, stderr io.Writer) (*kong.Context, error) {
	helped := false
	parser, err := kong.New(cli,
		kong.Name(program),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		vars,
	)
	if err != nil {
		return nil, err
	}
	ctx, err := parser.Parse(args)
	if helped {
		return nil, nil
	}
	if err == nil {
		return ctx, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, e
	}
	return nil, &Error{Code: ExitUsage, Problem: strings.TrimSuffix(err.Error(), "."), Remedy: "see " + usageOf(program, err)}
}

// usageOf names the help that fits the place where a command line went wrong.
func usageOf(program string, err error) string {
	if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context != nil {
		if selected := e.Context.Selected(); selected != nil {
			return program + " " + selected.Path() + " --help"
		}
	}
	return program + " --help"
}
