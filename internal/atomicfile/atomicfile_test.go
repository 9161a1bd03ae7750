package atomicfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("a longer content than the next"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"one", "", "two"} {
		if err := Write(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		info, errStat := os.Stat(path)
		if err != nil || errStat != nil || string(got) != content || info.Mode() != 0o600 {
			t.Errorf("%q with %v, want %q; %v, %v", got, info.Mode(), content, err, errStat)
		}
	}
	onlyThere(t, dir, "secret")
}

func TestWriteLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in-the-way")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	onlyThere(t, dir, "in-the-way")
	if err := Write(filepath.Join(dir, "absent", "f"), nil); err == nil {
		t.Error("a file in a directory that does not exist was written")
	}
}

func onlyThere(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
}
