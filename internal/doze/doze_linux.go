package doze

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MakeRoom gives the runtime processors for the threads that doze. It is for programs, to
// be called at their start; a library leaves GOMAXPROCS alone. Where the runtime has fewer
// processors than the machine, because of a quota for instance, nothing changes.
func MakeRoom() {
	if n := runtime.NumCPU(); runtime.GOMAXPROCS(0) == n {
		runtime.GOMAXPROCS(n + threads)
	}
}

// Room says whether MakeRoom has made room. Without, everything here tells the runtime.
func Room() bool { return runtime.GOMAXPROCS(0) > runtime.NumCPU() }

// Nap sleeps for d, or until a signal comes.
func Nap(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&left)), 0, 0)
}

// Poll asks an epoll instance for events, for Longest at most or until a signal comes, or
// not at all if it is not to wait. It returns how many there are.
func Poll(epoll int, events []unix.EpollEvent, wait bool) int {
	timeout := uintptr(0)
	if wait {
		timeout = uintptr(Longest.Milliseconds())
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), timeout, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}
