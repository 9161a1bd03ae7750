// Package admin is the control socket of both programs: HTTP with JSON over a Unix socket of mode 0600 in the state
// directory. Whoever may open the socket, its owner and root, may do everything; there is no further authentication.
//
// The same binary is server and client: `tunneld serve` answers what `tunneld status` asks. The paths and the JSON are
// stable enough for scripts (`curl --unix-socket`): fields are added, not renamed.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/siptunnel/siptunnel/internal/config"
)

// Limits of both ends.
const (
	maxRequest  = 16 << 10
	maxResponse = 64 << 20
	maxPath     = 107 // sun_path of unix(7), with its final zero byte
	callTimeout = 10 * time.Second
)

// Listen makes the control socket. The caller holds the lock of the state directory, so a socket that is already there
// was left behind and is replaced. The socket is never open to others, not even for a moment: it is bound in a private
// directory and gets its name once its mode is right.
func Listen(path string) (net.Listener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".")
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	if max(len(path), len(hidden)) > maxPath {
		return nil, config.Errorf(config.ExitConfig, "choose a shorter --state-dir", "the control socket's path %s is too long", path)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	err = os.Chmod(hidden, 0o600)
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return &listener{UnixListener: ln, path: path}, nil
}

// listener removes the socket's name when it closes.
type listener struct {
	*net.UnixListener
	path string
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	if errRemove := os.Remove(l.path); err == nil && !errors.Is(errRemove, fs.ErrNotExist) {
		err = errRemove
	}
	return err
}

// Server answers on the control socket.
type Server struct {
	http *http.Server
	done chan struct{}
}

// Serve answers requests that come in on ln with routes until Close.
func Serve(ln net.Listener, routes http.Handler) *Server {
	s := &Server{
		http: &http.Server{
			Handler:           http.MaxBytesHandler(routes, maxRequest),
			ReadHeaderTimeout: callTimeout,
			ReadTimeout:       callTimeout,
			WriteTimeout:      callTimeout,
			IdleTimeout:       callTimeout,
			MaxHeaderBytes:    maxRequest,
		},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(ln) // Ends with ErrServerClosed, or when ln breaks, which leaves the rest of the program at work.
	}()
	return s
}

// Close ends the server; requests that are being answered get up to a second.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	<-s.done
	return err
}

// failure is an error as it crosses the socket.
type failure struct {
	Error  string      `json:"error"`
	Remedy string      `json:"remedy,omitempty"`
	Exit   config.Exit `json:"exit"`
}

// Route makes a handler of a function: its argument is the request's JSON body (none: the zero value), its result is the
// answer's. An error crosses the socket with its remedy and exit code.
func Route[In, Out any](f func(r *http.Request, in In) (Out, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in In
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			reply(w, http.StatusBadRequest, failure{Error: "the request is not understood: " + err.Error(), Exit: config.ExitUsage})
			return
		}
		out, err := f(r, in)
		if err != nil {
			reply(w, http.StatusUnprocessableEntity, failureOf(err))
			return
		}
		reply(w, http.StatusOK, out)
	})
}

func failureOf(err error) failure {
	if e, ok := errors.AsType[*config.Error](err); ok {
		text := e.Problem
		if e.Err != nil {
			text += ": " + e.Err.Error()
		}
		return failure{Error: text, Remedy: e.Remedy, Exit: e.Code}
	}
	return failure{Error: err.Error(), Exit: config.ExitFailed}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // The client has gone; nobody is left to tell.
}

// Client asks the program that runs with a state directory.
type Client struct {
	program, path string
	http          *http.Client
}

// NewClient makes the client of the control socket at path; program is whose it is, for errors.
func NewClient(program, path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{program: program, path: path, http: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true},
		Timeout:   callTimeout,
	}}
}

// Call sends in (nil: no body) and decodes the answer into out (nil: not wanted). When the program does not run the
// error is a *config.Error with ExitNotRunning; an error of the program itself comes with its own remedy and exit code.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.program+path, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.dialError(err)
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(io.LimitReader(response.Body, maxResponse))
	if response.StatusCode != http.StatusOK {
		var f failure
		if err := decoder.Decode(&f); err != nil || f.Error == "" {
			return fmt.Errorf("%s answered %s on its control socket; are both of the same version?", c.program, response.Status)
		}
		return &config.Error{Code: f.Exit, Problem: f.Error, Remedy: f.Remedy}
	}
	if out == nil {
		return nil
	}
	if err := decoder.Decode(out); err != nil {
		return fmt.Errorf("the answer of %s is not understood: %w", c.program, err)
	}
	return nil
}

func (c *Client) dialError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return config.Errorf(config.ExitNotRunning, "run this as root, or as the user that "+c.program+" runs as",
			"no permission to open %s", c.path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return config.Errorf(config.ExitNotRunning, fmt.Sprintf("start %s serve, or name its directory with --state-dir", c.program),
			"%s is not running: nothing answers on %s", c.program, c.path)
	}
	return &config.Error{Code: config.ExitNotRunning, Problem: c.program + " does not answer on " + c.path, Err: err}
}
