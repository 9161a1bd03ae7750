package tunnel

import (
	"fmt"
	"io"

	"github.com/siptunnel/siptunnel/internal/joinlink"
)

// Link is what a join link says: how to reach a server, and the credential.
// The formats of package fmt show it without its secret.
type Link struct {
	Server string // host:port
	Name   string
	Secret string
	Pin    string
}

// ParseLink parses a join link, siptunnel://NAME:SECRET@HOST:PORT#PIN, as
// tunneld prints it. White space around it does not matter.
func ParseLink(s string) (Link, error) {
	l, err := joinlink.Parse(s)
	return Link{Server: l.Server, Name: l.Name, Secret: l.Secret, Pin: l.Pin}, err
}

// String returns the link without its secret.
func (l Link) String() string { return l.internal().String() }

// Format shows the link without its secret, whatever the verb.
func (l Link) Format(f fmt.State, _ rune) { io.WriteString(f, l.String()) }

func (l Link) internal() joinlink.Link {
	return joinlink.Link{Server: l.Server, Name: l.Name, Secret: l.Secret, Pin: l.Pin}
}

// Config returns a configuration that connects as the link says.
func (l Link) Config() Config {
	return Config{Server: l.Server, Name: l.Name, Password: l.Secret, Pin: l.Pin}
}
