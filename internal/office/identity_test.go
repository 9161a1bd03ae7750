package office

import (
	"os"
	"testing"

	"github.com/siptunnel/siptunnel/internal/config"
)

func TestOfficeNameStays(t *testing.T) {
	dir, err := config.OpenStateDir(t.TempDir(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	first, err := officeName(dir)
	if err != nil || len(first) < 20 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := officeName(dir); err != nil || again != first {
		t.Errorf("%q, %v; want %q again", again, err, first)
	}
	if err := os.WriteFile(dir.Path(identityFileName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := officeName(dir); err == nil {
		t.Error("a damaged file is not told")
	}
}
