package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/siptunnel/siptunnel/internal/auth/spake2plus"
)

// Binding names the TLS connection that is authenticated: 32 bytes of its
// exporter (RFC 9266's way with the label EXPORTER-siptunnel-auth), the same at
// both ends and different on every connection.
type Binding [32]byte

// identities are what both ends put under their runs. The frames are those that
// went over the wire.
func identities(b Binding, name string, hello, params []byte) spake2plus.Identities {
	context := append([]byte("siptunnel/1"), b[:]...)
	context = append(context, hello...)
	context = append(context, params...)
	return spake2plus.Identities{Context: context, Prover: []byte(name), Verifier: []byte(verifierID)}
}

// Authenticate logs in as the credential name. When it returns nil, both ends
// have proved to each other that they know the password, on this connection and
// no other, and the next byte on conn belongs to the next protocol. The caller
// sets the deadlines; after any error it closes conn.
//
// Errors: ErrName, ErrRefused, *ThrottledError, ErrServerProof, ErrProtocol,
// ErrUnavailable, *Refusal, or what conn gave.
func Authenticate(conn io.ReadWriter, name string, pw *Password, b Binding) error {
	return authenticate(conn, name, pw, b, rand.Reader)
}

func authenticate(conn io.ReadWriter, name string, pw *Password, b Binding, random io.Reader) error {
	if !ValidName(name) {
		return ErrName
	}
	err := prove(conn, name, pw, b, random)
	var refused *refusedBy
	switch {
	case errors.As(err, &refused):
		return refused.err()
	case errors.Is(err, ErrProtocol):
		// The peer may be past reading; the error is what matters.
		_ = writeFrame(conn, refuse{code: codeMalformed}.append(nil))
	}
	return err
}

func prove(conn io.ReadWriter, name string, pw *Password, b Binding, random io.Reader) error {
	helloFrame := hello{name}.append(nil)
	if err := writeFrame(conn, helloFrame); err != nil {
		return err
	}
	paramsFrame, err := readFrame(conn, typeParams)
	if err != nil {
		return err
	}
	p, err := parseParams(paramsFrame[frameHeader:])
	if err != nil {
		return err
	}
	if err := p.kdf.check(); err != nil {
		return err
	}
	secret, err := pw.derive(name, p)
	if err != nil {
		return err
	}

	ids := identities(b, name, helloFrame, paramsFrame)
	var provers [runs]*spake2plus.Prover
	var shares shareP
	for i := range provers {
		if provers[i], err = spake2plus.NewProver(random, secret, ids); err != nil {
			return err
		}
		shares[i] = provers[i].Share()
	}
	if err := writeFrame(conn, shares.append(nil)); err != nil {
		return err
	}
	frame, err := readFrame(conn, typeShareV)
	if err != nil {
		return err
	}
	answer, err := parseShareV(frame[frameHeader:])
	if err != nil {
		return err
	}
	confirm, err := finish(&provers, &answer)
	if errors.Is(err, spake2plus.ErrConfirm) {
		return unproved(conn)
	}
	if err != nil {
		return err
	}
	if err := writeFrame(conn, confirm.append(nil)); err != nil {
		return err
	}
	_, err = readFrame(conn, typeAccept)
	return err
}

// finish returns the confirmation of the first run that the server confirmed,
// spake2plus.ErrConfirm when it confirmed none.
func finish(provers *[runs]*spake2plus.Prover, answer *shareV) (*confirmP, error) {
	for i, p := range provers {
		c, err := p.Finish(answer[i].share[:], answer[i].confirm[:])
		switch {
		case err == nil:
			return &confirmP{uint8(i), c}, nil
		case errors.Is(err, spake2plus.ErrShare):
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		case !errors.Is(err, spake2plus.ErrConfirm):
			return nil, err
		}
	}
	return nil, spake2plus.ErrConfirm
}

// unproved ends an exchange in which the server did not prove itself. Nothing
// that depends on the password is sent any more. An honest server has found out
// as much about the password as this end has, and says so.
func unproved(conn io.ReadWriter) error {
	if err := writeFrame(conn, refuse{code: codeProof}.append(nil)); err != nil {
		return ErrServerProof
	}
	_, err := readFrame(conn, typeAccept) // which an honest server does not send
	if errors.Is(err, ErrRefused) {
		return ErrRefused
	}
	return ErrServerProof
}

