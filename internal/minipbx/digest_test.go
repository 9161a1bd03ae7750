package minipbx

import (
	"testing"
	"time"

	"github.com/icholy/digest"
)

func TestAuthenticator(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	a := &authenticator{realm: "pbx.example", users: map[string]string{"alice": "secret"}, secret: [32]byte{1}, now: func() time.Time { return now }}
	issued := a.challenge(false)
	foreign := &authenticator{realm: "pbx.example", secret: [32]byte{2}, now: a.now}
	answer := func(change func(*digest.Challenge, *digest.Options)) string {
		challenge := *issued
		options := digest.Options{Method: "REGISTER", URI: "sip:pbx.example", Username: "alice", Password: "secret"}
		if change != nil {
			change(&challenge, &options)
		}
		credentials, err := digest.Digest(&challenge, options)
		if err != nil {
			t.Fatal(err)
		}
		return credentials.String()
	}
	for name, test := range map[string]struct {
		header string
		later  time.Duration
		want   verdict
	}{
		"right":          {answer(nil), 0, right},
		"SHA-256":        {answer(func(c *digest.Challenge, _ *digest.Options) { c.Algorithm = "SHA-256" }), 0, right},
		"RFC 2069":       {answer(func(c *digest.Challenge, _ *digest.Options) { c.QOP = nil }), 0, right},
		"another URI":    {answer(func(_ *digest.Challenge, o *digest.Options) { o.URI = "sip:192.0.2.1" }), 0, right},
		"old nonce":      {answer(nil), nonceLife + time.Second, stale},
		"wrong password": {answer(func(_ *digest.Challenge, o *digest.Options) { o.Password = "guess" }), 0, wrong},
		"no password":    {answer(func(_ *digest.Challenge, o *digest.Options) { o.Password = "" }), 0, wrong},
		"unknown user":   {answer(func(_ *digest.Challenge, o *digest.Options) { o.Username, o.Password = "bob", "" }), 0, wrong},
		"another method": {answer(func(_ *digest.Challenge, o *digest.Options) { o.Method = "INVITE" }), 0, wrong},
		"old and wrong":  {answer(func(_ *digest.Challenge, o *digest.Options) { o.Password = "guess" }), nonceLife + time.Second, wrong},
		"foreign nonce":  {answer(func(c *digest.Challenge, _ *digest.Options) { c.Nonce = foreign.nonce() }), 0, unusable},
		"odd nonce":      {answer(func(c *digest.Challenge, _ *digest.Options) { c.Nonce = "x" }), 0, unusable},
		"foreign realm":  {answer(func(c *digest.Challenge, _ *digest.Options) { c.Realm = "other" }), 0, unusable},
		"not digest":     {"Basic YWxpY2U6c2VjcmV0", 0, unusable},
		"nothing":        {"", 0, unusable},
	} {
		t.Run(name, func(t *testing.T) {
			now = now.Add(test.later)
			defer func() { now = now.Add(-test.later) }()
			got, user := a.check("REGISTER", test.header)
			if got != test.want || (user == "alice") != (got == right || got == stale) {
				t.Errorf("got %v for %q, want %v", got, user, test.want)
			}
		})
	}
}
