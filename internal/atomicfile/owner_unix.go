//go:build unix

package atomicfile

import (
	"os"
	"syscall"
)

// GiveToOwnerOf makes a file belong to the user and group of the directory dir, if this is root: others cannot give
// files away, and have no need to.
func GiveToOwnerOf(dir string, file *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return file.Chown(int(stat.Uid), int(stat.Gid))
}
