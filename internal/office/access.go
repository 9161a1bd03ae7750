package office

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/tunnel"
)

// Files in the state directory, mode 0600.
const (
	serverFileName = "server.json" // what join stored
	pinsFileName   = "pins.json"   // keys of servers that were named by --server
)

// access is how to get into a server, and where the key that it showed is kept.
type access struct {
	link    tunnel.Link
	keepPin func(pin string) error
	forget  string // what to do to have another key accepted
}

// stored is the form of serverFileName.
type stored struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	Secret string `json:"secret"`
	Pin    string `json:"pin"`
}

func (f *serverFlags) access(dir string, stdin io.Reader) (*access, error) {
	if f.Server.IsZero() {
		if f.PasswordFile != "" || f.Name != "" {
			return nil, config.Errorf(config.ExitConfig, "add --server HOST:PORT, or leave both out and use a join link", "--name and --password-file need --server")
		}
		return joinedAccess(dir)
	}
	switch {
	case f.Server.IsWildcard():
		return nil, config.Errorf(config.ExitConfig, "give --server the name or address of the machine that tunneld runs on", "server %v is no address to connect to", f.Server)
	case f.PasswordFile == "":
		return nil, config.Errorf(config.ExitConfig, "add --password-file FILE, or leave --server out and use a join link", "--server needs --password-file")
	}
	password, err := config.ReadSecret("--password-file", f.PasswordFile, stdin)
	if err != nil {
		return nil, err
	}
	name := f.Name
	if name == "" {
		name = "default"
	}
	server := f.Server.WithPort(defaultServerPort).String()
	path := filepath.Join(dir, pinsFileName)
	pins, err := readPins(path)
	if err != nil {
		return nil, err
	}
	return &access{
		link: tunnel.Link{Server: server, Name: name, Secret: password, Pin: pins[server]},
		keepPin: func(pin string) error {
			pins[server] = pin
			return writeJSON(path, pins)
		},
		forget: fmt.Sprintf("if its administrator says that it was set up anew, remove %s from %s", server, path),
	}, nil
}

func readPins(path string) (map[string]string, error) {
	pins := map[string]string{}
	err := readJSON(path, &pins)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &config.Error{Code: config.ExitConfig, Problem: "keys of servers", Err: err, Remedy: "repair or remove " + path}
	}
	return pins, nil
}

func joinedAccess(dir string) (*access, error) {
	path := filepath.Join(dir, serverFileName)
	var s stored
	err := readJSON(path, &s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, config.Errorf(config.ExitConfig, "run once: tunnelproxy join - and paste the link (tunneld credential add NAME prints it), or use --server, --name and --password-file",
			"this office has not joined a server: there is no %s", path)
	case err != nil:
		return nil, &config.Error{Code: config.ExitConfig, Problem: "what join stored", Err: err, Remedy: "join again: tunnelproxy join -"}
	}
	return &access{
		link: tunnel.Link(s),
		keepPin: func(pin string) error {
			s.Pin = pin
			return writeJSON(path, s)
		},
		forget: "if its administrator says that it was set up anew, take a new link and run: tunnelproxy join -",
	}, nil
}

// readJSON never shows the content in its error: it may be a secret.
func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if json.Unmarshal(text, into) != nil {
		return fmt.Errorf("%s is damaged", path)
	}
	return nil
}

func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(text, '\n'))
}

// explain turns an error of the tunnel into one with a remedy and an exit code.
func explain(a *access, err error) error {
	if err == nil {
		return nil
	}
	fail := func(code config.Exit, problem, remedy string) error {
		return &config.Error{Code: code, Problem: a.link.Server + " " + problem, Remedy: remedy}
	}
	throttled, isThrottled := errors.AsType[*tunnel.ThrottledError](err)
	switch {
	case errors.Is(err, tunnel.ErrRefused):
		return fail(config.ExitRefused, fmt.Sprintf("does not accept the name %q with this password", a.link.Name),
			"check both, or ask for a new link: tunneld credential rotate "+a.link.Name)
	case errors.Is(err, tunnel.ErrServerProof):
		return fail(config.ExitRefused, "does not know the password itself, so it is not the server that it is for",
			"check the address of the server, and the network between")
	case isThrottled:
		return fail(config.ExitRefused, "has had too many wrong passwords from here", fmt.Sprintf("wait %v, then try the right one", throttled.RetryAfter))
	case errors.Is(err, tunnel.ErrKeyChanged):
		return fail(config.ExitKeyChanged, "has another key than before: it was set up anew, or somebody is posing as it", a.forget)
	case errors.Is(err, tunnel.ErrVersion):
		return fail(config.ExitVersion, "does not speak "+tunnel.Protocol, "bring tunneld and tunnelproxy to the same release")
	case errors.Is(err, tunnel.ErrNotTunneld):
		return fail(config.ExitVersion, "is not a tunneld", "check host and port, and what is in between (a proxy, a captive portal)")
	}
	return &config.Error{Code: config.ExitUnreachable, Problem: a.link.Server + " cannot be reached", Err: cause(err),
		Remedy: "check the address, that tunneld runs, and that its port is open"}
}

// cause takes from an error what the system said, where that is in it: the rest has been said.
func cause(err error) error {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}

// isDefinite reports whether trying again without a change by somebody is of no use.
func isDefinite(err error) bool {
	for _, target := range []error{tunnel.ErrRefused, tunnel.ErrServerProof, tunnel.ErrKeyChanged, tunnel.ErrVersion, tunnel.ErrNotTunneld} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
