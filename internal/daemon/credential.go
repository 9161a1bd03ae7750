package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/siptunnel/siptunnel/internal/admin"
	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/program"
)

type credentialCommand struct {
	Add    credentialAdd    `cmd:"" help:"Make a credential and print its secret and join link."`
	List   credentialList   `cmd:"" help:"List the credentials."`
	Rotate credentialRotate `cmd:"" help:"Give a credential a new secret. The old one works too, until the next rotation or 'revoke --old'."`
	Revoke credentialRevoke `cmd:"" help:"Remove a credential. Its sessions end at once."`
}

// newSecret is a request to make or rotate a credential; an empty password has one generated.
type newSecret struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"`
}

// issued is a credential as its owner needs to know it. It is the only answer with a secret in it.
type issued struct {
	Name   string `json:"name"`
	Secret string `json:"secret"`
	Link   string `json:"link"`
}

// credential is a line of the list.
type credential struct {
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Rotated   time.Time `json:"rotated,omitzero"`
	Verifiers int       `json:"verifiers"` // 2 while the secret before the last rotation works too
	LastUsed  time.Time `json:"last_used,omitzero"`
	Sessions  int       `json:"sessions"`
}

// secretFlags are the flags of the commands that print a secret.
type secretFlags struct {
	PasswordFile string `placeholder:"FILE" help:"Take the password from this file (- is standard input) and do not generate one."`
	LinkOnly     bool   `short:"q" help:"Print the join link and nothing else."`
	JSON         bool   `name:"json" help:"Print JSON."`
}

// run has the daemon make a secret by a POST to path, and prints it.
func (f *secretFlags) run(ctx context.Context, common *program.Common, s *program.Streams, path, name, done string) error {
	in := newSecret{Name: name}
	if f.PasswordFile != "" {
		var err error
		if in.Password, err = config.ReadSecret("--password-file", f.PasswordFile, s.In); err != nil {
			return err
		}
	}
	var made issued
	if err := tunneld().Client(common).Call(ctx, http.MethodPost, path, in, &made); err != nil {
		return err
	}
	return f.print(s.Out, done, made)
}

func (f *secretFlags) print(w io.Writer, done string, made issued) error {
	switch {
	case f.JSON:
		return admin.WriteJSON(w, made)
	case f.LinkOnly:
		_, err := fmt.Fprintln(w, made.Link)
		return err
	}
	_, err := fmt.Fprintf(w, "credential %s %s\n\n  secret  %s\n  link    %s\n\nIn the office run once, and paste the link:  tunnelproxy join -\n", made.Name, done, made.Secret, made.Link)
	return err
}

type credentialAdd struct {
	secretFlags
	Name string `arg:"" help:"Name of the office: a-z, 0-9, dot, hyphen, underscore."`
}

func (c *credentialAdd) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	return c.run(ctx, common, s, "/v1/credentials", c.Name, "added")
}

type credentialRotate struct {
	secretFlags
	Name string `arg:"" help:"Name of the credential."`
}

func (c *credentialRotate) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	return c.run(ctx, common, s, "/v1/credentials/"+url.PathEscape(c.Name)+"/rotate", c.Name,
		"rotated; the old secret works too until the next rotation or 'credential revoke --old "+c.Name+"'")
}

type credentialRevoke struct {
	Name string `arg:"" help:"Name of the credential."`
	Old  bool   `help:"Revoke only the secret before the last rotation."`
}

func (c *credentialRevoke) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	path, done := "/v1/credentials/"+url.PathEscape(c.Name), "revoked; its sessions are over"
	if c.Old {
		path, done = path+"/old", "has only its new secret now"
	}
	if err := tunneld().Client(common).Call(ctx, http.MethodDelete, path, nil, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.Out, "credential %s %s\n", c.Name, done)
	return err
}

