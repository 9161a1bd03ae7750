//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// netnsDir is where ip-netns(8) keeps the names.
const netnsDir = "/run/netns"

// A run's namespaces are named e2e-<pid>-<lab>-<host>, and its directory for what must have a short path e2e-<pid>. It holds a
// lock on the file e2e-<pid>.lock for as long as it lives, which is how a later run knows that it is over: a process id alone
// may have been given to another process.
const namePrefix = "e2e-"

// ownRun takes this process's lock, removes what dead processes left and returns the path that its directory has, once.
var ownRun = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(os.TempDir(), "siptunnel-e2e")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	removeLeftovers(dir)
	run := namePrefix + strconv.Itoa(os.Getpid())
	if _, err := lock(filepath.Join(dir, run+".lock")); err != nil {
		return "", fmt.Errorf("lock of this run: %w", err)
	}
	return filepath.Join(dir, run), nil
})

// lock takes the lock file, and holds it until the process ends.
func lock(path string) (release func(), err error) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return func() { _ = unix.Close(fd) }, nil
}

func removeLeftovers(dir string) {
	locks, _ := filepath.Glob(filepath.Join(dir, namePrefix+"*.lock"))
	for _, path := range locks {
		release, err := lock(path)
		if err != nil {
			continue // alive
		}
		run := strings.TrimSuffix(path, ".lock")
		_ = removeNamespaces(filepath.Base(run) + "-")
		_ = os.RemoveAll(run)
		_ = os.Remove(path)
		release()
	}
}

func (l *Lab) removeNamespaces() {
	if err := removeNamespaces(l.prefix); err != nil {
		l.t.Errorf("lab: %v", err)
	}
}

// removeNamespaces ends the processes in the namespaces whose names have the prefix, and removes those.
func removeNamespaces(prefix string) error {
	names, err := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	if err != nil {
		return err
	}
	var failed error
	for _, path := range names {
		name := filepath.Base(path)
		// A process that forks while it is looked for is found by the next look.
		for range 50 {
			pids, err := exec.Command("ip", "netns", "pids", name).Output()
			if err != nil || len(pids) == 0 {
				break
			}
			for _, field := range strings.Fields(string(pids)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			failed = errors.Join(failed, fmt.Errorf("ip netns del %s: %w: %s", name, err, out))
		}
	}
	return failed
}
