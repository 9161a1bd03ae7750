package daemon

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/siptunnel/siptunnel/internal/auth"
	"github.com/siptunnel/siptunnel/internal/config"
	"github.com/siptunnel/siptunnel/internal/logging"
)

// TestFirstStartWithoutNetwork makes no link rather than one that leads an office to itself.
func TestFirstStartWithoutNetwork(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	dir, err := config.OpenStateDir(path, name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	store, err := auth.OpenStore(dir.Path(storeFileName))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := firstStart(store, dir, &place{}, "PIN", &bytes.Buffer{}, logging.New(&log, logging.Info, logging.Human)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir.Path(linkFileName)); !errors.Is(err, fs.ErrNotExist) || len(store.List()) != 0 {
		t.Errorf("a link was made: %v, %v", err, store.List())
	}
	if !strings.Contains(log.String(), "--public-address") {
		t.Errorf("log: %s", log.String())
	}
	control := &credentials{store: store, public: func() config.Endpoint { return config.Endpoint{} }}
	if _, err := control.add(nil, newSecret{Name: "berlin"}); config.ExitOf(err) != config.ExitTaken || store.Has("berlin") {
		t.Errorf("added without an address: %v", err)
	}
}
