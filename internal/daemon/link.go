package daemon

import (
	"fmt"
	"io"

	"go.uber.org/zap"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/joinlink"
	"github.com/siptunnel/siptunnel/internal/logging"
)

const (
	defaultCredential = "default"
	linkFileName      = "join-link"
)

// link is the line that connects an office. It holds the secret.
func link(public config.Endpoint, name, secret, pin string) string {
	return joinlink.Link{Server: public.String(), Name: name, Secret: secret, Pin: pin}.Reveal()
}

// firstStart makes the credential that the first office connects with, and hands its link over: to the person at the
// terminal, else into a file that only this user can read.
func firstStart(store *auth.Store, dir *config.StateDir, p *place, pin string, stdout io.Writer, log *zap.Logger) error {
	if p.public.IsZero() {
		log.Warn("first start: no join link is made, as this machine has no address that it could name; " + publicRemedy +
			", and make one with: tunneld credential add NAME")
		return nil
	}
	secret, err := store.Add(defaultCredential, "")
	if err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	line := link(p.public, defaultCredential, secret, pin)
	if logging.IsTerminal(stdout) {
		_, err := fmt.Fprintf(stdout, "\nThis is the first start, with a link for the office (it is not shown again):\n\n  %s\n\nThere run once, and paste it:  tunnelproxy join -\n\n", line)
		return err
	}
	path := dir.Path(linkFileName)
	if err := atomicfile.Write(path, []byte(line+"\n")); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	log.Info("first start: the join link of credential default is in a file; take it to the office, run there: tunnelproxy join - <join-link, and remove it", zap.String("file", path))
	return nil
}
