package config

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// maxSecret bounds a password or a join link, in bytes.
const maxSecret = 1024

// ReadSecret reads the one line that a password or join-link file holds; "-" is stdin, which is read to its end, or to
// the end of the line where somebody types. White space around it is taken off. A regular file that every user of the
// machine can read is refused; a group may, since that is how systemd hands credentials over and how files are shared
// with a service. what names the thing in errors, which never show the content.
func ReadSecret(what, path string, stdin io.Reader) (string, error) {
	fail := func(err error) (string, error) {
		return "", &Error{Code: ExitConfig, Problem: what, Err: err, Remedy: "one line in a file of mode 0600 (or 0640 for a group), or - for standard input"}
	}
	if path == "-" {
		if isTerminal(stdin) {
			stdin = &firstLine{r: stdin}
		}
		secret, err := readLine(stdin)
		if err != nil {
			return fail(fmt.Errorf("standard input %w", err))
		}
		return secret, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fail(err)
	}
	if info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 {
		return "", Errorf(ExitConfig, "chmod 600 "+path, "%s %s can be read by every user of this machine", what, path)
	}
	secret, err := readLine(file)
	if err != nil {
		return fail(fmt.Errorf("%s %w", path, err))
	}
	return secret, nil
}

func readLine(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	text = bytes.TrimSpace(text)
	switch {
	case err != nil:
		return "", err
	case len(text) == 0:
		return "", fmt.Errorf("is empty")
	case len(text) > maxSecret:
		return "", fmt.Errorf("is longer than %d bytes", maxSecret)
	case bytes.ContainsAny(text, "\n\r\x00"):
		return "", fmt.Errorf("has more than one line")
	}
	return string(text), nil
}

func isTerminal(r io.Reader) bool {
	file, ok := r.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// firstLine ends after the first line of r. It takes single bytes, and none that belongs to somebody else.
type firstLine struct {
	r     io.Reader
	ended bool
}

func (l *firstLine) Read(b []byte) (int, error) {
	if l.ended || len(b) == 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(b[:1])
	l.ended = n == 1 && b[0] == '\n'
	return n, err
}
