// Package atomicfile writes the files of a state directory: keys, verifiers, ports. They survive a loss of power at any
// moment with their old content or the new one, are readable by one user only, and belong to the user of the directory.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Write replaces path by a file of mode 0600 with the given content: whole or not at all. It returns once the disk has
// both the content and the name. What root writes belongs to the owner of the directory, since the program itself may
// run as a user of its own. Concurrent writers of one path do no harm: one of them is last.
func Write(path string, content []byte) error {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // CreateTemp makes files of mode 0600.
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // Fails, as it should, once the file has its name.
	err = GiveToOwnerOf(dir, file)
	if err == nil {
		_, err = file.Write(content)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // It has no such call, and does not need it.
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