type credentialList struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (c *credentialList) Run(ctx context.Context, common *program.Common, s *program.Streams) error {
	var list []credential
	if err := tunneld().Client(common).Call(ctx, http.MethodGet, "/v1/credentials", nil, &list); err != nil {
		return err
	}
	if c.JSON {
		return admin.WriteJSON(s.Out, list)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(s.Out, "there are no credentials: nobody can connect. Make one with: tunneld credential add NAME")
		return err
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCREATED\tROTATED\tSECRETS\tLAST USED\tSESSIONS")
	for _, e := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%d\n", e.Name, day(e.Created), day(e.Rotated), e.Verifiers, day(e.LastUsed), e.Sessions)
	}
	return w.Flush()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// credentials answers the commands above, inside the daemon.
type credentials struct {
	store    *auth.Store
	public   func() config.Endpoint // zero: not known just now
	pin      string
	sessions func() map[string]int // by credential
}

func (c *credentials) routes(mux *http.ServeMux) {
	mux.Handle("GET /v1/credentials", admin.Route(c.list))
	mux.Handle("POST /v1/credentials", admin.Route(c.add))
	mux.Handle("POST /v1/credentials/{name}/rotate", admin.Route(c.rotate))
	mux.Handle("DELETE /v1/credentials/{name}", admin.Route(c.revoke))
	mux.Handle("DELETE /v1/credentials/{name}/old", admin.Route(c.revokeOld))
}

func (c *credentials) list(*http.Request, struct{}) ([]credential, error) {
	sessions := c.sessions()
	list := []credential{}
	for _, info := range c.store.List() {
		list = append(list, credential{
			Name: info.Name, Created: info.Created, Rotated: info.Rotated,
			Verifiers: info.Verifiers, LastUsed: info.LastUsed, Sessions: sessions[info.Name],
		})
	}
	return list, nil
}

func (c *credentials) add(_ *http.Request, in newSecret) (issued, error) {
	return c.issue(in.Name, func() (string, error) { return c.store.Add(in.Name, in.Password) })
}

func (c *credentials) rotate(r *http.Request, in newSecret) (issued, error) {
	name := r.PathValue("name")
	return c.issue(name, func() (string, error) { return c.store.Rotate(name, in.Password) })
}

func (c *credentials) revoke(r *http.Request, _ struct{}) (struct{}, error) {
	name := r.PathValue("name")
	return struct{}{}, credentialError(name, c.store.Revoke(name))
}

func (c *credentials) revokeOld(r *http.Request, _ struct{}) (struct{}, error) {
	name := r.PathValue("name")
	return struct{}{}, credentialError(name, c.store.DropOld(name))
}

// issue makes a secret and its link, or neither.
func (c *credentials) issue(name string, secret func() (string, error)) (issued, error) {
	public := c.public()
	if public.IsZero() {
		return issued{}, config.Errorf(config.ExitTaken, publicRemedy, "this machine has no address that a join link could name")
	}
	text, err := secret()
	if err != nil {
		return issued{}, credentialError(name, err)
	}
	return issued{Name: name, Secret: text, Link: link(public, name, text, c.pin)}, nil
}

// credentialError says what to do about it.
func credentialError(name string, err error) error {
	if err == nil {
		return nil
	}
	fail := func(code config.Exit, problem, remedy string) error {
		return config.Errorf(code, remedy, "credential %s: %s", name, problem)
	}
	weak, isWeak := errors.AsType[*auth.WeakPasswordError](err)
	switch {
	case isWeak:
		return fail(config.ExitConfig, "the password "+weak.Reason, "choose another, or leave --password-file out to have one generated")
	case errors.Is(err, auth.ErrPasswordReused):
		return fail(config.ExitConfig, "this is its present password", "take another, or leave --password-file out")
	case errors.Is(err, auth.ErrName):
		return fail(config.ExitUsage, "not a name for a credential", "1 to 63 of a-z 0-9 . _ - beginning with a letter or digit")
	case errors.Is(err, auth.ErrExists):
		return fail(config.ExitFailed, "it exists", "rotate it, or revoke it first")
	case errors.Is(err, auth.ErrUnknownName):
		return fail(config.ExitFailed, "it does not exist", "tunneld credential list shows what there is")
	}
	return &config.Error{Code: config.ExitFailed, Problem: "credential " + name, Err: err}
}
