package auth

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of an administrator's own password.
const (
	minPassword = 10  // characters
	maxPassword = 128 // bytes
	// minDigits is how many characters a password of digits only has at least.
	minDigits = 16
	// minResidue is how many characters must be left when all that a guesser
	// tries first is taken out.
	minResidue = 6
)

// WeakPasswordError says why a password was refused. It does not contain it.
type WeakPasswordError struct {
	Reason string // completes "the password ..."
}

func (e *WeakPasswordError) Error() string {
	return "the password " + e.Reason + ": choose another, or let tunneld generate one"
}

// checkPassword refuses what would be guessed on line or, from a stolen store,
// soon. It is no measure of strength: a generated password is better than any
// that it lets pass.
func checkPassword(name, password string) error {
	weak := func(format string, a ...any) error { return &WeakPasswordError{fmt.Sprintf(format, a...)} }
	if len(password) > maxPassword {
		return weak("is longer than %d bytes", maxPassword)
	}
	n := utf8.RuneCountInString(password)
	letters, signs := split(unleet(password))
	switch {
	case !utf8.ValidString(password) || strings.ContainsFunc(password, unicode.IsControl):
		return weak("has characters that cannot be typed")
	case n < minPassword:
		return weak("has fewer than %d characters", minPassword)
	case n < minDigits && strings.Trim(password, "0123456789") == "":
		return weak("has only digits, and fewer than %d", minDigits)
	case containsName(letters, name):
		return weak("contains the credential's name")
	case repeats([]rune(strings.ToLower(password))):
		return weak("repeats a few characters")
	}
	// As it is typed, with letters for digits and signs, and with what
	// separates the letters apart.
	least := min(
		residue(withoutWords(strings.ToLower(password))),
		residue(withoutWords(unleet(password))),
		residue(withoutWords(letters))+residue(signs),
	)
	if least < minResidue {
		return weak("is made of words and sequences that are guessed first")
	}
	return nil
}

// containsName tells whether a password, as letters that split gave, has a name
// in it that is long enough not to be there by accident.
func containsName(letters, name string) bool {
	name, _ = split(unleet(name))
	return len(name) >= 3 && strings.Contains(letters, name)
}

// unleet undoes the spelling that hides a common word: capitals, and digits and
// signs in place of letters. Years go, before they look like letters.
func unleet(s string) string {
	const from, to = "0134578@$!+", "oieastbasit"
	return strings.Map(func(r rune) rune {
		if i := strings.IndexRune(from, r); i >= 0 {
			return rune(to[i])
		}
		return unicode.ToLower(r)
	}, withoutYears(s))
}

// withoutYears removes 1900 to 2099.
func withoutYears(s string) string {
	for i := 0; i+4 <= len(s); {
		if y := s[i : i+4]; (y[:2] == "19" || y[:2] == "20") && strings.Trim(y[2:], "0123456789") == "" {
			s = s[:i] + s[i+4:]
			continue
		}
		i++
	}
	return s
}

// split separates letters and digits from the rest.
func split(s string) (letters, signs string) {
	keep := func(want bool) func(rune) rune {
		return func(r rune) rune {
			if (unicode.IsLetter(r) || unicode.IsDigit(r)) == want {
				return r
			}
			return -1
		}
	}
	return strings.Map(keep(true), s), strings.Map(keep(false), s)
}

// repeats tells whether s is a short string over and over.
func repeats(s []rune) bool {
	for period := 1; period <= min(4, len(s)/2); period++ {
		if slices.Equal(s[period:], s[:len(s)-period]) {
			return true
		}
	}
	return false
}

// withoutWords removes the common words and years of s, which is in lower case.
func withoutWords(s string) string {
	s = withoutYears(s)
	for _, w := range commonWords {
		s = strings.ReplaceAll(s, w, "")
	}
	return s
}

// residue counts the characters of s that do not follow from the one before:
// repetitions, the alphabet, digits and rows of the keyboard, up and down, count
// as their first character only; a character seen earlier counts half.
func residue(s string) int {
	halves := 0
	var last rune
	seen := map[rune]bool{}
	for _, r := range s {
		if !neighbours(last, r) {
			halves += 2
			if seen[r] {
				halves--
			}
		}
		seen[r] = true
		last = r
	}
	return halves / 2
}

func neighbours(a, b rune) bool {
	if d := a - b; -1 <= d && d <= 1 {
		return true
	}
	for _, row := range keyboardRows {
		i, j := strings.IndexRune(row, a), strings.IndexRune(row, b)
		if i >= 0 && j >= 0 && -1 <= i-j && i-j <= 1 {
			return true
		}
	}
	return false
}

var keyboardRows = []string{"1234567890", "!@#$%^&*()", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "azertyuiop", "qsdfghjklm"}

// commonWords are what passwords of telephone systems are made of: the words of
// the lists of leaked passwords and those of the trade. The longer of two that
// overlap comes first.
var commonWords = []string{
	"administrator", "kennwort", "passwort", "password", "passwd", "motdepasse", "contrasena", "passw", "pass",
	"changeme", "welcome", "willkommen", "letmein", "iloveyou", "sunshine", "princess", "football", "baseball",
	"dragon", "monkey", "master", "shadow", "superman", "batman", "trustno", "whatever", "hello", "hallo",
	"qwertyuiop", "qwertzuiop", "qwerty", "qwertz", "azerty", "1q2w3e4r", "1qaz", "2wsx", "3edc", "asdfgh", "yxcvbn", "zxcvbn",
	"siptunnel", "tunneld", "tunnelproxy", "tunnel", "asterisk", "freeswitch", "freepbx", "kamailio", "3cx", "ecx",
	"telephone", "telefon", "phone", "office", "buero", "extension", "voip", "pbx", "sip",
	"default", "service", "support", "manager", "company", "server", "system", "network", "internet", "secure",
	"security", "secret", "geheim", "admin", "guest", "public", "private", "root", "user", "test", "demo", "temp", "login",
	"spring", "summer", "autumn", "winter", "sommer", "herbst", "january", "monday",
	"correcthorsebatterystaple",
}

// alphabet has no two characters that look alike when they are read out or
// copied from paper.
const alphabet = "abcdefghjkmnpqrstuvwxyz23456789"

const generatedGroups, groupSize = 7, 4

// generatePassword makes a password of 28 characters in groups, 138 bits.
func generatePassword(random io.Reader) (string, error) {
	out := make([]byte, 0, generatedGroups*(groupSize+1))
	var b [64]byte
	// One byte in 32 is rejected: a source that fills no password in 16 reads is broken.
	for range 16 {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", fmt.Errorf("reading randomness: %w", err)
		}
		for _, c := range b {
			i := int(c & 31)
			if i >= len(alphabet) {
				continue
			}
			if len(out)%(groupSize+1) == groupSize {
				out = append(out, '-')
			}
			out = append(out, alphabet[i])
			if len(out) == generatedGroups*(groupSize+1)-1 {
				return string(out), nil
			}
		}
	}
	return "", fmt.Errorf("%w: the source of randomness is broken", ErrUnavailable)
}
