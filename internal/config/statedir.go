package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/siptunnel/siptunnel/internal/atomicfile"
)

// DefaultStateDir is where a program keeps its keys when --state-dir does not say: /var/lib/siptunnel for root, else
// siptunnel under $XDG_STATE_HOME or ~/.local/state.
func DefaultStateDir(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/var/lib/siptunnel"
	}
	// Set by systemd for a unit with StateDirectory=; a DynamicUser has no home.
	if dir, _, _ := strings.Cut(getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return dir
	}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "siptunnel")
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "siptunnel")
	}
	return "/var/lib/siptunnel"
}

// CheckStateDir says whether keys can be kept in the directory: it, and each file in it that holds a secret, must be out
// of other users' reach. A directory that does not exist is fine, it will be made. Errors are *Error with ExitUnsafe.
func CheckStateDir(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &Error{Code: ExitUnsafe, Problem: "state directory", Err: err, Remedy: "run as its owner, or choose another with --state-dir"}
	}
	if !info.IsDir() {
		return Errorf(ExitUnsafe, "choose another with --state-dir", "state directory %s is not a directory", dir)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return Errorf(ExitUnsafe, "chmod 700 "+dir, "state directory %s can be written by others (mode %04o)", dir, info.Mode().Perm())
	}
	if owner, ok := ownerOf(info); ok && owner != os.Geteuid() && os.Geteuid() != 0 {
		return Errorf(ExitUnsafe, "run as its owner, or choose another with --state-dir",
			"state directory %s belongs to user %d, this is user %d", dir, owner, os.Geteuid())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &Error{Code: ExitUnsafe, Problem: "state directory", Err: err, Remedy: "run as its owner, or choose another with --state-dir"}
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if info.Mode().Perm()&0o077 != 0 {
			path := filepath.Join(dir, entry.Name())
			return Errorf(ExitUnsafe, "chmod 600 "+path+", and change the secrets in it if others use this machine",
				"%s can be read or written by others (mode %04o)", path, info.Mode().Perm())
		}
	}
	return nil
}

func ownerOf(info fs.FileInfo) (int, bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// StateDir is a state directory that this process has for itself until Close.
type StateDir struct {
	path string
	lock *os.File
}

// OpenStateDir makes the directory if needed, checks that it is safe, and locks it for one instance of program.
func OpenStateDir(dir, program string) (*StateDir, error) {
	if err := MakeStateDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, program+".lock")
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &Error{Code: ExitUnsafe, Problem: "state directory", Err: err, Remedy: "run as its owner, or choose another with --state-dir"}
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := make([]byte, 16)
		n, _ := lock.Read(pid)
		lock.Close()
		return nil, Errorf(ExitTaken, "stop it, or give this one its own --state-dir",
			"another %s (process %s) uses %s", program, strings.TrimSpace(string(pid[:n])), dir)
	}
	if err := errors.Join(atomicfile.GiveToOwnerOf(dir, lock), writePID(lock)); err != nil {
		lock.Close()
		return nil, StateError("state directory", err, "")
	}
	return &StateDir{path: dir, lock: lock}, nil
}

func writePID(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// MakeStateDir makes the directory if needed, mode 0700, and checks that it is safe.
func MakeStateDir(dir string) error {
	if err := CheckStateDir(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &Error{Code: ExitUnsafe, Problem: "state directory", Err: err, Remedy: "run as root, or choose another with --state-dir"}
	}
	return nil
}

// StateError is what keeps a program from using a file of its state directory. Its code is ExitUnsafe, which only a change
// by hand can heal, but for the failures of disks: those may pass.
func StateError(problem string, err error, remedy string) *Error {
	code := ExitUnsafe
	for _, passing := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, passing) {
			code = ExitFailed
		}
	}
	return &Error{Code: code, Problem: problem, Err: err, Remedy: remedy}
}

// Path gives the path of a file in the directory.
func (d *StateDir) Path(name string) string { return filepath.Join(d.path, name) }

// Close lets another instance have the directory.
func (d *StateDir) Close() error { return d.lock.Close() }
