package sipmsg

import (
	"os"
	"path/filepath"
	"testing"
)

// readTestdata returns one message of testdata.
func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// allTestdata returns the messages of testdata by their names.
func allTestdata(t testing.TB) map[string][]byte {
	t.Helper()
	return readAll(t, filepath.Join("testdata", "*.sip"))
}

func readAll(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]byte, len(files))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(file)] = b
	}
	return all
}
