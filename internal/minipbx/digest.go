package minipbx

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"
	"github.com/icholy/digest"
)

// nonceLife is how long a nonce is good; after that the client is told that it is stale.
const nonceLife = 5 * time.Minute

// authenticator checks digest credentials (RFC 3261 section 22). Its nonces carry the time and a MAC
// over it, so that it keeps nothing; a nonce can be used again while it lives.
type authenticator struct {
	realm  string
	users  map[string]string
	secret [32]byte
	now    func() time.Time
}

func (a *authenticator) nonce() string {
	stamp := strconv.FormatInt(a.now().Unix(), 16)
	return stamp + "-" + a.mac(stamp)
}

func (a *authenticator) mac(stamp string) string {
	mac := hmac.New(sha256.New, a.secret[:])
	mac.Write([]byte(stamp))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// checkNonce tells whether a nonce is one of ours, and whether it is too old.
func (a *authenticator) checkNonce(nonce string) (ours, stale bool) {
	stamp, mac, ok := strings.Cut(nonce, "-")
	if !ok || !hmac.Equal([]byte(mac), []byte(a.mac(stamp))) {
		return false, false
	}
	seconds, err := strconv.ParseInt(stamp, 16, 64)
	if err != nil {
		return false, false
	}
	return true, a.now().Sub(time.Unix(seconds, 0)) > nonceLife
}

func (a *authenticator) challenge(stale bool) *digest.Challenge {
	return &digest.Challenge{
		Realm:     a.realm,
		Nonce:     a.nonce(),
		Stale:     stale,
		Algorithm: "MD5", // what every phone can do
		QOP:       []string{"auth"},
	}
}

// verdict is what the credentials of a request are worth.
type verdict int

const (
	unusable verdict = iota // none, or made for another realm or another nonce: challenge
	stale                   // right, but the nonce is too old: challenge, without asking the user
	wrong                   // unknown user or wrong password: refuse
	right
)

// check judges the credentials in a header and names their user. The uri in them is not compared with
// the request URI: Asterisk, FreeSWITCH and Kamailio do not compare them either, and between phone
// and PBX there may be a proxy that changed the latter.
func (a *authenticator) check(method, header string) (verdict, string) {
	credentials, err := digest.ParseCredentials(header)
	if err != nil || credentials.Realm != a.realm {
		return unusable, ""
	}
	ours, old := a.checkNonce(credentials.Nonce)
	if !ours {
		return unusable, ""
	}
	password, known := a.users[credentials.Username]
	challenge := a.challenge(false)
	challenge.Nonce = credentials.Nonce
	challenge.Algorithm = credentials.Algorithm
	if credentials.QOP == "" {
		challenge.QOP = nil // RFC 2069, as old phones have it
	}
	expected, err := digest.Digest(challenge, digest.Options{
		Method:   method,
		URI:      credentials.URI,
		Count:    credentials.Nc,
		Cnonce:   credentials.Cnonce,
		Username: credentials.Username,
		Password: password,
	})
	switch {
	case err != nil || !known || subtle.ConstantTimeCompare([]byte(expected.Response), []byte(credentials.Response)) != 1:
		return wrong, ""
	case old:
		return stale, credentials.Username
	default:
		return right, credentials.Username
	}
}

// authenticate returns nil when a request carries the credentials of the given user, else what to
// answer: a challenge with the given code, or a refusal.
func (p *PBX) authenticate(req *sip.Request, user string, code int) *sip.Response {
	answer, challenge, reason := "Authorization", "WWW-Authenticate", "Unauthorized"
	if code == sip.StatusProxyAuthRequired {
		answer, challenge, reason = "Proxy-Authorization", "Proxy-Authenticate", "Proxy Authentication Required"
	}
	worth, proved := unusable, ""
	if header := req.GetHeader(answer); header != nil {
		worth, proved = p.auth.check(string(req.Method), header.Value())
	}
	switch {
	case worth == right && proved == user:
		return nil
	case worth == right || worth == wrong:
		return p.agent.NewResponse(req, sip.StatusForbidden, "Forbidden")
	}
	res := p.agent.NewResponse(req, code, reason)
	res.AppendHeader(sip.NewHeader(challenge, p.auth.challenge(worth == stale).String()))
	return res
}