// Verify plays the server's side and returns the name that has logged in. It
// writes the answer to the client in any case; after an error the caller closes
// conn. It neither waits nor sleeps: the caller sets one absolute deadline for
// all of it.
//
// A credential may be revoked at any moment. Verify does not accept one that is
// gone by the time of its last step; the caller registers the session and then
// asks [Store.Has] once more, and so does not miss an OnRevoke in between.
//
// Errors: *RefusedError (an ErrRefused) from the moment on that a guess can have
// been tested, before it ErrProtocol, *Refusal, ErrUnavailable or what conn gave.
// All of them are failed attempts for the [Throttle].
func (s *Store) Verify(conn io.ReadWriter, b Binding) (name string, err error) {
	name, err = s.verify(conn, b)
	var refused *RefusedError
	var refusal *Refusal
	switch {
	case err == nil:
		return name, nil
	case errors.As(err, &refusal): // does not wait for an answer
	case errors.Is(err, ErrProtocol):
		_ = writeFrame(conn, refuse{code: codeMalformed}.append(nil))
	case errors.As(err, &refused):
		_ = writeFrame(conn, refuse{code: codeCredentials}.append(nil))
	case errors.Is(err, ErrUnavailable):
		_ = writeFrame(conn, refuse{code: codeUnavailable}.append(nil))
	}
	return "", err
}

func (s *Store) verify(conn io.ReadWriter, b Binding) (string, error) {
	helloFrame, err := readFromClient(conn, typeHello)
	if err != nil {
		return "", err
	}
	h, err := parseHello(helloFrame[frameHeader:])
	if err != nil {
		return "", err
	}
	candidates, p := s.candidates(h.name)
	paramsFrame := p.append(nil)
	if err := writeFrame(conn, paramsFrame); err != nil {
		return "", err
	}
	frame, err := readFromClient(conn, typeShareP)
	if err != nil {
		return "", err
	}
	shares, err := parseShareP(frame[frameHeader:])
	if err != nil {
		return "", err
	}
	verifiers, answer, err := s.respond(&candidates, &shares, identities(b, h.name, helloFrame, paramsFrame))
	if err != nil {
		return "", err
	}
	if err := writeFrame(conn, answer.append(nil)); err != nil {
		return "", err
	}
	confirm, err := readConfirmP(conn)
	if err != nil && !errors.Is(err, errUnproved) {
		return "", &RefusedError{h.name, NoProof, err}
	}
	reason := WrongPassword
	if candidates[0].verifier == nil {
		reason = UnknownName
	}
	if err != nil || verifiers[confirm.run].Finish(confirm.confirm[:]) != nil {
		return "", &RefusedError{h.name, reason, nil}
	}
	if !s.accept(h.name, candidates[confirm.run].verifier) {
		return "", &RefusedError{h.name, Revoked, nil}
	}
	return h.name, writeFrame(conn, appendAccept(nil))
}

// respond plays the verifier's first step of each run.
func (s *Store) respond(candidates *[runs]candidate, shares *shareP, ids spake2plus.Identities) (verifiers [runs]*spake2plus.Verifier, answer shareV, err error) {
	for i := range runs {
		verifiers[i], err = spake2plus.NewVerifier(s.random, candidates[i].record, ids)
		if err != nil {
			return verifiers, answer, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		answer[i].share, answer[i].confirm, err = verifiers[i].Respond(shares[i][:])
		if err != nil {
			return verifiers, answer, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
	return verifiers, answer, nil
}

// readFromClient is readFrame for the server, to which a client's Refuse says no
// more than that it goes away.
func readFromClient(r io.Reader, want frameType) ([]byte, error) {
	frame, err := readFrame(r, want)
	if refused := (*refusedBy)(nil); errors.As(err, &refused) {
		return nil, &Refusal{Code: uint16(refused.code)}
	}
	return frame, err
}

// errUnproved is the client's word that no confirmV was right.
var errUnproved = errors.New("the client's password is another one")

func readConfirmP(r io.Reader) (*confirmP, error) {
	frame, err := readFromClient(r, typeConfirmP)
	if refusal := (*Refusal)(nil); errors.As(err, &refusal) && refusal.Code == uint16(codeProof) {
		return nil, errUnproved
	}
	if err != nil {
		return nil, err
	}
	c, err := parseConfirmP(frame[frameHeader:])
	if err != nil {
		return nil, err
	}
	return &c, nil
}
