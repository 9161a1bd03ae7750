package office

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/logging"
	"github.com/siptunnel/siptunnel/internal/program"
	"github.com/siptunnel/siptunnel/tunnel"
)

// tryTimeout is how long a server has to let somebody in who tries the credential.
const tryTimeout = 15 * time.Second

type joinCommand struct {
	Link    string `arg:"" help:"Where the link is: - for standard input, or a file. The link itself is taken too, but others can read it in the list of processes."`
	Offline bool   `help:"Store the link without trying it."`
}

func (c *joinCommand) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	text := c.Link
	if !strings.HasPrefix(strings.TrimSpace(text), "siptunnel:") {
		if text == "-" && logging.IsTerminal(s.In) {
			fmt.Fprint(s.Err, "join link: ")
		}
		var err error
		if text, err = config.ReadSecret("link", text, s.In); err != nil {
			return err
		}
	}
	link, err := tunnel.ParseLink(text)
	if err != nil {
		return &config.Error{Code: config.ExitConfig, Problem: "this is no join link", Err: err, Remedy: "run tunnelproxy join - and paste it there: then it need not be quoted, and stays out of the shell's history"}
	}
	if err := config.MakeStateDir(common.StateDir); err != nil {
		return err
	}
	if !c.Offline {
		a := &access{link: link, forget: "ask for a new link"}
		found, err := try(ctx, a)
		if err != nil {
			return err
		}
		link.Pin = found.Pin
	}
	path := filepath.Join(common.StateDir, serverFileName)
	if err := writeJSON(path, stored(link)); err != nil {
		return &config.Error{Code: config.ExitFailed, Problem: "the link cannot be stored", Err: err}
	}
	next := "Now run: tunnelproxy serve"
	if err := tunnelproxy().Client(common).Call(ctx, http.MethodGet, "/v1/status", nil, nil); err == nil {
		next = "The tunnelproxy that runs goes on with what it had: restart it."
	}
	_, err = fmt.Fprintf(s.Out, "%s is the server of this office, as %s (stored in %s). %s\n", link.Server, link.Name, path, next)
	return err
}

// try connects once. The library would dial for ever; who waits at a terminal wants to know what the first attempt met.
func try(ctx context.Context, a *access) (tunnel.Status, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tryTimeout, errors.New("no answer in time"))
	defer cancel()
	ctx, failed := context.WithCancelCause(ctx)
	defer failed(nil)
	dial := a.link.Config()
	dial.Software = software()
	dial.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			failed(err)
		}
		return conn, err
	}
	client, err := tunnel.Dial(ctx, dial)
	if cause := context.Cause(ctx); err != nil && cause != nil && !isDefinite(err) {
		err = cause
	}
	if err != nil {
		return tunnel.Status{}, explain(a, err)
	}
	status := client.Status()
	status.Pin = client.Pin()
	return status, client.Close()
}

func software() string { return name + " " + config.Version() }
