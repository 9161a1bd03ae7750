package office

import (
	"crypto/rand"
	"errors"
	"io/fs"

	"github.com/siptunnel/siptunnel/internal/config"
)

const identityFileName = "office.json"

// identity names this installation toward tunneld, for ever: phones without an instance of their own are known by their
// LAN address, and two offices that share a credential may well use the same addresses.
type identity struct {
	Office string `json:"office"`
}

// officeName gives the name of the installation, made at its first start.
func officeName(dir *config.StateDir) (string, error) {
	path := dir.Path(identityFileName)
	var id identity
	err := readJSON(path, &id)
	if errors.Is(err, fs.ErrNotExist) || err == nil && id.Office == "" {
		id.Office = rand.Text()
		err = writeJSON(path, id)
	}
	if err != nil {
		return "", config.StateError("the name of this office", err, "remove "+path+"; phones get new ports at the PBX then")
	}
	// Keys are bounded, and a damaged file must not eat up the phones' part.
	return id.Office[:min(len(id.Office), 32)], nil
}
