package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestPasswordDoesNotPrint(t *testing.T) {
	pw := NewPassword([]byte("hunter2hunter2"))
	type holder struct{ pw Password }
	type pointer struct{ Pw *Password }
	for _, v := range []any{pw, *pw, &pw, holder{*pw}, &holder{*pw}, pointer{pw}, []Password{*pw}, map[int]*Password{1: pw}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			text := fmt.Sprintf(verb, v)
			if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) || strings.Contains(text, "104 117") {
				t.Errorf("%T as %s: %s", v, verb, text)
			}
		}
	}
	if b, err := json.Marshal(pointer{pw}); err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("%s, %v", b, err)
	}
}

func TestPasswordRemembers(t *testing.T) {
	given := []byte(testPassword)
	pw := NewPassword(given)
	clear(given) // it was copied
	p := params{kdf: testKDF}
	first, err := pw.derive(testName, p)
	if err != nil {
		t.Fatal(err)
	}
	want, err := derive([]byte(testPassword), testName, p)
	if err != nil || *first != *want {
		t.Fatalf("another secret, %v", err)
	}
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			if again, err := pw.derive(testName, p); err != nil || again != first {
				t.Errorf("derived anew, %v", err)
			}
		})
	}
	g.Wait()
	for i := range byte(4) {
		if other, err := pw.derive(testName, params{salt: [saltSize]byte{1 + i}, kdf: testKDF}); err != nil || *other == *first {
			t.Errorf("another salt gives the same secret, %v", err)
		}
	}
	if len(pw.state().derived) != maxDerived {
		t.Errorf("remembers %d", len(pw.state().derived))
	}
	if other, err := pw.derive("other", p); err != nil || *other == *first {
		t.Errorf("another name gives the same secret, %v", err)
	}
	var zero Password
	if _, err := zero.derive(testName, p); err != nil {
		t.Error(err)
	}
}

func TestGeneratedPassword(t *testing.T) {
	s := emptyStore(t)
	seen := map[string]bool{}
	for range 200 {
		p, err := generatePassword(s.random)
		if err != nil {
			t.Fatal(err)
		}
		if seen[p] || len(p) != 34 || strings.Trim(p, alphabet+"-") != "" || strings.Count(p, "-") != generatedGroups-1 {
			t.Fatalf("%q", p)
		}
		seen[p] = true
		if err := checkPassword(testName, p); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, broken := range []string{"", "short", strings.Repeat("\xff", 1<<12)} {
		if _, err := generatePassword(strings.NewReader(broken)); err == nil {
			t.Errorf("a password out of %d bytes", len(broken))
		}
	}
}

func TestWeakPasswords(t *testing.T) {
	for _, password := range []string{
		// Short.
		"abc", "x7#Kp2!vQ", "",
		// Untypable, or of no end.
		"tab\tin the middle 42", "newline at end 42 x\n", "\xff\xfe not UTF-8 at all", strings.Repeat("x7#Kp2!vQm", 13),
		// Repetitions.
		"aaaaaaaaaaaa", "ababababababab", "Xy7!Xy7!Xy7!Xy7!", "1111111111111111111", "............",
		// Sequences.
		"abcdefghijklm", "1234567890", "0987654321", "abcdef123456", "qwertyuiop", "QWERTZuiop", "poiuytrewq",
		"asdfghjkl;'", "1q2w3e4r5t6y", "!@#$%^&*()", "12345678901234567890", "zyxwvutsrqpo",
		// Digits.
		"8305921746", "830592174613",
		// Common words, as they are and in disguise.
		"password12", "Password123!", "P4ssw0rd2024", "p-a-s-s-w-o-r-d", "passwordpassword", "Welcome12345", "Summer2024!!",
		"letmein123", "changeme123", "asterisk5060", "Asterisk-PBX-1", "siptunnel5090", "TunnelPassword1", "3cxphone2025",
		"Kennwort2025", "administrator1", "secret-office-1", "p@$$w0rd!!!!", "default default", "Correct Horse Battery Staple",
		// The name.
		"office-berlin", "OfficeBerlin-x7#Kp2!v", "0ff1ce_berl1n-kestrel-77", "my office berlin x7#Kp2",
	} {
		var weak *WeakPasswordError
		err := checkPassword(testName, password)
		if !errors.As(err, &weak) {
			t.Errorf("%q was taken", password)
		} else if password != "" && strings.Contains(err.Error(), password) {
			t.Errorf("the error has the password: %v", err)
		}
	}
	for _, password := range []string{
		testPassword, nextPassword, "x7#Kp2!vQm", "T3&pz9Lw@qR", "ein Pferd frisst keinen Gurkensalat",
		"8305921746013857", "\u00fcber den Wolken 7x", "#&*%)(#^~-?<{", "k7wd-3nqx-9pfm", "mountain-lamp-violin",
		strings.Repeat("x7#Kp2!vQm", 12) + "other",
	} {
		if err := checkPassword(testName, password); err != nil {
			t.Errorf("%q: %v", password, err)
		}
	}
	// A name of two characters is in many a good password.
	if err := checkPassword("kp", "x7#Kp2!vQm"); err != nil {
		t.Error(err)
	}
}

func FuzzCheckPassword(f *testing.F) {
	f.Add("a", "x7#Kp2!vQm")
	f.Add(testName, "0ff1ce_berl1n")
	f.Add("a", "20192019\xff")
	f.Fuzz(func(t *testing.T, name, password string) {
		err := checkPassword(name, password)
		var weak *WeakPasswordError
		if err != nil && !errors.As(err, &weak) {
			t.Fatalf("%T", err)
		}
		if err == nil && (len(password) < minPassword || len(password) > maxPassword || (len(name) >= 3 && strings.Contains(password, name) && ValidName(name) && !strings.ContainsAny(name, ".-_0123456789"))) {
			t.Fatalf("%q was taken for %q", password, name)
		}
	})
}
