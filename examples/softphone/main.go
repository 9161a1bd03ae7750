// Softphone is an example of a phone that takes the tunnel with it: it registers with a PBX through
// the library tunnel/, calls a number that echoes, and checks that it hears the tone that it sends.
//
//	go run ./examples/softphone -link join-link -user 101 -password-file password -dial 600
//
// It exits with 0 if the tone was heard. The secrets are read from files, because arguments can be
// seen by every user of a machine; "-" is standard input.
//
// What a phone has to do for the tunnel is in the function run: connect, open a place beside the PBX
// for SIP and another for audio, and use their addresses as its own. The rest is a small phone on
// sipgo as it would be without a tunnel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/siptunnel/siptunnel/tunnel"
)

// settings are the flags.
type settings struct {
	link, user, passwordFile, number string
	timeout                          time.Duration
}

func main() {
	var s settings
	flag.StringVar(&s.link, "link", "", "`file` with the join link")
	flag.StringVar(&s.user, "user", "", "`user` at the PBX")
	flag.StringVar(&s.passwordFile, "password-file", "", "`file` with the user's password")
	flag.StringVar(&s.number, "dial", "600", "`number` of an echo")
	flag.DurationVar(&s.timeout, "timeout", 20*time.Second, "give up after this `time`")
	flag.Parse()
	if s.link == "" || s.user == "" || s.passwordFile == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "softphone:", err)
		os.Exit(1)
	}
}

// run makes the call.
func run(ctx context.Context, s settings, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	secret, err := readSecret(s.link)
	if err != nil {
		return err
	}
	link, err := tunnel.ParseLink(secret)
	if err != nil {
		return err
	}
	password, err := readSecret(s.passwordFile)
	if err != nil {
		return err
	}

	client, err := tunnel.Dial(ctx, link.Config())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	fmt.Fprintf(out, "connected with %s\n", link.Server)

	// The key makes the PBX see this phone at the same port every time.
	sipConn, err := client.Phone(ctx, "softphone-"+s.user)
	if err != nil {
		return err
	}
	media, err := client.Media(ctx)
	if err != nil {
		return err
	}
	phone, err := newPhone(sipConn, account{
		user:     s.user,
		password: password,
		domain:   client.Domain(),
		pbx:      client.Status().PBX,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, phone.close()) }()

	if err := phone.register(ctx, time.Hour); err != nil {
		return err
	}
	fmt.Fprintf(out, "registered %s@%s; the PBX reaches it at %s\n", s.user, client.Domain(), sipConn.LocalAddr())
	// Also after a failure or an interruption the PBX should know that the call is over and the phone
	// has gone.
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), s.timeout+5*time.Second)
	defer cancelLast()
	defer func() { err = errors.Join(err, phone.register(last, 0)) }()

	call, err := phone.invite(ctx, s.number, media.RTP().LocalAddr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, phone.hangUp(last, call)) }()
	fmt.Fprintf(out, "%s answers\n", s.number)
	if err := listen(ctx, media.RTP()); err != nil {
		return err
	}
	fmt.Fprintf(out, "the tone of %d Hz comes back\n", toneHz)
	return nil
}

// readSecret reads a file of one line.
func readSecret(name string) (string, error) {
	var content []byte
	var err error
	if name == "-" {
		content, err = io.ReadAll(io.LimitReader(os.Stdin, 4096))
	} else {
		content, err = os.ReadFile(name)
	}
	return strings.TrimSpace(string(content)), err
}
